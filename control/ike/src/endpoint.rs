//! The whole engine: every IKE SA of this gateway, found by SPI.
//!
//! One mutation (`handle_*` or a command), then drain [`Endpoint::poll_event`], then [`Endpoint::poll_transmit`]
//! (events first: a responder's [`Event::ChildInstall`] must be done before its reply leaves), then sleep until
//! [`Endpoint::poll_timeout`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use crate::config::{ConnectionName, EndpointConfig};
use crate::crypto::random::Random;
use crate::event::{ChildHandle, Event, IkeHandle, Path, Transmit};
use crate::status::{IkeStatus, Stats};

/// All IKE SAs of one gateway.
pub struct Endpoint {
    config: EndpointConfig,
    random: Box<dyn Random>,
    events: VecDeque<Event>,
    transmits: VecDeque<Transmit>,
}

/// Why a command was refused. The caller is at fault; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No connection of this name is configured.
    #[error("no connection is named {0:?}: use a name of the present configuration")]
    UnknownConnection(String),
    /// The IKE SA is gone, or not established yet.
    #[error("IKE SA {} is not established: it may have been closed meanwhile", .0.0)]
    UnknownIke(IkeHandle),
    /// The child SA is gone.
    #[error("child SA {} does not exist: it may have been rekeyed or closed meanwhile", .0.0)]
    UnknownChild(ChildHandle),
    /// The connection's proposals are empty or need a group we can't make a key for.
    #[error("connection {connection:?} can't be initiated: {detail}")]
    Unusable {
        /// Which.
        connection: ConnectionName,
        /// Why.
        detail: String,
    },
    /// Too many half-open IKE SAs (see [`Limits::half_open`](crate::config::Limits::half_open)).
    #[error("{0} IKE SAs are half-open already, the limit: wait, or raise the limit")]
    HalfOpenLimit(usize),
}

impl Endpoint {
    /// An engine without SAs. `now` and `wall` are the same moment on both clocks; certificates are judged by `wall`
    /// plus what has passed since `now`.
    pub fn new(config: EndpointConfig, random: Box<dyn Random>, now: Instant, wall: SystemTime) -> Self {
        let _ = (now, wall);
        Self { config, random, events: VecDeque::new(), transmits: VecDeque::new() }
    }

    /// Takes in one datagram (without non-ESP marker).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, bytes: &[u8]) {
        let _ = (now, path, bytes);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Endpoint::handle_timeout`]; `None` while nothing is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Begins an IKE SA for a connection; its first child comes with IKE_AUTH, the others by CREATE_CHILD_SA. `local`
    /// and `remote` are those of the first message (port 500, or 4500 to begin in UDP encapsulation).
    pub fn initiate(
        &mut self,
        now: Instant,
        connection: &str,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<IkeHandle, CommandError> {
        let _ = (now, local, remote, &mut self.random, &self.config);
        Err(CommandError::UnknownConnection(connection.to_owned()))
    }

    /// Closes an IKE SA and its children: DELETE goes to the peer, events follow at once.
    pub fn close(&mut self, now: Instant, ike: IkeHandle) -> Result<(), CommandError> {
        let _ = now;
        Err(CommandError::UnknownIke(ike))
    }

    /// Closes every IKE SA.
    pub fn close_all(&mut self, now: Instant) {
        let _ = now;
    }

    /// Rekeys an IKE SA now.
    pub fn rekey_ike(&mut self, now: Instant, ike: IkeHandle) -> Result<(), CommandError> {
        let _ = now;
        Err(CommandError::UnknownIke(ike))
    }

    /// Rekeys a child SA now (its lifetime in packets or bytes ran low).
    pub fn rekey_child(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let _ = now;
        Err(CommandError::UnknownChild(child))
    }

    /// The data path refused the pair: it is deleted at the peer too.
    pub fn child_failed(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let _ = now;
        Err(CommandError::UnknownChild(child))
    }

    /// The data path received the first authentic packet on a pair that does not send yet.
    pub fn child_first_inbound(&mut self, now: Instant, child: ChildHandle) -> Result<(), CommandError> {
        let _ = now;
        Err(CommandError::UnknownChild(child))
    }

    /// Works from another configuration from now on. IKE SAs whose connection vanished or changed are closed.
    pub fn set_config(&mut self, now: Instant, config: EndpointConfig) {
        let _ = now;
        self.config = config;
    }

    /// Totals.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Every IKE SA, in the order of their handles.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeStatus> + '_ {
        std::iter::empty()
    }
}
