//! Two TCP endpoints over a network that loses, repeats and reorders, with the filter in the middle: what the
//! endpoints need gets through, and what a stranger adds neither does nor changes anything.

use proptest::prelude::*;
use sekisho_abi::flow::{Flow, tcp_state};
use sekisho_abi::map::Config;

use crate::flow::{self, Fit};
use crate::parse::{Kind, Packet};
use crate::tcp::flag::{ACK, FIN, RST, SYN};
use crate::window::after;

/// The filter between two hosts: one flow.
#[derive(Clone, Default)]
struct Filter {
    flow: Option<Flow>,
}

impl Filter {
    /// Whether the packet gets through.
    fn take(&mut self, packet: &Packet, original: bool) -> bool {
        let Some(flow) = &mut self.flow else {
            let Ok(progress) = flow::first(&Config::default(), packet) else { return false };
            if !original {
                return false;
            }
            let (original_window, reply_window) = flow::first_windows(packet);
            let mut flow = Flow { original_window, reply_window, ..Flow::default() };
            flow.tcp_state = progress.tcp_state;
            flow.lifetime = progress.lifetime;
            self.flow = Some(flow);
            return true;
        };
        match flow::fit(flow, packet, original) {
            Fit::Yes(progress) => {
                flow::touch(flow, packet, progress, original, 60, 1);
                true
            }
            Fit::Restart => {
                self.flow = None;
                self.take(packet, original)
            }
            Fit::No(_) => false,
        }
    }

    /// What strangers must not change.
    fn state(&self) -> Flow {
        let mut flow = self.flow.expect("a flow");
        (flow.original, flow.reply, flow.last_seen_ns, flow.replied) = Default::default();
        flow
    }
}

/// An endpoint, after RFC 9293 section 3.3.1.
#[derive(Clone, Debug)]
struct Endpoint {
    /// Oldest number not acknowledged, next to send, and how far the other side has room.
    una: u32,
    nxt: u32,
    edge: u32,
    /// Next expected, and the right edge of the room that was offered: it never moves back.
    expected: u32,
    offered: u32,
    scale: u8,
    fin_sent: bool,
}

impl Endpoint {
    fn packet(&self, sequence: u32, payload: u16, flags: u8) -> Packet {
        let window = self.offered.wrapping_sub(self.expected) >> self.scale;
        Packet {
            kind: Kind::Tcp,
            tcp_flags: flags,
            tcp_sequence: sequence,
            tcp_acknowledgment: self.expected,
            tcp_window: u16::try_from(window).unwrap_or(u16::MAX),
            tcp_payload: payload,
            ..Packet::default()
        }
    }

    /// Offers this much room, as far as it may: in units of the scale, and never less than before.
    fn offer(&mut self, room: u32) {
        let room = room.min(u32::from(u16::MAX) << self.scale) >> self.scale << self.scale;
        let edge = self.expected.wrapping_add(room);
        if after(edge, self.offered) {
            self.offered = edge;
        }
    }

    /// Takes what came through.
    fn receive(&mut self, packet: &Packet, scale: u8) {
        let end = crate::window::end(packet);
        if !after(packet.tcp_sequence, self.expected) && after(end, self.expected) {
            self.expected = end;
        }
        if packet.tcp_flags & ACK != 0 && !after(packet.tcp_acknowledgment, self.nxt) {
            if after(packet.tcp_acknowledgment, self.una) {
                self.una = packet.tcp_acknowledgment;
            }
            let edge = packet.tcp_acknowledgment.wrapping_add(u32::from(packet.tcp_window) << scale);
            if after(edge, self.edge) {
                self.edge = edge;
            }
        }
    }

    /// Whether this packet would do something for the endpoint.
    fn needs(&self, packet: &Packet, scale: u8) -> bool {
        let end = crate::window::end(packet);
        let new_data = after(end, self.expected) && !after(packet.tcp_sequence, self.offered);
        let edge = packet.tcp_acknowledgment.wrapping_add(u32::from(packet.tcp_window) << scale);
        let new_ack = !after(self.una, packet.tcp_acknowledgment) && after(edge, self.edge);
        new_data || after(packet.tcp_acknowledgment, self.una) || new_ack
    }
}

/// What happens next; numbers are taken modulo what is possible.
#[derive(Clone, Copy, Debug)]
enum Act {
    Send {
        side: bool,
        bytes: u16,
    },
    SendAgain {
        side: bool,
        skip: u16,
        bytes: u16,
    },
    Acknowledge {
        side: bool,
        room: u32,
    },
    Probe {
        side: bool,
    },
    KeepAlive {
        side: bool,
    },
    Finish {
        side: bool,
    },
    /// Delivers one of the packets on the way, or loses it, or leaves it there as well.
    Deliver {
        which: u16,
        lost: bool,
        kept: bool,
        before: bool,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (any::<bool>(), 1u16..1460).prop_map(|(side, bytes)| Act::Send { side, bytes }),
        1 => (any::<bool>(), any::<u16>(), 1u16..1460)
            .prop_map(|(side, skip, bytes)| Act::SendAgain { side, skip, bytes }),
        4 => (any::<bool>(), prop_oneof![Just(0), 1u32..5000, 0u32..2_000_000])
            .prop_map(|(side, room)| Act::Acknowledge { side, room }),
        1 => any::<bool>().prop_map(|side| Act::Probe { side }),
        1 => any::<bool>().prop_map(|side| Act::KeepAlive { side }),
        1 => (0u8..40, any::<bool>()).prop_map(|(rare, side)| {
            if rare == 0 { Act::Finish { side } } else { Act::Acknowledge { side, room: 60_000 } }
        }),
        10 => (any::<u16>(), 0u8..10, 0u8..10, any::<bool>()).prop_map(|(which, lost, kept, before)| {
            Act::Deliver { which, lost: lost == 0, kept: kept == 0, before }
        }),
    ];
    prop::collection::vec(act, 0..300)
}

/// A conversation whose handshake is done: endpoints, filter, and shifts.
fn established(isn: [u32; 2], scales: Option<[u8; 2]>, windows: [u16; 2]) -> (Filter, [Endpoint; 2]) {
    let [a, b] = isn;
    let shift = scales.unwrap_or_default();
    let syn = |sequence, ack, flags, window, scale: Option<u8>| Packet {
        kind: Kind::Tcp,
        tcp_sequence: sequence,
        tcp_acknowledgment: ack,
        tcp_flags: flags,
        tcp_window: window,
        tcp_scale: scale.map_or(0, |scale| scale + 1),
        ..Packet::default()
    };
    let mut filter = Filter::default();
    let first = syn(a, 0, SYN, windows[0], scales.map(|[scale, _]| scale));
    assert!(filter.take(&first, true));
    assert!(filter.take(&first, true), "sent again");
    let second = syn(b, a.wrapping_add(1), SYN | ACK, windows[1], scales.map(|[_, scale]| scale));
    assert!(filter.take(&second, false));
    assert!(filter.take(&second, false), "sent again");
    let endpoint = |own: u32, other: u32, window: [u16; 2], scale| Endpoint {
        una: own.wrapping_add(1),
        nxt: own.wrapping_add(1),
        edge: own.wrapping_add(1).wrapping_add(window[1].into()),
        expected: other.wrapping_add(1),
        offered: other.wrapping_add(1).wrapping_add(window[0].into()),
        scale,
        fin_sent: false,
    };
    let client = endpoint(a, b, windows, shift[0]);
    let server = endpoint(b, a, [windows[1], windows[0]], shift[1]);
    assert!(filter.take(&client.packet(client.nxt, 0, ACK), true));
    assert_eq!(filter.state().tcp_state, tcp_state::ESTABLISHED);
    (filter, [client, server])
}

/// Lets the endpoints talk. Every packet that its receiver needs must get through.
fn talk(
    filter: &mut Filter,
    ends: &mut [Endpoint; 2],
    acts: &[Act],
    mut stranger: impl FnMut(&mut Filter, &[Endpoint; 2]),
) {
    // On the way to the filter, and from there: packet, from the client.
    let mut before: Vec<(Packet, bool)> = Vec::new();
    let mut behind: Vec<(Packet, bool)> = Vec::new();
    let scales = [ends[0].scale, ends[1].scale];
    for &act in acts {
        let send = |end: &Endpoint, sequence: u32, bytes: u16, flags: u8| end.packet(sequence, bytes, flags);
        match act {
            Act::Send { side, bytes } => {
                let end = &mut ends[usize::from(side)];
                let room = end.edge.wrapping_sub(end.nxt);
                if !end.fin_sent && room < 1 << 31 && room > 0 {
                    let bytes = bytes.min(u16::try_from(room).unwrap_or(u16::MAX));
                    before.push((send(end, end.nxt, bytes, ACK), !side));
                    end.nxt = end.nxt.wrapping_add(bytes.into());
                }
            }
            Act::SendAgain { side, skip, bytes } => {
                let end = &ends[usize::from(side)];
                let sent = end.nxt.wrapping_sub(end.una).wrapping_sub(end.fin_sent.into());
                if sent > 0 && sent < 1 << 31 {
                    let skip = u32::from(skip) % sent;
                    let bytes = bytes.min(u16::try_from(sent - skip).unwrap_or(u16::MAX));
                    before.push((send(end, end.una.wrapping_add(skip), bytes, ACK), !side));
                }
            }
            Act::Acknowledge { side, room } => {
                let end = &mut ends[usize::from(side)];
                end.offer(room);
                before.push((send(end, end.nxt, 0, ACK), !side));
            }
            Act::Probe { side } => {
                let end = &ends[usize::from(side)];
                // The window is closed, and nothing on its way.
                if end.nxt == end.edge && end.una == end.nxt {
                    before.push((send(end, end.nxt.wrapping_sub(1), 0, ACK), !side));
                }
            }
            Act::KeepAlive { side } => {
                let end = &ends[usize::from(side)];
                // Only of an idle connection (RFC 9293 section 3.8.4).
                if end.una == end.nxt {
                    before.push((send(end, end.una.wrapping_sub(1), 0, ACK), !side));
                }
            }
            Act::Finish { side } => {
                let end = &mut ends[usize::from(side)];
                // It takes a number, which must lie within the window as any other.
                if !end.fin_sent && after(end.edge, end.nxt) {
                    before.push((send(end, end.nxt, 0, ACK | FIN), !side));
                    end.nxt = end.nxt.wrapping_add(1);
                    end.fin_sent = true;
                }
            }
            Act::Deliver { which, lost, kept, before: ahead } => {
                let queue = if ahead { &mut before } else { &mut behind };
                if !queue.is_empty() {
                    let at = usize::from(which) % queue.len();
                    let (packet, original) = if kept { queue[at] } else { queue.remove(at) };
                    let receiver = usize::from(original);
                    let scale = scales[1 - receiver];
                    if lost {
                    } else if !ahead {
                        ends[receiver].receive(&packet, scale);
                    } else {
                        let needed = ends[receiver].needs(&packet, scale);
                        let passed = filter.take(&packet, original);
                        assert!(passed || !needed, "{packet:?} of {original} cut: {filter:?} {ends:?}");
                        if passed {
                            behind.push((packet, original));
                        }
                    }
                }
            }
        }
        stranger(filter, ends);
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.flow.map(|flow| (flow.tcp_state, flow.original_window, flow.reply_window)))
    }
}

/// Where a number stands that a stranger guesses: never within what either side could have sent or acknowledged.
fn outside(guess: u32, ends: &[Endpoint; 2], sender: usize) -> (u32, u32) {
    // Two windows of the largest size away from everything, and half the space at most.
    let away = (1 << 28) + (guess % ((1 << 30) - (1 << 28)));
    let sequence = ends[sender].nxt.wrapping_add(away).wrapping_add(u32::from(guess & 1 == 0) << 31);
    let ack = ends[1 - sender].nxt.wrapping_add(away);
    (sequence, ack)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_endpoints_need_gets_through(
        isn: [u32; 2],
        scales in prop::option::of(prop::array::uniform2(0u8..15)),
        windows in prop::array::uniform2(1u16..),
        acts in acts(),
    ) {
        let (mut filter, mut ends) = established(isn, scales, windows);
        talk(&mut filter, &mut ends, &acts, |_, _| {});
        // Sequence space wraps like any other number.
        let wrapped = isn.map(|isn| isn | 0xffff_f000);
        let (mut filter, mut ends) = established(wrapped, scales, windows);
        talk(&mut filter, &mut ends, &acts, |_, _| {});
    }

    #[test]
    fn strangers_neither_pass_nor_change_anything(
        isn: [u32; 2],
        scales in prop::option::of(prop::array::uniform2(0u8..8)),
        windows in prop::array::uniform2(1u16..),
        acts in acts(),
        guess: u32,
        flags in prop::sample::select(vec![ACK, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK]),
        payload in 0u16..1460,
        original: bool,
    ) {
        let (mut filter, mut ends) = established(isn, scales, windows);
        talk(&mut filter, &mut ends, &acts, |filter, ends| {
            let (sequence, ack) = outside(guess, ends, usize::from(!original));
            let known = ends[usize::from(!original)].nxt;
            for (sequence, ack) in [(sequence, ack), (known, ack), (sequence, ends[usize::from(original)].nxt)] {
                // A number that fits by chance is no forgery.
                if sequence == known && flags & RST != 0 {
                    continue;
                }
                let forged = Packet {
                    kind: Kind::Tcp,
                    tcp_sequence: sequence,
                    tcp_acknowledgment: ack,
                    tcp_flags: flags,
                    tcp_window: 0xffff,
                    tcp_payload: payload,
                    ..Packet::default()
                };
                let before = filter.state();
                if matches!(before.tcp_state, tcp_state::TIME_WAIT | tcp_state::CLOSE) {
                    continue;
                }
                let passed = filter.take(&forged, original);
                assert_eq!(filter.state(), before, "{forged:?} changed the flow");
                // A SYN of the opener far from its window is for the receiver to challenge.
                assert!(!passed || (flags == SYN && original), "{forged:?} passed");
            }
        });
    }
}
