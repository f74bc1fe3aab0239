//! The anti-replay window against the rule in words (RFC 4303 section 3.4.3), with and without extended numbers.
//!
//! Asserts: no number is accepted twice, nor one left of the window; every fresh number near the top is inferred and
//! accepted; memory does not grow after creation.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sekisho_esp::transform::{ReplayWindow, Sequence};
use sekisho_fuzz::memory::within;

#[derive(Arbitrary, Debug)]
struct Input {
    size: u16,
    extended: bool,
    /// Where the window stands at the beginning.
    begin: u64,
    arrivals: Vec<Arrival>,
}

#[derive(Arbitrary, Debug)]
enum Arrival {
    /// So far from the newest one.
    Near(i16),
    /// These bits in the packet.
    Any(u32),
}

fuzz_target!(|input: Input| {
    let Input { size, extended, begin, arrivals } = input;
    let window = ReplayWindow::new(size.into(), extended);
    let begin = if extended { begin } else { begin & 0xffff_ffff };
    let mut seen = BTreeSet::new();
    if begin > 0 {
        assert_eq!(window.commit(Sequence { number: begin, extended }), Ok(true));
        seen.insert(begin);
    }
    // What inference tells apart where replay is not checked.
    let reach = if size == 0 { 1024 } else { u64::from(size) };
    for arrival in arrivals {
        let top = window.top();
        let (low, expected) = match arrival {
            Arrival::Any(low) => (low, None),
            Arrival::Near(distance) => {
                let Some(number) = top.checked_add_signed(distance.into()) else { continue };
                let possible = number > 0 && (extended || u32::try_from(number).is_ok());
                let near = number > top || top - number < reach;
                ((number & 0xffff_ffff) as u32, (possible && near).then_some(number))
            }
        };
        let verdict = within(0, || window.check(low));
        if let Some(number) = expected {
            let fresh = size == 0 || !seen.contains(&number);
            let right = match &verdict {
                Ok(sequence) => fresh && sequence.number == number,
                Err(_) => !fresh,
            };
            assert!(right, "{verdict:?} for {number} (fresh: {fresh}) below {top}");
        }
        let Ok(sequence) = verdict else { continue };
        assert_eq!((sequence.number & 0xffff_ffff, sequence.extended), (low.into(), extended));
        if size > 0 {
            assert!(sequence.number > top || top - sequence.number < size.into(), "left of the window");
            assert!(seen.insert(sequence.number), "accepted twice");
        }
        assert_eq!(within(0, || window.commit(sequence)), Ok(sequence.number > top));
        assert_eq!(window.top(), top.max(sequence.number));
    }
});
