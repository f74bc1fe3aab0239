//! Key derivation (RFC 7296 sections 2.14 to 2.18): the keys of an IKE SA and of its child SAs, and what AUTH
//! payloads prove.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::dh::SharedSecret;
use super::prf::PrfPlusExhausted;
use super::suite::{EspSuite, IkeSuite, Prf};
use crate::config::Psk;
use crate::event::ChildKeys;

/// The keys of an IKE SA (RFC 7296 section 2.14). Zeroised when dropped, never shown.
pub struct IkeKeys {
    /// SK_d, from which child SAs and rekeyed IKE SAs get their keys.
    pub d: Zeroizing<Vec<u8>>,
    /// SK_ai: integrity key of what the initiator sends; empty with an AEAD.
    pub ai: Zeroizing<Vec<u8>>,
    /// SK_ar: integrity key of what the responder sends.
    pub ar: Zeroizing<Vec<u8>>,
    /// SK_ei: encryption key (and salt) of what the initiator sends.
    pub ei: Zeroizing<Vec<u8>>,
    /// SK_er: encryption key (and salt) of what the responder sends.
    pub er: Zeroizing<Vec<u8>>,
    /// SK_pi: goes into the initiator's AUTH payload.
    pub pi: Zeroizing<Vec<u8>>,
    /// SK_pr: goes into the responder's AUTH payload.
    pub pr: Zeroizing<Vec<u8>>,
}

/// What both sides put into key derivation: nonces (contents of the Nonce payloads) and SPIs, each of the exchange that
/// makes the new IKE SA, initiator and responder *of that exchange*.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged<'a> {
    /// Ni.
    pub nonce_i: &'a [u8],
    /// Nr.
    pub nonce_r: &'a [u8],
    /// SPIi of the new IKE SA, as a number.
    pub spi_i: u64,
    /// SPIr of the new IKE SA, as a number.
    pub spi_r: u64,
}

impl IkeKeys {
    /// Keys of the first IKE SA: `SKEYSEED = prf(Ni | Nr, g^ir)`.
    pub fn derive(
        suite: &IkeSuite,
        secret: &SharedSecret,
        exchanged: Exchanged<'_>,
    ) -> Result<Self, PrfPlusExhausted> {
        let nonces = Zeroizing::new([exchanged.nonce_i, exchanged.nonce_r].concat());
        Self::from_skeyseed(suite, &suite.prf.compute(&nonces, &[secret.as_bytes()]), exchanged)
    }

    /// Keys of an IKE SA that replaces another (RFC 7296 section 2.18): `SKEYSEED = prf(SK_d (old), g^ir | Ni | Nr)`
    /// with the PRF of the *old* SA.
    pub fn rekey(
        suite: &IkeSuite,
        old_prf: Prf,
        old_d: &[u8],
        secret: &SharedSecret,
        exchanged: Exchanged<'_>,
    ) -> Result<Self, PrfPlusExhausted> {
        let seed = old_prf.compute(old_d, &[secret.as_bytes(), exchanged.nonce_i, exchanged.nonce_r]);
        Self::from_skeyseed(suite, &seed, exchanged)
    }

    /// `{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)`.
    fn from_skeyseed(
        suite: &IkeSuite,
        skeyseed: &[u8],
        exchanged: Exchanged<'_>,
    ) -> Result<Self, PrfPlusExhausted> {
        let prf_len = suite.prf.output_len();
        let integrity_len = suite.integrity.map_or(0, |integrity| integrity.key_len());
        let encryption_len = suite.encryption.key_len();
        let seed: &[&[u8]] = &[
            exchanged.nonce_i,
            exchanged.nonce_r,
            &exchanged.spi_i.to_be_bytes(),
            &exchanged.spi_r.to_be_bytes(),
        ];
        let len = 3 * prf_len + 2 * integrity_len + 2 * encryption_len;
        let material = suite.prf.plus(skeyseed, seed, len)?;
        let mut rest = material.as_slice();
        let mut take = |len| split(&mut rest, len);
        Ok(Self {
            d: take(prf_len),
            ai: take(integrity_len),
            ar: take(integrity_len),
            ei: take(encryption_len),
            er: take(encryption_len),
            pi: take(prf_len),
            pr: take(prf_len),
        })
    }
}

impl std::fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IkeKeys(…)")
    }
}

/// The keys of a pair of child SAs (RFC 7296 section 2.17), by direction. Initiator and responder are those of the
/// exchange that made the child.
pub struct ChildKeymat {
    /// For what the initiator sends.
    pub initiator: ChildKeys,
    /// For what the responder sends.
    pub responder: ChildKeys,
}

impl ChildKeymat {
    /// `KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr)`: `secret` is that of a key exchange for perfect forward secrecy.
    /// Initiator's keys first, in each direction the encryption key first.
    pub fn derive(
        prf: Prf,
        sk_d: &[u8],
        suite: &EspSuite,
        secret: Option<&SharedSecret>,
        nonce_i: &[u8],
        nonce_r: &[u8],
    ) -> Result<Self, PrfPlusExhausted> {
        let encryption_len = suite.encryption.key_len();
        let integrity_len = suite.integrity.map_or(0, |integrity| integrity.key_len());
        let secret = secret.map_or(&[][..], SharedSecret::as_bytes);
        let material = prf.plus(sk_d, &[secret, nonce_i, nonce_r], 2 * (encryption_len + integrity_len))?;
        let mut rest = material.as_slice();
        let mut direction = || ChildKeys {
            encryption: split(&mut rest, encryption_len),
            integrity: split(&mut rest, integrity_len),
        };
        Ok(Self { initiator: direction(), responder: direction() })
    }
}

impl std::fmt::Debug for ChildKeymat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChildKeymat(…)")
    }
}

/// Takes the next `len` bytes off `rest`, which is always that long.
fn split(rest: &mut &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let (taken, left) = rest.split_at_checked(len).unwrap_or((rest, &[]));
    *rest = left;
    Zeroizing::new(taken.to_vec())
}

/// What an AUTH payload proves (RFC 7296 section 2.15): `RealMessage | NonceOfPeer | prf(SK_p, RestOfID)`.
///
/// `message` is the signer's first IKE_SA_INIT message (that of the exchange that succeeded) as it stood on the wire
/// from the IKE header on, `peer_nonce` the *other* side's nonce, `sk_p` the signer's SK_pi or SK_pr, and `rest_of_id`
/// the body of its ID payload after the generic payload header (type, three reserved octets, data).
pub fn signed_octets(prf: Prf, message: &[u8], peer_nonce: &[u8], sk_p: &[u8], rest_of_id: &[u8]) -> Vec<u8> {
    [message, peer_nonce, &prf.compute(sk_p, &[rest_of_id])].concat()
}

/// Authentication Data of method 2, Shared Key Message Integrity Code:
/// `prf(prf(Shared Secret, "Key Pad for IKEv2"), <signed octets>)`.
pub fn psk_auth(prf: Prf, psk: &Psk, signed_octets: &[u8]) -> Zeroizing<Vec<u8>> {
    prf.compute(&prf.compute(&psk.0, &[b"Key Pad for IKEv2"]), &[signed_octets])
}

/// Whether `received` is what [`psk_auth`] makes of the peer's octets, compared in constant time.
pub fn verify_psk_auth(prf: Prf, psk: &Psk, signed_octets: &[u8], received: &[u8]) -> bool {
    psk_auth(prf, psk, signed_octets).ct_eq(received).into()
}
