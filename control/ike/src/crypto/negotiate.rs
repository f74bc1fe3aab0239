//! Which algorithms: proposals to and from SA payloads (RFC 7296 sections 2.7 and 3.3), and the choice among them.
//!
//! An AEAD takes no integrity algorithm, so a configured proposal with AEADs and AES-CBC becomes two on the wire (RFC
//! 5282 section 8); `Terms` is one of those.

mod terms;

use self::terms::{Chosen, Offered, Terms};
use super::suite::{EspProposal, EspSuite, Group, IkeProposal, IkeSuite};
use crate::wire::sa::{MAX_PROPOSALS, Proposal, SaSpi};
use crate::wire::{ProtocolId, Spi};

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
    /// The SPI in a proposal is of the wrong length, zero, or reserved. The peer is at fault.
    #[error("the peer's proposal has an unusable SPI ({0}); its implementation is at fault")]
    Spi(&'static str),
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
    offer(&ike_terms(ours, true), ProtocolId::Ike, &ike_spi(spi))
}

/// The proposals of an SA payload that offers `ours` for a child SA that receives on `spi`.
pub fn offer_esp(ours: &[EspProposal], spi: u32, pfs: Pfs) -> Vec<Proposal> {
    offer(&esp_terms(ours, pfs), ProtocolId::Esp, &SaSpi::Child(spi))
}

/// The responder's choice: the first of our own proposals that fits one of the peer's, with our order of algorithms,
/// but the group of the peer's KE payload (`ke`) if we accept that, which saves an exchange.
/// Where `suite.group` is not `ke`, the answer is INVALID_KE_PAYLOAD. `spi`: ours when rekeying. `additional`: whether
/// additional key exchanges may be chosen, which in IKE_SA_INIT the peer has to announce.
pub fn choose_ike(
    offered: &[Proposal],
    ours: &[IkeProposal],
    spi: Option<u64>,
    ke: Option<Group>,
    additional: bool,
) -> Result<IkeChoice, NegotiateError> {
    let (proposal, chosen) = choose(offered, ProtocolId::Ike, &ike_terms(ours, additional), ke)
        .ok_or_else(|| none_chosen(offered, ours))?;
    let suite = ike_suite(&chosen).ok_or_else(|| none_chosen(offered, ours))?;
    let peer_spi = peer_ike_spi(proposal, spi.is_some())?;
    let answer = Proposal {
        number: proposal.number,
        protocol: ProtocolId::Ike,
        spi: ike_spi(spi),
        transforms: chosen.into_transforms(),
    };
    Ok(IkeChoice { suite, peer_spi, answer })
}

/// The responder's choice for a child SA that is to receive on `spi`.
pub fn choose_esp(
    offered: &[Proposal],
    ours: &[EspProposal],
    spi: u32,
    pfs: Pfs,
) -> Result<EspChoice, NegotiateError> {
    let ke = match pfs {
        Pfs::Never => None,
        Pfs::Negotiated { ke } => ke,
    };
    let (proposal, chosen) = choose(offered, ProtocolId::Esp, &esp_terms(ours, pfs), ke)
        .ok_or_else(|| none_chosen(offered, ours))?;
    let (suite, peer_spi) = (esp_suite(&chosen), peer_esp_spi(proposal)?);
    let answer = Proposal {
        number: proposal.number,
        protocol: ProtocolId::Esp,
        spi: SaSpi::Child(spi),
        transforms: chosen.into_transforms(),
    };
    Ok(EspChoice { suite, peer_spi, answer })
}

/// What the responder chose of our [`offer_ike`]; `rekey` tells whether SPIs stand in it.
pub fn confirm_ike(
    answer: &[Proposal],
    ours: &[IkeProposal],
    rekey: bool,
) -> Result<IkeChoice, NegotiateError> {
    let (proposal, chosen) = confirm(answer, ProtocolId::Ike, &ike_terms(ours, true))?;
    let suite = ike_suite(&chosen).ok_or_else(|| NegotiateError::NotOffered(terms::describe(answer)))?;
    Ok(IkeChoice { suite, peer_spi: peer_ike_spi(proposal, rekey)?, answer: proposal.clone() })
}

/// What the responder chose of our [`offer_esp`].
pub fn confirm_esp(answer: &[Proposal], ours: &[EspProposal], pfs: Pfs) -> Result<EspChoice, NegotiateError> {
    let (proposal, chosen) = confirm(answer, ProtocolId::Esp, &esp_terms(ours, pfs))?;
    Ok(EspChoice { suite: esp_suite(&chosen), peer_spi: peer_esp_spi(proposal)?, answer: proposal.clone() })
}

fn ike_terms(ours: &[IkeProposal], additional: bool) -> Vec<Terms> {
    let terms = ours.iter().flat_map(Terms::of_ike);
    match additional {
        true => terms.take(MAX_PROPOSALS).collect(),
        false => terms.filter_map(Terms::without_additional).take(MAX_PROPOSALS).collect(),
    }
}

fn esp_terms(ours: &[EspProposal], pfs: Pfs) -> Vec<Terms> {
    ours.iter().flat_map(|proposal| Terms::of_esp(proposal, pfs)).take(MAX_PROPOSALS).collect()
}

/// Numbered from 1, as RFC 7296 section 3.3.1 has it; [`MAX_PROPOSALS`] keeps the number within its octet.
fn offer(terms: &[Terms], protocol: ProtocolId, spi: &SaSpi) -> Vec<Proposal> {
    let proposal = |(number, terms): (u8, &Terms)| Proposal {
        number,
        protocol,
        spi: spi.clone(),
        transforms: terms.to_transforms(),
    };
    (1..).zip(terms).map(proposal).collect()
}

fn choose<'a>(
    offered: &'a [Proposal],
    protocol: ProtocolId,
    ours: &[Terms],
    ke: Option<Group>,
) -> Option<(&'a Proposal, Chosen)> {
    let read: Vec<_> = offered
        .iter()
        .filter(|proposal| proposal.protocol == protocol)
        .filter_map(|proposal| Some((proposal, Offered::read(&proposal.transforms)?)))
        .collect();
    ours.iter().find_map(|terms| {
        read.iter().find_map(|(proposal, offered)| Some((*proposal, terms.choose(offered, ke)?)))
    })
}

/// RFC 7296 section 2.7: the answer is one proposal, with the number of one of ours and one transform of each type.
fn confirm<'a>(
    answer: &'a [Proposal],
    protocol: ProtocolId,
    ours: &[Terms],
) -> Result<(&'a Proposal, Chosen), NegotiateError> {
    let confirmed = || {
        let [proposal] = answer else { return None };
        let terms = ours.get(usize::from(proposal.number).checked_sub(1)?)?;
        let offered = Offered::read(&proposal.transforms)?;
        let valid = proposal.protocol == protocol && offered.is_one_of_each();
        Some((proposal, terms.choose(&offered, None).filter(|_| valid)?))
    };
    confirmed().ok_or_else(|| NegotiateError::NotOffered(terms::describe(answer)))
}

fn ike_suite(chosen: &Chosen) -> Option<IkeSuite> {
    let Chosen { encryption, integrity, prf, group, .. } = *chosen;
    let additional = chosen.additional();
    Some(IkeSuite { encryption, integrity, prf: prf?, group: group?, additional })
}

fn esp_suite(chosen: &Chosen) -> EspSuite {
    let Chosen { encryption, integrity, group, esn, .. } = *chosen;
    EspSuite { encryption, integrity, group, additional: chosen.additional(), esn: esn == Some(true) }
}

fn ike_spi(spi: Option<u64>) -> SaSpi {
    spi.map_or(SaSpi::None, |spi| SaSpi::Ike(Spi(spi)))
}

/// RFC 7296 section 3.3.1: without SPI in IKE_SA_INIT, with 8 octets when rekeying.
fn peer_ike_spi(proposal: &Proposal, rekey: bool) -> Result<Option<u64>, NegotiateError> {
    match (&proposal.spi, rekey) {
        (SaSpi::None, false) => Ok(None),
        (SaSpi::Ike(Spi(0)), true) => Err(NegotiateError::Spi("zero")),
        (SaSpi::Ike(Spi(spi)), true) => Ok(Some(*spi)),
        (_, false) => Err(NegotiateError::Spi("one in IKE_SA_INIT")),
        (_, true) => Err(NegotiateError::Spi("not 8 bytes")),
    }
}

/// RFC 4303 section 2.1: 0 never stands on the wire, 1 to 255 are reserved.
fn peer_esp_spi(proposal: &Proposal) -> Result<u32, NegotiateError> {
    match proposal.spi {
        SaSpi::Child(0..=255) => Err(NegotiateError::Spi("0 to 255 are reserved")),
        SaSpi::Child(spi) => Ok(spi),
        _ => Err(NegotiateError::Spi("not 4 bytes")),
    }
}

fn none_chosen(offered: &[Proposal], ours: &[impl ToString]) -> NegotiateError {
    let configured: Vec<_> = ours.iter().map(ToString::to_string).collect();
    NegotiateError::NoneChosen { offered: terms::describe(offered), configured: configured.join(", ") }
}

#[cfg(test)]
mod tests;
