//! IKE messages without keys: any datagram, and any chain of payloads as it may come out of an Encrypted payload.
//!
//! Asserts: memory stays within a small multiple of the bytes; what parses can be written, and then reads the same; the
//! Encrypted payload lies within the datagram; every error has a text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_fuzz::memory::{for_input, within};
use sekisho_ike::wire::{Outer, PayloadType, parse_payloads, write_clear, write_payloads};

fuzz_target!(|bytes: &[u8]| {
    message(bytes);
    // The header's version and length would stop nearly every mutation.
    let mut repaired = bytes.to_vec();
    if let (Ok(length), Some(header)) = (u32::try_from(bytes.len()), repaired.first_chunk_mut::<28>()) {
        header[17] = 0x20;
        header[24..].copy_from_slice(&length.to_be_bytes());
        message(&repaired);
    }
    if let Some((&first, chain)) = bytes.split_first() {
        content(PayloadType::from(first), chain);
    }
});

fn message(datagram: &[u8]) {
    let outer = match within(for_input(datagram.len()), || Outer::parse(datagram)) {
        Ok(outer) => outer,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    match outer.protected {
        Some(protected) => {
            let associated = protected.associated_data(datagram).expect("within the datagram");
            let body = protected.body(datagram).expect("within the datagram");
            assert!(!body.is_empty());
            assert_eq!([associated, body].concat(), datagram);
        }
        None => {
            let written = write_clear(&outer.header, &outer.payloads).expect("what was read can be written");
            assert_eq!(Outer::parse(&written).expect("our own message"), outer);
        }
    }
}

fn content(first: PayloadType, chain: &[u8]) {
    match within(for_input(chain.len()), || parse_payloads(first, chain)) {
        Ok(payloads) => {
            let (first, written) = write_payloads(&payloads).expect("what was read can be written");
            assert_eq!(parse_payloads(first, &written).expect("our own chain"), payloads);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
