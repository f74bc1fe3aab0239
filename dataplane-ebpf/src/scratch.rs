//! What a program knows of its packet. It lies in a map and not on the stack, of which all functions that call each
//! other share 512 bytes.

use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use sekisho_abi::Address;
use sekisho_abi::explain::Findings;
use sekisho_abi::flow::Hop;
use sekisho_abi::rule::Asked;
use sekisho_dataplane::parse::Packet;

use crate::maps;
use crate::path::count::Seen;
use crate::path::forward::Fib;
use crate::path::nat::Nat;

/// A program's place in `SCRATCH`: one for each kind.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Program {
    /// `port`.
    Port = 0,
    /// `engine`.
    Engine = 1,
    /// `egress`.
    Egress = 2,
    /// `handover`.
    Handover = 3,
}

/// Programs with a place of their own.
pub(crate) const PROGRAMS: u32 = 4;

/// One packet at a time. What a program finds here is from the packet before; it sets before it reads.
#[repr(C, align(8))]
pub(crate) struct Scratch {
    /// The question to the rules, and their answer.
    pub(crate) asked: Asked,
    /// The way by which the packet leaves.
    pub(crate) hop: Hop,
    /// Port id by which the packet leaves, 0 for the gateway; of a fragment that came early, where its kind goes.
    pub(crate) exit: u16,
    /// 1: the packet has ended its flow's handshake, which is counted as half-open yet.
    pub(crate) unsettled: u8,
    /// Whether the packet's flow is known.
    pub(crate) flow: Looked,
    /// Flags of the port it came by, [`port_flags`](sekisho_abi::port::port_flags).
    pub(crate) port_flags: u32,
    /// The packet's translation.
    pub(crate) nat: Nat,
    /// What is known of the frame.
    pub(crate) seen: Seen,
    /// The packet that an ICMP error is about.
    pub(crate) quoted: Packet,
    /// The question to the kernel's routing table.
    pub(crate) lookup: FibLookup,
    /// Its answer.
    pub(crate) fib: Fib,
    /// VLAN id that the frame gets when it leaves, 0 for none.
    pub(crate) tag: u16,
    /// VLAN id of the tag that it came with, 0 for none.
    pub(crate) came_tagged: u16,
    /// It came tagged: ifindex to redirect to what the kernel shall receive. 0 otherwise.
    pub(crate) handover: u32,
    /// Addresses that the frame's sender uses, to be held against their bindings; zero for none.
    pub(crate) used: [Address; 2],
    /// The frame's source.
    pub(crate) sender: [u8; 6],
    /// 1: the rules have been asked about the packet, and allow what stands in `asked`.
    pub(crate) allowed: u8,
    reserved: u8,
}

/// What a look at `FLOWS`, and at `TRANSLATIONS` where addresses are translated, has shown of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Looked {
    /// Nobody has looked yet, or not everywhere.
    NotYet = 0,
    /// There is none.
    Absent = 1,
    /// There is one. Where the packet opens a flow nevertheless, that one is over.
    Present = 2,
}

/// Its begin is read by those who ask what became of a packet.
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Scratch, asked) == offset_of!(Findings, asked));
    assert!(offset_of!(Scratch, hop) == offset_of!(Findings, hop));
    assert!(offset_of!(Scratch, exit) == offset_of!(Findings, exit));
    let nat = offset_of!(Scratch, nat);
    assert!(nat + offset_of!(Nat, destination_rule) == offset_of!(Findings, destination_rule));
    assert!(nat + offset_of!(Nat, active) == offset_of!(Findings, nat_active));
};

impl Scratch {
    /// The program's place, with nothing seen but the device.
    #[inline(always)]
    pub(crate) fn of(program: Program, ifindex: u32) -> Option<&'static mut Self> {
        let scratch = maps::SCRATCH.get_ptr_mut(program as u32)?;
        // SAFETY: it is zero, which is a value, or what programs have left there. The entry is this CPU's own and this program's own: XDP programs and tc's on the
        // way out run with bottom halves off, and none of the three runs inside another of its kind, so nothing else
        // touches it until the program ends. A program looks it up once.
        let scratch = unsafe { &mut *scratch };
        scratch.seen = Seen::new(ifindex);
        scratch.nat.active = 0;
        scratch.tag = 0;
        scratch.came_tagged = 0;
        scratch.handover = 0;
        scratch.flow = Looked::NotYet;
        scratch.allowed = 0;
        Some(scratch)
    }
}
