//! A pair of SAs as the daemon remembers it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho_esp::sa::{Lifetimes, Outer, PortId, SaCounters, SaError, SaPair};

use super::algorithm;
use super::plan::{self, Wanted};
use super::selector::XfrmSelector;
use super::state::{Direction, Sequence, State, StateId};

/// Packets after which an SA without extended sequence numbers is worn out: nine tenths of the numbers there are, as in the
/// user-space engine. At their end the kernel stops it (RFC 4303 section 3.3.3).
const SEQUENCE_SOFT: u64 = u32::MAX as u64 / 10 * 9;

/// How long an outbound SA stands on when another one has taken its place. A packet that has found it is dropped if it is gone
/// before the packet is sealed, and the processor that has the packet may be kept from that for a while.
const REST: Duration = Duration::from_millis(100);
/// Until the first look at whether something has come by an inbound SA.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest time between two such looks: peers that have nothing to send for hours cost little.
const LOOKS_APART_MAX: Duration = Duration::from_millis(3200);

/// The pair.
pub(super) struct Pair {
    sas: SaPair,
    reqid: u32,
    outbound: Vec<XfrmSelector>,
    inbound: Vec<XfrmSelector>,
    /// The outbound SA is in the kernel, and in use.
    pub(super) active: bool,
    /// It is in the kernel until then, and no longer in use.
    rests: Option<Instant>,
    /// What the outbound SA had counted when it was taken away.
    pub(super) sent: SaCounters,
    /// Where it goes on if it is put in use again. `None`: nobody knows.
    onward: Option<Sequence>,
    /// NICs do the work of the inbound and of the outbound SA.
    pub(super) in_nic: (bool, bool),
    /// [`SaEvent::FirstInbound`](sekisho_esp::sa::SaEvent::FirstInbound) was told.
    pub(super) first_told: bool,
    /// When to look for that packet, and how long after the look before.
    first_look: (Instant, Duration),
    /// That one of its SAs is gone was told.
    pub(super) loss_told: bool,
    /// What inbound SAs have refused that moved.
    refused_before: SaCounters,
    /// The address last told in [`SaEvent::Remapped`](sekisho_esp::sa::SaEvent::Remapped).
    remapped: Option<SocketAddr>,
    /// When the inbound SA goes as well.
    leaves: Option<Instant>,
}

impl Pair {
    pub(super) fn new(
        mut sas: SaPair,
        reqid: u32,
        outbound: Vec<XfrmSelector>,
        inbound: Vec<XfrmSelector>,
    ) -> Result<Pair, SaError> {
        for keys in [&sas.keys_in, &sas.keys_out] {
            algorithm::check(sas.transform, keys)?;
        }
        sas.outer = canonical(sas.outer);
        Ok(Pair {
            sas,
            reqid,
            outbound,
            inbound,
            active: false,
            rests: None,
            in_nic: (false, false),
            sent: SaCounters::default(),
            onward: Some(Sequence::default()),
            first_told: false,
            first_look: (Instant::now() + FIRST_LOOK, FIRST_LOOK),
            loss_told: false,
            refused_before: SaCounters::default(),
            remapped: None,
            leaves: None,
        })
    }

    pub(super) fn spi_in(&self) -> u32 {
        self.sas.spi_in
    }

    pub(super) fn port(&self) -> PortId {
        self.sas.port
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.sas.name
    }

    /// Which of the pairs with one name it is: only one of them sends.
    pub(super) fn resource(&self) -> Option<u16> {
        self.sas.resource
    }

    pub(super) fn outer(&self) -> Outer {
        self.sas.outer
    }

    pub(super) fn set_outer(&mut self, outer: Outer) {
        self.sas.outer = outer;
        self.remapped = None;
    }

    /// Its inbound SA has moved; the former one had counted so much.
    pub(super) fn moved(&mut self, counters: SaCounters) {
        let before = &mut self.refused_before;
        before.replay += counters.replay;
        before.integrity += counters.integrity;
    }

    /// What it has received: as the kernel counts it, and what was refused at former places.
    pub(super) fn received(&self, counters: SaCounters) -> SaCounters {
        SaCounters {
            replay: counters.replay + self.refused_before.replay,
            integrity: counters.integrity + self.refused_before.integrity,
            ..counters
        }
    }

    /// Nothing is sent any more; the inbound SA goes at this time.
    pub(super) fn leave(&mut self, at: Instant) {
        self.leaves = Some(at);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaves.is_some()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.leaves.is_some_and(|at| at <= now)
    }

    /// Another pair is sent with from now on. Its outbound SA stays for what is under way.
    pub(super) fn rest(&mut self, now: Instant) {
        self.active = false;
        self.rests = Some(now + REST);
    }

    /// Whether its outbound SA is in the kernel, in use or not.
    pub(super) fn can_send(&self) -> bool {
        self.active || self.rests.is_some()
    }

    /// Whether its outbound SA has stood on for long enough.
    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.rests.is_some_and(|at| at <= now)
    }

    /// Its outbound SA, which is in the kernel, is in use.
    pub(super) fn send(&mut self) {
        self.active = true;
        self.rests = None;
    }

    /// Whether to look now for its first packet, which is still to be told of. The longer none comes, the rarer.
    pub(super) fn awaits_first(&mut self, now: Instant) -> bool {
        let (at, apart) = self.first_look;
        let is_due = !self.active && !self.first_told && self.leaves.is_none() && at <= now;
        if is_due {
            let apart = (apart * 2).min(LOOKS_APART_MAX);
            self.first_look = (now + apart, apart);
        }
        is_due
    }

    /// Notes where authentic ESP came from; says whether it is news.
    pub(super) fn remap(&mut self, remote: SocketAddr) -> bool {
        let is_news = remote != self.sas.outer.remote && self.remapped != Some(remote);
        if is_news {
            self.remapped = Some(remote);
        }
        is_news
    }

    /// The SA that receives.
    pub(super) fn inbound(&self) -> State<'_> {
        let Outer { local, remote, .. } = self.sas.outer;
        let id = StateId { destination: local.ip(), spi: self.sas.spi_in, source: remote.ip() };
        State {
            keys: &self.sas.keys_in,
            udp: self.udp((remote.port(), local.port())),
            ..self.state(id, Direction::In)
        }
    }

    /// The SA that sends.
    pub(super) fn outbound(&self) -> State<'_> {
        let Outer { local, remote, .. } = self.sas.outer;
        let id = StateId { destination: remote.ip(), spi: self.sas.spi_out, source: local.ip() };
        let mut lifetimes = self.sas.lifetimes;
        if !self.sas.esn {
            let soft = lifetimes.soft_packets.map_or(SEQUENCE_SOFT, |packets| packets.min(SEQUENCE_SOFT));
            lifetimes = Lifetimes { soft_packets: Some(soft), ..lifetimes };
        }
        State {
            keys: &self.sas.keys_out,
            udp: self.udp((local.port(), remote.port())),
            lifetimes,
            // Whichever processor a NIC gives a packet to may open it.
            processor: self.sas.resource.map(u32::from),
            ..self.state(id, Direction::Out)
        }
    }

    /// The same, to be put in use: behind all numbers that it has sent before. An error where those are not known.
    pub(super) fn resumed(&self) -> Result<State<'_>, SaError> {
        let sequence = self.onward.clone().ok_or(SaError::Unknown(self.sas.spi_in))?;
        Ok(State { sequence, ..self.outbound() })
    }

    /// The outbound SA was taken away; what it had counted, and its last numbers. `None`: it was gone already.
    pub(super) fn stopped(&mut self, left: Option<(SaCounters, Sequence)>) {
        (self.active, self.rests) = (false, None);
        if let Some((counters, _)) = left {
            self.sent = counters;
        }
        self.onward = left.map(|(_, sequence)| sequence.onward(self.sas.esn));
    }

    fn udp(&self, ports: (u16, u16)) -> Option<(u16, u16)> {
        self.sas.outer.udp_encapsulation.then_some(ports)
    }

    fn state(&self, id: StateId, direction: Direction) -> State<'_> {
        State {
            id,
            direction,
            reqid: self.reqid,
            if_id: plan::if_id(self.sas.port),
            transform: self.sas.transform,
            keys: &self.sas.keys_in,
            esn: self.sas.esn,
            window: self.sas.replay_window,
            udp: None,
            lifetimes: self.sas.lifetimes,
            sequence: Sequence::default(),
            directed: true,
            offload: None,
            processor: None,
        }
    }

    /// The pair as far as policies go.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            port: self.sas.port,
            reqid: self.reqid,
            outer: self.sas.outer,
            outbound: &self.outbound,
            inbound: &self.inbound,
            active: self.active,
        }
    }
}

/// With plain addresses, not IPv4 in IPv6's clothes.
pub(super) fn canonical(outer: Outer) -> Outer {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Outer { local: plain(outer.local), remote: plain(outer.remote), ..outer }
}

#[cfg(test)]
mod tests {
    use sekisho_esp::sa::{Keys, Transform};
    use zeroize::Zeroizing;

    use super::*;

    fn pair(esn: bool) -> Pair {
        let keys = || Keys { encryption: Zeroizing::new(vec![7; 20]), integrity: Zeroizing::default() };
        let outer = Outer {
            local: "192.0.2.1:500".parse().expect("address"),
            remote: "192.0.2.2:500".parse().expect("address"),
            udp_encapsulation: false,
        };
        let sas = SaPair {
            port: 1,
            name: "centre/main".into(),
            resource: None,
            spi_in: 0x101,
            spi_out: 0x102,
            transform: Transform::Aes128Gcm16,
            keys_in: keys(),
            keys_out: keys(),
            esn,
            replay_window: 64,
            outer,
            local: Vec::new(),
            remote: Vec::new(),
            lifetimes: Lifetimes::default(),
        };
        Pair::new(sas, 1, Vec::new(), Vec::new()).expect("a pair")
    }

    /// Where both ends open a connection at once, and then close the younger of both.
    #[test]
    fn one_put_in_use_again_goes_on_behind_its_numbers() {
        for (esn, sent, least, most) in [
            (true, 5, 6, u64::from(u32::MAX)),
            (true, u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::MAX),
            (false, 5, 6, u64::from(u32::MAX)),
            (false, u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::from(u32::MAX)),
        ] {
            let mut pair = pair(esn);
            assert_eq!(pair.resumed().expect("fresh").sequence, Sequence::default());
            pair.stopped(Some((SaCounters::default(), Sequence { sent, ..Sequence::default() })));
            let onward = pair.resumed().expect("known").sequence.sent;
            assert!((least..=most).contains(&onward), "{onward} after {sent}, ESN {esn}");
        }
    }

    #[test]
    fn the_outbound_sa_stands_on_for_what_is_under_way() {
        let (mut pair, now) = (pair(true), Instant::now());
        assert!(!pair.can_send());
        pair.send();
        assert!(pair.can_send() && !pair.has_rested(now + REST));
        pair.rest(now);
        assert!(!pair.active && pair.can_send());
        assert!(!pair.has_rested(now) && pair.has_rested(now + REST));
        // Put in use again before that, it stays.
        pair.send();
        assert!(pair.active && !pair.has_rested(now + REST));
        pair.rest(now);
        pair.stopped(None);
        assert!(!pair.can_send() && !pair.has_rested(now + REST));
    }

    #[test]
    fn a_first_packet_that_does_not_come_is_looked_for_ever_more_rarely() {
        let mut pair = pair(true);
        let begun = Instant::now();
        let hour = 3_600_000;
        let looks = (0..hour / 100).map(|tick| begun + Duration::from_millis(tick * 100 + 100));
        let at: Vec<Duration> =
            looks.filter(|now| pair.awaits_first(*now)).map(|now| now.duration_since(begun)).collect();
        assert!(at.len() < 1200, "{} looks in an hour", at.len());
        assert!(at.iter().take_while(|at| **at <= Duration::from_secs(2)).count() >= 4, "{:?}", &at[..5]);
        let most = at.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(most, Some(LOOKS_APART_MAX));
        pair.first_told = true;
        assert!(!pair.awaits_first(begun + Duration::from_millis(2 * hour)));
    }

    #[test]
    fn one_whose_numbers_are_not_known_sends_no_more() {
        let mut pair = pair(true);
        pair.stopped(None);
        assert!(matches!(pair.resumed(), Err(SaError::Unknown(_))));
    }
}
