//! MOBIKE (RFC 4555), both roles: the outside of the tunnel moves, and nothing inside notices.
//!
//! Whoever began the first IKE SA decides on the addresses, also after rekeys (RFC 4555 section 1.3: the "initiator"). It
//! moves when its address is gone, when the peer's is, or when the present pair of addresses no longer answers: then the
//! outstanding request is repeated over the other pairs, and the pair that brings the answer is taken. The other side
//! follows, and only tells which addresses it has.
//!
//! The side that follows sends ESP to a new address once the peer has shown that it receives there (section 3.7): before
//! that, a peer could have somebody else flooded. IKE follows at once, as each message of it is answered or given up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use subtle::ConstantTimeEq;

use crate::content::Content;
use crate::context::Context;
use crate::established::{Established, Pending, Task};
use crate::event::{Event, FailureKind, Path};
use crate::nat::{self, IKE_PORT, KEEPALIVE_INTERVAL, NAT_PORT, NatStatus};
use crate::timer::Timer;
use crate::wire::notify::Notify;
use crate::wire::{ExchangeType, NotifyType, Payload};

/// Addresses of one side that are announced, and remembered of the peer, at most: a gateway has a handful of uplinks.
pub(crate) const MAX_ADDRESSES: usize = 8;
/// Pairs of addresses that a request is repeated over: each costs a datagram at every retransmission.
const MAX_PROBES: usize = 16;
/// Retransmissions after which the other pairs of addresses are tried too: two lost datagrams are no broken line.
const PROBE_AFTER: u32 = 2;
/// RFC 4555 section 4.2.5: COOKIE2 has 8 to 64 bytes.
const COOKIE2_BYTES: usize = 16;

/// What is known of the addresses of an IKE SA on which both speak MOBIKE.
#[derive(Clone, Debug)]
pub(crate) struct Mobike {
    /// Whether we are the one who decides.
    decides: bool,
    /// The peer's addresses besides the present one.
    peer: Vec<IpAddr>,
    /// Ours besides the present one, as the peer was told.
    announced: Vec<IpAddr>,
    /// Where the peer has shown that it receives.
    checked: Path,
    /// The outstanding request went over several pairs of addresses.
    probed: bool,
    /// Pairs of addresses that the peer has refused.
    refused: Vec<Path>,
}

/// The announcement in IKE_AUTH (RFC 4555 section 3.3): that we speak MOBIKE, and our other addresses.
pub(crate) fn announcements(addresses: &[IpAddr], path: Path) -> Vec<Payload> {
    let mut payloads = vec![Payload::Notify(Notify::new(NotifyType::MobikeSupported))];
    payloads.extend(others(addresses, path).into_iter().map(additional));
    payloads
}

/// Our addresses besides the one in use (RFC 4555 section 3.4).
fn others(addresses: &[IpAddr], path: Path) -> Vec<IpAddr> {
    let used = path.local.ip();
    addresses.iter().copied().filter(|address| *address != used).take(MAX_ADDRESSES).collect()
}

fn additional(address: IpAddr) -> Payload {
    Payload::Notify(match address {
        IpAddr::V4(v4) => Notify::with_data(NotifyType::AdditionalIp4Address, v4.octets().to_vec()),
        IpAddr::V6(v6) => Notify::with_data(NotifyType::AdditionalIp6Address, v6.octets().to_vec()),
    })
}

/// The peer's other addresses, if the message speaks of them. What is no address of a host is left out.
fn announced_by_peer(content: &Content) -> Option<Vec<IpAddr>> {
    let mut spoken = content.notify(NotifyType::NoAdditionalAddresses).is_some();
    let mut found: Vec<IpAddr> = Vec::new();
    for notify in &content.notifies {
        let address = match notify.notify_type {
            NotifyType::AdditionalIp4Address => {
                <[u8; 4]>::try_from(notify.data.as_slice()).map(|octets| Ipv4Addr::from(octets).into())
            }
            NotifyType::AdditionalIp6Address => {
                <[u8; 16]>::try_from(notify.data.as_slice()).map(|octets| Ipv6Addr::from(octets).into())
            }
            _ => continue,
        };
        spoken = true;
        if let Ok(address) = address
            && is_host(address)
            && !found.contains(&address)
            && found.len() < MAX_ADDRESSES
        {
            found.push(address);
        }
    }
    spoken.then_some(found)
}

fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback()
        && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Addresses and ports as NO_NATS_ALLOWED has them (RFC 4555 section 4.2.6): as the sender sees its packet.
fn no_nats_allowed(path: Path) -> Vec<u8> {
    let octets = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut data = octets(path.local.ip());
    data.extend(octets(path.remote.ip()));
    data.extend(path.local.port().to_be_bytes());
    data.extend(path.remote.port().to_be_bytes());
    data
}

impl Established {
    /// Both have said in IKE_AUTH that they speak MOBIKE, or not.
    pub(crate) fn agree_on_mobike(&mut self, ctx: &mut Context<'_>, content: &Content, initiator: bool) {
        if !self.connection.mobike || content.notify(NotifyType::MobikeSupported).is_none() {
            return;
        }
        self.mobike = Some(Mobike {
            decides: initiator,
            peer: announced_by_peer(content).unwrap_or_default(),
            announced: others(ctx.addresses, self.channel.path),
            checked: self.channel.path,
            probed: false,
            refused: Vec::new(),
        });
    }

    /// Where ESP goes.
    pub(crate) fn esp_path(&self) -> Path {
        match &self.mobike {
            Some(mobike) if !mobike.decides => mobike.checked,
            _ => self.channel.path,
        }
    }

    fn decides(&self) -> bool {
        self.mobike.as_ref().is_some_and(|mobike| mobike.decides)
    }

    /// The peer's address as an authentic new message has it. Without MOBIKE a peer behind a NAT is followed (RFC 7296
    /// section 2.23). With it the one who decides says so itself (RFC 4555 section 3.8), and learns from answers which
    /// pair of addresses works.
    pub(crate) fn follow(&mut self, ctx: &mut Context<'_>, path: Path, response: bool) {
        let differs = self.channel.path != path;
        let Some(mobike) = &mut self.mobike else {
            if self.channel.nat.remote && differs {
                self.channel.path = path;
                self.path_changed(ctx);
            }
            return;
        };
        if !response || !mobike.decides || !std::mem::take(&mut mobike.probed) {
            return;
        }
        if differs {
            self.move_to_path(ctx, path);
        } else if matches!(self.pending, Pending::Update(_)) {
            // The peer has acted on the first copy that came, whichever way that was.
            self.enqueue(Task::Update);
        }
    }

    /// Authentic ESP came from elsewhere. Only a NAT at the peer's side may do that (RFC 7296 section 2.23).
    pub(crate) fn follow_esp(&mut self, ctx: &mut Context<'_>, remote: SocketAddr) {
        if !self.channel.nat.remote || self.channel.path.remote == remote || !is_host(remote.ip()) {
            return;
        }
        self.channel.path.remote = remote;
        if let Some(mobike) = &mut self.mobike {
            mobike.checked = self.channel.path;
        }
        self.path_changed(ctx);
    }

    /// Tells the caller where ESP goes now.
    fn path_changed(&self, ctx: &mut Context<'_>) {
        ctx.out.event(Event::PathChanged {
            ike: self.handle,
            path: self.esp_path(),
            udp_encapsulation: self.channel.nat.floats(),
        });
    }

    /// The one who decides moves: at once for our own packets, and for the peer's once it is told.
    fn move_to_path(&mut self, ctx: &mut Context<'_>, path: Path) {
        self.channel.path = path;
        self.path_changed(ctx);
        self.enqueue(Task::Update);
    }

    /// Our addresses have changed. `false`: the IKE SA cannot go on, and its peer cannot be told.
    pub(crate) fn addresses_changed(&mut self, ctx: &mut Context<'_>) -> bool {
        let local = self.channel.path.local.ip();
        if ctx.addresses.contains(&local) {
            self.announce(ctx);
            return true;
        }
        // While there is none to go to, waiting is all that can be done: the address may come back.
        if self.decides() {
            if let Some(path) = self.other_paths(ctx).first().copied() {
                self.move_to_path(ctx, path);
            }
            self.announce(ctx);
            return true;
        }
        let Some(path) = self.path_from_other_address(ctx) else { return true };
        if self.mobike.is_none() && !self.channel.nat.local {
            return false;
        }
        self.channel.path = path;
        match &mut self.mobike {
            // It is still the peer that was checked; only we are elsewhere.
            Some(mobike) => {
                mobike.checked.local = path.local;
                self.enqueue(Task::Announce);
            }
            // To the peer it is a new mapping of our NAT, which it follows (RFC 7296 section 2.23).
            None => self.enqueue(Task::Liveness),
        }
        self.path_changed(ctx);
        true
    }

    /// The present peer, from another address of ours.
    fn path_from_other_address(&self, ctx: &Context<'_>) -> Option<Path> {
        let Path { local, remote } = self.channel.path;
        let fits = |address: &&IpAddr| address.is_ipv4() == remote.is_ipv4();
        let address = ctx.addresses.iter().find(fits)?;
        Some(Path { local: SocketAddr::new(*address, local.port()), remote })
    }

    /// RFC 4555 section 3.6: the peer is told of other addresses than it knows.
    fn announce(&mut self, ctx: &Context<'_>) {
        let path = self.channel.path;
        if let Some(mobike) = &self.mobike
            && mobike.announced != others(ctx.addresses, path)
        {
            self.enqueue(Task::Announce);
        }
    }

    /// Every pair of addresses but the present one, best first: the peer's present address, then our own order.
    fn other_paths(&self, ctx: &Context<'_>) -> Vec<Path> {
        let Some(mobike) = &self.mobike else { return Vec::new() };
        let Path { local, remote } = self.channel.path;
        let known = [local.ip()];
        let ours = if ctx.addresses.is_empty() { &known[..] } else { ctx.addresses };
        let local_port = if local.port() == IKE_PORT { NAT_PORT } else { local.port() };
        let mut paths = Vec::new();
        for peer in [remote.ip()].iter().chain(&mobike.peer) {
            // Its port is the NAT's; another address of the peer has none in front, or it would not know the address.
            let port = match *peer == remote.ip() {
                true if remote.port() != IKE_PORT => remote.port(),
                _ => NAT_PORT,
            };
            for own in ours.iter().filter(|own| own.is_ipv4() == peer.is_ipv4()) {
                let path =
                    Path { local: SocketAddr::new(*own, local_port), remote: SocketAddr::new(*peer, port) };
                if path != self.channel.path && !mobike.refused.contains(&path) && !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        paths.truncate(MAX_PROBES);
        paths
    }

    /// A request was repeated in vain: over which pair of addresses would it be answered (RFC 4555 section 3.10)?
    pub(crate) fn probe(&mut self, ctx: &mut Context<'_>) {
        if !self.decides() || self.channel.retransmissions() < PROBE_AFTER {
            return;
        }
        let paths = self.other_paths(ctx);
        self.channel.repeat_over(ctx, &paths);
        if let Some(mobike) = &mut self.mobike {
            mobike.probed |= !paths.is_empty();
        }
    }

    /// The question whether the peer lives. From behind a NAT it says where we are, as the mapping may have changed (RFC
    /// 4555 section 3.8).
    pub(crate) fn ask_liveness(&mut self, ctx: &mut Context<'_>) -> Pending {
        match self.decides() && self.channel.nat.local {
            true => self.request_update(ctx),
            false => self.ask(ctx, ExchangeType::Informational, &[], Pending::Liveness),
        }
    }

    /// UPDATE_SA_ADDRESSES (RFC 4555 section 3.5).
    pub(crate) fn request_update(&mut self, ctx: &mut Context<'_>) -> Pending {
        if !self.decides() {
            return Pending::Nothing;
        }
        let path = self.channel.path;
        let mut payloads = vec![Payload::Notify(Notify::new(NotifyType::UpdateSaAddresses))];
        payloads.extend(self.nat_detection(ctx));
        self.ask(ctx, ExchangeType::Informational, &payloads, Pending::Update(path))
    }

    fn nat_detection(&self, ctx: &mut Context<'_>) -> [Payload; 2] {
        let forced = self.connection.force_encapsulation;
        nat::announcements(ctx, self.channel.spi_i, self.channel.spi_r, self.channel.path, forced)
    }

    /// Our addresses besides the present one.
    pub(crate) fn request_announcement(&mut self, ctx: &mut Context<'_>) -> Pending {
        let path = self.channel.path;
        let Some(mobike) = &mut self.mobike else { return Pending::Nothing };
        mobike.announced = others(ctx.addresses, path);
        let payloads: Vec<_> = match mobike.announced.is_empty() {
            true => vec![Payload::Notify(Notify::new(NotifyType::NoAdditionalAddresses))],
            false => mobike.announced.iter().copied().map(additional).collect(),
        };
        self.ask(ctx, ExchangeType::Informational, &payloads, Pending::Liveness)
    }

    /// Return routability (RFC 4555 section 3.7): only who receives at the new address can give the cookie back.
    pub(crate) fn request_check(&mut self, ctx: &mut Context<'_>) -> Pending {
        if self.mobike.as_ref().is_none_or(|mobike| mobike.checked == self.channel.path) {
            return Pending::Nothing;
        }
        let cookie = ctx.random.next_bytes(COOKIE2_BYTES);
        let payload = Payload::Notify(Notify::with_data(NotifyType::Cookie2, cookie.clone()));
        let pending = Pending::Check { path: self.channel.path, cookie };
        self.ask(ctx, ExchangeType::Informational, &[payload], pending)
    }

    /// The peer has answered our UPDATE_SA_ADDRESSES, which was sent for `path`.
    pub(crate) fn conclude_update(&mut self, ctx: &mut Context<'_>, path: Path, content: &Content) {
        // We have moved on meanwhile: what this answer says is about yesterday's addresses.
        if path != self.channel.path {
            self.enqueue(Task::Update);
            return;
        }
        if let Some(error) = content.error() {
            return self.update_refused(ctx, error);
        }
        if let Some(mobike) = &mut self.mobike {
            mobike.refused.clear();
            mobike.checked = path;
        }
        self.take_nat(ctx, path, content);
    }

    fn update_refused(&mut self, ctx: &mut Context<'_>, error: &Notify) {
        let path = self.channel.path;
        let remedy = match error.notify_type {
            NotifyType::UnacceptableAddresses => "its policy does not allow them",
            NotifyType::UnexpectedNatDetected => "it allows no NAT on the way",
            _ => "see the peer's log",
        };
        let detail = format!(
            "the peer refused to move to {} and {} with {error}: {remedy}",
            path.local.ip(),
            path.remote.ip()
        );
        self.report(ctx, FailureKind::RefusedByPeer, detail);
        if let Some(mobike) = &mut self.mobike
            && mobike.refused.len() < MAX_PROBES
        {
            mobike.refused.push(path);
            if let Some(other) = self.other_paths(ctx).first().copied() {
                self.move_to_path(ctx, other);
            }
        }
    }

    /// The peer has answered our question at `path`.
    pub(crate) fn conclude_check(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        cookie: &[u8],
        content: &Content,
    ) {
        // It has moved on meanwhile: another question is on its way there.
        if path != self.channel.path {
            self.enqueue(Task::Check);
            return;
        }
        let echoed =
            content.notify(NotifyType::Cookie2).is_some_and(|notify| notify.data.ct_eq(cookie).into());
        if !echoed {
            let detail = format!(
                "{} did not give our cookie back: ESP stays with the peer's former address; its implementation is at \
                 fault, or somebody answers in its place",
                path.remote
            );
            self.report(ctx, FailureKind::Malformed, detail);
            return;
        }
        if let Some(mobike) = &mut self.mobike {
            mobike.checked = path;
        }
        self.path_changed(ctx);
    }

    /// What the peer's INFORMATIONAL request says of addresses; the payloads that answer it.
    pub(crate) fn answer_mobility(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        content: &Content,
    ) -> Vec<Payload> {
        let Some(mobike) = &mut self.mobike else { return Vec::new() };
        let decides = mobike.decides;
        if let Some(addresses) = announced_by_peer(content) {
            let present = self.channel.path.remote.ip();
            let stays = present == path.remote.ip() || addresses.contains(&present);
            mobike.peer = addresses;
            // RFC 4555 section 3.6: the address in use is gone, and where the message came from is not.
            if decides && !stays {
                mobike.refused.clear();
                self.move_to_path(ctx, path);
            }
        }
        let mut answer = Vec::new();
        if content.notify(NotifyType::UpdateSaAddresses).is_some() && !decides {
            if let Some(refusal) = self.refuses_addresses(path, content) {
                return vec![Payload::Notify(Notify::new(refusal))];
            }
            self.channel.path = path;
            let spoken = self.take_nat(ctx, path, content);
            if self.mobike.as_ref().is_some_and(|mobike| mobike.checked != path) {
                self.tasks.push_front(Task::Check);
            }
            self.announce(ctx);
            if spoken {
                answer.extend(self.nat_detection(ctx));
            }
        } else if content.notify(NotifyType::NatDetectionSourceIp).is_some() {
            answer.extend(self.nat_detection(ctx));
        }
        answer.extend(content.notify(NotifyType::Cookie2).cloned().map(Payload::Notify));
        answer
    }

    /// Why the peer cannot be where it says that it is now.
    fn refuses_addresses(&self, path: Path, content: &Content) -> Option<NotifyType> {
        if let Some(seen) = content.notify(NotifyType::NoNatsAllowed) {
            let as_sent = Path { local: path.remote, remote: path.local };
            if seen.data != no_nats_allowed(as_sent) {
                return Some(NotifyType::UnexpectedNatDetected);
            }
        }
        let remote = path.remote.ip().to_canonical();
        // The tunnel's own packets would go into the tunnel.
        let inside = self.children.values().flat_map(|child| &child.terms.remote).any(|selector| {
            selector.start().is_ipv4() == remote.is_ipv4()
                && (selector.start()..=selector.end()).contains(&remote)
        });
        (inside || !is_host(remote)).then_some(NotifyType::UnacceptableAddresses)
    }

    /// Looks anew where NATs are, if the message says how the peer sees the path; whether it does.
    fn take_nat(&mut self, ctx: &mut Context<'_>, path: Path, content: &Content) -> bool {
        let sources = content.notify_data(NotifyType::NatDetectionSourceIp);
        let destination = content.notify_data(NotifyType::NatDetectionDestinationIp).first().copied();
        if sources.is_empty() || destination.is_none() {
            return false;
        }
        let mut found = nat::detect(self.channel.spi_i, self.channel.spi_r, path, &sources, destination);
        found.local |= self.connection.force_encapsulation;
        let NatStatus { local, .. } = found;
        let before = std::mem::replace(&mut self.channel.nat, found);
        if local != before.local {
            match local {
                true => ctx.timers.set(Timer::Keepalive, ctx.later(KEEPALIVE_INTERVAL)),
                false => ctx.timers.stop(Timer::Keepalive),
            }
        }
        if before.floats() != found.floats() {
            self.path_changed(ctx);
        }
        true
    }

    /// What was asked about addresses must be asked again on the next IKE SA.
    pub(crate) fn keep_mobility_tasks(&mut self) {
        match self.pending {
            Pending::Update(_) => self.enqueue(Task::Update),
            Pending::Check { .. } => self.enqueue(Task::Check),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_announcements_are_bounded_and_sifted() {
        let notify =
            |notify_type, data: &[u8]| Payload::Notify(Notify::with_data(notify_type, data.to_vec()));
        let mut payloads = vec![
            notify(NotifyType::AdditionalIp4Address, &[127, 0, 0, 1]),
            notify(NotifyType::AdditionalIp4Address, &[224, 0, 0, 1]),
            notify(NotifyType::AdditionalIp4Address, &[0, 0, 0, 0]),
            notify(NotifyType::AdditionalIp4Address, &[192, 0, 2]),
            notify(NotifyType::AdditionalIp6Address, &[192, 0, 2, 1]),
        ];
        let sift = |payloads: &[Payload]| {
            announced_by_peer(&Content::sort(payloads.to_vec()).expect("notifies")).expect("spoken of")
        };
        assert_eq!(sift(&payloads), [] as [IpAddr; 0]);
        for host in 0..40 {
            payloads.push(notify(NotifyType::AdditionalIp4Address, &[192, 0, 2, host % 20 + 1]));
        }
        assert_eq!(sift(&payloads).len(), MAX_ADDRESSES);
        assert_eq!(announced_by_peer(&Content::default()), None);
        assert_eq!(sift(&[notify(NotifyType::NoAdditionalAddresses, &[])]), [] as [IpAddr; 0]);
    }

    #[test]
    fn no_nats_allowed_is_what_the_sender_sees() {
        let path = |local: &str, remote: &str| Path {
            local: local.parse().expect("address"),
            remote: remote.parse().expect("address"),
        };
        assert_eq!(
            no_nats_allowed(path("192.0.2.1:4500", "203.0.113.2:500")),
            [192, 0, 2, 1, 203, 0, 113, 2, 0x11, 0x94, 0x01, 0xf4]
        );
        assert_eq!(no_nats_allowed(path("[2001:db8::1]:4500", "[2001:db8::2]:4500")).len(), 36);
    }
}
