//! Who is where: IKE SAs by number and by peer, child SAs by number. One lookup each, however many there are.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::config::ConnectionName;
use crate::event::{ChildHandle, IkeHandle};
use crate::sa::{IkeSa, State};
use crate::wire::id::Identification;

/// Kept by the endpoint: an IKE SA is entered when it is stored, and leaves when it is taken out to be changed.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    ikes: BTreeMap<IkeHandle, u64>,
    children: BTreeMap<ChildHandle, u64>,
    /// Of a connection that has any, each with whether it is established.
    by_connection: BTreeMap<ConnectionName, BTreeMap<IkeHandle, bool>>,
    by_peer: BTreeMap<ConnectionName, HashMap<Identification, BTreeMap<IkeHandle, Place>>>,
}

/// Where an established IKE SA is, and its peer.
#[derive(Clone, Copy, Debug)]
struct Place {
    spi: u64,
    address: IpAddr,
}

impl Directory {
    pub(crate) fn enter(&mut self, sa: &IkeSa) {
        self.ikes.extend(sa.state.handle().map(|handle| (handle, sa.spi)));
        if let (Some(handle), Some(connection)) = (sa.state.handle(), sa.state.connection()) {
            let is_established = matches!(sa.state, State::Established(_));
            let of_connection = self.by_connection.entry(connection.name.clone()).or_default();
            of_connection.insert(handle, is_established);
        }
        if let State::Established(state) = &sa.state {
            self.children.extend(state.children.keys().map(|child| (*child, sa.spi)));
            let name = &state.connection.name;
            let of_connection = self.by_peer.entry(name.clone()).or_default();
            let of_peer = of_connection.entry(state.remote_id.clone()).or_default();
            let address = state.channel.path.remote.ip().to_canonical();
            of_peer.insert(state.handle, Place { spi: sa.spi, address });
        }
    }

    pub(crate) fn leave(&mut self, sa: &IkeSa) {
        if let Some(handle) = sa.state.handle() {
            self.ikes.remove(&handle);
            if let Some(name) = sa.state.connection().map(|connection| &connection.name)
                && let Some(of_connection) = self.by_connection.get_mut(name)
            {
                of_connection.remove(&handle);
                if of_connection.is_empty() {
                    self.by_connection.remove(name);
                }
            }
        }
        if let State::Established(state) = &sa.state {
            for child in state.children.keys() {
                self.children.remove(child);
            }
            let name = &state.connection.name;
            if let Some(of_connection) = self.by_peer.get_mut(name) {
                if let Some(of_peer) = of_connection.get_mut(&state.remote_id) {
                    of_peer.remove(&state.handle);
                    if of_peer.is_empty() {
                        of_connection.remove(&state.remote_id);
                    }
                }
                if of_connection.is_empty() {
                    self.by_peer.remove(name);
                }
            }
        }
    }

    /// Our SPI of an IKE SA.
    pub(crate) fn ike(&self, handle: IkeHandle) -> Option<u64> {
        self.ikes.get(&handle).copied()
    }

    /// Our SPI of the IKE SA that a child SA belongs to.
    pub(crate) fn holder(&self, child: ChildHandle) -> Option<u64> {
        self.children.get(&child).copied()
    }

    /// The established IKE SAs of one peer, oldest first, with our SPIs.
    pub(crate) fn of_peer<'a>(
        &'a self,
        connection: &ConnectionName,
        peer: &Identification,
    ) -> impl DoubleEndedIterator<Item = (IkeHandle, u64)> + use<'a> {
        self.places(connection, peer).map(|(handle, place)| (*handle, place.spi))
    }

    /// Whether a peer has an established IKE SA from another address than this one.
    pub(crate) fn has_elsewhere(
        &self,
        connection: &ConnectionName,
        peer: &Identification,
        address: IpAddr,
    ) -> bool {
        self.places(connection, peer).any(|(_, place)| place.address != address.to_canonical())
    }

    fn places<'a>(
        &'a self,
        connection: &ConnectionName,
        peer: &Identification,
    ) -> impl DoubleEndedIterator<Item = (&'a IkeHandle, &'a Place)> + use<'a> {
        let of_peer = self.by_peer.get(connection).and_then(|of_connection| of_connection.get(peer));
        of_peer.into_iter().flatten()
    }

    /// Whether a connection has an established IKE SA, with whomever.
    pub(crate) fn has(&self, connection: &ConnectionName) -> bool {
        self.established_with(connection).next().is_some()
    }

    /// The established IKE SAs of a connection, with whomever, oldest first.
    pub(crate) fn established_with<'a>(
        &'a self,
        connection: &str,
    ) -> impl Iterator<Item = IkeHandle> + use<'a> {
        let all = self.by_connection.get(connection).into_iter().flatten();
        all.filter(|(_, is_established)| **is_established).map(|(handle, _)| *handle)
    }

    /// All IKE SAs of a connection, those included that are not established yet, oldest first.
    pub(crate) fn of_connection<'a>(&'a self, connection: &str) -> impl Iterator<Item = IkeHandle> + use<'a> {
        self.by_connection.get(connection).into_iter().flatten().map(|(handle, _)| *handle)
    }
}
