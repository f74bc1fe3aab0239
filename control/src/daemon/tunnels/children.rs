//! Child SAs in force, and their SPIs at addresses: one lookup each by number, by connection, by IKE SA, by SPI, and by SPI
//! and address, however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use sekisho_esp::sa::{Outer, PortId};
use sekisho_ike::event::{ChildHandle, IkeHandle};

use super::leaving::End;

/// A pair of SAs in the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Child {
    /// Name of its connection.
    pub(super) connection: Arc<str>,
    /// VPN port id of the connection's zone.
    pub(super) port: PortId,
    pub(super) ike: IkeHandle,
    /// SPI we receive on; names the pair in the data path.
    pub(super) spi_in: u32,
    /// SPI the peer receives on.
    pub(super) spi_out: u32,
    pub(super) outer: Outer,
    /// Packets received and sent, when they were last looked at.
    pub(super) seen: (u64, u64),
}

impl Child {
    /// ESP in UDP.
    pub(in crate::daemon) fn is_udp(&self) -> bool {
        self.outer.udp_encapsulation
    }

    /// Where its packets come in, and where they go.
    fn ends(&self) -> [End; 2] {
        [(self.outer.local.ip(), self.spi_in), (self.outer.remote.ip(), self.spi_out)]
    }
}

/// Them.
#[derive(Default)]
pub(super) struct Children {
    all: BTreeMap<ChildHandle, Child>,
    /// Of a connection that has any.
    by_connection: BTreeMap<Arc<str>, BTreeSet<ChildHandle>>,
    by_ike: BTreeSet<(IkeHandle, ChildHandle)>,
    by_spi_in: BTreeSet<(u32, ChildHandle)>,
    /// Peers choose their SPIs without each other: several children may have the same end.
    ends: BTreeSet<(End, ChildHandle)>,
}

impl Children {
    /// A child is in force.
    pub(super) fn insert(&mut self, handle: ChildHandle, child: Child) {
        self.take(handle);
        self.by_connection.entry(child.connection.clone()).or_default().insert(handle);
        self.by_ike.insert((child.ike, handle));
        self.by_spi_in.insert((child.spi_in, handle));
        self.ends.extend(child.ends().map(|end| (end, handle)));
        self.all.insert(handle, child);
    }

    /// A child is in force no more.
    pub(super) fn take(&mut self, handle: ChildHandle) -> Option<Child> {
        let child = self.all.remove(&handle)?;
        if let Some(handles) = self.by_connection.get_mut(&child.connection) {
            handles.remove(&handle);
            if handles.is_empty() {
                self.by_connection.remove(&child.connection);
            }
        }
        self.by_ike.remove(&(child.ike, handle));
        self.by_spi_in.remove(&(child.spi_in, handle));
        for end in child.ends() {
            self.ends.remove(&(end, handle));
        }
        Some(child)
    }

    /// A child has another path from now on; the former one.
    pub(super) fn repath(&mut self, handle: ChildHandle, outer: Outer) -> Option<Outer> {
        let child = self.all.get_mut(&handle)?;
        for end in child.ends() {
            self.ends.remove(&(end, handle));
        }
        let former = mem::replace(&mut child.outer, outer);
        self.ends.extend(child.ends().map(|end| (end, handle)));
        Some(former)
    }

    /// Notes what the SAs of a connection have carried, as `look` finds it.
    pub(super) fn note_seen(
        &mut self,
        connection: &str,
        mut look: impl FnMut(ChildHandle, &Child) -> Option<(u64, u64)>,
    ) {
        for handle in self.by_connection.get(connection).into_iter().flatten() {
            if let Some(child) = self.all.get_mut(handle) {
                child.seen = look(*handle, child).unwrap_or(child.seen);
            }
        }
    }

    /// Forgets those of all other connections.
    pub(super) fn keep_only(&mut self, is_kept: impl Fn(&str) -> bool) {
        let gone = self.by_connection.iter().filter(|(name, _)| !is_kept(name));
        for handle in gone.flat_map(|(_, handles)| handles).copied().collect::<Vec<_>>() {
            self.take(handle);
        }
    }

    /// The one of that number.
    pub(super) fn get(&self, handle: ChildHandle) -> Option<&Child> {
        self.all.get(&handle)
    }

    /// Those of a connection, oldest first.
    pub(super) fn of_connection(&self, name: &str) -> impl Iterator<Item = (ChildHandle, &Child)> {
        let handles = self.by_connection.get(name).into_iter().flatten();
        handles.filter_map(|handle| Some((*handle, self.all.get(handle)?)))
    }

    /// Those of an IKE SA, oldest first.
    pub(super) fn of_ike(&self, ike: IkeHandle) -> impl Iterator<Item = ChildHandle> {
        self.by_ike.range((ike, FIRST)..=(ike, LAST)).map(|(_, handle)| *handle)
    }

    /// The one that receives on this SPI.
    pub(super) fn with_spi_in(&self, spi_in: u32) -> Option<ChildHandle> {
        self.by_spi_in.range((spi_in, FIRST)..=(spi_in, LAST)).next().map(|(_, handle)| *handle)
    }

    /// Whether any has this SPI at this address, its own or the peer's.
    pub(super) fn have(&self, end: End) -> bool {
        self.ends.range((end, FIRST)..=(end, LAST)).next().is_some()
    }
}

/// Numbers before and after all others.
const FIRST: ChildHandle = ChildHandle(u64::MIN);
const LAST: ChildHandle = ChildHandle(u64::MAX);

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, Child),
        Take(u64),
        Repath(u64, Outer),
        See(u8, u64),
        KeepOnly(Vec<bool>),
    }

    fn address(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    fn name(number: u8) -> String {
        format!("clinic{number}")
    }

    /// Few of each, so that they meet; also one address on both sides.
    fn outer() -> impl Strategy<Value = Outer> {
        (0..3_u8, 1..4_u8, any::<bool>()).prop_map(|(local, remote, udp_encapsulation)| Outer {
            local: SocketAddr::new(address(local), 4500),
            remote: SocketAddr::new(address(remote), 4500),
            udp_encapsulation,
        })
    }

    fn child() -> impl Strategy<Value = Child> {
        (0..4_u8, 0..5_u64, 0..4_u32, 0..4_u32, outer()).prop_map(
            |(connection, ike, spi_in, spi_out, outer)| Child {
                connection: name(connection).into(),
                port: connection.into(),
                ike: IkeHandle(ike),
                spi_in,
                spi_out,
                outer,
                seen: (0, 0),
            },
        )
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12_u64, child()).prop_map(|(handle, child)| Step::Insert(handle, child)),
            2 => (0..12_u64).prop_map(Step::Take),
            2 => (0..12_u64, outer()).prop_map(|(handle, outer)| Step::Repath(handle, outer)),
            1 => (0..4_u8, any::<u64>()).prop_map(|(connection, packets)| Step::See(connection, packets)),
            1 => proptest::collection::vec(any::<bool>(), 4).prop_map(Step::KeepOnly),
        ]
    }

    fn agrees_with_a_walk(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut children = Children::default();
        let mut walked: BTreeMap<ChildHandle, Child> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(handle, child) => {
                    children.insert(ChildHandle(handle), child.clone());
                    walked.insert(ChildHandle(handle), child);
                }
                Step::Take(handle) => {
                    prop_assert_eq!(children.take(ChildHandle(handle)), walked.remove(&ChildHandle(handle)));
                }
                Step::Repath(handle, outer) => {
                    let former = walked
                        .get_mut(&ChildHandle(handle))
                        .map(|child| mem::replace(&mut child.outer, outer));
                    prop_assert_eq!(children.repath(ChildHandle(handle), outer), former);
                }
                Step::See(connection, packets) => {
                    // Of every other one nothing is known.
                    let look =
                        |handle: ChildHandle| handle.0.is_multiple_of(2).then_some((packets, handle.0));
                    children.note_seen(&name(connection), |handle, _| look(handle));
                    for (handle, child) in
                        walked.iter_mut().filter(|(_, child)| *child.connection == *name(connection))
                    {
                        child.seen = look(*handle).unwrap_or(child.seen);
                    }
                }
                Step::KeepOnly(kept) => {
                    let is_kept = |connection: &str| {
                        (0..4_u8).zip(&kept).any(|(number, kept)| *kept && name(number) == connection)
                    };
                    children.keep_only(is_kept);
                    walked.retain(|_, child| is_kept(&child.connection));
                }
            }
            let which = |fits: &dyn Fn(&Child) -> bool| -> Vec<ChildHandle> {
                walked.iter().filter(|(_, child)| fits(child)).map(|(handle, _)| *handle).collect()
            };
            for handle in (0..12).map(ChildHandle) {
                prop_assert_eq!(children.get(handle), walked.get(&handle));
            }
            for connection in (0..4).map(name) {
                let of_it: Vec<_> = children.of_connection(&connection).map(|(handle, _)| handle).collect();
                prop_assert_eq!(of_it, which(&|child| *child.connection == *connection));
            }
            for ike in (0..5).map(IkeHandle) {
                prop_assert_eq!(children.of_ike(ike).collect::<Vec<_>>(), which(&|child| child.ike == ike));
            }
            for spi in 0..4 {
                prop_assert_eq!(
                    children.with_spi_in(spi),
                    which(&|child| child.spi_in == spi).first().copied()
                );
                for address in (0..4).map(address) {
                    let has = |child: &Child| {
                        (child.outer.local.ip(), child.spi_in) == (address, spi)
                            || (child.outer.remote.ip(), child.spi_out) == (address, spi)
                    };
                    prop_assert_eq!(children.have((address, spi)), !which(&has).is_empty());
                }
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_walk_over_all_finds(steps in proptest::collection::vec(step(), 0..80)) {
            agrees_with_a_walk(steps)?;
        }
    }
}
