//! TCP as a filter sees it: which flags make sense, and how a flow's state moves.
//!
//! ```text
//!            opener: SYN             other: SYN+ACK            opener: ACK
//!   (none) ──────────────► SYN_SENT ───────────────► SYN_RECV ────────────► ESTABLISHED
//!                              │ other: SYN              ▲                      │ FIN of one side
//!                              └───────► SYN_SENT2 ──────┘ either: SYN+ACK      ▼
//!                                                                           FIN_WAIT
//!   any state ── RST with the number expected next ──► CLOSE                    │ ACK of it
//!   TIME_WAIT, CLOSE ── SYN ──► judged as a new flow                            ▼
//!                                     TIME_WAIT ◄── both ACKs ── LAST_ACK ◄─ CLOSE_WAIT
//!                                                                    FIN of the other side
//! ```
//!
//! A segment moves the state only if it lies within the [windows](crate::window). What RFC 5961 has the receiver answer
//! by a challenge is not believed here either: a SYN on a living flow changes nothing, and goes on only where even a
//! receiver of RFC 793 would answer it by an ACK; a RST closes with the exact number that its receiver expects next; with
//! the number behind all that was seen from its sender it goes on, and closes once that is acknowledged; any other is
//! dropped.
//!
//! The same packet may come by twice (retransmitted, or seen once by XDP and once more on its way out of the kernel),
//! so every move leads to a state that takes the same packet again.

use sekisho_abi::flow::{Flow, Lifetime, Window, fin, tcp_state, window_flags};
use sekisho_abi::verdict::Verdict;

use crate::parse::Packet;
use crate::window::{self, after};

/// Bits of the flags byte (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push function.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
}
use flag::{ACK, FIN, RST, SYN, URG};

/// Whether any stack sends this combination. PSH, ECE and CWR go with every one; the rest is the set that nf_conntrack
/// takes. Null, SYN+FIN, SYN+RST and FIN without ACK are scans.
#[inline(always)]
pub const fn sane(flags: u8) -> bool {
    matches!(flags & (FIN | SYN | RST | ACK | URG), SYN | 0x22 | 0x12 | RST | 0x14 | 0x11 | 0x31 | ACK | 0x30)
}

/// Whether this packet may open a flow.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether this packet may stand for a connection whose beginning was not seen.
#[inline(always)]
pub const fn picks_up(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == ACK
}

/// Whether a flow in this state waits for the end of its handshake.
#[inline(always)]
pub const fn is_half_open(state: u8) -> bool {
    matches!(state, tcp_state::SYN_SENT | tcp_state::SYN_SENT2 | tcp_state::SYN_RECV)
}

/// What a packet does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packet fits; the flow's state is now this.
    To {
        /// [`tcp_state`].
        state: u8,
        /// [`fin`] bits.
        fins: u8,
        /// What becomes of the windows.
        change: Change,
    },
    /// A SYN after the end: the flow is over, judge the packet as the first of a new one.
    Restart,
    /// The packet does not fit the flow.
    Refuse(Verdict),
}

/// What a packet does to its flow's windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// Nothing.
    #[default]
    Keep,
    /// The opener begins.
    Begin,
    /// The other side begins.
    Answer,
    /// They move on.
    Update,
    /// The sender has reset the flow, behind data that isn't acknowledged yet.
    Reset,
}

/// The window of the side that sends a packet, and that of the other.
#[inline(always)]
pub const fn windows(flow: &Flow, original: bool) -> (&Window, &Window) {
    if original {
        (&flow.original_window, &flow.reply_window)
    } else {
        (&flow.reply_window, &flow.original_window)
    }
}

/// The move that a packet with sane flags makes; `original`: it comes from the side that opened.
#[inline(always)]
pub fn step(flow: &Flow, packet: &Packet, original: bool) -> Step {
    let (s, r) = windows(flow, original);
    let flags = packet.tcp_flags;
    if flags & SYN != 0 {
        return synchronise(flow, s, r, packet, original);
    }
    if flags & RST != 0 {
        return reset(flow, s, r, packet, original);
    }
    let state = flow.tcp_state;
    match state {
        // An ACK as answer to a SYN is a challenge (RFC 5961 section 4); the opener will reset the old connection.
        tcp_state::SYN_SENT if !original && flags & FIN == 0 && packet.tcp_payload == 0 => return keep(flow),
        tcp_state::SYN_RECV..=tcp_state::CLOSE => {}
        _ => return Step::Refuse(Verdict::DropTcpState),
    }
    if !window::fits(s, r, packet) {
        return Step::Refuse(Verdict::DropTcpWindow);
    }
    let fins = flow.fins | if flags & FIN == 0 { 0 } else { own_fin(original) };
    let state = match state {
        // Its end may have been lost behind us: what comes is answered by one more RST.
        tcp_state::CLOSE => return keep(flow),
        _ if r.flags & window_flags::RESET != 0 && acknowledges(packet, r.end) => tcp_state::CLOSE,
        _ if fins != 0 => closing(s, r, packet, fins, original),
        tcp_state::SYN_RECV if !original => tcp_state::SYN_RECV,
        _ => tcp_state::ESTABLISHED,
    };
    Step::To { state, fins, change: Change::Update }
}

/// Lets a packet through without believing it.
#[inline(always)]
const fn keep(flow: &Flow) -> Step {
    Step::To { state: flow.tcp_state, fins: flow.fins, change: Change::Keep }
}

/// The bit of the packet's sender in [`fin`].
#[inline(always)]
const fn own_fin(original: bool) -> u8 {
    if original { fin::ORIGINAL } else { fin::REPLY }
}

/// Whether the packet acknowledges everything before `end`.
#[inline(always)]
const fn acknowledges(packet: &Packet, end: u32) -> bool {
    packet.tcp_flags & ACK != 0 && !after(end, packet.tcp_acknowledgment)
}

/// Where a flow stands once there is a FIN: nothing comes after it, so that its number is the last before `end`.
#[inline(always)]
fn closing(s: &Window, r: &Window, packet: &Packet, fins: u8, original: bool) -> u8 {
    let end = window::end(packet);
    let end = if after(end, s.end) { end } else { s.end };
    let acknowledged = |window: &Window, end: u32| {
        window.flags & window_flags::ACKNOWLEDGED != 0 && !after(end, window.max_ack)
    };
    let own = fins & own_fin(original) != 0;
    let other = fins & own_fin(!original) != 0;
    let own_acknowledged = own && acknowledged(r, end);
    let other_acknowledged = other && (acknowledges(packet, r.end) || acknowledged(s, r.end));
    match (own && other, own_acknowledged, other_acknowledged) {
        (true, true, true) => tcp_state::TIME_WAIT,
        (true, _, _) => tcp_state::LAST_ACK,
        (false, false, false) => tcp_state::FIN_WAIT,
        (false, _, _) => tcp_state::CLOSE_WAIT,
    }
}

/// A segment with SYN.
#[inline(always)]
fn synchronise(flow: &Flow, s: &Window, r: &Window, packet: &Packet, original: bool) -> Step {
    let (state, fins) = (flow.tcp_state, flow.fins);
    let refuse = Step::Refuse(Verdict::DropTcpState);
    let to = |state, change| Step::To { state, fins, change };
    let ack = packet.tcp_acknowledgment;
    if packet.tcp_flags & ACK == 0 {
        return match (state, original) {
            (tcp_state::TIME_WAIT | tcp_state::CLOSE, _) => Step::Restart,
            (tcp_state::SYN_SENT, true) => to(state, Change::Begin),
            (tcp_state::SYN_SENT | tcp_state::SYN_SENT2, false) => to(tcp_state::SYN_SENT2, Change::Answer),
            (tcp_state::SYN_SENT2 | tcp_state::SYN_RECV, true) => keep(flow),
            (tcp_state::SYN_RECV, false) if window::end(packet) == s.end => keep(flow),
            // After a crash of the opener: the other side answers by an ACK, and the opener resets the old connection
            // (RFC 9293 section 3.5.1). Within the window RFC 793 had the receiver give up a living flow instead.
            (tcp_state::ESTABLISHED..=tcp_state::LAST_ACK, true) => {
                let sequence = packet.tcp_sequence;
                let within = !after(r.max_ack, sequence) && !after(sequence, s.max_end);
                if within { Step::Refuse(Verdict::DropTcpWindow) } else { keep(flow) }
            }
            _ => refuse,
        };
    }
    match (state, original) {
        (tcp_state::SYN_SENT | tcp_state::SYN_SENT2, false) => {
            if !window::acknowledges_syn(r, ack) {
                return Step::Refuse(Verdict::DropTcpWindow);
            }
            to(tcp_state::SYN_RECV, Change::Answer)
        }
        // Both have opened, and this side answers.
        (tcp_state::SYN_SENT2, true) if window::end(packet) == s.end && ack == r.end => {
            to(tcp_state::SYN_RECV, Change::Update)
        }
        // Sent again, perhaps with another number: the opener has not acknowledged any.
        (tcp_state::SYN_RECV, false) if ack == r.end && after(window::end(packet), s.end) => {
            to(state, Change::Answer)
        }
        (tcp_state::SYN_RECV, true) if window::end(packet) == s.end && ack == r.end => {
            to(tcp_state::ESTABLISHED, Change::Update)
        }
        (tcp_state::SYN_RECV..=tcp_state::LAST_ACK, _) => {
            let again = !after(window::end(packet), s.end) && window::fits(s, r, packet);
            if again { keep(flow) } else { Step::Refuse(Verdict::DropTcpWindow) }
        }
        _ => refuse,
    }
}

/// A segment with RST.
#[inline(always)]
fn reset(flow: &Flow, s: &Window, r: &Window, packet: &Packet, original: bool) -> Step {
    let refuse = Step::Refuse(Verdict::DropTcpReset);
    let closed = Step::To { state: tcp_state::CLOSE, fins: flow.fins, change: Change::Keep };
    let sequence = packet.tcp_sequence;
    match flow.tcp_state {
        tcp_state::NONE => refuse,
        // The opener resets a connection of before, and goes on to open this one.
        tcp_state::SYN_SENT | tcp_state::SYN_SENT2 if original => keep(flow),
        tcp_state::SYN_SENT | tcp_state::SYN_SENT2 => {
            let refused =
                packet.tcp_flags & ACK != 0 && window::acknowledges_syn(r, packet.tcp_acknowledgment);
            if refused { closed } else { refuse }
        }
        state => {
            let expected = if r.flags & window_flags::ACKNOWLEDGED != 0 { r.max_ack } else { s.end };
            if sequence == expected {
                closed
            } else if sequence == s.end {
                // Data before it may be on its way still, or be lost: then the receiver's challenge brings the exact one.
                Step::To { state, fins: flow.fins, change: Change::Reset }
            } else {
                refuse
            }
        }
    }
}

/// Changes the windows.
#[inline(always)]
pub fn change(flow: &mut Flow, packet: &Packet, original: bool, change: Change) {
    let Flow { original_window, reply_window, .. } = flow;
    let (s, r) = if original { (original_window, reply_window) } else { (reply_window, original_window) };
    match change {
        Change::Keep => {}
        Change::Update => window::update(s, r, packet),
        Change::Answer => window::answer(s, r, packet),
        Change::Begin => {
            let begun = window::begun(packet);
            // Sent again without the data that went with it at first.
            let end = if begun.max_end == s.max_end && after(s.end, begun.end) { s.end } else { begun.end };
            *s = Window { end, ..begun };
        }
        Change::Reset => s.flags |= window_flags::RESET,
    }
}

/// How long a flow in this state lives without a packet.
#[inline(always)]
pub const fn lifetime(state: u8) -> Lifetime {
    match state {
        tcp_state::ESTABLISHED => Lifetime::TcpEstablished,
        tcp_state::SYN_RECV => Lifetime::TcpSynReceived,
        tcp_state::FIN_WAIT => Lifetime::TcpFinWait,
        tcp_state::CLOSE_WAIT => Lifetime::TcpCloseWait,
        tcp_state::LAST_ACK => Lifetime::TcpLastAck,
        tcp_state::TIME_WAIT => Lifetime::TcpTimeWait,
        tcp_state::CLOSE => Lifetime::TcpClosed,
        _ => Lifetime::TcpSynSent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_are_not_sane() {
        for flags in 0..=0xffu8 {
            let (syn, fin, rst, ack) =
                (flags & SYN != 0, flags & FIN != 0, flags & RST != 0, flags & ACK != 0);
            if sane(flags) {
                assert!(u8::from(syn) + u8::from(fin) + u8::from(rst) <= 1, "{flags:#04x}");
                assert!(syn || rst || ack, "{flags:#04x}");
            }
        }
        for usual in [SYN, SYN | ACK, ACK, ACK | flag::PSH, FIN | ACK, RST, RST | ACK, SYN | 0xc0] {
            assert!(sane(usual), "{usual:#04x}");
        }
        assert!(!sane(0) && !sane(FIN) && !sane(FIN | flag::PSH | URG) && !sane(0xff));
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(opens(SYN) && opens(SYN | 0xc0));
        assert!(!opens(SYN | ACK) && !opens(ACK) && !opens(RST) && !opens(FIN | ACK));
    }
}
