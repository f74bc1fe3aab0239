//! Which algorithms: proposals to and from SA payloads (RFC 7296 sections 2.7 and 3.3), and the choice among them.

use super::suite::{EspProposal, EspSuite, Group, IkeProposal, IkeSuite};
use crate::wire::sa::Proposal;

/// Why nothing was agreed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiateError {
    /// No proposal in common (answer NO_PROPOSAL_CHOSEN).
    #[error("no proposal in common: the peer offers {offered}; configured are {configured}")]
    NoneChosen {
        /// What the peer offers.
        offered: String,
        /// What we accept.
        configured: String,
    },
    /// The responder answered with what we had not offered, or with more than one choice. It is at fault.
    #[error("the peer answered with what was not offered ({0}); its implementation is at fault")]
    NotOffered(String),
    /// The SPI in a proposal has the wrong length, or is zero. The peer is at fault.
    #[error("the peer's proposal has an unusable SPI of {0} bytes; its implementation is at fault")]
    Spi(usize),
}

/// What was agreed for an IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeChoice {
    /// The algorithms.
    pub suite: IkeSuite,
    /// The peer's SPI when rekeying, as a number.
    pub peer_spi: Option<u64>,
    /// The responder's answer: the one proposal for its SA payload.
    pub answer: Proposal,
}

/// What was agreed for a pair of child SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspChoice {
    /// The algorithms.
    pub suite: EspSuite,
    /// The SPI the peer receives on, as a number.
    pub peer_spi: u32,
    /// The responder's answer: the one proposal for its SA payload.
    pub answer: Proposal,
}

/// Whether groups are negotiated for a child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pfs {
    /// The child of IKE_AUTH, whose keys come from the IKE SA's own exchange (RFC 7296 section 1.2).
    Never,
    /// CREATE_CHILD_SA: as the proposals have it. On the responder with the group of the request's KE payload.
    Negotiated {
        /// Group of the KE payload, if there is one and it is one of ours.
        ke: Option<Group>,
    },
}

/// The proposals of an SA payload that offers `ours`. `spi`: ours when rekeying, `None` in IKE_SA_INIT.
pub fn offer_ike(ours: &[IkeProposal], spi: Option<u64>) -> Vec<Proposal> {
    let _ = (ours, spi);
    Vec::new()
}

/// The proposals of an SA payload that offers `ours` for a child SA that receives on `spi`.
pub fn offer_esp(ours: &[EspProposal], spi: u32, pfs: Pfs) -> Vec<Proposal> {
    let _ = (ours, spi, pfs);
    Vec::new()
}

/// The responder's choice: the first of our own proposals that fits one of the peer's, with our order of algorithms,
/// but the group of the peer's KE payload (`ke`) if we accept that, which saves an exchange.
/// Where `suite.group` is not `ke`, the answer is INVALID_KE_PAYLOAD. `spi`: ours when rekeying.
pub fn choose_ike(
    offered: &[Proposal],
    ours: &[IkeProposal],
    spi: Option<u64>,
    ke: Option<Group>,
) -> Result<IkeChoice, NegotiateError> {
    let _ = (offered, ours, spi, ke);
    Err(NegotiateError::Spi(0))
}

/// The responder's choice for a child SA that is to receive on `spi`.
pub fn choose_esp(
    offered: &[Proposal],
    ours: &[EspProposal],
    spi: u32,
    pfs: Pfs,
) -> Result<EspChoice, NegotiateError> {
    let _ = (offered, ours, spi, pfs);
    Err(NegotiateError::Spi(0))
}

/// What the responder chose of our [`offer_ike`]; `rekey` tells whether SPIs stand in it.
pub fn confirm_ike(answer: &[Proposal], ours: &[IkeProposal], rekey: bool) -> Result<IkeChoice, NegotiateError> {
    let _ = (answer, ours, rekey);
    Err(NegotiateError::Spi(0))
}

/// What the responder chose of our [`offer_esp`].
pub fn confirm_esp(answer: &[Proposal], ours: &[EspProposal], pfs: Pfs) -> Result<EspChoice, NegotiateError> {
    let _ = (answer, ours, pfs);
    Err(NegotiateError::Spi(0))
}
