//! Many tunnels at once between two gateways over their sockets: how long until all are up, and what each costs the
//! gateway that answers, beside the cryptography in it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_ike::crypto::suite::Group;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::{Authority, KeyType, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, Side, ports};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};

use crate::bare::asymmetric;
use crate::perf::cpu::used;
use crate::perf::report::{Better, Figure, OURS};
use crate::perf::session::Session;
use crate::tunnels::Auth;

/// Name of the scenario's lab.
const LAB: &str = "perf";
/// Until all tunnels are up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Tunnels that are brought up at once, in a quick run and in a full one.
const TUNNELS: [u32; 2] = [50, 200];

/// One way to prove who one is, with the key exchange that goes with it.
#[derive(Clone, Copy, Debug)]
struct Setup {
    title: &'static str,
    auth: Auth,
    ike: &'static str,
    group: Group,
}

const SETUPS: [Setup; 3] = [
    Setup {
        title: "psk, x25519",
        auth: Auth::Psk,
        ike: "aes128gcm16-prfsha256-x25519",
        group: Group::X25519,
    },
    Setup {
        title: "ecdsa-p256, x25519",
        auth: Auth::EcdsaP256,
        ike: "aes128gcm16-prfsha256-x25519",
        group: Group::X25519,
    },
    Setup {
        title: "rsa-2048, modp2048",
        auth: Auth::Rsa2048,
        ike: "aes128gcm16-prfsha256-modp2048",
        group: Group::Modp2048,
    },
];

/// One side's configuration: no policies, as nothing but the tunnels is wanted.
fn configuration(name: &str, side: Side, setup: Setup, proofs: &[[String; 2]]) -> String {
    let (ours, theirs, start) = match side {
        Side::Clinic => (Place::Clinic, Place::Centre, "always"),
        Side::Centre => (Place::Centre, Place::Clinic, "answer"),
    };
    let mut out = format!("[gateway]\nname = \"{name}\"\n{}\n[zones.far]\nvpn = [", ports(side, &[]));
    for number in 0..proofs.len() {
        let _ = write!(out, "\"c{number}\", ");
    }
    out.push_str("]\n");
    let address = |place: Place| place.address(Family::V4);
    for (number, [proof, demand]) in proofs.iter().enumerate() {
        let clinic = format!("clinic-{number}.example");
        let ((own, near), (peer, far)) = match side {
            Side::Clinic => ((clinic.as_str(), "fd00:1"), (CENTRE_ID, "fd10:2")),
            Side::Centre => ((CENTRE_ID, "fd10:2"), (clinic.as_str(), "fd00:1")),
        };
        let _ = writeln!(
            out,
            "\n[connections.c{number}]\nstart = \"{start}\"\nike = [\"{ike}\"]\nesp = [\"aes128gcm16\"]\n\
             local = {{ address = \"{}\", id = \"{own}\", {proof} }}\n\
             remote = {{ address = \"{}\", id = \"{peer}\", {demand} }}\n\
             [[connections.c{number}.child]]\nname = \"main\"\n\
             local = [\"{near}::1:{number:x}/128\"]\nremote = [\"{far}::1:{number:x}/128\"]",
            address(ours),
            address(theirs),
            ike = setup.ike,
        );
    }
    out
}

/// How each side of every connection proves itself, and what it demands: keys of the configuration. First the clinic's
/// connections, then the centre's.
fn proofs(lab: &Lab, setup: Setup, count: u32) -> Result<[Vec<[String; 2]>; 2]> {
    let keys = match setup.auth {
        Auth::Psk => {
            let file: PathBuf = lab.dir().join("psk");
            write_psk(&file, "correct horse battery staple")?;
            let psk = format!("psk = \"{}\"", file.display());
            let all = vec![[psk.clone(), psk]; count as usize];
            return Ok([all.clone(), all]);
        }
        Auth::EcdsaP256 => KeyType::Ecdsa,
        Auth::Rsa2048 => KeyType::Rsa,
    };
    let authority = Authority::create(&lab.dir().join("pki"))?;
    let demand = format!("ca = \"{}\"", authority.root().display());
    let proof = |id: &str, name: &str| -> Result<String> {
        let issued = authority.issue(id, keys, name)?;
        Ok(format!("certificate = \"{}\", key = \"{}\"", issued.chain.display(), issued.key.display()))
    };
    let centre = proof(CENTRE_ID, "centre")?;
    let clinics: Result<Vec<_>> = (0..count)
        .map(|number| {
            Ok([proof(&format!("clinic-{number}.example"), &format!("clinic-{number}"))?, demand.clone()])
        })
        .collect();
    Ok([clinics?, vec![[centre, demand]; count as usize]])
}

/// What one run has measured.
struct Figures {
    seconds: f64,
    /// Of the centre, for each tunnel, microseconds.
    cpu: f64,
    /// The asymmetric operations of one side, microseconds.
    bare: f64,
    /// Of the centre, for each tunnel, bytes.
    memory: f64,
}

fn measure(setup: Setup, count: u32) -> Result<Figures> {
    let lab = Lab::up(LAB)?;
    let [clinics, centres] = proofs(&lab, setup, count)?;
    let file = |side, proofs: Vec<[String; 2]>| move |name: &str| configuration(name, side, setup, &proofs);
    let mut centre = Sekishod::with_file(&lab, Place::Centre, file(Side::Centre, centres), "info")?;
    centre.launch(&lab)?;
    let pid = u32::try_from(centre.status()?.pid()).context("a pid beyond the kernel's range")?;
    let before = used(pid)?;
    let bare = asymmetric(setup.auth, &[setup.group]).as_secs_f64() * 1e6 / 2.0;
    let mut clinic = Sekishod::with_file(&lab, Place::Clinic, file(Side::Clinic, clinics), "info")?;
    clinic.launch(&lab)?;
    let ((), time) = until(PATIENCE, "every tunnel", || {
        Ok((clinic.status()?.connections_up() == count as usize).then_some(()))
    })?;
    let after = used(pid)?;
    let each = |total: f64| total / f64::from(count);
    Ok(Figures {
        seconds: time.as_secs_f64(),
        cpu: each((after.cpu - before.cpu).as_secs_f64() * 1e6),
        bare,
        memory: each(after.memory.saturating_sub(before.memory) as f64),
    })
}

/// Measures every setup in turn.
///
/// # Errors
/// When a tunnel does not come up.
pub fn run(session: &mut Session) -> Result<()> {
    let [few, many] = TUNNELS;
    let count = if session.is_quick() { few } else { many };
    for (round, setup) in session.turns(&SETUPS) {
        session.progress(format_args!("round {}: {count} tunnels, {}", round + 1, setup.title));
        let figures = measure(setup, count).with_context(|| setup.title.to_owned())?;
        let case = format!("{count} tunnels at once, {}", setup.title);
        let figure = |name, unit, better| Figure {
            scenario: "ike",
            case: &case,
            contender: OURS,
            name,
            unit,
            better,
            at: None,
        };
        session.record(&figure("all up after", "s", Better::Lower), figures.seconds);
        session.record(&figure("CPU time each", "µs", Better::Lower), figures.cpu);
        session.record(&figure("asymmetric operations each", "µs", Better::Lower), figures.bare);
        session.record(&figure("handshakes a core", "1/s", Better::Higher), 1e6 / figures.cpu);
        session.record(&figure("memory each", "bytes", Better::Lower), figures.memory);
    }
    Ok(())
}
