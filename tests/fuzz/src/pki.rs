//! A certification authority and a gateway's certificate, made once with `sekisho pki`; nothing else trusts them.

use std::sync::LazyLock;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use sekisho_ike::crypto::x509::{Certificate, TrustAnchors, read_chain};

/// The root, PEM.
pub const ROOT_PEM: &[u8] = include_bytes!("../pki/root.crt.pem");
/// The gateway's certificate and its intermediate, PEM.
pub const CLINIC_PEM: &[u8] = include_bytes!("../pki/clinic.crt.pem");
/// The gateway's key, PEM.
pub const CLINIC_KEY_PEM: &[u8] = include_bytes!("../pki/clinic.key.pem");

/// The authority as parsed values.
pub struct Pki {
    /// Trusts the root alone.
    pub anchors: TrustAnchors,
    /// DER of the gateway's certificate.
    pub clinic: Vec<u8>,
    /// DER of the intermediate.
    pub intermediate: Vec<u8>,
    /// A moment at which all of them are valid.
    pub now: UnixTime,
}

/// The authority, read once.
pub static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let chain = read_chain(CLINIC_PEM).expect("our own file");
    let [clinic, intermediate] = &chain[..] else { panic!("a certificate and its intermediate") };
    let begin = Certificate::from_der(clinic).expect("our own certificate").not_before();
    Pki {
        anchors: TrustAnchors::from_pem(ROOT_PEM).expect("our own root"),
        clinic: clinic.to_vec(),
        intermediate: intermediate.to_vec(),
        now: UnixTime::since_unix_epoch(Duration::from_secs(begin.as_secs()) + Duration::from_secs(3600)),
    }
});
