//! For fuzz targets alone (feature `tamper`): what an authentic message says is changed between its integrity check and
//! its reading, as a peer would that holds the keys and keeps no rule. Both ends stay honest, and cannot know.

use std::cell::RefCell;

use zeroize::Zeroizing;

use crate::wire::PayloadType;

/// One change.
#[derive(Clone, Debug)]
pub struct Tamper {
    /// Type of the first payload, in place of what it is; `None`: it stays.
    pub first: Option<u8>,
    /// Where it begins, counted in bytes of the content, past its end from the beginning again.
    pub at: usize,
    /// Bytes of the content that go.
    pub removed: usize,
    /// Bytes that come in their place.
    pub inserted: Vec<u8>,
}

thread_local! {
    static NEXT: RefCell<Option<Tamper>> = const { RefCell::new(None) };
}

/// Changes the next authentic message that an endpoint of this thread opens, or none any more.
pub fn next(tamper: Option<Tamper>) {
    NEXT.with_borrow_mut(|next| *next = tamper);
}

/// What is read in place of a message's content.
pub(crate) fn changed(
    (first, content): (PayloadType, Zeroizing<Vec<u8>>),
) -> (PayloadType, Zeroizing<Vec<u8>>) {
    let Some(tamper) = NEXT.with_borrow_mut(Option::take) else { return (first, content) };
    let at = tamper.at.checked_rem(content.len() + 1).unwrap_or_default();
    let (head, tail) = content.split_at(at);
    let tail = tail.get(tamper.removed..).unwrap_or_default();
    let changed = [head, &tamper.inserted, tail].concat();
    (tamper.first.map_or(first, PayloadType::from), Zeroizing::new(changed))
}
