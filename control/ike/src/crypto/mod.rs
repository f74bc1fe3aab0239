//! All cryptography of the engine. Pure: randomness and the time are handed in.
//!
//! Owns every key that IKE makes and every judgement on a peer's proof. Never logs; no secret here is `Debug`, and
//! each is compared in constant time and zeroised when dropped. *ring* does what it can; `crypto-bigint` has the MODP
//! groups and `aes` with `cbc` the CBC mode, which *ring* lacks.

pub mod dh;
pub mod keys;
pub mod negotiate;
pub mod prf;
pub mod random;
pub mod signature;
pub mod sk;
pub mod suite;
pub mod x509;
