//! Identities, distinguished names, traffic selectors and proposals: from the wire and from a configuration's notation.
//!
//! Asserts: whatever a peer calls itself is shown without characters that a terminal or an eye would be fooled by; what
//! is shown never reads back as another kind of identity; notations survive being shown and read again; everything but
//! ID_NULL matches itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_fuzz::memory::{for_input, within};
use sekisho_ike::crypto::suite::{EspProposal, IkeProposal};
use sekisho_ike::wire::id::{IdPayload, Identification};
use sekisho_ike::wire::reader::Reader;
use sekisho_ike::wire::ts::TrafficSelector;
use sekisho_ike::wire::{IdType, PayloadType};

/// Directional, zero-width and tag characters: enough of them to notice that they got through.
const INVISIBLE: [char; 8] =
    ['\u{ad}', '\u{200b}', '\u{200f}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{fffa}', '\u{e0041}'];

fuzz_target!(|bytes: &[u8]| {
    payload(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        notation(text);
    }
});

fn payload(bytes: &[u8]) {
    let parse = || IdPayload::parse(Reader::new(PayloadType::IdI, 0, bytes));
    let Ok(payload) = within(for_input(bytes.len()), parse) else { return };
    assert_eq!(payload.body(), bytes, "AUTH covers the payload as it was sent");
    let id = payload.id;
    let shown = within(for_input(bytes.len()), || id.to_string());
    assert!(!shown.chars().any(|c| c.is_control() || INVISIBLE.contains(&c)), "{shown:?}");
    assert!(id.matches(&id) || id.id_type() == IdType::Null, "{id:?}");
    let Ok(again) = shown.parse::<Identification>() else { return };
    match id.id_type() {
        // As text a name has lost its string types, which matching does without.
        IdType::DerAsn1Dn => assert!(again.matches(&id), "{shown}"),
        IdType::Ipv4Addr | IdType::Ipv6Addr | IdType::Fqdn | IdType::Rfc822Addr | IdType::KeyId => {
            assert_eq!(again, id, "{shown}");
        }
        _ => {}
    }
}

fn notation(text: &str) {
    if let Ok(id) = within(for_input(text.len()), || text.parse::<Identification>()) {
        assert!(id.matches(&id), "{id:?}");
        let shown = id.to_string();
        let again: Identification = shown.parse().expect("what is shown can be read");
        // A value written in hexadecimal may be of another string type than the same as text.
        assert!(again == id || id.id_type() == IdType::DerAsn1Dn && again.matches(&id), "{shown}");
    }
    if let Ok(selector) = text.parse::<TrafficSelector>() {
        let shown = selector.to_string();
        assert_eq!(shown.parse(), Ok(selector), "{shown}");
    }
    match text.parse::<IkeProposal>() {
        Ok(proposal) => assert_eq!(proposal.to_string().parse(), Ok(proposal)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match text.parse::<EspProposal>() {
        Ok(proposal) => assert_eq!(proposal.to_string().parse(), Ok(proposal)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
