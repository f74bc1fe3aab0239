//! IKE_INTERMEDIATE (RFC 9242) between IKE_SA_INIT and IKE_AUTH, one for each additional key exchange (RFC 9370 section
//! 2.2.2). After each of them all keys change; what was said in them is proved by both AUTH payloads.

pub(crate) mod initiator;
mod responder;

use std::collections::VecDeque;

use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::crypto::dh::SharedSecret;
use crate::crypto::keys::Exchanged;
use crate::crypto::suite::{Group, IkeSuite};
use crate::init::Agreed;

/// The additional key exchanges of an IKE SA, and the proof of those that are done.
pub(crate) struct Intermediate {
    remaining: VecDeque<Group>,
    proof: Option<Proof>,
    done: u32,
}

/// IntAuth_iN and IntAuth_rN.
struct Proof {
    initiator: Zeroizing<Vec<u8>>,
    responder: Zeroizing<Vec<u8>>,
}

impl Intermediate {
    /// Nothing is done yet of what IKE_SA_INIT has agreed on.
    pub(crate) fn of(suite: &IkeSuite) -> Self {
        Self { remaining: suite.additional.methods().collect(), proof: None, done: 0 }
    }

    /// The method of the next exchange; `None`: IKE_AUTH is next.
    pub(crate) fn next(&self) -> Option<Group> {
        self.remaining.front().copied()
    }

    /// What the octets of both AUTH payloads end with: `IntAuth_iN | IntAuth_rN | IKE_AUTH_MID` (RFC 9242 section
    /// 3.3.2); nothing without such exchanges.
    pub(crate) fn authenticated(&self) -> Vec<u8> {
        let Some(Proof { initiator, responder }) = &self.proof else { return Vec::new() };
        // IKE_SA_INIT had the message ID 0.
        let message_id = self.done.saturating_add(1);
        [initiator.as_slice(), responder.as_slice(), &message_id.to_be_bytes()].concat()
    }
}

/// The next exchange is done: proves its messages with the keys that protected them, and changes to the new keys.
/// `request` and `response` as [`intermediate_octets`](crate::wire::intermediate_octets) has them.
fn conclude(
    agreed: &mut Agreed,
    channel: &mut Channel,
    request: &[u8],
    response: &[u8],
    secret: &SharedSecret,
) -> Result<(), String> {
    let suite = channel.suite;
    let Agreed { keys, intermediate, nonce_i, nonce_r, .. } = agreed;
    // IntAuth_iN = prf(SK_piN, IntAuth_iN-1 | IntAuth_iNA | IntAuth_iNP), and likewise for the responder.
    let (before_i, before_r) = match &intermediate.proof {
        Some(Proof { initiator, responder }) => (initiator.as_slice(), responder.as_slice()),
        None => (&[][..], &[][..]),
    };
    let initiator = suite.prf.compute(&keys.pi, &[before_i, request]);
    let responder = suite.prf.compute(&keys.pr, &[before_r, response]);
    intermediate.proof = Some(Proof { initiator, responder });
    intermediate.remaining.pop_front();
    intermediate.done = intermediate.done.saturating_add(1);
    let exchanged = Exchanged { nonce_i, nonce_r, spi_i: channel.spi_i, spi_r: channel.spi_r };
    *keys = keys.update(&suite, secret, exchanged).map_err(|error| error.to_string())?;
    channel.change_keys(keys).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
