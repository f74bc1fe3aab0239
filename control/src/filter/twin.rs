//! The programs once more, for questions: loaded from the same object beside those in force, attached to nothing, and run
//! by hand with one packet (BPF_PROG_TEST_RUN). They read the tables in force and write tables of their own, so that an
//! answer is the programs' and leaves nothing behind. No packet from a wire ever comes by here.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Mutex;

use aya::maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use sekisho_abi::Address;
use sekisho_abi::explain::{COPIED, Findings, OWN, REMEMBERED, SHARED};
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::{Config, Counter, Rate};
use sekisho_abi::nat::{Translated, translated_kind};
use sekisho_abi::neighbour::{Neighbour, NeighbourKey};
use sekisho_abi::port::{Network, Port, PortKey};
use sekisho_abi::quota::{Bucket, ZoneQuota};
use sekisho_abi::rule::RuleRateKey;
use sekisho_abi::verdict::{Verdict, counter_index};

use super::counts::Counts;
use super::maps::{bytes, error, take};
use super::{ABI_VERSION, FilterError, OBJECT, developer, pin_root, program, program_error};

/// Runs of one question at most: each shows entries of the tables in force that the next one must have.
const RUNS_MAX: usize = 32;
/// Room for what a program adds to a frame.
const GROWTH: usize = 256;
/// Key of `SHARES`: the programs' own affair, copied as it is.
type ShareKey = [u8; 20];

/// One question at a time on a machine: whatever is asked, it costs no more than one set of tables.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The programs beside those in force.
pub(crate) struct Twin {
    ebpf: Ebpf,
    config: Array<MapData, Config>,
    ports: HashMap<MapData, PortKey, Port>,
    networks: aya::maps::LpmTrie<MapData, Address, Network>,
    counters: PerCpuArray<MapData, Counter>,
    scratch: Scratch,
    flows: Remembered<FlowKey, Flow>,
    translations: Remembered<FlowKey, Translated>,
    rule_rates: Remembered<RuleRateKey, Rate>,
    rates: Remembered<Address, Rate>,
    shares: Remembered<ShareKey, Rate>,
    neighbours: Remembered<NeighbourKey, Neighbour>,
    routers: Array<MapData, Address>,
    /// How many bindings each port has learned: the programs' own count, and that in force.
    learned: [Array<MapData, u32>; 2],
    /// The counts that the programs change, and those in force.
    counts: [Counts; 2],
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// What was found out on the way.
    pub(crate) findings: Findings,
    /// The flow as it is after the packet.
    pub(crate) flow: Option<(FlowKey, Flow)>,
}

/// What the asker knows of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// Port by which it enters.
    pub(crate) port: u16,
    /// Its own ends, as a key.
    pub(crate) ends: FlowKey,
    /// The key of its flow in force, if it has one and shall have it.
    pub(crate) known: Option<FlowKey>,
    /// That of a flow in force which shall not be there.
    pub(crate) forgotten: Option<FlowKey>,
}

impl Twin {
    /// Loads the programs beside those in force at this gateway, and does something with them.
    pub(crate) fn with<T>(
        gateway: &str,
        ask: impl FnOnce(&mut Twin) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        let _one = ONE_AT_A_TIME.lock();
        ask(&mut Twin::load(gateway)?)
    }

    fn load(gateway: &str) -> Result<Twin, FilterError> {
        let directory = pin_root(gateway).join(format!("v{ABI_VERSION}"));
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::DISABLE);
        developer::set_off(&mut loader);
        for name in SHARED {
            let path = directory.join(name);
            if !path.exists() {
                // The loader would make a map and pin it.
                let source = io::Error::from(io::ErrorKind::NotFound);
                return Err(FilterError::Pin { path, source });
            }
            loader.map_pin_path(name, path);
        }
        let sized = OWN.into_iter().filter_map(|(name, size)| Some((name, size?)));
        for (name, size) in REMEMBERED.into_iter().chain(sized) {
            loader.map_max_entries(name, size);
        }
        let pinned = |name| MapData::from_pin(directory.join(name)).map_err(error(name));
        let [quotas, zones, learned] = COPIED;
        let (live_quotas, live_zones) = (pinned(quotas)?, pinned(zones)?);
        loader.map_max_entries(quotas, live_quotas.info().map_err(error(quotas))?.max_entries());
        let mut ebpf = loader.load(OBJECT).map_err(|error| FilterError::Load(Box::new(error)))?;
        let port: &mut Xdp = program(&mut ebpf, "port")?;
        port.load().map_err(program_error("port", None))?;
        let pin = |name| directory.join(name);
        let (own_quotas, own_zones): (Array<_, Bucket>, Array<_, ZoneQuota>) =
            (take(&mut ebpf, quotas)?, take(&mut ebpf, zones)?);
        let live_learned = pinned(learned).and_then(|map| map_of(learned, map))?;
        let own = Counts::of(IterableMap::map(&own_quotas), IterableMap::map(&own_zones))?;
        Ok(Twin {
            counts: [own, Counts::of(&live_quotas, &live_zones)?],
            config: take(&mut ebpf, "CONFIG")?,
            ports: take(&mut ebpf, "PORTS")?,
            networks: take(&mut ebpf, "NETWORKS")?,
            counters: take(&mut ebpf, "COUNTERS")?,
            scratch: Scratch::of(&mut ebpf)?,
            flows: Remembered::of(&mut ebpf, "FLOWS", pin("FLOWS"))?,
            translations: Remembered::of(&mut ebpf, "TRANSLATIONS", pin("TRANSLATIONS"))?,
            rule_rates: Remembered::of(&mut ebpf, "RULE_RATES", pin("RULE_RATES"))?,
            rates: Remembered::of(&mut ebpf, "RATES", pin("RATES"))?,
            shares: Remembered::of(&mut ebpf, "SHARES", pin("SHARES"))?,
            neighbours: Remembered::of(&mut ebpf, "NEIGHBOURS", pin("NEIGHBOURS"))?,
            routers: take(&mut ebpf, "ROUTERS")?,
            learned: [take(&mut ebpf, learned)?, live_learned],
            ebpf,
        })
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Result<Config, FilterError> {
        self.config.get(&0, 0).map_err(error("CONFIG"))
    }

    /// Every port in force.
    pub(crate) fn ports(&self) -> Vec<(PortKey, Port)> {
        self.ports.iter().filter_map(Result::ok).collect()
    }

    /// Whose an address is.
    pub(crate) fn network(&self, address: std::net::IpAddr) -> Option<Network> {
        self.networks.get(&aya::maps::lpm_trie::Key::new(128, bytes(address)), 0).ok()
    }

    /// The MAC address that an address on a port is bound to, or that of the router before it.
    pub(crate) fn bound(&self, port: u16, address: std::net::IpAddr) -> Option<[u8; 6]> {
        let router = self.network(address).map(|network| network.router).filter(|router| *router != 0);
        let neighbour = match router {
            Some(router) => self.routers.get(&router.into(), 0).ok()?,
            None => bytes(address),
        };
        let key = NeighbourKey { address: neighbour, port, reserved: 0 };
        self.neighbours.live.get(&key, 0).ok().map(|bound| bound.mac)
    }

    /// The flow in force that has these ends, where its packets enter or leave; with its key.
    pub(crate) fn known(&self, key: &FlowKey) -> Option<(FlowKey, Flow)> {
        let by_entry = self.flows.live.get(key, 0).ok().map(|flow| (*key, flow));
        by_entry.or_else(|| {
            let translated = self.translations.live.get(key, 0).ok()?;
            if translated.kind != translated_kind::LEAVING {
                return None;
            }
            let flow = self.flows.live.get(&translated.flow, 0).ok()?;
            Some((translated.flow, flow))
        })
    }

    /// Judges a frame as if it had been received by this device.
    pub(crate) fn judge(
        &mut self,
        ifindex: u32,
        frame: &[u8],
        about: &About,
    ) -> Result<Outcome, FilterError> {
        self.flows.taken.clear();
        self.translations.taken.clear();
        self.rule_rates.taken.clear();
        self.rates.taken.clear();
        self.shares.taken.clear();
        self.neighbours.taken.clear();
        if let Some(key) = &about.known {
            self.flows.take_over(key, |flow| {
                // The way is looked for anew, as it is every moment: only so it is seen.
                flow.original_hop.until_ns = 0;
                flow.reply_hop.until_ns = 0;
            });
        }
        let is_there = |value: &Translated| Some(value.flow) != about.forgotten;
        if self.translations.live.get(&about.ends, 0).is_ok_and(|value| is_there(&value)) {
            self.translations.take_over(&about.ends, |_| {});
        }
        for _ in 0..RUNS_MAX {
            self.begin(about.port)?;
            let outcome = self.run(ifindex, frame, about)?;
            // What the packet's way has written stands for what it has looked for: if there is such an entry in force, it
            // would have found it.
            let mut more = self.translations.take_over_written(is_there);
            for ends in self.translations.own.keys().filter_map(Result::ok) {
                more |= Some(ends) != about.forgotten && self.flows.take_over(&ends, |_| {});
            }
            more |= self.rule_rates.take_over_written(|_| true);
            more |= self.rates.take_over_written(|_| true);
            more |= self.shares.take_over_written(|_| true);
            more |= self.neighbours.take_over_written(|_| true);
            if !more {
                return Ok(outcome);
            }
        }
        Err(FilterError::Undecided)
    }

    /// Nothing is left of the run before.
    fn begin(&mut self, port: u16) -> Result<(), FilterError> {
        let [own, live] = &mut self.learned;
        let port = port.into();
        let count = live.get(&port, 0).map_err(error("NEIGHBOUR_COUNTS"))?;
        own.set(port, count, 0).map_err(error("NEIGHBOUR_COUNTS"))?;
        self.scratch.clear()?;
        let [own, live] = &self.counts;
        own.copy_from(live);
        self.flows.begin()?;
        self.translations.begin()?;
        self.rule_rates.begin()?;
        self.rates.begin()?;
        self.shares.begin()?;
        self.neighbours.begin()
    }

    fn run(&mut self, ifindex: u32, frame: &[u8], about: &About) -> Result<Outcome, FilterError> {
        let before = self.counted(about.port)?;
        let end = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, end, 0, ifindex, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut out = vec![0; frame.len() + GROWTH];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let port: &mut Xdp = program(&mut self.ebpf, "port")?;
        port.test_run(options).map_err(program_error("port", None))?;
        let after = self.counted(about.port)?;
        let verdict = after.iter().zip(&before).find(|((_, after), (_, before))| after != before);
        let verdict = verdict.map_or(Verdict::DropInternal, |((verdict, _), _)| *verdict);
        let key = about.known.unwrap_or(about.ends);
        let flow = self.flows.own.get(&key, 0).ok().map(|flow| (key, flow));
        Ok(Outcome { verdict, findings: self.scratch.findings()?, flow })
    }

    /// Packets of each verdict so far, under this port or none.
    fn counted(&self, port: u16) -> Result<Vec<(Verdict, u64)>, FilterError> {
        let mut counted = Vec::new();
        for id in [port, 0] {
            for &verdict in Verdict::ALL {
                let values = self.counters.get(&counter_index(id, verdict), 0).map_err(error("COUNTERS"))?;
                counted.push((verdict, values.iter().map(|counter| counter.packets).sum()));
            }
        }
        Ok(counted)
    }
}

fn map_of(name: &'static str, map: MapData) -> Result<Array<MapData, u32>, FilterError> {
    Map::from_map_data(map).and_then(Array::try_from).map_err(error(name))
}

/// A table that the programs write, and the one in force.
struct Remembered<K: Pod, V: Pod> {
    name: &'static str,
    own: HashMap<MapData, K, V>,
    live: HashMap<MapData, K, V>,
    /// Entries of the one in force that the other begins with.
    taken: Vec<(K, V)>,
}

impl<K: Pod + PartialEq, V: Pod> Remembered<K, V> {
    fn of(ebpf: &mut Ebpf, name: &'static str, pin: std::path::PathBuf) -> Result<Self, FilterError> {
        let live = MapData::from_pin(pin).and_then(Map::from_map_data).map_err(error(name))?;
        let live = HashMap::try_from(live).map_err(error(name))?;
        Ok(Remembered { name, own: take(ebpf, name)?, live, taken: Vec::new() })
    }

    /// Has the next run find this entry, if there is one in force. `true`: there is, and it was not taken yet.
    fn take_over(&mut self, key: &K, change: impl FnOnce(&mut V)) -> bool {
        let Ok(mut value) = self.live.get(key, 0) else { return false };
        if self.taken.iter().any(|(taken, _)| taken == key) {
            return false;
        }
        change(&mut value);
        self.taken.push((*key, value));
        true
    }

    /// The same for every entry that a run has written.
    fn take_over_written(&mut self, wanted: impl Fn(&V) -> bool) -> bool {
        let written: Vec<K> = self.own.keys().filter_map(Result::ok).collect();
        let mut more = false;
        for key in written {
            if self.live.get(&key, 0).is_ok_and(|value| wanted(&value)) {
                more |= self.take_over(&key, |_| {});
            }
        }
        more
    }

    /// Makes the table what the run shall begin with.
    fn begin(&mut self) -> Result<(), FilterError> {
        let keys: Vec<K> = self.own.keys().filter_map(Result::ok).collect();
        for key in keys {
            self.own.remove(&key).map_err(error(self.name))?;
        }
        for (key, value) in &self.taken {
            self.own.insert(key, value, 0).map_err(error(self.name))?;
        }
        Ok(())
    }
}

/// `SCRATCH`, of whose entries only the begin is known here.
struct Scratch {
    map: MapData,
    /// Bytes of one CPU's entry, and of all of them.
    one: usize,
    all: usize,
}

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
/// Index of the program `port`'s entry.
const PORT: u32 = 0;

/// `union bpf_attr`, the member of single elements.
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Scratch {
    fn of(ebpf: &mut Ebpf) -> Result<Scratch, FilterError> {
        const NAME: &str = "SCRATCH";
        let Some(Map::PerCpuArray(map)) = ebpf.take_map(NAME) else { return Err(FilterError::Missing(NAME)) };
        let value = map.info().map_err(error(NAME))?.value_size();
        // The kernel rounds up to whole words (BPF_MAP_TYPE_PERCPU_ARRAY).
        let one = usize::try_from(value).unwrap_or(0).next_multiple_of(8);
        if one < size_of::<Findings>() {
            return Err(FilterError::Missing(NAME));
        }
        let cpus =
            aya::util::nr_cpus().map_err(|(path, source)| FilterError::Pin { path: path.into(), source })?;
        Ok(Scratch { map, one, all: one * cpus })
    }

    /// Every CPU's entry zero.
    fn clear(&mut self) -> Result<(), FilterError> {
        self.call(BPF_MAP_UPDATE_ELEM, &mut vec![0; self.all])
    }

    /// What the run after [`Scratch::clear`] has left, on whichever CPU it was.
    fn findings(&self) -> Result<Findings, FilterError> {
        let mut entries = vec![0; self.all];
        self.call(BPF_MAP_LOOKUP_ELEM, &mut entries)?;
        let written = entries.chunks_exact(self.one).find(|entry| entry.iter().any(|byte| *byte != 0));
        let Some(entry) = written else { return Ok(Findings::default()) };
        // SAFETY: `of` has seen that an entry is at least as long, and any bytes are a value.
        Ok(unsafe { entry.as_ptr().cast::<Findings>().read_unaligned() })
    }

    /// Reads or writes the entry on all CPUs.
    fn call(&self, command: libc::c_long, entries: &mut [u8]) -> Result<(), FilterError> {
        debug_assert_eq!(entries.len(), self.all);
        let key = PORT;
        let mut attributes = Element {
            map: u32::try_from(self.map.fd().as_fd().as_raw_fd()).unwrap_or(u32::MAX),
            reserved: 0,
            key: &raw const key as u64,
            value: entries.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the key is four bytes, the value as long as the map's entry is on all CPUs together; both live during
        // the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Element>()) };
        if result == 0 {
            return Ok(());
        }
        let io_error = io::Error::last_os_error();
        let source = MapError::SyscallError(aya::sys::SyscallError { call: "bpf_map_elem", io_error });
        Err(error("SCRATCH")(source))
    }
}
