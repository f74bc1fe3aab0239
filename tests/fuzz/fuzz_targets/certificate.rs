//! Certificates, trust anchors, revocation lists and PEM: any bytes in the place of each.
//!
//! Asserts: memory stays within bounds; no chain holds but for the key that the authority signed; nothing that is no CA's
//! certificate becomes an anchor for a foreign one; no key that bytes may name verifies a made-up signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_fuzz::memory::{for_input, within};
use sekisho_fuzz::pki::{PKI, Pki};
use sekisho_ike::crypto::signature::{SignatureScheme, verify_auth};
use sekisho_ike::crypto::x509::{Certificate, RevocationPolicy, TrustAnchors, read_chain, verify_chain};
use sekisho_ike::wire::AuthMethod;

fuzz_target!(|bytes: &[u8]| {
    let Pki { anchors, clinic, intermediate, now } = &*PKI;
    let key_of = |der: &[u8]| Certificate::from_der(der).map(|c| c.public_key().spki_der().to_vec()).ok();

    if let Ok(certificate) = within(for_input(bytes.len()), || Certificate::from_der(bytes)) {
        let shown = format!("{certificate:?}");
        assert!(!certificate.subject().chars().any(char::is_control), "{shown}");
        for scheme in SignatureScheme::ALL {
            let identifier = scheme.algorithm_identifier();
            let length = u8::try_from(identifier.len()).expect("short");
            let data = [&[length], identifier, &[0; 64]].concat();
            let verified =
                verify_auth(AuthMethod::DigitalSignature, &data, certificate.public_key(), b"octets");
            assert!(verified.is_err(), "{shown} signed with zeros");
        }
    }

    // In the place of the end entity, of what is above it, and of the root.
    if let Ok(verified) = verify_chain(bytes, &[intermediate], anchors, *now) {
        assert_eq!(Some(verified.public_key().spki_der().to_vec()), key_of(clinic), "accepted a forged one");
    }
    if verify_chain(clinic, &[bytes], anchors, *now).is_ok() {
        assert_eq!(key_of(bytes), key_of(intermediate), "accepted below a forged CA");
    }
    if let Ok(other) = within(for_input(bytes.len()), || TrustAnchors::from_der(&[bytes])) {
        assert_eq!(other.certreq_authority().len(), 20);
        if verify_chain(clinic, &[intermediate], &other, *now).is_ok() {
            // The root itself, or the intermediate trusted by itself.
            let trusted = key_of(bytes);
            let root = anchors.certificates().first().map(|root| root.public_key().spki_der().to_vec());
            assert!(trusted == key_of(intermediate) || trusted == root, "accepted below a forged root");
        }
    }

    if let Ok(checking) = anchors.clone().with_crls(&[bytes], RevocationPolicy::Strict) {
        // No CRL of this authority is among the seeds, so one that counts would be forged.
        assert!(verify_chain(clinic, &[intermediate], &checking, *now).is_err(), "believed a forged CRL");
    }
    if let Ok(chain) = within(for_input(bytes.len()), || read_chain(bytes)) {
        assert!(!chain.is_empty());
    }
});
