//! AUTH payloads: method, AlgorithmIdentifier (RFC 7427) and signature.
//!
//! Asserts: a payload that parses is written the same; an accepted AlgorithmIdentifier names a scheme whose own
//! identifier is accepted too; nothing verifies over other octets than those that were signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sekisho_fuzz::memory::{for_input, within};
use sekisho_fuzz::pki::PKI;
use sekisho_ike::crypto::signature::{PublicKey, SignatureScheme, verify_auth};
use sekisho_ike::crypto::x509::Certificate;
use sekisho_ike::wire::PayloadType;
use sekisho_ike::wire::auth::Authentication;
use sekisho_ike::wire::reader::Reader;

static KEY: LazyLock<PublicKey> =
    LazyLock::new(|| Certificate::from_der(&PKI.clinic).expect("our own").public_key().clone());

fuzz_target!(|bytes: &[u8]| {
    if let Some(scheme) = SignatureScheme::from_algorithm_identifier(bytes) {
        let own = scheme.algorithm_identifier();
        assert_eq!(SignatureScheme::from_algorithm_identifier(own), Some(scheme));
    }
    let parse = || Authentication::parse(Reader::new(PayloadType::Auth, 0, bytes));
    let Ok(auth) = within(for_input(bytes.len()), parse) else { return };
    let mut written = Vec::new();
    auth.write(&mut written).expect("what was read can be written");
    assert_eq!(Authentication::parse(Reader::new(PayloadType::Auth, 0, &written)).expect("our own"), auth);
    if let Ok((identifier, signature)) = auth.digital_signature() {
        assert_eq!(1 + identifier.len() + signature.len(), auth.data.len());
    }
    match within(for_input(bytes.len()), || verify_auth(auth.method, &auth.data, &KEY, b"never signed")) {
        Ok(scheme) => panic!("forged with {scheme}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
