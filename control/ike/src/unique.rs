//! One IKE SA for each peer (RFC 7296 section 2.4): which of two goes, and who deletes it.
//!
//! Both gateways must come to the same answer without a word about it, or the two would delete both.

use std::time::{Duration, Instant};

/// What becomes of a second IKE SA with the same peer: the same connection, and the same proved identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uniqueness {
    /// The new one replaces the old one.
    #[default]
    Replace,
    /// The new one is refused, unless the peer says that it has no other (INITIAL_CONTACT).
    Keep,
    /// Both stay.
    Never,
}

/// How long the gateway that has to delete the loser is waited for; after it, the other one does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Where an IKE SA comes from; a rekey does not change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whether we sent its first request.
    pub(crate) ours: bool,
    /// When the first request went out, or came.
    pub(crate) begun: Instant,
    /// When the peer had proved who it is.
    pub(crate) established: Instant,
    /// The lower of both nonces of IKE_SA_INIT.
    pub(crate) lowest_nonce: Vec<u8>,
}

impl Origin {
    pub(crate) fn new(ours: bool, begun: Instant, now: Instant, nonces: [&[u8]; 2]) -> Self {
        let [a, b] = nonces;
        Self { ours, begun, established: now, lowest_nonce: a.min(b).to_vec() }
    }
}

/// Which of two IKE SAs goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loser {
    Older,
    Newer,
}

/// When we delete it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At once: the peer has it no more.
    Now,
    /// It is for us to delete it, as soon as the other one carries everything.
    Settled,
    /// It is for the peer, within [`PATIENCE`].
    Overdue,
}

/// Judges two established IKE SAs with one peer. `newer` was established last; `initial_contact`: under it the peer said
/// that it has no other.
///
/// Where neither knew of the other when it began, both gateways have begun at once, and the IKE SA with the lowest of the
/// four nonces goes, as in a collision of rekeys (section 2.8.2); whoever began it deletes it. INITIAL_CONTACT says
/// nothing about such a pair: it was sent before the other was there. Otherwise the older goes; who began the newer
/// deletes it, for it knows when the newer can carry everything.
pub(crate) fn judge(older: &Origin, newer: &Origin, initial_contact: bool) -> (Loser, When) {
    let crossed = older.ours != newer.ours && older.established >= newer.begun;
    if crossed {
        let (loser, origin) = match older.lowest_nonce <= newer.lowest_nonce {
            true => (Loser::Older, older),
            false => (Loser::Newer, newer),
        };
        return (loser, if origin.ours { When::Settled } else { When::Overdue });
    }
    let when = match (initial_contact, newer.ours) {
        (true, false) => When::Now,
        (_, true) => When::Settled,
        (false, false) => When::Overdue,
    };
    (Loser::Older, when)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds at which it was begun and established.
    fn origin(ours: bool, begun: u64, established: u64, nonce: u8) -> Origin {
        let base = *BASE.get_or_init(Instant::now);
        let at = |seconds| base + Duration::from_secs(seconds);
        Origin::new(ours, at(begun), at(established), [&[nonce; 32], &[nonce + 1; 32]])
    }

    static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    #[test]
    fn the_older_goes_and_who_began_the_newer_deletes_it() {
        let older = origin(true, 0, 1, 9);
        assert_eq!(judge(&older, &origin(true, 5, 6, 1), false), (Loser::Older, When::Settled));
        assert_eq!(judge(&older, &origin(false, 5, 6, 1), false), (Loser::Older, When::Overdue));
        assert_eq!(judge(&older, &origin(false, 5, 6, 1), true), (Loser::Older, When::Now));
    }

    #[test]
    fn of_two_begun_at_once_both_sides_choose_the_same() {
        // X is ours, Y the peer's; which is established first differs between the sides.
        for (x, y) in [(3, 7), (7, 3)] {
            let (loser, when) = judge(&origin(true, 0, 4, x), &origin(false, 1, 5, y), true);
            let (other_loser, other_when) = judge(&origin(true, 0, 4, y), &origin(false, 1, 5, x), true);
            // Ours and the peer's are exchanged on the other side.
            assert_ne!(loser, other_loser);
            assert_eq!([when, other_when].iter().filter(|when| **when == When::Settled).count(), 1);
        }
    }
}
