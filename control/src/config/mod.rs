//! The configuration: one TOML file per gateway, read whole, checked whole, resolved into ids and addresses.
//!
//! [`load`] is the only way to a [`Config`]: a value of that type has passed every check, so that the rest of the
//! daemon never meets a zone that does not exist or a selector that clashes. It reports every mistake of the file,
//! each with its place and its remedy ([`Diagnostic`]). Nothing here opens traffic by default: without a policy a
//! gateway forwards nothing.
//!
//! The way of a file: `table` (TOML into keys with places) → `gateway`, `ports`, `policies`, `connections` (values and
//! checks of one section) → `zones`, `selectors`, `credentials` (what only several of them together show) → [`Config`].

#![forbid(unsafe_code)]

mod authorities;
mod behind;
mod connections;
mod credentials;
mod diagnostic;
mod evidence;
mod gateway;
mod ike;
mod limit;
mod limits;
mod load;
mod name;
mod nat;
mod neighbours;
mod networks;
mod numbers;
mod policies;
mod pools;
mod ports;
mod schedules;
mod selectors;
mod services;
mod sets;
mod table;
#[cfg(test)]
mod tests;
mod timeouts;
mod zones;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sekisho_ike::crypto::signature::RsaPadding;
use sekisho_ike::crypto::x509::{PurposePolicy, RevocationPolicy};

pub use credentials::CredentialError;
pub use diagnostic::{Diagnostic, Related, Severity};
pub(crate) use ike::load_crls;
pub use ike::{IkeConfigCause, IkeConfigError};
pub use limit::Limit;
pub use load::{check, load, load_with};
pub use nat::{DestinationNat, Nat, NatMap, SourceAddress, SourceNat};
pub use neighbours::{Binding, Neighbours};
pub use networks::trie_prefix;
pub use numbers::Numbers;
pub use pools::Pool;
pub use schedules::Schedule;
pub use sekisho_abi::port::ZONE_GATEWAY;

/// Most child SAs for single resources of one child that can be configured: each costs both gateways an exchange and a window,
/// and more workers than sixteen there are not. The rest is for peers that have more processors than we have.
pub const PER_RESOURCE_MAX: u16 = 64;

/// Number of a port, 1 … `PORTS_MAX` − 1: the id the programs know it by. At a first start physical ports come first,
/// in the order of the file, then one port per VPN zone; later each keeps the number it has ([`Numbers`]).
pub type PortId = u16;

/// Number of a zone; [`ZONE_GATEWAY`] (0) is the gateway itself.
pub type ZoneId = u16;

/// A configuration that has passed every check.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from; relative paths in it are relative to its folder.
    pub path: PathBuf,
    /// `[gateway]`.
    pub gateway: Gateway,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[evidence]`.
    pub evidence: crate::evidence::Settings,
    /// `[limits]`.
    pub limits: Limits,
    /// The numbers of ports and zones.
    pub numbers: Numbers,
    /// `[ports.*]`, in the order of the file.
    pub ports: Vec<Port>,
    /// One for each VPN zone, in the order of the file.
    pub vpn_ports: Vec<VpnPort>,
    /// Which of them a connection is behind, by its name.
    pub(crate) vpn_port_of: HashMap<Arc<str>, usize>,
    /// Every zone but the gateway itself: those of ports, then those of VPNs.
    pub zones: Vec<Zone>,
    /// `[[policy]]`, first match wins; what none matches is denied.
    pub policies: Vec<Policy>,
    /// Lines of the file, from 1, in which the policies begin.
    pub policy_lines: Vec<usize>,
    /// `[sets]` in the order of the file, then the addresses that policies name themselves.
    pub sets: Vec<AddressSet>,
    /// `[schedules.*]`, in the order of the file.
    pub schedules: Vec<Schedule>,
    /// `[nat]`.
    pub nat: Nat,
    /// `[pools.*]`, in the order of the file.
    pub pools: Vec<Pool>,
    /// `[connections.*]`, in the order of the file.
    pub connections: Vec<Connection>,
}

/// The gateway itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Names the state of this gateway on the host: `/run/sekisho/NAME`, `/sys/fs/bpf/sekisho/NAME`.
    pub name: Arc<str>,
    /// Where Prometheus finds the metrics; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Which ESP to use.
    pub datapath: Datapath,
    /// What NICs shall do of the kernel's ESP.
    pub offload: Offload,
    /// Capacity of the flow table.
    pub flows_max: u32,
    /// Most workers of the user-space ESP engine; `None`: as many as there are processors.
    pub engine_workers: Option<u32>,
    /// How long a packet may wait at a NIC for others to be taken with it while that engine is used; zero: NICs stay as they
    /// are; `None`: as long as [`Gateway::engine_batch`] says.
    pub engine_batch: Option<Duration>,
}

/// `[timeouts]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Lifetimes of flows in seconds, in the order of [`sekisho_abi::flow::Lifetime`].
    pub seconds: [u32; sekisho_abi::flow::LIFETIMES],
    /// A TCP packet in the middle of a connection may open a flow, where a rule allows it.
    pub tcp_pick_up: bool,
}

/// `[limits]`: what one of many may have, so that the others have something, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of one source, where sources are held to their port: not at uplinks.
    pub flows_per_source: u32,
    /// Flows opened from one zone, where `zones` does not say.
    pub flows_per_zone: u32,
    /// The same for zones by number.
    pub zones: BTreeMap<ZoneId, u32>,
    /// Half-open TCP flows of one source, as above.
    pub half_open_per_source: u32,
    /// Half-open TCP flows to one destination.
    pub half_open_per_destination: u32,
    /// What becomes of sources that try doors.
    pub scan: ScanAction,
    /// Different refused doors (destination, protocol, port) that make a scan.
    pub scan_doors: u32,
    /// Time within which they are counted.
    pub scan_window: Duration,
    /// Time for which a source counts as scanning.
    pub scan_hold: Duration,
}

impl Limits {
    /// How many flows may be opened from a zone.
    pub fn of_zone(&self, zone: ZoneId) -> u32 {
        self.zones.get(&zone).copied().unwrap_or(self.flows_per_zone)
    }
}

/// What becomes of sources that try doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanAction {
    /// Nobody looks.
    Off,
    /// An event.
    Alarm,
    /// An event, and few new flows for a time.
    Limit,
    /// An event, and no new flows for a time.
    Block,
}

/// Whether TCP clients must show that they receive at their address before a SYN of theirs opens a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SynChallenge {
    /// They need not.
    #[default]
    Never,
    /// They must while many half-open flows lead to the destination.
    Pressure,
    /// They must.
    Always,
}

/// Which data path carries ESP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// The kernel where it can do ESP, else the engine.
    #[default]
    Auto,
    /// The kernel's XFRM; refused where the kernel cannot.
    Kernel,
    /// The user-space engine.
    Engine,
}

/// How much of the kernel's ESP the NIC of the uplink shall do, where it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// Encryption and integrity; the kernel makes the packets.
    Crypto,
}

impl Offload {
    /// As the configuration has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crypto => "crypto",
        }
    }
}

/// A physical port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Its name in the file, in status and in metrics.
    pub name: Arc<str>,
    /// The kernel's name of the NIC.
    pub interface: Arc<str>,
    /// VLAN id of its frames there (IEEE 802.1Q), 1 … 4094; `None`: they are untagged.
    pub vlan: Option<u16>,
    /// Its zone.
    pub zone: ZoneId,
    /// The gateway's addresses on it, with the length of the subnet's prefix.
    pub addresses: Vec<IpNet>,
    /// Networks behind hosts on this port.
    pub networks: Vec<Route>,
    /// The way to every network that no other port owns.
    pub uplink: bool,
    /// Next hops of the default routes; uplinks only, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Whether addresses on the link are bound to MAC addresses.
    pub neighbours: Neighbours,
    /// Which are, whatever is learned.
    pub bindings: Vec<Binding>,
}

impl Port {
    /// The interface that has the port's addresses, routes and neighbours: its NIC, or the device that stands for one VLAN
    /// of it.
    pub fn device(&self) -> Arc<str> {
        match self.vlan {
            None => self.interface.clone(),
            Some(vlan) => ports::device_name(&self.interface, vlan).into(),
        }
    }
}

/// A network behind a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network (host bits zero).
    pub prefix: IpNet,
    /// The next hop, inside one of the port's subnets.
    pub via: IpAddr,
}

/// The port that stands for the far side of a VPN zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpnPort {
    /// Its number.
    pub id: PortId,
    /// Its name: the zone's.
    pub name: Arc<str>,
    /// Its zone.
    pub zone: ZoneId,
    /// Indices into [`Config::connections`] of the connections behind it.
    pub connections: Vec<usize>,
}

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its number, from 1.
    pub id: ZoneId,
    /// Its name.
    pub name: Arc<str>,
    /// Its ports: physical ones, or the one VPN port.
    pub ports: Vec<PortId>,
    /// Whether it is the far side of a VPN.
    pub vpn: bool,
    /// Whether nothing may pass between it and an uplink.
    pub isolated: bool,
}

/// One `[[policy]]`: traffic between any of `from` and any of `to` that any of `matches` fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    /// Its number in the programs, which goes with its name; 0 is no policy.
    pub id: u16,
    /// Zones the first packet comes from; replies belong to the flow and need no policy.
    pub from: Vec<ZoneId>,
    /// Zones it goes to.
    pub to: Vec<ZoneId>,
    /// Indices into [`Config::sets`]: the first packet's source is in one of them. Empty: any source.
    pub sources: Vec<usize>,
    /// The same for its destination.
    pub destinations: Vec<usize>,
    /// Source ports of TCP and UDP; empty: any.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// What of the traffic it speaks of; services are resolved.
    pub matches: Vec<Match>,
    /// What becomes of it.
    pub action: Action,
    /// Whether each new flow is reported.
    pub log: bool,
    /// How many new flows may be opened by it.
    pub limit: Option<Limit>,
    /// Whether its TCP clients are challenged.
    pub syn_challenge: SynChallenge,
    /// Index into [`Config::schedules`]: when it is in force; `None`: always.
    pub schedule: Option<usize>,
}

/// Addresses that policies name together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name; `None`: written in a policy.
    pub name: Option<Arc<str>>,
    /// What is in it (host bits zero).
    pub prefixes: Vec<IpNet>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make a flow.
    Allow,
    /// Refuse and count.
    #[default]
    Deny,
}

/// Part of the traffic between two zones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// All of it.
    Any,
    /// One IP protocol.
    Protocol {
        /// IP protocol number (IANA "Assigned Internet Protocol Numbers").
        protocol: u8,
        /// As numbers: destination ports of TCP and UDP; `type << 8 | code` of ICMP and ICMPv6; 0..=65535 of any other
        /// protocol.
        ports: RangeInclusive<u16>,
    },
}

impl Match {
    /// The protocol it names; `None`: all of them.
    pub fn protocol(&self) -> Option<u8> {
        match self {
            Match::Any => None,
            Match::Protocol { protocol, .. } => Some(*protocol),
        }
    }

    /// What it takes in of a protocol, as [`Match::Protocol`] counts ports.
    pub fn ports_of(&self, wanted: u8) -> Option<RangeInclusive<u16>> {
        match self {
            Match::Any => Some(0..=u16::MAX),
            Match::Protocol { protocol, ports } => (*protocol == wanted).then(|| ports.clone()),
        }
    }
}

/// An IKE connection to one peer.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: Arc<str>,
    /// Our end.
    pub local: LocalEnd,
    /// The peer's end.
    pub remote: RemoteEnd,
    /// IKE proposals, best first.
    pub ike: Vec<sekisho_ike::crypto::suite::IkeProposal>,
    /// ESP proposals of every child, best first.
    pub esp: Vec<sekisho_ike::crypto::suite::EspProposal>,
    /// When it comes up.
    pub start: Start,
    /// The IKE SA is rekeyed after this time.
    pub ike_rekey: Duration,
    /// A child SA is rekeyed after this time.
    pub rekey: Duration,
    /// SAs of single workers, or processors, beside the first of each child (RFC 9611).
    pub per_resource: sekisho_ike::config::PerResource,
    /// How long it lives.
    pub life: Life,
    /// ESP always in UDP 4500, also where no NAT was found.
    pub force_udp: bool,
    /// Changes of addresses are followed (RFC 4555), if the peer can.
    pub mobike: bool,
    /// Names of the pools that its peers are given addresses of.
    pub pools: Vec<Arc<str>>,
    /// Addresses that the peer is asked for.
    pub request: sekisho_ike::config::Wanted,
    /// What it carries.
    pub children: Vec<Child>,
}

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Both prove anew who they are after this time; zero: never.
    pub reauth: Duration,
    /// It is closed, and its keys are wiped, after so long without a packet; zero: never.
    pub idle: Duration,
    /// Silence after which the peer is asked whether it lives (RFC 7296 section 2.4); zero: never. Received ESP counts as
    /// a sign of life.
    pub dpd: Duration,
    /// What becomes of it when the peer does not.
    pub dpd_action: DpdAction,
    /// What becomes of a second IKE SA with the same peer.
    pub unique: sekisho_ike::config::Uniqueness,
    /// Packets and bytes after which a child SA gets new keys, and after which it carries nothing more.
    pub limits: sekisho_esp::sa::Lifetimes,
}

/// What becomes of a connection whose peer is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DpdAction {
    /// It is opened again.
    Restart,
    /// The next packet for it opens it again.
    Trap,
    /// It stays closed.
    Clear,
}

/// Our end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEnd {
    /// An address of an uplink port.
    pub address: IpAddr,
    /// The identity as it stands in the file.
    pub id: Arc<str>,
    /// How we prove it.
    pub credential: LocalCredential,
}

/// The peer's end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEnd {
    /// Where the peer is; `None`: anywhere, and the connection only answers.
    pub address: Option<IpAddr>,
    /// The identity it must prove, as it stands in the file.
    pub id: Arc<str>,
    /// How it must.
    pub credential: RemoteCredential,
}

/// Files with which we prove our identity; absolute, or relative to the working directory as the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalCredential {
    /// A file with the pre-shared key.
    Psk(PathBuf),
    /// Certificate chain and key, both PEM.
    Certificate {
        /// End-entity certificate first, then intermediates.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// How an RSA key signs.
        rsa: RsaPadding,
    },
}

/// Files by which the peer's proof is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteCredential {
    /// A file with the pre-shared key.
    Psk(PathBuf),
    /// A certificate below a CA.
    Ca(RemoteCa),
}

/// What a peer's certificate is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCa {
    /// CA certificates, PEM.
    pub ca: PathBuf,
    /// Intermediate certificates that the peer need not send, PEM.
    pub intermediates: Vec<PathBuf>,
    /// CRLs, DER or PEM.
    pub crls: Vec<PathBuf>,
    /// What it takes to count as not revoked.
    pub revocation: RevocationPolicy,
    /// Which extended key usage it must have.
    pub purpose: PurposePolicy,
}

/// When a connection comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the daemon, and again whenever it is down.
    Always,
    /// With the first packet for it.
    OnDemand,
    /// When an operator says so.
    Manual,
    /// When the peer opens it.
    Answer,
}

/// One pair of child SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name within the connection.
    pub name: Arc<str>,
    /// Networks on our side (host bits zero).
    pub local: Vec<IpNet>,
    /// Networks on the peer's side.
    pub remote: Vec<IpNet>,
    /// On our side also the addresses that the peer gives us.
    pub local_dynamic: bool,
    /// On the peer's side also the addresses that we give it.
    pub remote_dynamic: bool,
}

/// What [`load`] found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What an administrator should look at, though it works.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// The port that stands for a connection's far side.
    pub fn vpn_port(&self, connection: &str) -> Option<&VpnPort> {
        self.vpn_ports.get(*self.vpn_port_of.get(connection)?)
    }

    /// The zone's name; `gateway` for [`ZONE_GATEWAY`].
    pub fn zone_name(&self, id: ZoneId) -> Option<&str> {
        if id == ZONE_GATEWAY {
            return Some("gateway");
        }
        self.zones.iter().find(|zone| zone.id == id).map(|zone| &*zone.name)
    }
}
