//! Many tunnels at once over sockets: how long until all are up, and what each costs the gateway that answers, beside the
//! cryptography in it. Our gateway opens them, whoever answers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sekisho_ike::crypto::suite::Group;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::{Authority, Issued, KeyType, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, Side, ports};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::strongswan::{Charon, Demand, Proof, write_credentials};

use crate::bare::asymmetric;
use crate::contender::{Contender, PSK, sekisho};
use crate::perf::cpu::{Used, used};
use crate::tunnels::Auth;

/// Name of the scenario's lab.
const LAB: &str = "perfike";
/// Until all tunnels are up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// charon's, for many tunnels at once from one address: unless told otherwise it asks the fourth handshake of one address for
/// a cookie and refuses the sixth, for clinics have an address each. Of the cookies for all together what it has unless told
/// otherwise.
const CHARON_OPTIONS: [&str; 3] =
    ["cookie_threshold = 30", "cookie_threshold_ip = 100000", "block_threshold = 200000"];

/// One way to prove who one is, with the key exchange that goes with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) title: &'static str,
    auth: Auth,
    ike: &'static str,
    group: Group,
    /// Tunnels at once in a full run. Certificates take long to make.
    pub(super) tunnels: u32,
}

pub(super) const SETUPS: [Setup; 3] = [
    Setup {
        title: "psk, x25519",
        tunnels: 400,
        auth: Auth::Psk,
        ike: "aes128gcm16-prfsha256-x25519",
        group: Group::X25519,
    },
    Setup {
        title: "ecdsa-p256, x25519",
        tunnels: 200,
        auth: Auth::EcdsaP256,
        ike: "aes128gcm16-prfsha256-x25519",
        group: Group::X25519,
    },
    Setup {
        title: "rsa-2048, modp2048",
        tunnels: 200,
        auth: Auth::Rsa2048,
        ike: "aes128gcm16-prfsha256-modp2048",
        group: Group::Modp2048,
    },
];

impl Setup {
    /// What `sekisho pki` makes if nothing is said.
    pub(super) fn is_usual(&self) -> bool {
        self.auth == Auth::EcdsaP256
    }
}

/// What all sides prove themselves with.
#[derive(Debug)]
pub(super) enum Credentials {
    Psk(PathBuf),
    Certificates { root: PathBuf, centre: Issued, clinics: Vec<Issued> },
}

impl Credentials {
    /// Made in a folder that outlives the labs: all rounds use the same.
    pub(super) fn make(setup: Setup, count: u32, dir: &Path) -> Result<Self> {
        let keys = match setup.auth {
            Auth::Psk => {
                let file = dir.join("psk");
                write_psk(&file, PSK)?;
                return Ok(Self::Psk(file));
            }
            Auth::EcdsaP256 => KeyType::Ecdsa,
            Auth::Rsa2048 => KeyType::Rsa2048,
        };
        let authority = Authority::create(&dir.join(format!("{keys:?}").to_lowercase()))?;
        let clinics: Result<Vec<_>> = (0..count)
            .map(|number| authority.issue(&clinic_id(number), keys, &format!("clinic-{number}")))
            .collect();
        Ok(Self::Certificates {
            root: authority.root(),
            centre: authority.issue(CENTRE_ID, keys, "centre")?,
            clinics: clinics?,
        })
    }

    /// How one side of a connection proves itself, and what it demands: keys of our configuration.
    fn keys(&self, side: Side, number: u32) -> [String; 2] {
        match self {
            Self::Psk(file) => {
                let psk = format!("psk = \"{}\"", file.display());
                [psk.clone(), psk]
            }
            Self::Certificates { root, centre, clinics } => {
                let own = match side {
                    Side::Clinic => clinics.get(number as usize).unwrap_or(centre),
                    Side::Centre => centre,
                };
                let proof =
                    format!("certificate = \"{}\", key = \"{}\"", own.chain.display(), own.key.display());
                [proof, format!("ca = \"{}\"", root.display())]
            }
        }
    }
}

fn clinic_id(number: u32) -> String {
    format!("clinic-{number}.example")
}

/// The networks of one connection: the clinic's, and the centre's.
fn networks(number: u32) -> [String; 2] {
    ["fd00:1", "fd10:2"].map(|prefix| format!("{prefix}::1:{number:x}/128"))
}

/// One side's configuration: no policies, as nothing but the tunnels is wanted.
fn configuration(name: &str, side: Side, setup: Setup, credentials: &Credentials, count: u32) -> String {
    let (ours, theirs, start) = match side {
        Side::Clinic => (Place::Clinic, Place::Centre, "always"),
        Side::Centre => (Place::Centre, Place::Clinic, "answer"),
    };
    let mut out = format!("[gateway]\nname = \"{name}\"\n{}\n[zones.far]\nvpn = [", ports(side, &[]));
    for number in 0..count {
        let _ = write!(out, "\"c{number}\", ");
    }
    out.push_str("]\n");
    let address = |place: Place| place.address(Family::V4);
    for number in 0..count {
        let [proof, demand] = credentials.keys(side, number);
        let (clinic, [near, far]) = (clinic_id(number), networks(number));
        let ((own, near), (peer, far)) = match side {
            Side::Clinic => ((clinic.as_str(), near), (CENTRE_ID, far)),
            Side::Centre => ((CENTRE_ID, far), (clinic.as_str(), near)),
        };
        let _ = writeln!(
            out,
            "\n[connections.c{number}]\nstart = \"{start}\"\nike = [\"{ike}\"]\nesp = [\"aes128gcm16\"]\n\
             local = {{ address = \"{}\", id = \"{own}\", {proof} }}\n\
             remote = {{ address = \"{}\", id = \"{peer}\", {demand} }}\n\
             [[connections.c{number}.child]]\nname = \"main\"\nlocal = [\"{near}\"]\nremote = [\"{far}\"]",
            address(ours),
            address(theirs),
            ike = setup.ike,
        );
    }
    out
}

/// The same for strongSwan, at the centre.
fn foreign_configuration(setup: Setup, credentials: &Credentials, count: u32) -> String {
    let (auth, certificate) = match credentials {
        Credentials::Psk(_) => ("psk", ""),
        Credentials::Certificates { .. } => ("pubkey", "certs = own.pem"),
    };
    let mut out = "connections {\n".to_owned();
    let address = |place: Place| place.address(Family::V4);
    for number in 0..count {
        let [near, far] = networks(number);
        let _ = writeln!(
            out,
            "c{number} {{\nversion = 2\nmobike = no\nrekey_time = 0\nreauth_time = 0\nproposals = {}\n\
             local_addrs = {}\nremote_addrs = {}\n\
             local {{\nauth = {auth}\nid = {CENTRE_ID}\n{certificate}\n}}\nremote {{\nauth = {auth}\nid = {}\n}}\n\
             children {{\nmain {{\nlocal_ts = {far}\nremote_ts = {near}\nesp_proposals = aes128gcm16\n\
             rekey_time = 0\n}}\n}}\n}}",
            setup.ike,
            address(Place::Centre),
            address(Place::Clinic),
            clinic_id(number),
        );
    }
    out.push_str("}\n");
    if auth == "psk" {
        let _ = writeln!(out, "secrets {{\nike {{\nsecret = \"{PSK}\"\n}}\n}}");
    }
    out
}

/// Who answers.
enum Answering {
    Sekisho(Sekishod),
    StrongSwan(Charon),
}

impl Answering {
    fn start(
        lab: &Lab,
        contender: Contender,
        setup: Setup,
        credentials: &Credentials,
        count: u32,
    ) -> Result<Self> {
        if contender == Contender::Sekisho {
            let file = |name: &str| configuration(name, Side::Centre, setup, credentials, count);
            let mut centre = Sekishod::with_file(lab, Place::Centre, file, "info")?;
            centre.launch(lab)?;
            return Ok(Self::Sekisho(centre));
        }
        topology::configure(lab, Place::Centre)?;
        own_networks(lab, count)?;
        let charon = Charon::with_options(lab, Place::Centre, &CHARON_OPTIONS)?;
        charon.load_files(|swanctl| {
            if let Credentials::Certificates { root, centre, .. } = credentials {
                let (proof, demand) = (Proof::Certificate(centre.clone()), Demand::Authority(root.clone()));
                write_credentials(swanctl, &proof, &demand)?;
            }
            let file = swanctl.join("swanctl.conf");
            fs::write(&file, foreign_configuration(setup, credentials, count))
                .with_context(|| format!("writing {}", file.display()))
        })?;
        Ok(Self::StrongSwan(charon))
    }

    fn used(&self) -> Result<Used> {
        match self {
            Self::Sekisho(gateway) => used(sekisho::pid(gateway)?),
            Self::StrongSwan(charon) => used(charon.pid()),
        }
    }
}

/// libipsec refuses an SA for which it finds no address of its own to route from.
fn own_networks(lab: &Lab, count: u32) -> Result<()> {
    let mut batch = String::new();
    for number in 0..count {
        let [_, own] = networks(number);
        let _ = writeln!(batch, "addr add {own} dev lan nodad");
    }
    let file = lab.dir().join("addresses");
    fs::write(&file, batch).with_context(|| format!("writing {}", file.display()))?;
    lab.at(Place::Centre).output(Command::new("ip").arg("-batch").arg(&file)).map(drop)
}

/// What one run has measured, of the side that answers and for each tunnel.
pub(super) struct Figures {
    /// From the start of the daemon that opens them until all were up.
    pub(super) seconds: f64,
    /// CPU time, microseconds.
    pub(super) cpu: f64,
    /// The asymmetric operations in it, microseconds.
    pub(super) bare: f64,
    /// Growth of the resident set, bytes.
    pub(super) memory: f64,
}

/// Opens so many tunnels with a contender.
pub(super) fn measure(
    contender: Contender,
    setup: Setup,
    credentials: &Credentials,
    count: u32,
) -> Result<Figures> {
    let lab = Lab::up(LAB)?;
    let centre = Answering::start(&lab, contender, setup, credentials, count)?;
    let before = centre.used()?;
    let bare = asymmetric(setup.auth, &[setup.group]).as_secs_f64() * 1e6 / 2.0;
    let file = |name: &str| configuration(name, Side::Clinic, setup, credentials, count);
    let mut clinic = Sekishod::with_file(&lab, Place::Clinic, file, "info")?;
    let begun = Instant::now();
    clinic.launch(&lab)?;
    until(PATIENCE, "every tunnel", || {
        Ok((clinic.status()?.connections_up() == count as usize).then_some(()))
    })?;
    let time = begun.elapsed();
    let after = centre.used()?;
    let each = |total: f64| total / f64::from(count);
    Ok(Figures {
        seconds: time.as_secs_f64(),
        cpu: each((after.cpu - before.cpu).as_secs_f64() * 1e6),
        bare,
        memory: each(after.memory.saturating_sub(before.memory) as f64),
    })
}
