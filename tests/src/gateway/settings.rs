//! The configuration files of the lab's gateways, as an administrator would write them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::lab::plan::{
    CENTRE_NEXT_HOPS, CENTRE_PORTS, CLINIC_NEXT_HOPS, CLINIC_PORTS, Family, Interface, LAN1_NETWORKS, Place,
    SERVER_NETWORKS,
};

/// Where the gateways serve their metrics.
pub const METRICS_PORT: u16 = 9469;
/// What says by which data path the gateways go where a test does not: `kernel`, `engine`.
pub const DATAPATH: &str = "SEKISHO_DATAPATH";

/// What [`DATAPATH`] says; else the engine, whatever this kernel could do: `auto` would have the same tests see one path here and
/// the other one elsewhere.
pub fn datapath() -> String {
    std::env::var(DATAPATH).unwrap_or_else(|_| "engine".into())
}

/// Whether that is the kernel's.
pub fn is_kernels_path() -> bool {
    datapath() == "kernel"
}

/// Identity of the clinic's gateway.
pub const CLINIC_ID: &str = "clinic.example";
/// Identity of the centre's gateway.
pub const CENTRE_ID: &str = "centre.example";

/// Printing (raw, "JetDirect").
pub const PRINT: u16 = 9100;
/// Scan to PC.
pub const SCAN: u16 = 8600;
/// Web.
pub const HTTP: u16 = 80;
/// The sink for bulk behind the centre, and on LAN3.
pub const BULK: u16 = 5001;
/// An echo behind the centre.
pub const ECHO: u16 = 7;
/// The far end of a load behind the centre: bulk over TCP, numbered datagrams over UDP.
pub const LOAD: u16 = 5002;

/// Which gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The clinic's: four LANs.
    Clinic,
    /// The centre's: one LAN.
    Centre,
}

/// How both prove who they are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The same file on both sides.
    Psk(PathBuf),
    /// Certificates.
    Certificates {
        /// Own chain, PEM.
        chain: PathBuf,
        /// Own private key, PEM.
        key: PathBuf,
        /// CA of the peer, PEM.
        peer_ca: PathBuf,
    },
    /// We by the key in this file, the peer by a certificate.
    OwnPsk {
        /// The key.
        psk: PathBuf,
        /// CA of the peer, PEM.
        peer_ca: PathBuf,
    },
    /// We by a certificate, the peer by the key in this file.
    PeerPsk {
        /// Own chain, PEM.
        chain: PathBuf,
        /// Own private key, PEM.
        key: PathBuf,
        /// The peer's key.
        psk: PathBuf,
    },
}

/// One child SA.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Networks on our side; `dynamic` for the address that the peer gives.
    pub local: Vec<String>,
    /// The peer's; `dynamic` for the address that it is given.
    pub remote: Vec<String>,
}

/// A pool of virtual addresses, given by the one connection.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Networks and ranges.
    pub addresses: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
}

/// One gateway's configuration; what is not set is left to the product's defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which gateway.
    pub side: Side,
    /// IP version of the tunnel's outside.
    pub outer: Family,
    /// How both prove who they are.
    pub credentials: Credentials,
    /// IKE proposals.
    pub ike: Vec<String>,
    /// ESP proposals.
    pub esp: Vec<String>,
    /// `always`, `on-demand`, `manual`, `answer`.
    pub start: &'static str,
    /// Own identity in place of the usual one.
    pub local_id: Option<String>,
    /// The peer's identity in place of the usual one.
    pub remote_id: Option<String>,
    /// The child SAs.
    pub children: Vec<Child>,
    /// Liveness check after this silence.
    pub dpd: &'static str,
    /// Closed after so long without a packet.
    pub idle: Option<&'static str>,
    /// The peer may come from any address: it is behind a NAT.
    pub remote_anywhere: bool,
    /// The peer's address in place of the usual one.
    pub remote_address: Option<IpAddr>,
    /// Further keys of the connection, of its `local` and of its `remote` end: `key = value` each.
    pub more_keys: [Vec<String>; 3],
    /// ESP in UDP without a NAT.
    pub force_udp: bool,
    /// Further addresses of the WAN port.
    pub more_wan: Vec<String>,
    /// A second line: port `wan2`, 198.51.100.10/30.
    pub second_uplink: bool,
    /// What the peer is given an address of.
    pub pools: Vec<Pool>,
    /// What the peer is asked for: `ipv4`, `ipv6`.
    pub request: Vec<String>,
    /// Further tables, as an administrator writes them.
    pub more: String,
    /// `auto`, `kernel`, `engine`.
    pub datapath: String,
    /// What NICs are asked to do: `crypto`, `packet`.
    pub offload: Option<&'static str>,
    /// What the daemon logs. Debug output costs time where throughput is measured.
    pub log_level: &'static str,
}

impl Settings {
    /// The clinic's gateway: opens the tunnel itself, and again whenever it is down.
    pub fn clinic(credentials: Credentials) -> Self {
        Self::new(Side::Clinic, credentials, "always")
    }

    /// The centre's gateway: answers.
    pub fn centre(credentials: Credentials) -> Self {
        Self::new(Side::Centre, credentials, "answer")
    }

    fn new(side: Side, credentials: Credentials, start: &'static str) -> Self {
        let (local, remote) = match side {
            Side::Clinic => (LAN1_NETWORKS, SERVER_NETWORKS),
            Side::Centre => (SERVER_NETWORKS, LAN1_NETWORKS),
        };
        let owned = |networks: [&str; 2]| networks.map(str::to_owned).to_vec();
        Self {
            side,
            outer: Family::V4,
            credentials,
            ike: Vec::new(),
            esp: Vec::new(),
            start,
            local_id: None,
            remote_id: None,
            children: vec![Child { name: "main".into(), local: owned(local), remote: owned(remote) }],
            dpd: "30s",
            idle: None,
            remote_anywhere: false,
            remote_address: None,
            more_keys: Default::default(),
            force_udp: false,
            more_wan: Vec::new(),
            second_uplink: false,
            pools: Vec::new(),
            request: Vec::new(),
            more: String::new(),
            datapath: datapath(),
            offload: None,
            log_level: "debug",
        }
    }

    /// The same, with these proposals.
    pub fn proposals(mut self, ike: &str, esp: &str) -> Self {
        self.ike = vec![ike.to_owned()];
        self.esp = vec![esp.to_owned()];
        self
    }

    /// Name of the one connection: the peer's.
    pub fn connection(&self) -> &'static str {
        match self.side {
            Side::Clinic => "centre",
            Side::Centre => "clinic",
        }
    }

    /// The whole file.
    pub fn toml(&self, name: &str) -> String {
        let mut out = format!(
            "[gateway]\nname = \"{name}\"\nmetrics = \"127.0.0.1:{METRICS_PORT}\"\ndatapath = \"{}\"\n",
            self.datapath
        );
        if let Some(offload) = self.offload {
            let _ = writeln!(out, "offload = \"{offload}\"");
        }
        out += &ports(self.side, &self.more_wan);
        if self.second_uplink {
            out.push_str(
                "\n[ports.wan2]\ninterface = \"wan2\"\naddresses = [\"198.51.100.10/30\"]\nuplink = true\n\
                 gateways = [\"198.51.100.9\"]\n",
            );
        }
        let connection = self.connection();
        let _ = writeln!(out, "\n[zones.{connection}]\nvpn = \"{connection}\"");
        out.push_str(match self.side {
            Side::Clinic => CLINIC_POLICIES,
            Side::Centre => CENTRE_POLICIES,
        });
        for Pool { name, addresses, dns } in &self.pools {
            let _ = writeln!(out, "\n[pools.{name}]\naddresses = {}\ndns = {}", list(addresses), list(dns));
        }
        self.write_connection(&mut out);
        out.push_str(&self.more);
        out
    }

    /// The same, and the peer is given addresses of this pool in place of having networks of its own.
    pub fn giving(mut self, pool: Pool) -> Self {
        for child in &mut self.children {
            child.remote = vec!["dynamic".into()];
        }
        self.pools.push(pool);
        self
    }

    /// The same, and the peer is asked for addresses of these families (`ipv4`, `ipv6`), which take the place of our
    /// networks.
    pub fn asking(mut self, families: &[&str]) -> Self {
        for child in &mut self.children {
            child.local = vec!["dynamic".into()];
        }
        self.request = families.iter().map(|family| (*family).to_owned()).collect();
        self
    }

    fn write_connection(&self, out: &mut String) {
        let (own, peer, own_id, peer_id) = match self.side {
            Side::Clinic => (Place::Clinic, Place::Centre, CLINIC_ID, CENTRE_ID),
            Side::Centre => (Place::Centre, Place::Clinic, CENTRE_ID, CLINIC_ID),
        };
        let own_id = self.local_id.as_deref().unwrap_or(own_id);
        let peer_id = self.remote_id.as_deref().unwrap_or(peer_id);
        let psk = |file: &Path| format!("psk = \"{}\"", file.display());
        let ca = |file: &Path| format!("ca = \"{}\"", file.display());
        let certificate = |chain: &Path, key: &Path| {
            format!("certificate = \"{}\", key = \"{}\"", chain.display(), key.display())
        };
        let (own_proof, peer_proof) = match &self.credentials {
            Credentials::Psk(file) => (psk(file), psk(file)),
            Credentials::Certificates { chain, key, peer_ca } => (certificate(chain, key), ca(peer_ca)),
            Credentials::OwnPsk { psk: file, peer_ca } => (psk(file), ca(peer_ca)),
            Credentials::PeerPsk { chain, key, psk: file } => (certificate(chain, key), psk(file)),
        };
        let [more, more_local, more_remote] = &self.more_keys;
        let inline = |keys: &[String]| keys.iter().map(|key| format!(", {key}")).collect::<String>();
        let peer_address = if self.remote_anywhere {
            String::new()
        } else {
            let address = self.remote_address.unwrap_or_else(|| peer.address(self.outer));
            format!("address = \"{address}\", ")
        };
        let _ = writeln!(
            out,
            "\n[connections.{}]\nlocal = {{ address = \"{}\", id = \"{own_id}\", {own_proof}{} }}\n\
             remote = {{ {peer_address}id = \"{peer_id}\", {peer_proof}{} }}",
            self.connection(),
            own.address(self.outer),
            inline(more_local),
            inline(more_remote),
        );
        for (key, proposals) in [("ike", &self.ike), ("esp", &self.esp)] {
            if !proposals.is_empty() {
                let _ = writeln!(out, "{key} = {}", list(proposals));
            }
        }
        let _ = writeln!(
            out,
            "start = \"{}\"\ndpd = \"{}\"\nforce_udp = {}",
            self.start, self.dpd, self.force_udp
        );
        if !self.pools.is_empty() {
            let names: Vec<String> = self.pools.iter().map(|pool| pool.name.clone()).collect();
            let _ = writeln!(out, "pools = {}", list(&names));
        }
        if !self.request.is_empty() {
            let _ = writeln!(out, "request = {}", list(&self.request));
        }
        if let Some(idle) = self.idle {
            let _ = writeln!(out, "idle = \"{idle}\"");
        }
        for key in more {
            let _ = writeln!(out, "{key}");
        }
        for Child { name, local, remote } in &self.children {
            let _ = writeln!(
                out,
                "\n[[connections.{}.child]]\nname = \"{name}\"\nlocal = {}\nremote = {}",
                self.connection(),
                list(local),
                list(remote)
            );
        }
    }
}

/// The ports of a gateway, each with its addresses of the plan; the WAN port with these as well.
pub fn ports(side: Side, more_wan: &[String]) -> String {
    let mut out = String::new();
    let (ports, next_hops): (&[Interface], _) = match side {
        Side::Clinic => (&CLINIC_PORTS, CLINIC_NEXT_HOPS),
        Side::Centre => (&CENTRE_PORTS, CENTRE_NEXT_HOPS),
    };
    for port in ports {
        let Interface { device, v4, v6 } = port;
        let more = match *device == "wan" {
            true => more_wan.iter().map(|address| format!(", \"{address}\"")).collect(),
            false => String::new(),
        };
        let _ = writeln!(
            out,
            "\n[ports.{device}]\ninterface = \"{device}\"\naddresses = [\"{v4}\", \"{v6}\"{more}]"
        );
        if *device == "wan" {
            let _ = writeln!(out, "uplink = true\ngateways = [\"{}\", \"{}\"]", next_hops[0], next_hops[1]);
        }
    }
    out
}

/// A TOML array of strings without anything to escape.
fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// R3 of the requirements: reception prints at the office's printer; the office reaches reception only for scans;
/// internet PCs reach the internet; reception reaches the eligibility service through the VPN.
const CLINIC_POLICIES: &str = r#"
[services]
print = ["tcp/9100"]
scan = ["tcp/8600"]
web = ["tcp/80", "tcp/443"]
ping = ["icmp/echo"]

[[policy]]
name = "print"
from = "lan1"
to = "lan3"
allow = ["print", "ping", "udp/9100", "tcp/5001"]

[[policy]]
name = "scan-to-pc"
from = "lan3"
to = "lan1"
allow = ["scan"]

[[policy]]
name = "internet"
from = "lan4"
to = "wan"
allow = ["web", "ping"]

[[policy]]
name = "eligibility"
from = "lan1"
to = "centre"
allow = ["web", "ping", "tcp/7", "udp/7", "tcp/5001", "tcp/5002", "udp/5002"]

[[policy]]
name = "own-ping"
from = "gateway"
to = "wan"
allow = ["ping"]
"#;

const CENTRE_POLICIES: &str = r#"
[services]
web = ["tcp/80", "tcp/443"]
ping = ["icmp/echo"]

[[policy]]
name = "eligibility"
from = "clinic"
to = "lan"
allow = ["web", "ping", "tcp/7", "udp/7", "tcp/5001", "tcp/5002", "udp/5002"]
"#;
