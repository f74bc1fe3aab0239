//! One cell of the matrix: a peer, an algorithm, an outside.

use anyhow::{Result, ensure};
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::{Settings, is_kernels_path};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::{Site, TUNNEL_PATIENCE, foreign, shared_key};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::strongswan::{Demand, Proof};
use sekisho_tests::traffic::frame::Kind;

/// Who stands at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Our own gateway, on the same data path.
    Sekisho,
    /// strongSwan, whose ESP is the kernel's where ours is, and its own otherwise.
    StrongSwan,
}

impl Peer {
    pub(crate) const BOTH: [Peer; 2] = [Peer::Sekisho, Peer::StrongSwan];

    fn name(self) -> &'static str {
        match self {
            Peer::Sekisho => "ours",
            Peer::StrongSwan => "strongswan",
        }
    }
}

/// An ESP algorithm, as the page and the configuration name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithm {
    pub(crate) title: &'static str,
    esp: &'static str,
    /// Whether strongSwan's ESP in user space can do it.
    in_libipsec: bool,
}

/// Each transform, with and without extended sequence numbers where that changes what is authenticated.
pub(crate) const ALGORITHMS: [Algorithm; 8] = [
    algorithm("AES-GCM-16-128", "aes128gcm16-noesn", true),
    algorithm("AES-GCM-16-128, ESN", "aes128gcm16-esn", false),
    algorithm("AES-GCM-16-256", "aes256gcm16-noesn", true),
    algorithm("ChaCha20-Poly1305, ESN", "chacha20poly1305-esn", false),
    algorithm("ChaCha20-Poly1305", "chacha20poly1305-noesn", true),
    algorithm("AES-CBC-128, HMAC-SHA2-256-128", "aes128-sha256-noesn", true),
    algorithm("AES-CBC-128, HMAC-SHA2-256-128, ESN", "aes128-sha256-esn", false),
    algorithm("AES-CBC-256, HMAC-SHA2-512-256", "aes256-sha512-noesn", true),
];

const fn algorithm(title: &'static str, esp: &'static str, in_libipsec: bool) -> Algorithm {
    Algorithm { title, esp, in_libipsec }
}

/// What ESP goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) family: Family,
    /// In UDP.
    pub(crate) udp: bool,
}

impl Outside {
    pub(crate) const ALL: [Outside; 4] = [
        Outside { family: Family::V4, udp: false },
        Outside { family: Family::V4, udp: true },
        Outside { family: Family::V6, udp: false },
        Outside { family: Family::V6, udp: true },
    ];
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) peer: Peer,
    pub(crate) algorithm: Algorithm,
    pub(crate) outside: Outside,
}

impl Cell {
    /// Those that a peer can do here.
    pub(crate) fn all(peer: Peer) -> impl Iterator<Item = Cell> {
        let cells = Outside::ALL.into_iter().flat_map(move |outside| {
            ALGORITHMS.into_iter().map(move |algorithm| Cell { peer, algorithm, outside })
        });
        cells.filter(|cell| cell.reason().is_none())
    }

    /// Why there is nothing to run.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        if self.peer == Peer::Sekisho || is_kernels_path() {
            return None;
        }
        match (self.outside, self.algorithm.in_libipsec) {
            (Outside { udp: false, .. }, _) => Some("its user-space ESP goes in UDP only"),
            (_, false) => Some("its user-space ESP has no ESN"),
            _ => None,
        }
    }

    /// As a test's name.
    pub(crate) fn name(&self) -> String {
        let Outside { family, udp } = self.outside;
        let udp = if udp { "_udp" } else { "" };
        let family = family.to_string().to_lowercase();
        format!("{}::{family}{udp}::{}", self.peer.name(), self.algorithm.esp.replace('-', "_"))
    }

    /// Up by this algorithm, pages over both IP versions that nobody outside can read, new keys, pages again, and down.
    pub(crate) fn show(&self, site: &mut Site) -> Result<String> {
        self.configure(site)?;
        site.clinic.sekisho(&["up", "centre"])?;
        let time = site.await_tunnel()?;
        self.has_what_was_asked_for(site)?;
        let carried = self.carrier_during(site, tunnel::pages)?;
        let before = site.child_spis()?;
        site.clinic.sekisho(&["rekey", "centre"])?;
        until(TUNNEL_PATIENCE, "another child SA in place of the old one", || {
            let now = site.child_spis()?;
            Ok((now != before && now.len() == before.len()).then_some(()))
        })?;
        self.has_what_was_asked_for(site)?;
        self.carrier_during(site, tunnel::pages)?;
        for reason in ["replay", "integrity", "malformed"] {
            let refused = site.clinic.status()?.connection("centre")?.child_sum(&format!("inbound/{reason}"));
            ensure!(refused == 0, "{refused} packets refused: {reason}");
        }
        site.clinic.sekisho(&["down", "centre"])?;
        Ok(format!("up {:.0} ms; {carried} ESP packets", time.as_secs_f64() * 1e3))
    }

    fn configure(&self, site: &mut Site) -> Result<()> {
        const IKE: &str = "aes128gcm16-prfsha256-x25519";
        const PSK: &str = "a key for one matrix: 0123456789 abcdef ghijkl";
        let credentials = write_psk(&site.lab.dir().join("matrix.psk"), PSK)?;
        let [clinic, centre] = shared_key(&credentials).map(|settings| {
            let mut settings = settings.proposals(IKE, self.algorithm.esp);
            settings.outer = self.outside.family;
            settings.force_udp = self.outside.udp;
            quiet(&mut settings);
            settings
        });
        if self.peer == Peer::Sekisho {
            return site.reload(&clinic, &centre);
        }
        let ends = (Proof::Psk(PSK.into()), Demand::Psk(PSK.into()));
        let mut foreign = foreign(self.outside.family, ends, IKE, self.algorithm.esp);
        if self.outside.udp {
            foreign = foreign.option("encap = yes");
        }
        site.reconfigure_foreign(&clinic, &foreign)
    }

    fn has_what_was_asked_for(&self, site: &Site) -> Result<()> {
        let status = site.clinic.status()?;
        let (kind, _) = status.datapath();
        let wanted = if is_kernels_path() { "kernel" } else { "engine" };
        ensure!(kind == wanted, "the data path is {kind}");
        let connection = status.connection("centre")?;
        let cipher = self.algorithm.esp.trim_end_matches("-noesn");
        let suites = connection.child_suites();
        ensure!(suites.iter().all(|suite| suite == cipher), "{cipher} was asked for, there is {suites:?}");
        ensure!(
            connection.udp_encapsulation() == self.outside.udp,
            "UDP around ESP, or none, against what was asked for"
        );
        Ok(())
    }

    /// Does something; the carrier sees ESP of the kind that was asked for and nothing of what is in it. How many packets.
    fn carrier_during(&self, site: &Site, work: impl FnOnce(&Site) -> Result<()>) -> Result<u64> {
        let seen = tunnel::carrier_during(site, work)?;
        let [own, peer] = [Place::Clinic, Place::Centre].map(|place| place.address(self.outside.family));
        let (kind, other) = match self.outside.udp {
            true => (Kind::EspInUdp, Kind::Esp),
            false => (Kind::Esp, Kind::EspInUdp),
        };
        let there = seen.between.get(&(kind.clone(), own, peer)).copied().unwrap_or(0);
        let back = seen.between.get(&(kind, peer, own)).copied().unwrap_or(0);
        ensure!(there > 0 && back > 0 && seen.count(&other) == 0, "the carrier saw {}", seen.summary());
        Ok(there + back)
    }
}

/// Opened by command, and a log that costs no time.
pub(crate) fn quiet(settings: &mut Settings) {
    if settings.start == "always" {
        settings.start = "manual";
    }
    settings.log_level = "info";
}
