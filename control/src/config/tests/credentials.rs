//! Keys and certificates of connections, and what those of peers are judged by.

use super::*;

const LOCAL_PROOF: &str = "certificate = \"clinic.crt.pem\", key = \"clinic.key.pem\"";
const REMOTE_PROOF: &str = "ca = \"root.crt.pem\"";

#[test]
fn one_proof_for_each_end() {
    refuses(
        LOCAL_PROOF,
        &format!("{LOCAL_PROOF}, ¦psk = \"good.psk\""),
        "a pre-shared key and a certificate",
    );
    refuses(REMOTE_PROOF, &format!("{REMOTE_PROOF}, ¦psk = \"good.psk\""), "a pre-shared key and a CA");
    refuses(
        &format!("local = {{ address = \"198.51.100.2\", id = \"clinic.example\", {LOCAL_PROOF}"),
        "¦local = { address = \"198.51.100.2\", id = \"clinic.example\"",
        "proves nothing",
    );
    refuses(
        &format!("remote = {{ address = \"203.0.113.2\", id = \"centre.example\", {REMOTE_PROOF}"),
        "¦remote = { address = \"203.0.113.2\", id = \"centre.example\"",
        "nothing says how",
    );
    refuses(
        &format!("local = {{ address = \"198.51.100.2\", id = \"clinic.example\", {LOCAL_PROOF}"),
        "¦local = { address = \"198.51.100.2\", id = \"clinic.example\", key = \"clinic.key.pem\"",
        "has no `certificate`",
    );
    good(&CLINIC.replace(LOCAL_PROOF, "psk = \"good.psk\"").replace(REMOTE_PROOF, "psk = \"good.psk\""));
}

#[test]
fn pre_shared_keys() {
    let refuse = |file: &str, message: &str| refuses(LOCAL_PROOF, &format!("psk = ¦\"{file}\""), message);
    refuse("short.psk", "it has 7 bytes");
    refuse("dull.psk", "1 different characters");
    refuse("repeated.psk", "repeats itself every 10 bytes");
    refuse("open.psk", "can be read by every user");
    refuse(".", "is no file");
    let missing = refuse("secretwrittenhere", "cannot be read");
    let shown = missing.render(false) + &missing.line();
    assert!(!shown.contains("secretwrittenhere"), "what may be the key itself is not repeated: {shown}");
}

#[test]
fn certificates_and_keys() {
    let local = |certificate: &str, key: &str| format!("certificate = {certificate}, key = {key}");
    let refuse =
        |certificate: &str, key: &str, message: &str| refuses(LOCAL_PROOF, &local(certificate, key), message);
    refuse("¦\"none.crt.pem\"", "\"clinic.key.pem\"", "cannot be read");
    refuse("\"clinic.crt.pem\"", "¦\"none.key.pem\"", "cannot be read");
    refuse("¦\"empty.pem\"", "\"clinic.key.pem\"", "no readable certificate");
    refuse("\"clinic.crt.pem\"", "¦\"empty.pem\"", "no private key");
    refuse("\"clinic.crt.pem\"", "¦\"open.key.pem\"", "can be read by every user");
    refuse("\"clinic.crt.pem\"", "¦\"centre.key.pem\"", "is not the certificate's");
    refuse("¦\"centre.crt.pem\"", "\"centre.key.pem\"", "does not carry the identity clinic.example");
    let short = edited(CLINIC, LOCAL_PROOF, &local("¦\"short-rsa.crt.pem\"", "\"clinic.key.pem\""));
    let findings = check_now(&short.0).expect_err("too short");
    finding(&findings, short.1, "an RSA key of 1024 bits is too short", Severity::Error);
    refuses(REMOTE_PROOF, "ca = ¦\"centre.crt.pem\"", "is no CA certificate");
    refuses(REMOTE_PROOF, "ca = ¦\"none.pem\"", "cannot be read");
}

#[test]
fn validity() {
    let (source, place) = edited(CLINIC, LOCAL_PROOF, &LOCAL_PROOF.replacen("\"clinic", "¦\"clinic", 1));
    let early = check_at(&source, SystemTime::now() - DAY).expect_err("not yet valid");
    finding(&early, place, "the certificate is not valid before", Severity::Error);
    let late = check_at(&source, SystemTime::now() + DAY * 366).expect_err("expired");
    finding(&late, place, "the certificate has expired", Severity::Error);
    let soon = check_at(&source, SystemTime::now() + DAY * 350).expect("still valid");
    finding(&soon.warnings, place, "the certificate expires on", Severity::Warning);
    let far = check_at(&source, SystemTime::now() + DAY * 365 * 11).expect_err("all expired");
    assert!(far.iter().any(|f| f.message.contains("the CA certificate has expired")));
}

#[test]
fn what_a_peers_certificate_is_judged_by() {
    let with = |more: &str| format!("{REMOTE_PROOF}, {more}");
    refuses(REMOTE_PROOF, &with("revocation = ¦\"sometimes\""), "`revocation` cannot be");
    refuses(REMOTE_PROOF, &with("purpose = ¦\"tls\""), "`purpose` cannot be");
    refuses(REMOTE_PROOF, &with("crl = ¦\"none.crl\""), "cannot be read");
    refuses(REMOTE_PROOF, &with("crl = ¦\"root.crt.pem\""), "X509 CRL");
    refuses(REMOTE_PROOF, &with("intermediates = ¦\"centre.crt.pem\""), "is no CA certificate");
    refuses(REMOTE_PROOF, &with("crl = \"pki/root.crl\", revocation = ¦\"off\""), "would not be looked at");
    let all = with(
        "crl = [\"pki/root.crl\", \"pki/intermediate.crl\"], revocation = \"strict\", purpose = \"strict\"",
    );
    let config = good(&CLINIC.replacen(REMOTE_PROOF, &all, 1));
    let RemoteCredential::Ca(remote) = &config.connections[0].remote.credential else { panic!("a CA") };
    assert_eq!((remote.crls.len(), remote.revocation), (2, RevocationPolicy::Strict));
    assert!(config.ike().is_ok());
}
