//! What stands in a file of certificates or a key, for people.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use der::Decode;
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sekisho_ike::crypto::signature::PrivateKey;
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};
use zeroize::Zeroizing;

use super::PkiError;
use super::file::at;

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A text about every certificate in a PEM file, or about its private key (never the key itself).
pub fn show(path: &Path) -> Result<String, PkiError> {
    let unreadable = |why: String| PkiError::Unreadable { path: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(at(path))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable("too long for a certificate or key".into()));
    }
    let pem = Zeroizing::new(std::fs::read(path).map_err(at(path))?);
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(format!("no PEM file: {error}")))?;
    if chain.is_empty() {
        let key = PrivateKey::from_pem(&pem)
            .map_err(|error| unreadable(format!("it holds no certificate, and {error}")))?;
        let public = fingerprint(key.public_key().spki_der());
        return Ok(format!("private key\n  key          {}\n  public key   {public}\n", key.algorithm()));
    }
    let mut text = String::new();
    for der in &chain {
        let certificate = Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        // Writing to a String does not fail.
        let _ = write_certificate(&mut text, &certificate, der);
    }
    Ok(text)
}

fn write_certificate(text: &mut String, certificate: &Certificate, der: &[u8]) -> std::fmt::Result {
    let tbs = certificate.tbs_certificate();
    let ca = matches!(tbs.get_extension::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca);
    writeln!(text, "{}", if ca { "CA certificate" } else { "certificate" })?;
    writeln!(text, "  subject      {}", tbs.subject().to_string().escape_debug())?;
    writeln!(text, "  issuer       {}", tbs.issuer().to_string().escape_debug())?;
    writeln!(text, "  serial       {}", hex(tbs.serial_number().as_bytes()))?;
    let (from, until) =
        (tbs.validity().not_before.to_system_time(), tbs.validity().not_after.to_system_time());
    let state = match SystemTime::now() {
        now if now < from => " (not yet)",
        now if now > until => " (expired)",
        _ => "",
    };
    let date = humantime::format_rfc3339_seconds;
    writeln!(text, "  valid        {} to {}{state}", date(from), date(until))?;
    if let Ok(Some((_, names))) = tbs.get_extension::<SubjectAltName>() {
        for name in &names.0 {
            writeln!(text, "  identity     {}", identity(name).escape_debug())?;
        }
    }
    if let Ok(Some((_, usage))) = tbs.get_extension::<ExtendedKeyUsage>() {
        let purposes: Vec<String> =
            usage.0.iter().map(|purpose| purpose_name(&purpose.to_string())).collect();
        writeln!(text, "  purposes     {}", purposes.join(", "))?;
    }
    let info = tbs.subject_public_key_info();
    writeln!(text, "  key          {}", key_name(info))?;
    writeln!(text, "  fingerprint  {}", fingerprint(der))
}

fn identity(name: &GeneralName) -> String {
    match name {
        GeneralName::DnsName(dns) => dns.to_string(),
        GeneralName::Rfc822Name(mailbox) => mailbox.to_string(),
        GeneralName::UniformResourceIdentifier(uri) => uri.to_string(),
        GeneralName::DirectoryName(name) => name.to_string(),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
            address.map_or_else(|_| hex(bytes), |address| address.to_string())
        }
        _ => "of a kind that IKE does not use".to_owned(),
    }
}

fn purpose_name(oid: &str) -> String {
    match oid {
        "1.3.6.1.5.5.7.3.1" => "serverAuth".into(),
        "1.3.6.1.5.5.7.3.2" => "clientAuth".into(),
        "1.3.6.1.5.5.7.3.17" => "ipsecIKE".into(),
        other => other.into(),
    }
}

fn key_name(info: &x509_cert::spki::SubjectPublicKeyInfoOwned) -> String {
    let parameter =
        info.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<der::oid::ObjectIdentifier>().ok());
    match (info.algorithm.oid.to_string().as_str(), parameter.map(|oid| oid.to_string()).as_deref()) {
        ("1.2.840.113549.1.1.1", _) => match info.subject_public_key.as_bytes().and_then(rsa_bits) {
            Some(bits) => format!("RSA {bits}"),
            None => "RSA".into(),
        },
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => "ECDSA P-256".into(),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => "ECDSA P-384".into(),
        ("1.3.101.112", _) => "Ed25519".into(),
        (other, _) => other.into(),
    }
}

fn rsa_bits(rsa_public_key: &[u8]) -> Option<usize> {
    let numbers = Vec::<der::asn1::Uint>::from_der(rsa_public_key).ok()?;
    let modulus = numbers.first()?.as_bytes();
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}

fn fingerprint(der: &[u8]) -> String {
    format!("SHA-256 {}", hex(digest(&SHA256, der).as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
