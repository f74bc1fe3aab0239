//! The configured connections, in the order of the configuration: found by name, by a packet, and by when they are tried next.
//! One lookup each, however many there are.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use sekisho_esp::sa::PortId;

use super::Tunnel;
use super::carriers::Carriers;

/// Them.
#[derive(Default)]
pub(super) struct Connections {
    all: Vec<Tunnel>,
    by_name: HashMap<Arc<str>, usize>,
    /// By what is behind them.
    carriers: Carriers,
    /// Those that are tried again, by when.
    tries: BTreeSet<(Instant, usize)>,
}

impl FromIterator<Tunnel> for Connections {
    fn from_iter<I: IntoIterator<Item = Tunnel>>(tunnels: I) -> Connections {
        let all: Vec<Tunnel> = tunnels.into_iter().collect();
        let (mut by_name, mut carriers) = (HashMap::new(), Carriers::default());
        for (index, tunnel) in all.iter().enumerate() {
            by_name.entry(tunnel.name.clone()).or_insert(index);
            tunnel.behind().for_each(|network| carriers.insert(tunnel.port, network, index));
        }
        let tries = all.iter().enumerate().filter_map(|(index, tunnel)| Some((tunnel.next_try?, index)));
        Connections { tries: tries.collect(), by_name, carriers, all }
    }
}

impl Connections {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tunnel> {
        self.all.iter()
    }

    /// The one of that name.
    pub(super) fn named(&self, name: &str) -> Option<&Tunnel> {
        self.all.get(*self.by_name.get(name)?)
    }

    /// The one that a packet from this VPN port is for, to be changed.
    pub(super) fn carrying(
        &mut self,
        port: PortId,
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<Changing<'_>> {
        let carries =
            |index| self.all.get(index).is_some_and(|tunnel: &Tunnel| tunnel.carries(source, destination));
        self.at(self.carriers.first(port, destination, carries)?)
    }

    /// The one of that name, to be changed.
    pub(super) fn change(&mut self, name: &str) -> Option<Changing<'_>> {
        self.at(*self.by_name.get(name)?)
    }

    /// Changes every one.
    pub(super) fn change_each(&mut self, mut change: impl FnMut(&mut Tunnel)) {
        for index in 0..self.all.len() {
            if let Some(mut tunnel) = self.at(index) {
                change(&mut tunnel);
            }
        }
    }

    /// Takes those that are due: they are not tried again unless that is said anew.
    pub(super) fn take_due(&mut self, now: Instant, mut each: impl FnMut(&mut Tunnel)) {
        let due = self.tries.iter().take_while(|(at, _)| *at <= now);
        let mut due: Vec<usize> = due.map(|(_, index)| *index).collect();
        due.sort_unstable();
        for index in due {
            if let Some(mut tunnel) = self.at(index) {
                tunnel.next_try = None;
                each(&mut tunnel);
            }
        }
    }

    /// When the next one is due.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.tries.first().map(|(at, _)| *at)
    }

    /// All of them, to become those of another configuration.
    pub(super) fn into_all(self) -> Vec<Tunnel> {
        self.all
    }

    fn at(&mut self, index: usize) -> Option<Changing<'_>> {
        let tunnel = self.all.get_mut(index)?;
        Some(Changing { index, before: tunnel.next_try, tunnel, tries: &mut self.tries })
    }
}

/// A connection that is being changed. Its next try is noted once that is done.
pub(super) struct Changing<'a> {
    index: usize,
    before: Option<Instant>,
    tunnel: &'a mut Tunnel,
    tries: &'a mut BTreeSet<(Instant, usize)>,
}

impl Deref for Changing<'_> {
    type Target = Tunnel;

    fn deref(&self) -> &Tunnel {
        self.tunnel
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Tunnel {
        self.tunnel
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let after = self.tunnel.next_try;
        if after == self.before {
            return;
        }
        if let Some(before) = self.before {
            self.tries.remove(&(before, self.index));
        }
        self.tries.extend(after.map(|after| (after, self.index)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::connection::testing;
    use super::*;

    /// What may happen to connections that are called by numbers, and moments in seconds.
    #[derive(Clone, Debug)]
    enum Step {
        Try(u8, Option<u8>),
        TryEach(Option<u8>),
        Due(u8, Option<u8>),
        Reconfigure(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let moment = || proptest::option::of(0..6_u8);
        prop_oneof![
            4 => (0..8_u8, moment()).prop_map(|(number, at)| Step::Try(number, at)),
            1 => moment().prop_map(Step::TryEach),
            2 => (0..6_u8, moment()).prop_map(|(now, again)| Step::Due(now, again)),
            1 => Just((0..8_u8).collect::<Vec<_>>()).prop_shuffle().prop_flat_map(|numbers| {
                (0..=numbers.len()).prop_map(move |count| Step::Reconfigure(numbers[..count].to_vec()))
            }),
        ]
    }

    fn name(number: u8) -> String {
        format!("clinic{number}")
    }

    fn agrees_with_a_walk(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let start = Instant::now();
        let after = |seconds: u8| start + Duration::from_secs(seconds.into());
        let fresh = |number: u8| testing::tunnel(&name(number), after(number % 3), 1);
        let mut connections: Connections = (0..5).map(fresh).collect();
        let mut walked: Vec<(String, Option<Instant>)> =
            (0..5).map(|number| (name(number), Some(after(number % 3)))).collect();
        for step in steps {
            match step {
                Step::Try(number, at) => {
                    if let Some(mut tunnel) = connections.change(&name(number)) {
                        tunnel.next_try = at.map(after);
                    }
                    for (_, next) in walked.iter_mut().filter(|(known, _)| *known == name(number)) {
                        *next = at.map(after);
                    }
                }
                Step::TryEach(at) => {
                    connections.change_each(|tunnel| tunnel.next_try = at.map(after));
                    walked.iter_mut().for_each(|(_, next)| *next = at.map(after));
                }
                Step::Due(now, again) => {
                    let mut taken = Vec::new();
                    connections.take_due(after(now), |tunnel| {
                        assert_eq!(tunnel.next_try, None);
                        taken.push(tunnel.name.to_string());
                        tunnel.next_try = again.map(after);
                    });
                    let is_due = |next: &Option<Instant>| next.is_some_and(|at| at <= after(now));
                    let due: Vec<_> = walked
                        .iter()
                        .filter(|(_, next)| is_due(next))
                        .map(|(name, _)| name.clone())
                        .collect();
                    prop_assert_eq!(taken, due, "in the order of the configuration, each once");
                    for (_, next) in walked.iter_mut().filter(|(_, next)| is_due(next)) {
                        *next = again.map(after);
                    }
                }
                Step::Reconfigure(numbers) => {
                    let mut before: HashMap<String, Tunnel> = connections
                        .into_all()
                        .into_iter()
                        .map(|tunnel| (tunnel.name.to_string(), tunnel))
                        .collect();
                    let kept = |number: &u8| before.remove(&name(*number)).unwrap_or_else(|| fresh(*number));
                    connections = numbers.iter().map(kept).collect();
                    walked =
                        connections.iter().map(|tunnel| (tunnel.name.to_string(), tunnel.next_try)).collect();
                }
            }
            prop_assert_eq!(connections.next_try(), walked.iter().filter_map(|(_, next)| *next).min());
            for number in 0..8 {
                let there = walked.iter().find(|(known, _)| *known == name(number));
                let found = connections.named(&name(number));
                prop_assert_eq!(
                    found.map(|tunnel| (tunnel.name.to_string(), tunnel.next_try)),
                    there.cloned()
                );
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_walk_over_all_finds(steps in proptest::collection::vec(step(), 0..60)) {
            agrees_with_a_walk(steps)?;
        }
    }
}
