//! Message IDs, the window of one, and retransmission on both sides (RFC 7296 sections 2.1 to 2.3).
//!
//! The requester repeats its request until the response comes; the responder repeats its response when the request
//! comes again, and never acts on a request twice. Both windows are 1: neither side announces SET_WINDOW_SIZE.

use std::time::Duration;

use crate::config::Retransmit;

/// Our requests: at most one is outstanding.
#[derive(Debug)]
pub(crate) struct RequestWindow {
    /// Wider than the field on the wire, so that it cannot wrap.
    next: u64,
    outstanding: Option<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    id: u32,
    datagrams: Vec<Vec<u8>>,
    wait: Duration,
    tries_left: u32,
    /// How often it was sent again.
    repeats: u32,
}

impl RequestWindow {
    /// The first request will have the ID `first`: 1 after IKE_SA_INIT, 0 on a rekeyed IKE SA.
    pub(crate) fn new(first: u32) -> Self {
        Self { next: u64::from(first), outstanding: None }
    }

    /// The ID of the next request; `None` while one is outstanding, or when the IDs are used up (section 2.2: the IKE
    /// SA must then be replaced).
    pub(crate) fn next_id(&self) -> Option<u32> {
        if self.outstanding.is_some() {
            return None;
        }
        u32::try_from(self.next).ok()
    }

    /// The ID of the outstanding request.
    pub(crate) fn outstanding_id(&self) -> Option<u32> {
        self.outstanding.as_ref().map(|outstanding| outstanding.id)
    }

    /// The request `id` has been sent as these datagrams. Returns the wait before the first retransmission.
    pub(crate) fn sent(&mut self, id: u32, datagrams: Vec<Vec<u8>>, retransmit: &Retransmit) -> Duration {
        self.next = u64::from(id) + 1;
        let wait = retransmit.initial;
        self.outstanding =
            Some(Outstanding { id, datagrams, wait, tries_left: retransmit.tries, repeats: 0 });
        wait
    }

    /// No response in time: the datagrams to send again, and the wait after them. `None` when the peer counts as dead.
    pub(crate) fn overdue(&mut self, retransmit: &Retransmit) -> Option<(&[Vec<u8>], Duration)> {
        let outstanding = self.outstanding.as_mut()?;
        outstanding.tries_left = outstanding.tries_left.checked_sub(1)?;
        let grown = outstanding.wait.saturating_mul(retransmit.growth_percent) / 100;
        outstanding.wait = grown;
        outstanding.repeats += 1;
        Some((&outstanding.datagrams, grown))
    }

    /// The datagrams of the outstanding request, and how often they were sent again.
    pub(crate) fn outstanding(&self) -> (&[Vec<u8>], u32) {
        self.outstanding.as_ref().map_or((&[], 0), |request| (&request.datagrams, request.repeats))
    }

    /// The response to `id` has come. `false` when no such request is outstanding.
    pub(crate) fn answered(&mut self, id: u32) -> bool {
        if self.outstanding_id() != Some(id) {
            return false;
        }
        self.outstanding = None;
        true
    }
}

/// What a request's ID says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The one we wait for.
    New,
    /// The last one again: our response was lost.
    Repeated,
    /// Older, or out of the window.
    Outside,
}

/// The peer's requests: the next expected, and the response to the last one.
#[derive(Debug)]
pub(crate) struct ResponseWindow {
    expected: u64,
    last: Vec<Vec<u8>>,
}

impl ResponseWindow {
    /// The first request must have the ID `first`.
    pub(crate) fn new(first: u32) -> Self {
        Self { expected: u64::from(first), last: Vec::new() }
    }

    /// Judges the ID of a request.
    pub(crate) fn standing(&self, id: u32) -> Standing {
        let id = u64::from(id);
        if id == self.expected {
            Standing::New
        } else if id + 1 == self.expected && !self.last.is_empty() {
            Standing::Repeated
        } else {
            Standing::Outside
        }
    }

    /// The ID of the request we wait for; `None` when the IDs are used up.
    pub(crate) fn expected_id(&self) -> Option<u32> {
        u32::try_from(self.expected).ok()
    }

    /// The expected request has been answered with these datagrams.
    pub(crate) fn answered(&mut self, datagrams: Vec<Vec<u8>>) {
        self.expected += 1;
        self.last = datagrams;
    }

    /// The response to the last request.
    pub(crate) fn last(&self) -> &[Vec<u8>] {
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_with_growing_waits_until_the_peer_counts_as_dead() {
        let retransmit = Retransmit::default();
        let mut window = RequestWindow::new(1);
        assert_eq!(window.next_id(), Some(1));
        let mut waited = window.sent(1, vec![vec![7]], &retransmit);
        assert_eq!(window.next_id(), None, "the window is one");
        let mut repeats = 0;
        while let Some((datagrams, wait)) = window.overdue(&retransmit) {
            assert_eq!(datagrams, [vec![7]]);
            repeats += 1;
            waited += wait;
        }
        assert_eq!(repeats, retransmit.tries);
        assert_eq!(waited.as_secs(), 68);
    }

    #[test]
    fn only_the_outstanding_request_can_be_answered() {
        let mut window = RequestWindow::new(0);
        assert!(!window.answered(0), "nothing was asked");
        window.sent(0, vec![vec![1]], &Retransmit::default());
        assert!(!window.answered(1));
        assert!(window.answered(0));
        assert!(!window.answered(0), "a replay");
        assert_eq!(window.next_id(), Some(1));
    }

    #[test]
    fn ids_do_not_wrap() {
        let mut requests = RequestWindow::new(u32::MAX);
        requests.sent(u32::MAX, vec![vec![1]], &Retransmit::default());
        assert!(requests.answered(u32::MAX));
        assert_eq!(requests.next_id(), None);
        let mut responses = ResponseWindow::new(u32::MAX);
        responses.answered(vec![vec![1]]);
        assert_eq!(responses.standing(0), Standing::Outside);
        assert_eq!(responses.standing(u32::MAX), Standing::Repeated);
    }

    #[test]
    fn requests_are_taken_in_order_and_once() {
        let mut window = ResponseWindow::new(1);
        assert_eq!(window.standing(0), Standing::Outside, "nothing to repeat yet");
        assert_eq!(window.standing(1), Standing::New);
        assert_eq!(window.standing(2), Standing::Outside);
        window.answered(vec![vec![9]]);
        assert_eq!(window.standing(0), Standing::Outside);
        assert_eq!(window.standing(1), Standing::Repeated);
        assert_eq!(window.standing(2), Standing::New);
        assert_eq!(window.last(), [vec![9]]);
    }
}
