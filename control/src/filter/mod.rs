//! The filter: loading, attaching, pinning and taking over the XDP and tc programs, and filling their maps.
//!
//! Everything that must outlive the daemon is pinned below `/sys/fs/bpf/sekisho/<gateway>/v<ABI>/`: maps by name, links
//! as `<program>-<mode>-<interface>-<ifindex>`. A start finds the pins of a predecessor, keeps its maps, loads today's
//! programs and swaps them into the living links one by one (BPF_LINK_UPDATE is atomic): there is no moment without a
//! filter. Only an orderly stop removes the pins.

mod audit;
mod batch;
mod counts;
mod developer;
mod events;
mod flows;
mod maps;
mod neighbours;
mod pressure;
mod translations;
mod twin;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachType, qdisc_add_clsact, qdisc_detach_program};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use sekisho_abi::quota::buckets;

use crate::kernel::Link;

pub use events::Events;
pub use flows::{FlowSweeper, FlowTable};
pub(crate) use flows::{flow_key, is_expired, monotonic_ns};
pub use maps::Maps;
pub(crate) use maps::bytes;
pub use neighbours::{BoundPort, Neighbours, is_static};
pub(crate) use twin::{About, Outcome, Twin};

/// Changes whenever a map's key, value, size or meaning changes: a new version begins with empty maps, and the swap of the
/// programs moves the traffic from the old ones to the new ones.
const ABI_VERSION: u32 = 6;

/// The kernel detaches some time after a pin is removed.
const DETACH_TRIES: u32 = 100;
const DETACH_WAIT: Duration = Duration::from_millis(10);

/// The object that build.rs made from `dataplane-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SEKISHO_EBPF_OBJECT"));

const MAPS: [&str; 26] = [
    "CONFIG",
    "PORTS",
    "NETWORKS",
    "ROUTERS",
    "NEIGHBOURS",
    "NEIGHBOUR_COUNTS",
    "LISTS",
    "ADDRESSES",
    "RULES",
    "RULE_COUNTERS",
    "FLOWS",
    "SPIS",
    "SOCKETS",
    "DEVICES",
    "COUNTERS",
    "EVENTS",
    "TRANSLATIONS",
    "SOURCE_NAT",
    "DESTINATION_NAT",
    "NAT_POOL",
    "RULE_RATES",
    "RATES",
    "SHARES",
    "QUOTAS",
    "ZONES",
    "SECRETS",
];

/// What counts flows goes with them.
const MAPS_OF_FLOWS: [&str; 4] = ["FLOWS", "TRANSLATIONS", "QUOTAS", "ZONES"];

/// The filter could not be put in force.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A file below /sys/fs/bpf.
    #[error("{path}: {source}; is bpffs mounted at /sys/fs/bpf, and are you root?")]
    Pin {
        /// Which.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the object.
    #[error("the kernel refused the eBPF object (it needs Linux 6.1 or later, and root): {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier, or an attachment, refused a program.
    #[error("eBPF program {program}{}: {source}", on(.interface))]
    Program {
        /// Program.
        program: &'static str,
        /// Interface.
        interface: Option<String>,
        /// The error.
        #[source]
        source: Box<Refused>,
    },
    /// Another program sits where ours belongs.
    #[error(
        "interface {0} carries another XDP program already; remove it with `ip link set dev {0} xdp off` (and what put \
         it there)"
    )]
    Busy(String),
    /// A map.
    #[error("eBPF map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// The error.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// The object lacks something: daemon and object were not built together.
    #[error("the eBPF object has no {0}: build daemon and object from one source")]
    Missing(&'static str),
    /// A question to the programs has no answer.
    #[error(
        "the programs took up what other flows have again and again: the translated ports seem to be used up; see \
         nat-exhausted under `sekisho drops`"
    )]
    Undecided,
}

/// Why a program is not in its place.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The program itself, or its attachment.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The link that holds it.
    #[error(transparent)]
    Link(#[from] LinkError),
}

fn on(interface: &Option<String>) -> String {
    interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default()
}

/// How XDP runs on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's generic path: correct, but slow.
    Generic,
}

impl Mode {
    /// The name in status and pins.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// The programs in force.
pub struct Filter {
    ebpf: Ebpf,
    directory: PathBuf,
    /// Pins in use; others found below `directory` belong to ports that are no longer configured.
    pins: BTreeSet<String>,
    /// Maps of a predecessor were taken over.
    took_over: bool,
    /// Native mode is out of the question: [`Filter::require_generic`].
    generic_only: bool,
}

impl Filter {
    /// Loads programs and maps, taking over what a predecessor pinned. Flows and counters are taken over only if
    /// `keep_flows`: their numbers for ports and zones still mean the same.
    pub fn open(gateway: &str, flows_max: u32, keep_flows: bool) -> Result<(Filter, Maps), FilterError> {
        mount_bpffs()?;
        let directory = pin_root(gateway).join(format!("v{ABI_VERSION}"));
        fs::create_dir_all(&directory).map_err(pin_error(&directory))?;
        let took_over = directory.join("CONFIG").exists();
        let keep_flows = keep_flows && !is_resized(&directory.join("FLOWS"), flows_max)?;
        if !keep_flows {
            for map in MAPS_OF_FLOWS.into_iter().chain(["COUNTERS", "NEIGHBOURS"]) {
                let path = directory.join(map);
                match fs::remove_file(&path) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(FilterError::Pin { path, source });
                    }
                    _ => {}
                }
            }
        }

        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS", flows_max);
        loader.map_max_entries("TRANSLATIONS", flows_max);
        loader.map_max_entries("QUOTAS", buckets(flows_max));
        // On a refusal the verifier's last words are enough; its full trace of a large program takes minutes.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        developer::set_level(&mut loader);
        for name in MAPS {
            loader.map_pin_path(name, directory.join(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| FilterError::Load(Box::new(error)))?;
        developer::start(&mut ebpf);
        for name in ["port", "engine", "handover", "tag"] {
            let program: &mut Xdp = program(&mut ebpf, name)?;
            program.load().map_err(program_error(name, None))?;
        }
        let egress: &mut SchedClassifier = program(&mut ebpf, "egress")?;
        egress.load().map_err(program_error("egress", None))?;
        let maps = Maps::take(&mut ebpf, flows_max)?;
        Ok((Filter { ebpf, directory, pins: BTreeSet::new(), took_over, generic_only: false }, maps))
    }

    /// A new configuration is about to be carried out: what is not attached to from here on is detached by
    /// [`Filter::detach_others`].
    pub fn begin(&mut self) {
        self.pins.clear();
    }

    /// Whether flows and counters of a predecessor go on.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Where a map of a gateway is pinned.
    fn pin_of(gateway: &str, map: &str) -> PathBuf {
        pin_root(gateway).join(format!("v{ABI_VERSION}")).join(map)
    }

    /// Whether a daemon of this gateway has put a filter in force and not taken it back.
    pub fn is_in_force(gateway: &str) -> bool {
        pin_root(gateway).exists()
    }

    /// From now on every device is attached to in generic mode. What a native program redirects can only leave by a
    /// driver that knows native XDP itself; one that does not would lose it all.
    pub fn require_generic(&mut self) {
        self.generic_only = true;
    }

    /// Puts a port under the filter: XDP for what comes in, tc for what the kernel sends out.
    pub fn attach_port(&mut self, link: &Link) -> Result<Mode, FilterError> {
        let mode = self.attach_xdp("port", link)?;
        self.attach_egress(link)?;
        Ok(mode)
    }

    /// Puts an xfrm interface under the filter. Such a device runs XDP in the generic path only.
    pub fn attach_tunnel(&mut self, link: &Link) -> Result<(), FilterError> {
        let former = std::mem::replace(&mut self.generic_only, true);
        let attached = self.attach_xdp("port", link);
        self.generic_only = former;
        attached?;
        self.attach_egress(link)
    }

    /// The same for a VLAN port, whose NIC is under the filter: `device` is the port to the kernel, `wire` the other end of
    /// its veth pair. Both are in one mode, which is given back.
    pub fn attach_vlan(&mut self, device: &Link, wire: &Link) -> Result<Mode, FilterError> {
        let handover = self.attach_xdp("handover", device)?;
        let tag = self.attach_xdp("tag", wire)?;
        self.attach_egress(device)?;
        Ok(if tag == Mode::Generic { tag } else { handover })
    }

    /// Puts the program on the engine's end of its veth pair.
    pub fn attach_engine(&mut self, link: &Link) -> Result<Mode, FilterError> {
        self.attach_xdp("engine", link)
    }

    /// Detaches from everything that this start did not attach to: ports that are no longer configured.
    pub fn detach_others(&self) -> Result<Vec<String>, FilterError> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(pin_error(&self.directory))? {
            let entry = entry.map_err(pin_error(&self.directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !MAPS.contains(&name.as_str()) && !self.pins.contains(&name) {
                fs::remove_file(entry.path()).map_err(pin_error(&entry.path()))?;
                removed.push(name);
            }
        }
        // Pins of another ABI version have no traffic left once the links above are ours.
        if let Some(root) = self.directory.parent() {
            for entry in fs::read_dir(root).map_err(pin_error(root))?.flatten() {
                if entry.path() != self.directory {
                    fs::remove_dir_all(entry.path()).map_err(pin_error(&entry.path()))?;
                }
            }
        }
        Ok(removed)
    }

    /// Removes every pin; with the last reference the programs leave the ports.
    pub fn remove(gateway: &str, ports: &[String]) -> Result<(), FilterError> {
        for interface in ports {
            // Where links cannot be pinned (before Linux 6.6) the classifier is found by its name; elsewhere, and if the
            // interface is gone, there is nothing to find.
            let _ = qdisc_detach_program(interface, TcAttachType::Egress, "egress");
        }
        let root = pin_root(gateway);
        match fs::remove_dir_all(&root) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FilterError::Pin { path: root, source })
            }
            _ => Ok(()),
        }
    }

    fn attach_xdp(&mut self, name: &'static str, link: &Link) -> Result<Mode, FilterError> {
        for mode in [Mode::Native, Mode::Generic] {
            let pin = pin_name(name, mode.name(), link);
            let path = self.directory.join(&pin);
            let Ok(old) = PinnedLink::from_pin(&path) else { continue };
            if self.generic_only && mode == Mode::Native {
                // The kernel has one mode a device. Until the other is in, the second gate judges what the kernel sends.
                fs::remove_file(&path).map_err(pin_error(&path))?;
                self.pins.remove(&pin);
                continue;
            }
            let program: &mut Xdp = program(&mut self.ebpf, name)?;
            let swap = XdpLink::try_from(FdLink::from(old)).map_err(Refused::from).and_then(|old| {
                let id = program.attach_to_link(old)?;
                program.take_link(id)?;
                Ok(())
            });
            if is_swapped(swap).map_err(program_error(name, Some(&link.name)))? {
                self.pins.insert(pin);
                return Ok(mode);
            }
            fs::remove_file(&path).map_err(pin_error(&path))?;
        }
        let generic_only = self.generic_only;
        let program: &mut Xdp = program(&mut self.ebpf, name)?;
        let native = match generic_only {
            true => None,
            false => Some(program.attach_to_if_index(link.index, XdpMode::Driver)),
        };
        let (mode, id) = match native {
            Some(Ok(id)) => (Mode::Native, id),
            Some(Err(error)) if is_busy(&error) => return Err(FilterError::Busy(link.name.clone())),
            refused => {
                let mut tries = 0;
                let id = loop {
                    match program.attach_to_if_index(link.index, XdpMode::Skb) {
                        Ok(id) => break id,
                        Err(error) if is_busy(&error) && generic_only && tries < DETACH_TRIES => {
                            tries += 1;
                            std::thread::sleep(DETACH_WAIT);
                        }
                        Err(error) if is_busy(&error) => return Err(FilterError::Busy(link.name.clone())),
                        Err(error) => return Err(program_error(name, Some(&link.name))(error)),
                    }
                };
                if let Some(Err(reason)) = refused {
                    tracing::warn!(
                        interface = link.name,
                        reason = explain(&reason),
                        "no native XDP in this driver: the filter runs in generic mode on every port, correct but slower"
                    );
                }
                (Mode::Generic, id)
            }
        };
        let attached = program
            .take_link(id)
            .map_err(Refused::from)
            .and_then(|link| FdLink::try_from(link).map_err(Refused::from))
            .map_err(program_error(name, Some(&link.name)))?;
        let pin = pin_name(name, mode.name(), link);
        self.pin(attached, pin)?;
        Ok(mode)
    }

    fn attach_egress(&mut self, link: &Link) -> Result<(), FilterError> {
        let error = program_error::<Refused>("egress", Some(&link.name));
        let pin = pin_name("egress", "tc", link);
        let path = self.directory.join(&pin);
        let program: &mut SchedClassifier = program(&mut self.ebpf, "egress")?;
        if let Ok(old) = PinnedLink::from_pin(&path) {
            let swap =
                SchedClassifierLink::try_from(FdLink::from(old)).map_err(Refused::from).and_then(|old| {
                    let id = program.attach_to_link(old)?;
                    program.take_link(id)?;
                    Ok(())
                });
            if is_swapped(swap).map_err(program_error("egress", Some(&link.name)))? {
                self.pins.insert(pin);
                return Ok(());
            }
            fs::remove_file(&path).map_err(pin_error(&path))?;
        }
        // Without tcx (before Linux 6.6) the program hangs on a clsact qdisc and stays there by itself.
        let legacy = !tcx();
        if legacy {
            let _ = qdisc_add_clsact(&link.name);
            let _ = qdisc_detach_program(&link.name, TcAttachType::Egress, "egress");
        }
        let id = match program.attach(&link.name, TcAttachType::Egress) {
            Ok(id) => id,
            Err(source) => return Err(error(source.into())),
        };
        let attached = match program.take_link(id) {
            Ok(attached) => attached,
            Err(source) => return Err(error(source.into())),
        };
        if legacy {
            // Dropping the link would detach; the kernel keeps the filter until it is removed by name.
            std::mem::forget(attached);
            return Ok(());
        }
        match FdLink::try_from(attached) {
            Ok(attached) => self.pin(attached, pin),
            Err(source) => Err(error(source.into())),
        }
    }

    fn pin(&mut self, link: FdLink, name: String) -> Result<(), FilterError> {
        let path = self.directory.join(&name);
        link.pin(&path)
            .map_err(|error| FilterError::Pin { path: path.clone(), source: io::Error::other(error) })?;
        self.pins.insert(name);
        Ok(())
    }
}

/// Where a gateway's pins are.
fn pin_root(gateway: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/sekisho").join(gateway)
}

/// The pin of a program's link. bpffs takes no dots, which names of interfaces may have; the ifindex tells them apart.
fn pin_name(program: &str, mode: &str, link: &Link) -> String {
    format!("{program}-{mode}-{}-{}", link.name.replace('.', "_"), link.index)
}

fn pin_error(path: &Path) -> impl FnOnce(io::Error) -> FilterError {
    let path = path.to_owned();
    move |source| FilterError::Pin { path, source }
}

fn program_error<E: Into<Refused>>(
    program: &'static str,
    interface: Option<&str>,
) -> impl FnOnce(E) -> FilterError {
    let interface = interface.map(str::to_owned);
    move |source| FilterError::Program { program, interface, source: Box::new(source.into()) }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, FilterError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(FilterError::Missing(name))?
        .try_into()
        .map_err(|_| FilterError::Missing(name))
}

/// What became of a swap: `true`, the program is in; `false`, the link is dead, for its interface was removed, and a new
/// one of the same name needs a new link. After any other refusal the old program judges on, and must not be detached.
fn is_swapped(swap: Result<(), Refused>) -> Result<bool, Refused> {
    match swap {
        Ok(()) => Ok(true),
        Err(refused) if errno(&refused) == Some(libc::ENOLINK) => Ok(false),
        Err(refused) => Err(refused),
    }
}

/// Another program sits there, in the same mode or in the other one.
fn is_busy(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

/// An error with its causes in one line.
fn explain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// The kernel's error number behind a refused attachment.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    None
}

/// Whether this kernel has tcx links, which can be pinned.
fn tcx() -> bool {
    aya::util::KernelVersion::current().is_ok_and(|version| version >= aya::util::KernelVersion::new(6, 6, 0))
}

/// Whether a flow table is of another size than configured: it cannot be taken over then, its flows are given up, and that
/// is said.
fn is_resized(path: &Path, flows_max: u32) -> Result<bool, FilterError> {
    if !path.exists() {
        return Ok(false);
    }
    let info = aya::maps::MapInfo::from_pin(path)
        .map_err(|source| FilterError::Map { map: "FLOWS", source: Box::new(source) })?;
    let is_resized = info.max_entries() != flows_max;
    if is_resized {
        tracing::warn!(
            from = info.max_entries(),
            to = flows_max,
            "the flow table has a new size: known flows and counters are forgotten"
        );
    }
    Ok(is_resized)
}

/// Mounts bpffs where it belongs, if nobody has.
fn mount_bpffs() -> Result<(), FilterError> {
    let path = Path::new("/sys/fs/bpf");
    let error = pin_error(path);
    let mounted = fs::read_to_string("/proc/self/mounts")
        .map_err(pin_error(Path::new("/proc/self/mounts")))?
        .lines()
        .any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf"));
    if mounted {
        return Ok(());
    }
    // SAFETY: three valid C strings and no data; the result is checked.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
    };
    if result == 0 { Ok(()) } else { Err(error(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn refused(number: i32) -> Result<(), Refused> {
        let io_error = io::Error::from_raw_os_error(number);
        Err(ProgramError::SyscallError(SyscallError { call: "bpf_link_update", io_error }).into())
    }

    /// A filter that is in force is given up only where its interface is gone.
    #[test]
    fn only_a_dead_link_is_replaced() {
        assert!(is_swapped(Ok(())).expect("swapped"));
        assert!(!is_swapped(refused(libc::ENOLINK)).expect("a dead link is no error"));
        for number in [libc::ENOMEM, libc::EPERM, libc::EINVAL, libc::EBUSY] {
            is_swapped(refused(number)).expect_err("the old program judges on");
        }
    }
}
