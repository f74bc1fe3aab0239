//! Several child SAs with the same selectors (RFC 9611): a first one for everything, and further ones for single resources of
//! ours, as processors or threads are, so that no two of them share sequence numbers and a window.
//!
//! The first stays whatever becomes of the others, and carries what has no SA of its own. Whoever began the IKE SA asks for the
//! further ones at once, the other side for what it misses a little later. Each side chooses by itself which of its resources
//! an SA is for. Nobody is asked who has not shown that it knows of this.

use std::sync::Arc;
use std::time::Duration;

use crate::child::{self, Child, ChildPhase, Proposed, Terms, are_same};
use crate::config::ChildConfig;
use crate::content::Content;
use crate::context::Context;
use crate::create_child::{Aim, CONFIRMED_AFTER};
use crate::established::{Established, Pending, Task};
use crate::event::{Binding, ChildHandle};
use crate::timer::Timer;
use crate::wire::notify::Notify;
use crate::wire::{NotifyType, Payload};

/// How long the side that answered waits for the one that asks: it is at it since the last pair.
const ANSWERER_WAIT: Duration = Duration::from_secs(10);
/// Further pairs of one child that a peer gets where no number is configured: RFC 9611 section 6 recommends twice the number of
/// processors, and we use sixteen at most.
const ACCEPTED_BY_AUTO: u16 = 32;

/// Whether a child has further SAs for single resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PerResource {
    /// It has none, and a peer that asks gets none.
    #[default]
    Off,
    /// One for each resource that we have, if there are several.
    Auto,
    /// So many at most.
    AtMost(u16),
}

/// What of ours can have an SA of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// How many there are.
    pub count: u16,
    /// Most SAs for single resources that are of use; 0: the data path knows of none.
    pub most: u16,
}

impl PerResource {
    /// How many we ask for.
    pub fn wanted(self, resources: Resources) -> u16 {
        match self {
            _ if resources.most == 0 => 0,
            PerResource::Off => 0,
            PerResource::Auto if resources.count < 2 => 0,
            PerResource::Auto => resources.count.min(resources.most),
            PerResource::AtMost(most) => most.min(resources.most),
        }
    }

    /// How many there may be, those included that the peer asks for. 0: we don't know of any.
    pub(crate) fn accepted(self, resources: Resources) -> u16 {
        match self {
            _ if resources.most == 0 => 0,
            PerResource::Off => 0,
            PerResource::Auto => ACCEPTED_BY_AUTO,
            // Twice as many: both may ask at once (RFC 9611 section 6).
            PerResource::AtMost(_) => self.wanted(resources).saturating_mul(2),
        }
    }
}

/// SA_RESOURCE_INFO of a pair; none, where the peer shall not know of any.
pub(crate) fn announcement(binding: Binding) -> Option<Payload> {
    (binding != Binding::Only).then(|| Payload::Notify(Notify::resource_info(binding.resource())))
}

/// A further pair has the selectors and algorithms of the first (RFC 9611 section 4), and a key exchange as configured.
fn further(first: &Terms) -> Arc<ChildConfig> {
    let esp_proposals =
        first.config.esp_proposals.iter().filter_map(|proposal| proposal.narrowed_to(&first.suite)).collect();
    Arc::new(ChildConfig {
        esp_proposals,
        local: first.local.clone(),
        remote: first.remote.clone(),
        ..ChildConfig::clone(&first.config)
    })
}

fn have_same_selectors(a: &Terms, b: &Terms) -> bool {
    a.config.name == b.config.name && are_same(&a.local, &b.local) && are_same(&a.remote, &b.remote)
}

impl Established {
    /// SA_RESOURCE_INFO of a request; `binding`: none for a first pair.
    pub(crate) fn announce_resource(
        &self,
        ctx: &Context<'_>,
        config: &ChildConfig,
        binding: Option<Binding>,
    ) -> Option<Payload> {
        let knows = config.per_resource.accepted(ctx.config.resources) > 0;
        announcement(binding.unwrap_or(if knows { Binding::Fallback } else { Binding::Only }))
    }

    /// What a first pair is. `content`: of the peer's message about it.
    pub(crate) fn first_binding(
        &self,
        ctx: &Context<'_>,
        config: &ChildConfig,
        content: &Content,
    ) -> Binding {
        let both_know = config.per_resource.accepted(ctx.config.resources) > 0
            && content.notify(NotifyType::SaResourceInfo).is_some();
        if both_know { Binding::Fallback } else { Binding::Only }
    }

    /// Most pairs that this IKE SA has in use at a time.
    pub(crate) fn places(&self, ctx: &Context<'_>) -> usize {
        let further = |config: &Arc<ChildConfig>| config.per_resource.accepted(ctx.config.resources);
        self.child_configs.iter().map(|config| 1 + usize::from(further(config))).sum()
    }

    /// What the pair is that the peer asks for, and the configuration it then has; of a first pair that is still to be seen.
    pub(crate) fn bind(
        &self,
        ctx: &Context<'_>,
        content: &Content,
        rekeys: Option<ChildHandle>,
    ) -> Result<(Option<Arc<ChildConfig>>, Option<Binding>), Notify> {
        // RFC 9611 section 4: a successor is for the same, whether or not the peer says so.
        if let Some(rekeyed) = rekeys.and_then(|handle| self.children.get(&handle)) {
            return Ok((Some(rekeyed.terms.config.clone()), Some(rekeyed.binding)));
        }
        let Some(first) = self.first_of(content) else { return Ok((None, None)) };
        let per_resource = first.terms.config.per_resource;
        let (wanted, accepted) =
            (per_resource.wanted(ctx.config.resources), per_resource.accepted(ctx.config.resources));
        let there = self.further_of(first).count();
        if there >= usize::from(accepted) {
            return Err(Notify::new(NotifyType::TsMaxQueue));
        }
        let least = (0..wanted.max(1)).min_by_key(|number| self.holders(first, *number));
        Ok((Some(further(&first.terms)), Some(Binding::Resource(least.unwrap_or(0)))))
    }

    /// The pair beside which the peer wants a further one; `None`: it asks for a first one.
    fn first_of(&self, content: &Content) -> Option<&Child> {
        content.notify(NotifyType::SaResourceInfo)?;
        let proposed =
            Proposed { sa: content.sa().ok()?, ours: content.ts_r().ok()?, theirs: content.ts_i().ok()? };
        let (config, local, remote) = child::choose(&self.child_configs, None, proposed)?;
        self.children.values().find(|child| {
            let Terms { config: of_it, local: ours, remote: theirs, .. } = &child.terms;
            child.phase == ChildPhase::Up
                && child.binding.resource().is_none()
                && of_it.name == config.name
                && are_same(ours, &local)
                && are_same(theirs, &remote)
        })
    }

    /// The further pairs in use with the selectors of this one.
    fn further_of(&self, first: &Child) -> impl Iterator<Item = &Child> {
        self.children.values().filter(move |child| {
            child.phase == ChildPhase::Up
                && child.binding.resource().is_some()
                && have_same_selectors(&child.terms, &first.terms)
        })
    }

    /// How many pairs a resource has, what we are asking for included.
    fn holders(&self, first: &Child, number: u16) -> usize {
        let asked = matches!(&self.pending, Pending::Child(offer) if offer.resource() == Some((first.handle, number)));
        let there = self.further_of(first).filter(|child| child.binding == Binding::Resource(number));
        there.count() + usize::from(asked)
    }

    /// A resource of ours that has no pair and shall have one.
    fn free_resource(&self, ctx: &Context<'_>, first: &Child) -> Option<u16> {
        let wanted = first.terms.config.per_resource.wanted(ctx.config.resources);
        (0..wanted).find(|number| self.holders(first, *number) == 0)
    }

    /// Asks for one further pair. Nothing is asked if there are enough by now.
    pub(crate) fn offer_resource(&mut self, ctx: &mut Context<'_>, beside: ChildHandle) -> Pending {
        let first = self.children.get(&beside);
        let Some(first) = first.filter(|child| {
            child.phase == ChildPhase::Up && child.binding == Binding::Fallback && !self.is_sated(child)
        }) else {
            return Pending::Nothing;
        };
        let Some(number) = self.free_resource(ctx, first) else { return Pending::Nothing };
        let (config, group) = (further(&first.terms), first.terms.suite.group);
        let binding = Some(Binding::Resource(number));
        self.offer(ctx, Aim { config, rekeys: None, binding, beside: Some(beside) }, group, Vec::new(), None)
    }

    fn is_sated(&self, child: &Child) -> bool {
        self.sated.contains(&child.terms.config.name)
    }

    /// A pair is there: what else is there to be?
    pub(crate) fn resources_installed(&mut self, ctx: &mut Context<'_>, handle: ChildHandle) {
        let Some(child) = self.children.get(&handle) else { return };
        let (binding, initiated) = (child.binding, child.initiated);
        match binding {
            Binding::Only => return,
            // Once in its life a peer may be asked again that had enough.
            Binding::Fallback => drop(self.sated.remove(&child.terms.config.name.clone())),
            Binding::Resource(_) => {}
        }
        if self.origin.ours {
            self.want_resources(ctx);
        } else {
            ctx.timers.set(Timer::Resources, ctx.later(ANSWERER_WAIT));
        }
        if binding.resource().is_some() && initiated && self.tasks.is_empty() {
            // The next request shows the peer that we have had its answer.
            self.enqueue(Task::Liveness);
        }
        if binding.resource().is_some() && !initiated && ctx.timers.at(Timer::Resources).is_none() {
            ctx.timers.set(Timer::Resources, ctx.later(CONFIRMED_AFTER));
        }
    }

    fn want_resources(&mut self, ctx: &Context<'_>) {
        let lacks = |child: &&Child| {
            child.phase == ChildPhase::Up
                && child.binding == Binding::Fallback
                && !self.is_sated(child)
                && self.free_resource(ctx, child).is_some()
        };
        let lacking: Vec<_> = self.children.values().filter(lacks).map(|child| child.handle).collect();
        for beside in lacking {
            self.enqueue(Task::AddResource(beside));
        }
    }

    /// It is time to see whether any is missing, and whether the peer can be trusted to have our answers.
    pub(crate) fn look_at_resources(&mut self, ctx: &mut Context<'_>) {
        self.want_resources(ctx);
        let now = ctx.now;
        let age = |child: &Child| now.saturating_duration_since(child.created);
        self.use_resources(ctx, |child| age(child) >= CONFIRMED_AFTER);
        let youngest = self.children.values().filter(|child| awaits_use(child)).map(age).min();
        if let Some(age) = youngest {
            ctx.timers.set(Timer::Resources, ctx.later(CONFIRMED_AFTER.saturating_sub(age)));
        }
    }

    /// The peer asks something new: it has had the answers to all that it asked before, and so the further pairs that those
    /// made. What is sent with them arrives.
    pub(crate) fn confirm_resources(&mut self, ctx: &mut Context<'_>) {
        self.use_resources(ctx, |_| true);
    }

    fn use_resources(&mut self, ctx: &mut Context<'_>, which: impl Fn(&Child) -> bool) {
        let all = self.children.values().filter(|child| awaits_use(child) && which(child));
        for handle in all.map(|child| child.handle).collect::<Vec<_>>() {
            self.activate(ctx, handle);
        }
    }
}

/// A further pair that the peer has asked for and we don't send with yet.
fn awaits_use(child: &Child) -> bool {
    child.phase == ChildPhase::Up
        && child.binding.resource().is_some()
        && !child.initiated
        && !child.outbound_active
        && child.replaces.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_of_use_and_as_are_configured() {
        let engine = |count| Resources { count, most: 16 };
        let unable = Resources { count: 4, most: 0 };
        for (configured, resources, wanted, accepted) in [
            (PerResource::Off, engine(4), 0, 0),
            (PerResource::Auto, engine(4), 4, 32),
            (PerResource::Auto, engine(1), 0, 32),
            (PerResource::Auto, unable, 0, 0),
            (PerResource::AtMost(2), engine(4), 2, 4),
            (PerResource::AtMost(3), engine(1), 3, 6),
            (PerResource::AtMost(64), engine(4), 16, 32),
            (PerResource::AtMost(2), unable, 0, 0),
        ] {
            assert_eq!(configured.wanted(resources), wanted, "{configured:?} {resources:?}");
            assert_eq!(configured.accepted(resources), accepted, "{configured:?} {resources:?}");
        }
    }

    #[test]
    fn the_only_pair_is_not_announced() {
        assert_eq!(announcement(Binding::Only), None);
        let data = |binding| match announcement(binding) {
            Some(Payload::Notify(notify)) => (notify.notify_type, notify.data),
            other => panic!("{other:?}"),
        };
        assert_eq!(data(Binding::Fallback), (NotifyType::SaResourceInfo, vec![]));
        assert_eq!(data(Binding::Resource(258)), (NotifyType::SaResourceInfo, vec![0, 0, 1, 2]));
    }
}
