//! Certificate revocation lists (RFC 5280 section 5): reading one, and whose it is.

use std::fmt;

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Reader, SliceReader, Tag, Tagged};
use rustls_pki_types::UnixTime;
use rustls_pki_types::pem::PemObject;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::Time;

use super::CertificateError;
use super::certificate::{show_der, unix_time};

/// Longest CRL in bytes: some hundred thousand revoked certificates, more than an authority of gateways ever has.
pub const MAX_CRL_BYTES: usize = 4 * 1024 * 1024;

/// A CRL that has been read. Whether its issuer signed it shows [`Crl::is_signed_by`].
pub struct Crl {
    list: CertRevocationList<'static>,
    /// DER of the issuer's name.
    issuer: Vec<u8>,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
    /// What is signed, by which algorithm (contents of its AlgorithmIdentifier), and the signature.
    signed: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

impl Crl {
    /// From DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let unreadable = |why: String| CertificateError::Unreadable { what: "a CRL".to_owned(), why };
        if der.len() > MAX_CRL_BYTES {
            return Err(unreadable(format!("it is longer than {MAX_CRL_BYTES} bytes")));
        }
        let outline = Outline::read(der).map_err(|error| unreadable(error.to_string()))?;
        // webpki knows extensions, and refuses what it does not understand: deltas, indirect CRLs, unknown critical ones.
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self {
            list: CertRevocationList::Owned(list),
            issuer: outline.issuer.to_vec(),
            this_update: outline.this_update,
            next_update: outline.next_update,
            signed: outline.signed.to_vec(),
            algorithm: outline.algorithm.to_vec(),
            signature: outline.signature.to_vec(),
        })
    }

    /// From a file or a server's answer: DER, or PEM with one or more "X509 CRL" sections.
    pub fn from_der_or_pem(bytes: &[u8]) -> Result<Vec<Self>, CertificateError> {
        if bytes.first() == Some(&0x30) {
            return Ok(vec![Self::from_der(bytes)?]);
        }
        let mut found = Vec::new();
        for section in rustls_pki_types::CertificateRevocationListDer::pem_slice_iter(bytes) {
            let der = section.map_err(|error| CertificateError::Unreadable {
                what: "a PEM file of CRLs".to_owned(),
                why: error.to_string(),
            })?;
            found.push(Self::from_der(&der)?);
        }
        if found.is_empty() {
            return Err(CertificateError::NoCrl);
        }
        Ok(found)
    }

    /// Whether the key (DER of a SubjectPublicKeyInfo) of an authority of this name (DER) has signed it.
    pub(crate) fn is_signed_by(&self, name: &[u8], key: &[u8]) -> bool {
        let Ok(spki) = SubjectPublicKeyInfoRef::from_der(key) else { return false };
        let (Some(public), Ok(AnyParts { algorithm })) =
            (spki.subject_public_key.as_bytes(), AnyParts::of(key))
        else {
            return false;
        };
        self.issuer == name
            && webpki::ALL_VERIFICATION_ALGS
                .iter()
                .filter(|known| {
                    known.signature_alg_id().as_ref() == self.algorithm
                        && known.public_key_alg_id().as_ref() == algorithm
                })
                .any(|known| known.verify_signature(public, &self.signed, &self.signature).is_ok())
    }

    /// DER of its issuer's name.
    pub(crate) fn issuer_der(&self) -> &[u8] {
        &self.issuer
    }

    /// Its issuer, without control or invisible characters.
    pub fn issuer(&self) -> String {
        show_der(&self.issuer)
    }

    /// When it was made.
    pub fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// Until when there will be a newer one.
    pub fn next_update(&self) -> Option<UnixTime> {
        self.next_update
    }

    /// Whether it is the latest word: before its nextUpdate, which an authority must give (RFC 5280 section 5.1.2.5).
    pub fn is_fresh(&self, now: UnixTime) -> bool {
        self.next_update.is_some_and(|until| now < until)
    }

    /// Whether it lists a serial number (content octets of the INTEGER).
    pub(crate) fn lists(&self, serial: &[u8]) -> bool {
        !matches!(self.list.find_serial(serial), Ok(None))
    }

    pub(super) fn list(&self) -> &CertRevocationList<'static> {
        &self.list
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl({}, {} bytes)", self.issuer(), self.signed.len())
    }
}

/// The contents of the AlgorithmIdentifier of a SubjectPublicKeyInfo.
struct AnyParts<'a> {
    algorithm: &'a [u8],
}

impl<'a> AnyParts<'a> {
    fn of(spki: &'a [u8]) -> der::Result<Self> {
        let outer = AnyRef::from_der(spki)?;
        let algorithm = AnyRef::decode(&mut SliceReader::new(outer.value())?)?;
        Ok(Self { algorithm: algorithm.value() })
    }
}

/// The parts of a CertificateList that are needed before its entries (RFC 5280 section 5.1).
struct Outline<'a> {
    issuer: &'a [u8],
    this_update: UnixTime,
    next_update: Option<UnixTime>,
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Outline<'a> {
    fn read(der: &'a [u8]) -> der::Result<Self> {
        let outer = AnyRef::from_der(der)?;
        outer.tag().assert_eq(Tag::Sequence)?;
        let mut reader = SliceReader::new(outer.value())?;
        let signed = reader.tlv_bytes()?;
        let algorithm = AnyRef::decode(&mut reader)?;
        let signature = BitStringRef::decode(&mut reader)?;
        reader.finish()?;

        let tbs = AnyRef::from_der(signed)?;
        tbs.tag().assert_eq(Tag::Sequence)?;
        let mut reader = SliceReader::new(tbs.value())?;
        let _version = Option::<u8>::decode(&mut reader)?;
        let _algorithm = AnyRef::decode(&mut reader)?;
        let issuer = reader.tlv_bytes()?;
        let this_update = unix_time(Time::decode(&mut reader)?);
        let next_update = Option::<Time>::decode(&mut reader)?.map(unix_time);
        Ok(Self {
            issuer,
            this_update,
            next_update,
            signed,
            algorithm: algorithm.value(),
            signature: signature.as_bytes().ok_or_else(|| Tag::BitString.value_error())?,
        })
    }
}
