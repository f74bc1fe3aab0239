//! Child SAs for single resources (RFC 9611): how many this gateway has use for, and what has become of them.

use std::collections::BTreeSet;

use sekisho_ike::config::{PerResource, Resources};
use sekisho_ike::event::Binding;
use sekisho_ike::status::ChildStatus;

use super::bringup::Ground;
use crate::config::PER_RESOURCE_MAX;

impl Ground {
    /// What can have an SA of its own: the engine's workers, or the processors where the kernel sends by them.
    pub(super) fn resources(&self) -> Resources {
        match &self.xfrm {
            Some(table) => {
                let processors = table.processors().min(PER_RESOURCE_MAX);
                Resources { count: processors, most: processors }
            }
            // One worker may have several: its flows are dealt out among them.
            None => Resources {
                count: u16::try_from(self.workers.count).unwrap_or(PER_RESOURCE_MAX),
                most: PER_RESOURCE_MAX,
            },
        }
    }
}

/// What status says of a connection that is to have some; `children`: of its IKE SA.
pub(super) fn words<'a>(
    configured: PerResource,
    resources: Resources,
    children: impl Iterator<Item = &'a ChildStatus>,
) -> Option<String> {
    if configured == PerResource::Off {
        return None;
    }
    if resources.most == 0 {
        return Some("none: the kernel knows none before Linux 6.13".to_owned());
    }
    let (mut firsts, mut aware, mut there) = (0_usize, false, BTreeSet::new());
    for child in children {
        match child.binding {
            Binding::Only => firsts += 1,
            Binding::Fallback => (firsts, aware) = (firsts + 1, true),
            Binding::Resource(number) => drop(there.insert((&child.name, number))),
        }
    }
    let wanted = firsts * usize::from(configured.wanted(resources));
    Some(match () {
        () if firsts == 0 => "none: there is no child SA".to_owned(),
        () if !aware && there.is_empty() => "none: the peer does not know of them (RFC 9611)".to_owned(),
        () if there.len() < wanted => {
            format!("{} of {wanted}; the peer takes no more for now, or more are under way", there.len())
        }
        () => format!("{} of {wanted}", there.len()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use sekisho_ike::event::ChildHandle;

    use super::*;

    fn child(binding: Binding) -> ChildStatus {
        let now = Instant::now();
        ChildStatus {
            child: ChildHandle(1),
            name: "main".into(),
            spi_in: 1,
            spi_out: 2,
            suite: String::new(),
            local: Vec::new(),
            remote: Vec::new(),
            created: now,
            rekey_at: now,
            outbound_active: true,
            binding,
        }
    }

    #[test]
    fn status_says_how_many_there_are_and_why_not_more() {
        let engine = Resources { count: 2, most: PER_RESOURCE_MAX };
        let words = |configured, resources, bindings: &[Binding]| {
            let children: Vec<_> = bindings.iter().copied().map(child).collect();
            words(configured, resources, children.iter()).unwrap_or_default()
        };
        let (first, zero, one) = (Binding::Fallback, Binding::Resource(0), Binding::Resource(1));
        assert_eq!(words(PerResource::Off, engine, &[first]), "");
        assert_eq!(words(PerResource::Auto, engine, &[first, zero, one]), "2 of 2");
        assert!(words(PerResource::Auto, engine, &[first, zero, zero]).starts_with("1 of 2; the peer"));
        assert!(words(PerResource::AtMost(4), engine, &[Binding::Only]).contains("the peer does not know"));
        assert!(words(PerResource::Auto, engine, &[]).contains("no child SA"));
        let unable = Resources { count: 0, most: 0 };
        assert!(words(PerResource::Auto, unable, &[Binding::Only]).contains("Linux 6.13"));
    }
}
