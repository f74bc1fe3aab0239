//! A pair of child SAs: what both sides agree on, narrowed selectors, and the record of an installed pair.

use std::sync::Arc;
use std::time::Instant;

use crate::config::ChildConfig;
use crate::content::ContentError;
use crate::context::Context;
use crate::crypto::negotiate::{self, NegotiateError, Pfs};
use crate::crypto::suite::EspSuite;
use crate::event::{Binding, ChildHandle, FailureKind};
use crate::spi::InboundSpi;
use crate::status::ChildStatus;
use crate::wire::NotifyType;
use crate::wire::sa::{Proposal, SecurityAssociation};
use crate::wire::ts::TrafficSelector;

/// Shown of a list of selectors at most: a peer may send hundreds.
const SHOWN_SELECTORS: usize = 8;

/// An installed pair, or one that is about to go.
pub(crate) struct Child {
    pub(crate) handle: ChildHandle,
    pub(crate) terms: Terms,
    pub(crate) created: Instant,
    pub(crate) rekey_at: Instant,
    /// Whether the exchange that made it was ours.
    pub(crate) initiated: bool,
    /// Whether we send with it.
    pub(crate) outbound_active: bool,
    /// The pair it replaces by a rekey.
    pub(crate) replaces: Option<ChildHandle>,
    pub(crate) binding: Binding,
    pub(crate) phase: ChildPhase,
}

/// Where a pair is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildPhase {
    /// In use.
    Up,
    /// A rekey has replaced it; whoever began that rekey deletes it.
    Replaced,
    /// We have asked the peer to delete it, or are about to. The caller still has it.
    Closing,
    /// As [`ChildPhase::Closing`], and the caller has it no more, or never had.
    Removed,
}

/// What a child SA is, apart from its keys.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) config: Arc<ChildConfig>,
    /// Ours: the peer sends with it.
    pub(crate) spi_in: InboundSpi,
    /// The peer's.
    pub(crate) spi_out: u32,
    pub(crate) suite: EspSuite,
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
}

/// Why a child SA can't be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("{0}")]
    Negotiate(#[from] NegotiateError),
    #[error(
        "no child fits the selectors: for our side the peer names {ours}, for its own {theirs}; configured are \
         {configured}. The networks of both gateways must mirror each other"
    )]
    Selectors { ours: String, theirs: String, configured: String },
    #[error(
        "the peer widened the selectors of child {name}: it answered with {answered}. Its implementation is at fault"
    )]
    Widened { name: Arc<str>, answered: String },
    #[error(
        "the peer narrowed the selectors of child {name} for one more SA of it: it answered with {answered}, which must be \
         the first one's. Its implementation is at fault"
    )]
    Narrowed { name: Arc<str>, answered: String },
    #[error(
        "the peer names SPI {0:#010x}, on which it receives for another child already: a DELETE would be ambiguous. Its \
         implementation is at fault"
    )]
    RepeatedSpi(u32),
    #[error("{0}")]
    Content(#[from] ContentError),
}

impl ChildError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            ChildError::Negotiate(_) => FailureKind::NoProposalChosen,
            ChildError::Selectors { .. } | ChildError::Widened { .. } | ChildError::Narrowed { .. } => {
                FailureKind::TsUnacceptable
            }
            ChildError::Content(_) | ChildError::RepeatedSpi(_) => FailureKind::Malformed,
        }
    }

    /// What the responder says.
    pub(crate) fn notify_type(&self) -> NotifyType {
        match self {
            ChildError::Negotiate(_) => NotifyType::NoProposalChosen,
            ChildError::Selectors { .. } | ChildError::Widened { .. } | ChildError::Narrowed { .. } => {
                NotifyType::TsUnacceptable
            }
            ChildError::Content(_) | ChildError::RepeatedSpi(_) => NotifyType::InvalidSyntax,
        }
    }
}

/// The three payloads that make a child SA, as the peer sent them.
#[derive(Clone, Copy)]
pub(crate) struct Proposed<'a> {
    pub(crate) sa: &'a SecurityAssociation,
    /// TSi or TSr, whichever is about our networks.
    pub(crate) ours: &'a [TrafficSelector],
    /// The other.
    pub(crate) theirs: &'a [TrafficSelector],
}

/// Which configured child the initiator means, and its selectors as narrowed to what both allow (RFC 7296 section 2.9).
/// `preferred`: the child that is being rekeyed.
pub(crate) fn choose(
    configs: &[Arc<ChildConfig>],
    preferred: Option<&Arc<ChildConfig>>,
    proposed: Proposed<'_>,
) -> Option<(Arc<ChildConfig>, Vec<TrafficSelector>, Vec<TrafficSelector>)> {
    let narrowed = |config: &Arc<ChildConfig>| {
        let local = narrow(proposed.ours, &config.local);
        let remote = narrow(proposed.theirs, &config.remote);
        (!local.is_empty() && !remote.is_empty()).then(|| (config.clone(), local, remote))
    };
    // A child that takes all of what is asked is what the initiator means, rather than one that only overlaps.
    let exact = |(_, local, remote): &(_, Vec<_>, Vec<_>)| {
        covers(local, proposed.ours) && covers(remote, proposed.theirs)
    };
    preferred
        .and_then(narrowed)
        .or_else(|| configs.iter().filter_map(narrowed).find(exact))
        .or_else(|| configs.iter().find_map(narrowed))
}

/// The responder's part: the child that the initiator means, and the algorithms.
pub(crate) fn accept(
    ctx: &mut Context<'_>,
    configs: &[Arc<ChildConfig>],
    preferred: Option<&Arc<ChildConfig>>,
    proposed: Proposed<'_>,
    pfs: Pfs,
) -> Result<(Terms, Proposal), ChildError> {
    let (config, local, remote) =
        choose(configs, preferred, proposed).ok_or_else(|| ChildError::Selectors {
            ours: list(proposed.ours),
            theirs: list(proposed.theirs),
            configured: configs
                .iter()
                .map(|config| format!("{}: {} to {}", config.name, list(&config.local), list(&config.remote)))
                .collect::<Vec<_>>()
                .join("; "),
        })?;
    let spi_in = ctx.numbers.esp_spis.take(ctx.random);
    let choice = negotiate::choose_esp(&proposed.sa.proposals, &config.esp_proposals, spi_in.number(), pfs)?;
    let terms = Terms { config, spi_in, spi_out: choice.peer_spi, suite: choice.suite, local, remote };
    Ok((terms, choice.answer))
}

/// The initiator's part: what the responder made of our offer.
pub(crate) fn confirm(
    config: Arc<ChildConfig>,
    spi_in: InboundSpi,
    answered: Proposed<'_>,
    pfs: Pfs,
) -> Result<Terms, ChildError> {
    let choice = negotiate::confirm_esp(&answered.sa.proposals, &config.esp_proposals, pfs)?;
    let within = |answered: &[TrafficSelector], ours: &[TrafficSelector]| match covers(ours, answered) {
        true => Ok(answered.to_vec()),
        false => Err(ChildError::Widened { name: config.name.clone(), answered: list(answered) }),
    };
    let local = within(answered.ours, &config.local)?;
    let remote = within(answered.theirs, &config.remote)?;
    Ok(Terms { spi_in, spi_out: choice.peer_spi, suite: choice.suite, local, remote, config })
}

/// Only if the peer has taken every selector that was offered: what RFC 9611 section 4 demands of pairs with the same.
pub(crate) fn with_all_selectors(terms: Terms) -> Result<Terms, ChildError> {
    for (taken, offered) in [(&terms.local, &terms.config.local), (&terms.remote, &terms.config.remote)] {
        if !covers(taken, offered) {
            return Err(ChildError::Narrowed { name: terms.config.name.clone(), answered: list(taken) });
        }
    }
    Ok(terms)
}

/// The child with its first pair of networks only; `None`: it has no more than that.
pub(crate) fn first_pair(config: &Arc<ChildConfig>) -> Option<Arc<ChildConfig>> {
    let ([local, ..], [remote, ..]) = (config.local.as_slice(), config.remote.as_slice()) else {
        return None;
    };
    let single = ChildConfig { local: vec![*local], remote: vec![*remote], ..ChildConfig::clone(config) };
    (single != **config).then(|| Arc::new(single))
}

/// What both lists allow, without selectors that another one covers.
fn narrow(offered: &[TrafficSelector], configured: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut common: Vec<TrafficSelector> = Vec::new();
    for selector in
        offered.iter().flat_map(|offered| configured.iter().filter_map(|ours| offered.narrow(ours)))
    {
        if !common.iter().any(|other| other.contains(&selector)) {
            common.retain(|other| !selector.contains(other));
            common.push(selector);
        }
    }
    // The payload has a count of 8 bits; what does not fit is simply not narrowed to.
    common.truncate(usize::from(u8::MAX));
    common
}

/// Whether both select the same.
pub(crate) fn are_same(a: &[TrafficSelector], b: &[TrafficSelector]) -> bool {
    covers(a, b) && covers(b, a)
}

/// Whether each of `inner` lies within one of `outer`.
fn covers(outer: &[TrafficSelector], inner: &[TrafficSelector]) -> bool {
    !inner.is_empty() && inner.iter().all(|inner| outer.iter().any(|outer| outer.contains(inner)))
}

fn list(selectors: &[TrafficSelector]) -> String {
    let mut shown: Vec<_> = selectors.iter().take(SHOWN_SELECTORS).map(ToString::to_string).collect();
    if selectors.len() > SHOWN_SELECTORS {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

impl Child {
    pub(crate) fn status(&self) -> ChildStatus {
        ChildStatus {
            child: self.handle,
            name: self.terms.config.name.clone(),
            spi_in: self.terms.spi_in.number(),
            spi_out: self.terms.spi_out,
            suite: self.terms.suite.to_string(),
            local: self.terms.local.clone(),
            remote: self.terms.remote.clone(),
            created: self.created,
            rekey_at: self.rekey_at,
            outbound_active: self.outbound_active,
            binding: self.binding,
        }
    }
}
