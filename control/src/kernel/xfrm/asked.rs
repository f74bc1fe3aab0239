//! Which policies shall be in the kernel, and which are. Each pair says for itself what it asks for, so that one that comes or
//! goes costs what its own selectors cost, however many others there are.

use std::collections::{BTreeMap, BTreeSet};

use super::policy::{Policy, PolicyId};

/// Who asks for policies. What several ask for the last of them gets, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// All traps together.
    Traps,
    /// The pair with this inbound SPI.
    Pair(u32),
}

/// One change of the kernel's policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Put(&'a Policy),
    Remove(&'a PolicyId),
}

/// What is asked for, and what is there.
#[derive(Debug, Default)]
pub(super) struct Asked {
    all: BTreeMap<(PolicyId, Asker), Policy>,
    by_asker: BTreeMap<Asker, Vec<PolicyId>>,
    there: BTreeMap<PolicyId, Policy>,
    /// Where what is there may not be what is asked for.
    unsettled: BTreeSet<PolicyId>,
    /// To be written once more, though they are there as they are asked for.
    again: BTreeSet<PolicyId>,
}

impl Asked {
    /// Somebody asks for these from now on, and for nothing that it has asked for before.
    pub(super) fn ask(&mut self, asker: Asker, policies: Vec<Policy>) {
        for id in self.by_asker.remove(&asker).unwrap_or_default() {
            self.all.remove(&(id, asker));
            self.unsettled.insert(id);
        }
        if policies.is_empty() {
            return;
        }
        self.by_asker.insert(asker, policies.iter().map(|policy| policy.id).collect());
        for policy in policies {
            self.unsettled.insert(policy.id);
            self.all.insert((policy.id, asker), policy);
        }
    }

    /// Has what this one asks for written once more. The kernel keeps with a policy the SAs that its packets go by, and looks for
    /// others only where it has none: with a policy that is new it looks.
    pub(super) fn write_again(&mut self, asker: Asker) {
        let ids = self.by_asker.get(&asker).into_iter().flatten();
        for id in ids {
            self.unsettled.insert(*id);
            self.again.insert(*id);
        }
    }

    /// Has the kernel's policies made what is asked for: first what is new, then what is not wanted. After an error the rest
    /// stands open until the next time.
    pub(super) fn settle<E>(&mut self, mut change: impl FnMut(Step<'_>) -> Result<(), E>) -> Result<(), E> {
        for id in &self.unsettled {
            if let Some(policy) = wanted(&self.all, id)
                && (self.there.get(id) != Some(policy) || self.again.contains(id))
            {
                change(Step::Put(policy))?;
                self.there.insert(*id, *policy);
                self.again.remove(id);
            }
        }
        while let Some(&id) = self.unsettled.first() {
            if wanted(&self.all, &id).is_none() && self.there.contains_key(&id) {
                change(Step::Remove(&id))?;
                self.there.remove(&id);
            }
            self.unsettled.remove(&id);
            self.again.remove(&id);
        }
        Ok(())
    }

    /// Whether a policy is there, as far as is known.
    pub(super) fn is_there(&self, id: &PolicyId) -> bool {
        self.there.contains_key(id)
    }

    /// Takes note of those that are there no longer; how many.
    pub(super) fn missing(&mut self, is_there: impl Fn(&PolicyId) -> bool) -> usize {
        let gone: Vec<PolicyId> = self.there.keys().filter(|id| !is_there(id)).copied().collect();
        for id in &gone {
            self.there.remove(id);
            self.unsettled.insert(*id);
        }
        gone.len()
    }
}

/// Of those that are asked for under one name, the last.
fn wanted<'a>(all: &'a BTreeMap<(PolicyId, Asker), Policy>, id: &PolicyId) -> Option<&'a Policy> {
    let (first, last) = ((*id, Asker::Traps), (*id, Asker::Pair(u32::MAX)));
    all.range(first..=last).next_back().map(|(_, policy)| policy)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use proptest::prelude::*;
    use sekisho_esp::sa::Outer;

    use super::super::plan::{self, Wanted};
    use super::super::selector::{Prefix, XfrmSelector};
    use super::*;

    /// One of few networks, so that pairs ask for the same.
    fn selector(from: u8, to: u8) -> XfrmSelector {
        let prefix = |number| Prefix { address: IpAddr::V4(Ipv4Addr::new(10, number, 0, 0)), length: 16 };
        XfrmSelector::between(prefix(from), prefix(to))
    }

    #[derive(Clone, Debug)]
    struct Known {
        reqid: u32,
        outbound: Vec<XfrmSelector>,
        inbound: Vec<XfrmSelector>,
        active: bool,
    }

    impl Known {
        fn policies(&self) -> Vec<Policy> {
            let outer = Outer {
                local: "192.0.2.1:500".parse().expect("address"),
                remote: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 2), 500)),
                udp_encapsulation: false,
            };
            let Self { reqid, outbound, inbound, active } = self;
            let wanted = Wanted { port: 3, reqid: *reqid, outer, outbound, inbound, active: *active };
            wanted.policies(false)
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Pair(u32, Known),
        Gone(u32),
        /// Its policies are written once more.
        Again(u32),
        Traps(Vec<(u8, u8)>),
        /// Somebody else has removed these.
        Removed(Vec<usize>),
    }

    fn events() -> impl Strategy<Value = Event> {
        let networks = || prop::collection::vec((0..3_u8, 0..3_u8), 0..3);
        let selectors =
            |pairs: Vec<(u8, u8)>| pairs.into_iter().map(|(from, to)| selector(from, to)).collect();
        let known = (0..4_u32, networks(), networks(), any::<bool>());
        prop_oneof![
            4 => (0..6_u32, known).prop_map(move |(spi, (reqid, outbound, inbound, active))| {
                let (outbound, inbound) = (selectors(outbound), selectors(inbound));
                Event::Pair(spi, Known { reqid, outbound, inbound, active })
            }),
            2 => (0..6_u32).prop_map(Event::Gone),
            2 => (0..6_u32).prop_map(Event::Again),
            1 => networks().prop_map(Event::Traps),
            1 => prop::collection::vec(0..8_usize, 0..3).prop_map(Event::Removed),
        ]
    }

    /// Everything anew: the traps, then the pairs by their SPI, and who comes later has it.
    fn straightforward(traps: &[Policy], pairs: &BTreeMap<u32, Known>) -> BTreeMap<PolicyId, Policy> {
        let all = traps.iter().copied().chain(pairs.values().flat_map(Known::policies));
        all.map(|policy| (policy.id, policy)).collect()
    }

    proptest! {
        /// Step by step the kernel has what it would have if all were planned anew, whatever it refuses in between.
        #[test]
        fn what_is_there_is_what_planning_anew_would_put_there(
            steps in prop::collection::vec((events(), 0..6_usize), 0..40),
        ) {
            let (mut asked, mut pairs, mut traps) = (Asked::default(), BTreeMap::new(), Vec::new());
            let mut kernel: BTreeMap<PolicyId, Policy> = BTreeMap::new();
            for (event, refuses_after) in steps {
                let mut again: BTreeSet<PolicyId> = BTreeSet::new();
                match event {
                    Event::Again(spi) => {
                        asked.write_again(Asker::Pair(spi));
                        again.extend(pairs.get(&spi).into_iter().flat_map(Known::policies).map(|policy| policy.id));
                    }
                    Event::Pair(spi, known) => {
                        asked.ask(Asker::Pair(spi), known.policies());
                        pairs.insert(spi, known);
                    }
                    Event::Gone(spi) => {
                        asked.ask(Asker::Pair(spi), Vec::new());
                        pairs.remove(&spi);
                    }
                    Event::Traps(of) => {
                        let all = of.iter().zip(1..);
                        traps = all.map(|((from, to), number)| plan::trap(3, selector(*from, *to), number)).collect();
                        asked.ask(Asker::Traps, traps.clone());
                    }
                    Event::Removed(which) => {
                        let ids: Vec<PolicyId> = kernel.keys().copied().collect();
                        let gone: BTreeSet<_> = which.into_iter().filter_map(|at| ids.get(at)).collect();
                        kernel.retain(|id, _| !gone.contains(id));
                        prop_assert_eq!(asked.missing(|id| kernel.contains_key(id)), gone.len());
                    }
                }
                // The first time the kernel may refuse something in the middle.
                for patience in [refuses_after, usize::MAX] {
                    let mut left = patience;
                    let mut removes = false;
                    let settled = asked.settle(|step| {
                        left = left.checked_sub(1).ok_or("refused")?;
                        match step {
                            Step::Put(policy) => {
                                assert!(!removes, "what is new comes first");
                                let is_new = kernel.insert(policy.id, *policy) != Some(*policy);
                                assert!(again.remove(&policy.id) || is_new, "for nothing");
                            }
                            Step::Remove(id) => {
                                removes = true;
                                assert!(kernel.remove(id).is_some(), "for nothing");
                            }
                        }
                        Ok::<(), &str>(())
                    });
                    if patience == usize::MAX {
                        prop_assert_eq!(settled, Ok(()));
                    }
                }
                prop_assert_eq!(&kernel, &straightforward(&traps, &pairs));
                prop_assert!(again.is_empty(), "not written once more: {:?}", again);
                prop_assert!(kernel.keys().all(|id| asked.is_there(id)));
            }
        }
    }

    #[test]
    fn a_pair_among_a_thousand_asks_for_its_own_alone() {
        let mut asked = Asked::default();
        let known = |number: u32| {
            let [.., high, low] = number.to_be_bytes();
            let mut selector = selector(1, 2);
            selector.destination = Prefix { address: Ipv4Addr::new(10, high, low, 0).into(), length: 24 };
            Known { reqid: number, outbound: vec![selector], inbound: vec![selector], active: true }
        };
        for number in 0..1000 {
            asked.ask(Asker::Pair(number), known(number).policies());
        }
        let mut steps = 0;
        let mut count = |_: Step<'_>| {
            steps += 1;
            Ok::<(), ()>(())
        };
        asked.settle(&mut count).expect("nothing refuses");
        asked.ask(Asker::Pair(1000), known(1000).policies());
        assert_eq!(asked.unsettled.len(), 3);
        asked.settle(&mut count).expect("nothing refuses");
        assert_eq!(steps, 3 * 1001);
    }
}
