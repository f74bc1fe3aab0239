//! TCP as a filter sees it: which flags make sense, and how a flow's state moves.
//!
//! ```text
//!            opener: SYN             other: SYN+ACK            opener: ACK
//!   (none) ──────────────► SYN_SENT ───────────────► SYN_RECV ────────────► ESTABLISHED
//!                                                       │ FIN of one side       │
//!                                                       └────────► FIN_WAIT ◄───┘
//!   any state ── RST ──► CLOSE                               │ FIN of the other side
//!                                                            ▼
//!   TIME_WAIT, CLOSE ── SYN ──► judged as a new flow     TIME_WAIT
//! ```
//!
//! The same packet may come by twice (retransmitted, or seen once by XDP and once more on its way out of the kernel),
//! so every move leads to a state that takes the same packet again. Sequence numbers are not looked at.

use sekisho_abi::flow::{Lifetime, fin, tcp_state};

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

/// What a packet does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packet fits; the flow's state is now this.
    To {
        /// [`tcp_state`].
        state: u8,
        /// [`fin`] bits.
        fins: u8,
    },
    /// A SYN after the end: the flow is over, judge the packet as the first of a new one.
    Restart,
    /// The packet does not fit the state.
    Refuse,
}

/// The move that a packet with sane `flags` makes from `state`; `original`: it comes from the side that opened.
#[inline(always)]
pub const fn step(state: u8, fins: u8, flags: u8, original: bool) -> Step {
    let stay = Step::To { state, fins };
    if flags & SYN != 0 {
        let acknowledges = flags & ACK != 0;
        return match (state, acknowledges, original) {
            (tcp_state::TIME_WAIT | tcp_state::CLOSE, false, _) => Step::Restart,
            // Retransmitted, or after a crash of the opener: the other side answers it (RFC 9293 section 3.10.7.4).
            (_, false, true) => stay,
            (tcp_state::SYN_SENT, true, false) => Step::To { state: tcp_state::SYN_RECV, fins },
            (tcp_state::SYN_RECV | tcp_state::ESTABLISHED, true, false) => stay,
            _ => Step::Refuse,
        };
    }
    if flags & RST != 0 {
        return Step::To { state: tcp_state::CLOSE, fins };
    }
    match state {
        // An ACK as answer to a SYN is a challenge (RFC 5961 section 4); the opener will reset the old connection.
        tcp_state::SYN_SENT if original || flags & FIN != 0 => return Step::Refuse,
        tcp_state::SYN_SENT => return stay,
        tcp_state::SYN_RECV | tcp_state::ESTABLISHED | tcp_state::FIN_WAIT | tcp_state::TIME_WAIT => {}
        _ => return Step::Refuse,
    }
    if flags & FIN != 0 {
        let fins = fins | if original { fin::ORIGINAL } else { fin::REPLY };
        let both = fins == fin::ORIGINAL | fin::REPLY;
        return Step::To { state: if both { tcp_state::TIME_WAIT } else { tcp_state::FIN_WAIT }, fins };
    }
    if state == tcp_state::SYN_RECV && original {
        return Step::To { state: tcp_state::ESTABLISHED, fins };
    }
    stay
}

/// How long a flow in this state lives without a packet.
#[inline(always)]
pub const fn lifetime(state: u8) -> Lifetime {
    match state {
        tcp_state::ESTABLISHED => Lifetime::TcpEstablished,
        tcp_state::FIN_WAIT | tcp_state::TIME_WAIT => Lifetime::TcpClosing,
        tcp_state::CLOSE => Lifetime::TcpClosed,
        _ => Lifetime::TcpHalfOpen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::flow::tcp_state::*;

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

    /// Every state, packet and side: the whole table.
    #[test]
    fn transitions() {
        const SA: u8 = SYN | ACK;
        const FA: u8 = FIN | ACK;
        const PACKETS: [u8; 5] = [SYN, SA, ACK, FA, RST];
        const NO: u8 = 0xff;
        const NEW: u8 = 0xfe;
        // Columns as in PACKETS, from the opener and then from the other side.
        let table: [(u8, [u8; 5], [u8; 5]); 7] = [
            (NONE, [NONE, NO, NO, NO, CLOSE], [NO, NO, NO, NO, CLOSE]),
            (SYN_SENT, [SYN_SENT, NO, NO, NO, CLOSE], [NO, SYN_RECV, SYN_SENT, NO, CLOSE]),
            (
                SYN_RECV,
                [SYN_RECV, NO, ESTABLISHED, FIN_WAIT, CLOSE],
                [NO, SYN_RECV, SYN_RECV, FIN_WAIT, CLOSE],
            ),
            (
                ESTABLISHED,
                [ESTABLISHED, NO, ESTABLISHED, FIN_WAIT, CLOSE],
                [NO, ESTABLISHED, ESTABLISHED, FIN_WAIT, CLOSE],
            ),
            (FIN_WAIT, [FIN_WAIT, NO, FIN_WAIT, FIN_WAIT, CLOSE], [NO, NO, FIN_WAIT, TIME_WAIT, CLOSE]),
            (TIME_WAIT, [NEW, NO, TIME_WAIT, TIME_WAIT, CLOSE], [NEW, NO, TIME_WAIT, TIME_WAIT, CLOSE]),
            (CLOSE, [NEW, NO, NO, NO, CLOSE], [NEW, NO, NO, NO, CLOSE]),
        ];
        for (state, original, reply) in table {
            let fins = match state {
                FIN_WAIT => fin::ORIGINAL,
                TIME_WAIT => fin::ORIGINAL | fin::REPLY,
                _ => 0,
            };
            for (side, expected) in [(true, original), (false, reply)] {
                for (packet, expected) in PACKETS.into_iter().zip(expected) {
                    let found = match step(state, fins, packet, side) {
                        Step::To { state, .. } => state,
                        Step::Restart => NEW,
                        Step::Refuse => NO,
                    };
                    assert_eq!(found, expected, "state {state} packet {packet:#04x} original {side}");
                }
            }
        }
    }

    /// The second sight of a packet never refuses what the first one took.
    #[test]
    fn moves_are_idempotent() {
        for state in SYN_SENT..=CLOSE {
            for fins in 0..=3 {
                for flags in (0..=0xff).filter(|&flags| sane(flags)) {
                    for original in [true, false] {
                        if let Step::To { state: next, fins: next_fins } = step(state, fins, flags, original)
                        {
                            let again = step(next, next_fins, flags, original);
                            assert_eq!(
                                again,
                                Step::To { state: next, fins: next_fins },
                                "{state} {flags:#04x}"
                            );
                        }
                    }
                }
            }
        }
    }
}
