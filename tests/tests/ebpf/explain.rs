//! What `sekisho explain` relies on: the programs once more, with tables of their own for all that they write, say of a
//! packet what those in force would do with it, and leave nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use sekisho_abi::explain::{COPIED, OWN, REMEMBERED, SHARED};
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::Counter;
use sekisho_abi::nat::{DestinationNat, SourceNat, Translated, source_nat_kind};
use sekisho_abi::neighbour::{Neighbour, NeighbourKey};
use sekisho_abi::port::network_kind;
use sekisho_abi::quota::{Bucket, ZoneQuota};
use sekisho_abi::verdict::{Verdict, counter_index};

use crate::forward::{from_engine, to};
use crate::lab::{BUCKETS, Device, LAN1, LAN2, Lab, Service, VPN, WAN, address, object};
use crate::packet::{ACK, RST, SYN, TCP, UDP, ip};
use crate::{dump, test_run};

/// The programs beside those of a lab.
struct Twin {
    ebpf: Ebpf,
}

/// A bpffs of the test's own, for maps are shared by their pins.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sekisho-explain-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        let place = std::ffi::CString::new(path.to_str().expect("a path")).expect("a path");
        // SAFETY: valid C strings and no data; the result is checked.
        let result =
            unsafe { libc::mount(c"bpf".as_ptr(), place.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) };
        assert_eq!(result, 0, "bpffs: {}", std::io::Error::last_os_error());
        Pins(path)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Ok(place) = std::ffi::CString::new(self.0.as_os_str().as_encoded_bytes()) {
            // SAFETY: a valid C string.
            unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir(&self.0);
    }
}

impl Twin {
    fn of(lab: &Lab) -> Self {
        let pins = Pins::new();
        let mut loader = EbpfLoader::new();
        for name in SHARED {
            let path = pins.0.join(name);
            lab.map(name).pin(&path).expect("a pin");
            loader.map_pin_path(name, path);
        }
        let sized = OWN.into_iter().filter_map(|(name, size)| Some((name, size?)));
        for (name, size) in REMEMBERED.into_iter().chain(sized) {
            loader.map_max_entries(name, size);
        }
        loader.map_max_entries("QUOTAS", BUCKETS);
        let mut ebpf = loader.load(object()).expect("the object");
        let port: &mut Xdp = ebpf.program_mut("port").expect("a program").try_into().expect("XDP");
        port.load().expect("the verifier is content");
        let mut twin = Twin { ebpf };
        twin.remember::<FlowKey, Flow>(lab, "FLOWS");
        twin.remember::<FlowKey, Translated>(lab, "TRANSLATIONS");
        let [quotas, zones, learned] = COPIED;
        twin.copy::<Bucket>(lab, quotas);
        twin.copy::<ZoneQuota>(lab, zones);
        twin.copy::<u32>(lab, learned);
        twin.remember::<NeighbourKey, Neighbour>(lab, "NEIGHBOURS");
        twin
    }

    /// Its array becomes as a lab's is.
    fn copy<V: aya::Pod>(&mut self, lab: &Lab, name: &str) {
        let live: Array<&MapData, V> = lab.map(name).try_into().expect("an array");
        let mut own: Array<&mut MapData, V> =
            self.ebpf.map_mut(name).expect("a map").try_into().expect("an array");
        for (index, value) in (0..).zip(live.iter()) {
            own.set(index, value.expect("an entry"), 0).expect("as large");
        }
    }

    /// The entries of a lab's table become its own.
    fn remember<K: aya::Pod, V: aya::Pod>(&mut self, lab: &Lab, name: &str) {
        let live: HashMap<&MapData, K, V> = lab.map(name).try_into().expect("a hash");
        let mut own: HashMap<&mut MapData, K, V> =
            self.ebpf.map_mut(name).expect("a map").try_into().expect("a hash");
        for entry in live.iter() {
            let (key, value) = entry.expect("an entry");
            own.insert(key, value, 0).expect("room");
        }
    }

    /// The verdict of a frame, and the frame after it.
    fn judge(&self, lab: &Lab, device: Device, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let port = self.ebpf.program("port").expect("a program").fd().expect("loaded");
        let before = self.counted();
        let ran = test_run::xdp(port.as_fd(), lab.ifindex(device), 0, frame, 1).expect("a run");
        let after = self.counted();
        let risen: Vec<Verdict> =
            after.into_iter().filter(|key| !before.contains(key)).map(|(verdict, _)| verdict).collect();
        let [verdict] = risen[..] else { panic!("one counter must rise: {risen:?}") };
        (verdict, ran.frame)
    }

    fn counted(&self) -> BTreeSet<(Verdict, (u16, u64))> {
        let counters: PerCpuArray<&MapData, Counter> =
            self.ebpf.map("COUNTERS").expect("a map").try_into().expect("a per-CPU array");
        let ports = [0, LAN1, LAN2, WAN, VPN];
        let keys = ports.iter().flat_map(|port| Verdict::ALL.iter().map(move |verdict| (*port, *verdict)));
        keys.map(|(port, verdict)| {
            let counted = counters.get(&counter_index(port, verdict), 0).expect("an entry");
            (verdict, (port, counted.iter().map(|counter| counter.packets).sum()))
        })
        .collect()
    }
}

/// Everything in a lab's maps.
fn everything(lab: &Lab) -> BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> {
    lab.maps().filter_map(|(name, map)| Some((name.to_owned(), dump::entries(map)?))).collect()
}

fn host(rule: u16, text: &str, port_fixed: u16) -> DestinationNat {
    DestinationNat { rule, prefix_bits: 128, port_fixed, prefix: address(text), ..DestinationNat::default() }
}

/// A gateway with a little of everything, and a flow of every kind.
fn gateway() -> Lab {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    lab.allow(LAN2, WAN, Service::Port(TCP, 80));
    lab.allow(LAN1, VPN, Service::Port(TCP, 443));
    lab.allow(VPN, LAN2, Service::Protocol(1));
    lab.allow(WAN, LAN2, Service::Port(TCP, 9100));
    lab.allow(LAN1, 0, Service::Port(UDP, 53));
    lab.set_pool(&["203.0.113.1"]);
    let pool = SourceNat {
        rule: 1,
        kind: source_nat_kind::POOL,
        port_first: 1024,
        port_last: u16::MAX,
        index: 0,
        count: 1,
        ..SourceNat::default()
    };
    lab.add_source_nat(LAN1, WAN, "0.0.0.0", 0, pool);
    lab.add_network("203.0.113.9", 32, WAN, network_kind::LOCAL);
    lab.add_destination_nat(WAN, ("203.0.113.9", 32), (TCP, 8443), host(3, "10.2.0.2", 9100));
    let there = |flags, sequence, ack| {
        to(Device::Lan1, ip("10.1.0.2", "198.51.100.7").tcp(5000, 80, flags).numbers(sequence, ack))
    };
    let back = to(Device::Wan, ip("198.51.100.7", "203.0.113.1").tcp(80, 5000, SYN | ACK).numbers(0, 1));
    for (device, frame) in
        [(Device::Lan1, there(SYN, 0, 0)), (Device::Wan, back), (Device::Lan1, there(ACK, 1, 1))]
    {
        assert_eq!(lab.receive(device, &frame).verdict, Verdict::Forward);
    }
    lab
}

/// Packets of every kind, by device.
fn packets() -> Vec<(&'static str, Device, Vec<u8>)> {
    let lan1 = |packet| to(Device::Lan1, packet);
    let lan2 = |packet| to(Device::Lan2, packet);
    let wan = |packet| to(Device::Wan, packet);
    vec![
        (
            "of a known flow",
            Device::Lan1,
            lan1(ip("10.1.0.2", "198.51.100.7").tcp(5000, 80, ACK).numbers(1, 1)),
        ),
        ("its answer", Device::Wan, wan(ip("198.51.100.7", "203.0.113.1").tcp(80, 5000, ACK).numbers(1, 1))),
        (
            "out of its window",
            Device::Wan,
            wan(ip("198.51.100.7", "203.0.113.1").tcp(80, 5000, RST).numbers(7_000_000, 0)),
        ),
        ("new, translated", Device::Lan1, lan1(ip("10.1.0.2", "198.51.100.7").tcp(5001, 80, SYN))),
        ("new over UDP", Device::Lan1, lan1(ip("10.1.0.2", "198.51.100.7").udp(5001, 53, b"?"))),
        ("an echo request", Device::Lan1, lan1(ip("10.1.0.2", "198.51.100.7").echo(true, 5007))),
        ("new, IPv6", Device::Lan1, lan1(ip("2001:db8:1::2", "2001:db8:77::7").tcp(5001, 80, SYN))),
        ("another protocol", Device::Lan1, lan1(ip("10.1.0.2", "198.51.100.7").esp(7))),
        ("a rule for another port", Device::Lan2, lan2(ip("10.2.0.2", "198.51.100.7").tcp(5001, 81, SYN))),
        ("not translated", Device::Lan2, lan2(ip("10.2.0.2", "198.51.100.7").tcp(5001, 80, SYN))),
        ("no rule", Device::Lan2, lan2(ip("10.2.0.2", "10.1.0.2").tcp(5001, 80, SYN))),
        ("without a SYN", Device::Lan1, lan1(ip("10.1.0.2", "198.51.100.7").tcp(5002, 80, ACK))),
        ("forged", Device::Lan1, lan1(ip("10.2.0.2", "198.51.100.7").tcp(5001, 80, SYN))),
        ("behind the VPN, in clear", Device::Wan, wan(ip("10.9.0.5", "10.2.0.2").echo(true, 5007))),
        ("into the tunnel", Device::Lan1, lan1(ip("10.1.0.2", "10.9.0.5").tcp(5001, 443, SYN))),
        ("not into the tunnel", Device::Lan1, lan1(ip("10.1.0.2", "10.9.0.5").tcp(5001, 444, SYN))),
        ("out of the tunnel", Device::Engine, from_engine(VPN, ip("10.9.0.5", "10.2.0.2").echo(true, 5007))),
        ("forwarded to a host", Device::Wan, wan(ip("198.51.100.8", "203.0.113.9").tcp(5001, 8443, SYN))),
        ("no such forwarding", Device::Wan, wan(ip("198.51.100.8", "203.0.113.9").tcp(5001, 8444, SYN))),
        ("to the gateway", Device::Lan1, lan1(ip("10.1.0.2", "10.1.0.1").udp(5001, 53, b"?"))),
        ("not to the gateway", Device::Lan1, lan1(ip("10.1.0.2", "10.1.0.1").udp(5001, 54, b"?"))),
        ("stray ESP", Device::Wan, wan(ip("198.51.100.8", "203.0.113.1").esp(9))),
    ]
}

#[test]
fn every_map_is_shared_remembered_or_the_questions_own() {
    let lab = Lab::new();
    let listed: Vec<&str> = SHARED
        .into_iter()
        .chain(REMEMBERED.into_iter().map(|(name, _)| name))
        .chain(OWN.into_iter().map(|(name, _)| name))
        .chain(COPIED)
        .collect();
    let there: BTreeSet<&str> = lab
        .maps()
        .map(|(name, _)| name)
        // Constants, and the developer's log.
        .filter(|name| !name.starts_with('.') && !name.starts_with("AYA_"))
        .collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), there);
    assert_eq!(listed.len(), there.len(), "one stands in two lists");
}

#[test]
fn an_answer_is_what_the_packet_then_gets_and_leaves_nothing_behind() {
    for (what, device, frame) in packets() {
        let mut lab = gateway();
        lab.events();
        let before = everything(&lab);
        let (verdict, out) = Twin::of(&lab).judge(&lab, device, &frame);
        let after = everything(&lab);
        for (name, entries) in &before {
            assert_eq!(Some(entries), after.get(name), "{what}: {name} has changed");
        }
        assert!(lab.events().is_empty(), "{what}: an event was sent");
        let then = lab.receive(device, &frame);
        assert_eq!((verdict, out), (then.verdict, then.frame), "{what}");
    }
}
