//! Several IKE SAs with one peer: which goes, and that no packet is lost by it. The rule itself is in `unique.rs`.

use std::time::Instant;

use super::Endpoint;
use crate::established::Established;
use crate::event::{CloseReason, Event, IkeHandle};
use crate::sa::State;
use crate::timer::Timer;
use crate::unique::{Loser, PATIENCE, Uniqueness, When, judge};

/// Established IKE SAs with one peer at most, also where the configuration wants no rule. A peer needs one, two while both
/// sides begin at once or while it proves anew who it is; one that makes more has lost the others.
const MAX_IKE_SAS: usize = 8;

impl Endpoint {
    /// An IKE SA has just been established: what of those that the same peer has already?
    pub(super) fn judge_duplicates(&mut self, now: Instant, newest: u64) {
        let Some(new) = self.established_at(newest) else { return };
        let (handle, origin, policy) = (new.handle, new.origin.clone(), new.connection.uniqueness);
        let (announced, name, peer) =
            (new.initial_contact, new.connection.name.clone(), new.remote_id.clone());
        let mut others: Vec<_> =
            self.shared.directory.of_peer(&name, &peer).filter(|(other, _)| *other != handle).collect();
        let excess = (others.len() + 1).saturating_sub(MAX_IKE_SAS);
        for (other, _) in others.drain(..excess.min(others.len())) {
            self.close_duplicate(now, other);
        }
        if policy == Uniqueness::Never {
            return;
        }
        for (other, spi) in others {
            let Some(old) = self.established_at(spi) else { continue };
            let (winner, loser, when) = match judge(&old.origin, &origin, announced) {
                (Loser::Older, when) => (newest, other, when),
                (Loser::Newer, when) => (spi, handle, when),
            };
            match when {
                When::Now => self.close_duplicate(now, loser),
                When::Settled | When::Overdue => self.with_sa(now, winner, |state, ctx| {
                    let State::Established(mut state) = state else { return Some(state) };
                    state.supersedes.push((loser, when));
                    ctx.timers.set(Timer::Supersede, ctx.later(PATIENCE));
                    Some(State::Established(state))
                }),
            }
        }
    }

    /// Deletes what an IKE SA supersedes, if it is time.
    pub(super) fn close_superseded(&mut self, now: Instant, winner: u64) {
        let Some(state) = self.established_mut(winner) else { return };
        if state.supersedes.is_empty() {
            return;
        }
        let settled = state.is_settled();
        let overdue = std::mem::take(&mut state.supersede_overdue);
        let is_due = |when: When| overdue || (settled && when == When::Settled);
        let (due, rest) = state.supersedes.drain(..).partition(|(_, when)| is_due(*when));
        state.supersedes = rest;
        let due: Vec<(IkeHandle, When)> = due;
        for (loser, _) in due {
            self.close_duplicate(now, loser);
        }
    }

    /// Where it was closed or has lost the peer meanwhile, nothing is left to do.
    fn close_duplicate(&mut self, now: Instant, handle: IkeHandle) {
        if let Some(spi) = self.shared.directory.ike(handle) {
            self.with_sa(now, spi, |state, ctx| state.close(ctx, CloseReason::Replaced));
        }
    }

    /// An established IKE SA is gone whose peer has another: that one sends from now on. It is told before anything is
    /// removed: `mark` counts the events from before.
    pub(super) fn hand_over(&mut self, mark: usize, gone: &super::Who) {
        let Some((_, spi)) = self.shared.directory.of_peer(&gone.connection, &gone.peer).next_back() else {
            return;
        };
        let Some(State::Established(heir)) = self.sas.get_mut(&spi).map(|entry| &mut entry.sa.state) else {
            return;
        };
        let mark = mark.min(self.shared.out.events.len());
        for child in heir.take_over_sending() {
            self.shared.out.events.insert(mark, Event::ChildActivateOutbound { child });
        }
    }

    fn established_at(&self, spi: u64) -> Option<&Established> {
        match self.sas.get(&spi).map(|entry| &entry.sa.state) {
            Some(State::Established(state)) => Some(state),
            _ => None,
        }
    }

    fn established_mut(&mut self, spi: u64) -> Option<&mut Established> {
        match self.sas.get_mut(&spi).map(|entry| &mut entry.sa.state) {
            Some(State::Established(state)) => Some(state),
            _ => None,
        }
    }
}
