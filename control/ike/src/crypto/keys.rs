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

    /// Keys after an additional key exchange in IKE_INTERMEDIATE (RFC 9370 section 2.2.2):
    /// `SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)`; `self` are the keys before it.
    pub fn update(
        &self,
        suite: &IkeSuite,
        secret: &SharedSecret,
        exchanged: Exchanged<'_>,
    ) -> Result<Self, PrfPlusExhausted> {
        Self::rekey(suite, suite.prf, &self.d, std::slice::from_ref(secret), exchanged)
    }

    /// Keys of an IKE SA that replaces another (RFC 7296 section 2.18, RFC 9370 section 2.2.4):
    /// `SKEYSEED = prf(SK_d (old), SK(0) | Ni | Nr | SK(1) | … | SK(n))` with the PRF of the *old* SA. `secrets`: of the
    /// key exchanges in their order.
    pub fn rekey(
        suite: &IkeSuite,
        old_prf: Prf,
        old_d: &[u8],
        secrets: &[SharedSecret],
        exchanged: Exchanged<'_>,
    ) -> Result<Self, PrfPlusExhausted> {
        let seed = old_prf.compute(old_d, &stirred(secrets, exchanged.nonce_i, exchanged.nonce_r));
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
    /// `KEYMAT = prf+(SK_d, [SK(0) |] Ni | Nr [| SK(1) | … | SK(n)])` (RFC 9370 section 2.2.4): `secrets` are those of the
    /// key exchanges for perfect forward secrecy, in their order. Initiator's keys first, in each direction the encryption
    /// key first.
    pub fn derive(
        prf: Prf,
        sk_d: &[u8],
        suite: &EspSuite,
        secrets: &[SharedSecret],
        nonce_i: &[u8],
        nonce_r: &[u8],
    ) -> Result<Self, PrfPlusExhausted> {
        let encryption_len = suite.encryption.key_len();
        let integrity_len = suite.integrity.map_or(0, |integrity| integrity.key_len());
        let seed = stirred(secrets, nonce_i, nonce_r);
        let material = prf.plus(sk_d, &seed, 2 * (encryption_len + integrity_len))?;
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

/// `[SK(0) |] Ni | Nr [| SK(1) | … | SK(n)]`.
fn stirred<'a>(secrets: &'a [SharedSecret], nonce_i: &'a [u8], nonce_r: &'a [u8]) -> Vec<&'a [u8]> {
    let mut secrets = secrets.iter().map(SharedSecret::as_bytes);
    let first = secrets.next();
    first.into_iter().chain([nonce_i, nonce_r]).chain(secrets).collect()
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

/// Whether `received` is what [`psk_auth`] makes of the peer's octets, compared in constant time. Never with an empty
/// key, which everybody has.
pub fn verify_psk_auth(prf: Prf, psk: &Psk, signed_octets: &[u8], received: &[u8]) -> bool {
    !psk.0.is_empty() && bool::from(psk_auth(prf, psk, signed_octets).ct_eq(received))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::dh::KeyShare;
    use crate::crypto::random::SeededRandom;
    use crate::crypto::suite::{Additional, AesBits, Encryption, Group, Integrity};

    // Every expected value here was computed by Python's hmac module from the formulas of RFC 7296.

    const AES128: AesBits = AesBits::Aes128;
    const AES256: AesBits = AesBits::Aes256;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn nonce_i() -> Vec<u8> {
        (0..32).collect()
    }

    fn nonce_r() -> Vec<u8> {
        (100..140).collect()
    }

    fn sk_d() -> Vec<u8> {
        (200..232).collect()
    }

    fn secret() -> SharedSecret {
        SharedSecret::of((0..=255).map(|i: u8| i.wrapping_mul(7).wrapping_add(1)).collect())
    }

    fn derived(derive: impl Fn(Exchanged<'_>) -> Result<IkeKeys, PrfPlusExhausted>) -> [String; 7] {
        let keys = derive(Exchanged {
            nonce_i: &nonce_i(),
            nonce_r: &nonce_r(),
            spi_i: 0x0102_0304_0506_0708,
            spi_r: 0x1112_1314_1516_1718,
        })
        .unwrap();
        [&keys.d, &keys.ai, &keys.ar, &keys.ei, &keys.er, &keys.pi, &keys.pr].map(|key| hex(key))
    }

    #[test]
    fn keys_of_an_ike_sa() {
        let suite = IkeSuite {
            encryption: Encryption::AesGcm16 { bits: AES128 },
            integrity: None,
            prf: Prf::HmacSha256,
            group: Group::Modp2048,
            additional: Additional::NONE,
        };
        assert_eq!(
            derived(|exchanged| IkeKeys::derive(&suite, &secret(), exchanged)),
            [
                "8535eef8068b5c9897353a908825ebb936ee8fc968bbf6394fda558ca4dbe053",
                "",
                "",
                "e0bf75c37e56566d0c5b9a28d3c51eba1ae658bb",
                "82ab2da094758de1a78e0a735f0f774bde113b0f",
                "1b202b719601853a6e9d728e218ea65501cabba589c184b500f6186a3fc9ae7f",
                "3a9bfc0c0703f5146b824d1bd87a4eb6f88f3afb7d87f68140d10a9e3064c0be",
            ]
        );
        let suite = IkeSuite {
            encryption: Encryption::AesCbc { bits: AES256 },
            integrity: Some(Integrity::HmacSha256_128),
            prf: Prf::HmacSha384,
            group: Group::Modp2048,
            additional: Additional::NONE,
        };
        assert_eq!(
            derived(|exchanged| IkeKeys::derive(&suite, &secret(), exchanged)),
            [
                "c8722eeb97b5b79a37af15a0b2750e297acf0667723d224b3a5101ca32f649d41f3818783c863f976734c6a608aa9520",
                "1faacd62f149a404ebc02897ab7f4e5d792f3e288294407afe27089bf27c4184",
                "3f86297fb03269b08aa4485b9e44610cacf185a043539513da71e47d2569a5ba",
                "23a2572aa660efc1a813f08b39b14c584cfdd5b0be93d7c2cb3ba952da1b7afe",
                "f5991cbca1ba395f6e6d7d620d1b721dfc0a0bddedf05da9822d237437fc39e8",
                "76907774d901eb206ec107f1bcfe61a2e2a5c9e3aa6677995636e9aa19a7a6a69613643338b352c9cd514e900e6f8557",
                "beb05adae852f2fc848418349d012d75ce77c42ef0db0bf9ae9740bf97540297c4d211edb420910e5b2d540459093506",
            ]
        );
    }

    #[test]
    fn keys_of_a_rekeyed_ike_sa_come_from_the_old_prf_and_the_new() {
        let suite = IkeSuite {
            encryption: Encryption::ChaCha20Poly1305,
            integrity: None,
            prf: Prf::HmacSha384,
            group: Group::Modp2048,
            additional: Additional::NONE,
        };
        assert_eq!(
            derived(|exchanged| IkeKeys::rekey(&suite, Prf::HmacSha256, &sk_d(), &[secret()], exchanged)),
            [
                "88774e5016b4d13a6665a5066c21a9dfbb406665b109c1ab1ed25153e1043651d627874de3bb45f536eba0c70da818e0",
                "",
                "",
                "49f53575c2a42e8550b323ea6eb50a4146acf6fcdccb407c3ec451a5d0fc29766db694e4",
                "5ee771df9494b7f878b99ab29ee549721fb4becc093d83bfcf2ae36791a797cbff333f61",
                "ab717715fdff3a4177fa4907dcfc9a4b585f093c0d42767a06a1743e0b0ecfba2f03219be89d556a9e784918e4183d52",
                "a66722b617483f909ec8631c4fdabe667a5bbf0b9344ab02756a5d4b004000e27ef6ffe0bdd48db89754d3289ef35632",
            ]
        );
    }

    #[test]
    fn keys_of_a_child_sa_with_and_without_forward_secrecy() {
        let cbc = EspSuite {
            encryption: Encryption::AesCbc { bits: AES256 },
            integrity: Some(Integrity::HmacSha256_128),
            group: None,
            additional: Additional::NONE,
            esn: false,
        };
        let child = ChildKeymat::derive(Prf::HmacSha256, &sk_d(), &cbc, &[], &nonce_i(), &nonce_r()).unwrap();
        let ChildKeymat { initiator, responder } = &child;
        assert_eq!(
            [&initiator.encryption, &initiator.integrity, &responder.encryption, &responder.integrity]
                .map(|key| hex(key)),
            [
                "69ea2f3703095bad63b68cafce2dd1b44aa28f80ba20ad6f0adce6ce245fd0a0",
                "296b934bbf6ae78dc723e59c928cae97ed563fb8e3aa5fd6f878a2afbed8ebd1",
                "8a99282f66900449a8b233de76cb78fdcb0c8f81ea937e89beb8eeba209243a4",
                "b1ed07523b7805c5cf31ba5ffeb45ec1203e96d3fbc71d1ca1a1075ad5a31b3a",
            ]
        );
        let gcm = EspSuite {
            encryption: Encryption::AesGcm16 { bits: AES128 },
            integrity: None,
            group: Some(Group::Modp2048),
            additional: Additional::NONE,
            esn: true,
        };
        let secret = secret();
        let child =
            ChildKeymat::derive(Prf::HmacSha256, &sk_d(), &gcm, &[secret], &nonce_i(), &nonce_r()).unwrap();
        assert_eq!(
            [&child.initiator.encryption, &child.responder.encryption].map(|key| hex(key)),
            ["9d511a0dc6517514cfdfe926b341c9d73c22f482", "5d5fa41f7d9f6fae7e7c725cf6d94b90c14af944"]
        );
        assert!(child.initiator.integrity.is_empty() && child.responder.integrity.is_empty());
    }

    #[test]
    fn every_key_exchange_goes_into_the_keys() {
        let suite = IkeSuite {
            encryption: Encryption::ChaCha20Poly1305,
            integrity: None,
            prf: Prf::HmacSha384,
            group: Group::Modp2048,
            additional: Additional::NONE,
        };
        // SK(0) | Ni | Nr | SK(1) | SK(2) (RFC 9370 section 2.2.4).
        let secrets = [secret(), SharedSecret::of(vec![0x51; 32]), SharedSecret::of(vec![0x52; 32])];
        let rekey =
            |exchanged: Exchanged<'_>| IkeKeys::rekey(&suite, Prf::HmacSha256, &sk_d(), &secrets, exchanged);
        assert_eq!(
            derived(rekey),
            [
                "ac2ae5884eb990466bd9f4d574b012eb49295cbc28da0096e8b9ce7e1dd35f5fde15987385c578848dbeb23b49b4f66e",
                "",
                "",
                "63bee62e977e45936a4fdefb0472b7647caa7368baf4a830fd31245864e2115ce6579527",
                "78a5071b09073a1f9d53a9f8380f83e991663d842253aaa9149aec8faabe6cf08714d3ba",
                "8888dbccc617eb0ea0b2561dadcd5ddeba86d828e6a3c886809910101ac6748e264825d9d2ab3f759b92c0f6daa94a98",
                "75feb7076be6ca5a2a2c5d528114c6ba2c0351a418e401b12a4c1268ff27aaefec907112c640575858628d5c11d2776c",
            ]
        );
        // After IKE_INTERMEDIATE: prf(SK_d, SK(1) | Ni | Nr) (section 2.2.2).
        assert_eq!(
            derived(|exchanged| rekey(exchanged)?.update(&suite, &secrets[1], exchanged)),
            [
                "a4f6d629ae74a34a2bc6e52c39f4b95283f75f06a02252aedb1097db03400dec7c112cb047e3c5dab36dd5c50ccf6571",
                "",
                "",
                "6fd8f1527087526d78671ed12789b0b8e131ae4db8645f864429679c27fc98df0a73a1b7",
                "a8680c8a986c3ada0ad19c41baf6044b02afaf2ebdf2e0de8fe4d7422f92ef8bff14c4f9",
                "dfa64f58dad5cbfbca0f6859efba3186be984c588e4383ba4e1acc2257e2cb76598daf3559cb998152a05ec11018cd3d",
                "1297b55f6bca2cb0e56dd6bfa13fb94f74bf8e5a7f413501646a7de08f0747e8e61f04352d5c2a3d98bcf323b8972e08",
            ]
        );
        let gcm = EspSuite {
            encryption: Encryption::AesGcm16 { bits: AES128 },
            integrity: None,
            group: Some(Group::Modp2048),
            additional: Additional::NONE,
            esn: true,
        };
        let child =
            ChildKeymat::derive(Prf::HmacSha256, &sk_d(), &gcm, &secrets, &nonce_i(), &nonce_r()).unwrap();
        assert_eq!(
            [&child.initiator.encryption, &child.responder.encryption].map(|key| hex(key)),
            ["f7b9e8880d79e30d1e4e6d03a05c8dbe53d1c2bb", "e002b0802d8f6465f678482468f2259a3292b11f"]
        );
    }

    #[test]
    fn psk_authentication_data() {
        let octets = signed_octets(Prf::HmacSha256, b"message", &nonce_r(), &sk_d(), b"\x02\0\0\0gw.example");
        let psk = Psk::new(b"secret".to_vec());
        let auth = psk_auth(Prf::HmacSha256, &psk, &octets);
        assert_eq!(hex(&auth), "e376eece7e245c9592824b20a6c4beef575de389e981bbe5b4babeda80153d9f");
        assert!(verify_psk_auth(Prf::HmacSha256, &psk, &octets, &auth));
        for len in 0..auth.len() {
            assert!(!verify_psk_auth(Prf::HmacSha256, &psk, &octets, &auth[..len]));
        }
        for bit in 0..auth.len() * 8 {
            let mut forged = auth.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify_psk_auth(Prf::HmacSha256, &psk, &octets, &forged));
        }
        assert!(!verify_psk_auth(Prf::HmacSha256, &Psk::new(b"Secret".to_vec()), &octets, &auth));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let mut random = SeededRandom::new(1);
        let share = KeyShare::generate(Group::Modp2048, &mut random).unwrap();
        assert_eq!(format!("{share:?}"), "KeyShare { group: Modp2048, .. }");
        assert_eq!(format!("{:?}", secret()), "SharedSecret(…)");
    }
}
