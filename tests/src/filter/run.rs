//! Single frames through the programs, and the one counter that each of them moves.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray};
use sekisho_abi::map::{Counter, config_flags};
use sekisho_abi::verdict::{Verdict, counter_index};

use super::packet::Ip;
use super::{Device, ENGINE_END, LAN1, LAN2, Lab, VLAN10, VLAN20, VPN, VPN_OTHER, WAN, test_run};

/// The verdict of one frame, and what became of it.
#[derive(Debug)]
pub struct Run {
    /// What was decided.
    pub verdict: Verdict,
    /// Port whose counter rose.
    pub port: u16,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Lab {
    /// A frame through `port`, as if received by the device.
    pub fn receive(&self, device: Device, frame: &[u8]) -> Run {
        self.run_xdp("port", device, 0, frame)
    }

    /// The same, on another receive queue.
    pub fn receive_on_queue(&self, device: Device, queue: u32, frame: &[u8]) -> Run {
        self.run_xdp("port", device, queue, frame)
    }

    /// A frame through `engine`.
    pub fn receive_engine(&self, frame: &[u8]) -> Run {
        self.run_xdp("engine", Device::EngineEnd, 0, frame)
    }

    fn run_xdp(&self, program: &str, device: Device, queue: u32, frame: &[u8]) -> Run {
        let fd = self.program(program);
        let before = self.read_counters();
        let outcome = test_run::xdp(fd.as_fd(), self.ifindex(device), queue, frame, 1)
            .unwrap_or_else(|error| panic!("{device:?}, {} bytes: {error}", frame.len()));
        // What came tagged is counted without its tag once the port is known.
        let tag = if is_tagged(frame) { 4 } else { 0 };
        let (port, verdict) = self.rose(&before, |port| frame.len() - if port == 0 { 0 } else { tag });
        let expected = match verdict {
            Verdict::Encrypt | Verdict::Decrypt if self.config.engine_ifindex == 0 => 2,
            Verdict::Forward | Verdict::Encrypt | Verdict::Decrypt | Verdict::Challenge => 4,
            // To the device by which the kernel knows the port.
            Verdict::Pass if is_tagged(frame) => 4,
            Verdict::Pass => 2,
            _ => 1,
        };
        assert_eq!(outcome.action, expected, "action of {verdict:?}");
        if verdict.is_drop() && outcome.frame.len() == frame.len() {
            assert_eq!(outcome.frame, frame, "a refused frame stays as it was");
        } else if verdict.is_drop() {
            assert_eq!(outcome.frame, without_tag(frame), "but for its tag");
        }
        Run { verdict, port, frame: outcome.frame }
    }

    /// A frame through `egress`, as if the kernel sent it by the device.
    pub fn send(&self, device: Device, frame: &[u8]) -> Run {
        let fd = self.program("egress");
        let before = self.read_counters();
        let outcome = test_run::skb(fd.as_fd(), self.ifindex(device), frame)
            .unwrap_or_else(|error| panic!("{device:?}, {} bytes: {error}", frame.len()));
        let (port, verdict) = self.rose(&before, |_| frame.len());
        assert_eq!(outcome.action, if verdict == Verdict::Pass { 0 } else { 2 }, "action of {verdict:?}");
        if self.config.flags & config_flags::NAT == 0 || verdict.is_drop() {
            assert_eq!(outcome.frame, frame);
        }
        Run { verdict, port, frame: outcome.frame }
    }

    /// A packet through `egress` on a device without Ethernet headers.
    pub fn send_bare(&self, device: Device, packet: &Ip) -> Run {
        let frame = packet.clone().frame([0; 6], [0; 6]);
        let bare = &frame[14..];
        let fd = self.program("egress");
        let before = self.read_counters();
        let outcome = test_run::skb(fd.as_fd(), self.ifindex(device), bare)
            .unwrap_or_else(|error| panic!("{device:?}, {} bytes: {error}", bare.len()));
        // Counted like frames of every other device.
        let (port, verdict) = self.rose(&before, |_| frame.len());
        assert_eq!(outcome.action, if verdict == Verdict::Pass { 0 } else { 2 }, "action of {verdict:?}");
        assert_eq!(outcome.frame, bare);
        Run { verdict, port, frame: outcome.frame }
    }

    /// A frame through `handover` or `tag`: action and frame. They count nothing.
    pub fn through(&self, program: &str, device: Device, frame: &[u8]) -> (u32, Vec<u8>) {
        let fd = self.program(program);
        let outcome = test_run::xdp(fd.as_fd(), self.ifindex(device), 0, frame, 1).expect("a run");
        (outcome.action, outcome.frame)
    }

    /// Mean time of `port` for this frame. Each run takes the frame as the one before left it, so it must still be for
    /// the gateway, and its hop limit last.
    pub fn cost(&self, device: Device, frame: &[u8], repeat: u32) -> Duration {
        let fd = self.program("port");
        test_run::xdp(fd.as_fd(), self.ifindex(device), 0, frame, repeat).expect("a run").duration
    }

    /// Whether the kernel runs tc programs on this frame at all: it wants the whole IP header there.
    pub fn can_send(frame: &[u8]) -> bool {
        frame.len() >= if frame[12..14] == [0x86, 0xdd] { 54 } else { 34 }
    }

    /// Whether the action alone would let a frame out, for floods that need no counters.
    pub fn action(&self, program: &str, device: Device, frame: &[u8]) -> u32 {
        let fd = self.program(program);
        let outcome = match program {
            "egress" => test_run::skb(fd.as_fd(), self.ifindex(device), frame),
            _ => test_run::xdp(fd.as_fd(), self.ifindex(device), 0, frame, 1),
        };
        outcome.unwrap_or_else(|error| panic!("{program}, {} bytes: {error}", frame.len())).action
    }

    /// Runs frames through `port`, on whatever thread asks.
    pub fn runner(&self, device: Device) -> impl Fn(&[u8]) + Send + Sync + use<> {
        let fd = self.program("port").as_fd().try_clone_to_owned().expect("a descriptor");
        let ifindex = self.ifindex(device);
        move |frame| {
            test_run::xdp(fd.as_fd(), ifindex, 0, frame, 1).expect("a run");
        }
    }

    fn rose(
        &self,
        before: &BTreeMap<(u16, Verdict), Counter>,
        bytes: impl Fn(u16) -> usize,
    ) -> (u16, Verdict) {
        let after = self.read_counters();
        let rose: Vec<_> = after.iter().filter(|(key, counter)| before.get(key) != Some(counter)).collect();
        let [(&(port, verdict), counter)] = rose[..] else { panic!("one counter must rise: {rose:?}") };
        let zero = Counter::default();
        let before = before.get(&(port, verdict)).unwrap_or(&zero);
        assert_eq!(counter.packets - before.packets, 1);
        assert_eq!(counter.bytes - before.bytes, u64::try_from(bytes(port)).expect("small"));
        self.counters.replace(after);
        (port, verdict)
    }

    fn read_counters(&self) -> BTreeMap<(u16, Verdict), Counter> {
        let map: PerCpuArray<&MapData, Counter> =
            self.ebpf.map("COUNTERS").expect("a map").try_into().expect("a per-CPU array");
        let mut counters = BTreeMap::new();
        for port in [0, LAN1, LAN2, WAN, VLAN10, VLAN20, VPN, VPN_OTHER, ENGINE_END] {
            for &verdict in Verdict::ALL {
                let mut sum = Counter::default();
                for counter in map.get(&counter_index(port, verdict), 0).expect("an entry").iter() {
                    sum.packets += counter.packets;
                    sum.bytes += counter.bytes;
                }
                counters.insert((port, verdict), sum);
            }
        }
        counters
    }
}

/// The frame with an 802.1Q tag.
pub fn with_tag(vlan: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// The frame without its outer tag.
pub fn without_tag(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &frame[16..]].concat()
}

fn is_tagged(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x81, 0])
}
