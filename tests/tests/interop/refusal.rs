//! What must fail between the two, from both roles; and a stranger who tries while a tunnel is up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use sekisho_tests::gateway::certificates::{Issued, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, CLINIC_ID, Credentials, Settings};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::{Site, foreign};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::strongswan::{Charon, Connection, Proof};

use super::matrix::{Role, Row};
use super::session::{self, ESP, IKE};

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let row = |title: &'static str, run: fn(&mut Site, Role) -> Result<String>| {
        Row::new("Refused, with our side's reason", title, run).with_words()
    };
    let shows =
        "strongSwan is the one that shows the bad certificate: the other role is the row below or above";
    vec![
        row("wrong pre-shared key", wrong_psk),
        row("no common proposal", no_common_proposal),
        row("selectors without overlap", no_overlap),
        row("expired certificate", |site, role| certificate(site, Fault::Expired, role))
            .not_for(Role::StrongSwan, shows),
        row("certificate of a foreign authority", |site, role| certificate(site, Fault::Foreign, role))
            .not_for(Role::Ours, shows),
        row("a stranger knocks while a tunnel is up", stranger)
            .not_for(Role::Ours, "the stranger is the one who initiates"),
    ]
}

/// Tries, and expects a failure of one of these kinds at our side, and nothing up at either.
fn refused(
    site: &mut Site,
    (clinic, centre): (Settings, Connection),
    role: Role,
    kinds: &[&'static str],
) -> Result<String> {
    // Logs are appended to: what an earlier case logged is not this one's.
    let log_before = site.clinic.log().len();
    site.reconfigure_foreign(&clinic, &centre)?;
    if role == Role::Ours {
        site.clinic.sekisho(&["up", "centre"])?;
    } else if site.charon()?.initiate().is_ok() {
        bail!("strongSwan says that the connection came up");
    }
    let what = format!("a failure of kind {}", kinds.join(" or "));
    let (kind, _) = until(Duration::from_secs(10), &what, || {
        let status = site.clinic.status()?;
        Ok(kinds.iter().copied().find(|kind| status.ike_failures(kind) > 0))
    })?;
    let log = site.clinic.log();
    let mentioned = log.get(log_before..).unwrap_or_default().contains(kind);
    ensure!(mentioned, "the log does not mention {kind}");
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    ensure!(
        connection.state() != "up" && connection.child_spis().is_empty(),
        "our side is {}",
        connection.describe()
    );
    ensure!(site.charon()?.child_spis()?.is_empty(), "strongSwan has child SAs");
    Ok(match connection.last_failure() {
        "" => kind.to_owned(),
        failure => failure.to_owned(),
    })
}

fn wrong_psk(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, mut centre) = session::psk(site, role, IKE, ESP)?;
    centre.proof = Proof::Psk("another key, of the same length and quality: 98765".into());
    // The initiator is told so by the responder; the responder finds it out.
    let kinds: &[&str] = if role == Role::Ours {
        &["refused-by-peer", "authentication-failed"]
    } else {
        &["authentication-failed"]
    };
    refused(site, (clinic, centre), role, kinds)
}

fn no_common_proposal(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, mut centre) = session::psk(site, role, IKE, ESP)?;
    centre.ike = "aes256-sha512-modp4096".into();
    let kinds: &[&str] =
        if role == Role::Ours { &["no-proposal-chosen", "refused-by-peer"] } else { &["no-proposal-chosen"] };
    refused(site, (clinic, centre), role, kinds)
}

fn no_overlap(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, mut centre) = session::psk(site, role, IKE, ESP)?;
    centre.remote_ts = vec!["192.168.2.0/24".into()];
    let kinds: &[&str] =
        if role == Role::Ours { &["ts-unacceptable", "refused-by-peer"] } else { &["ts-unacceptable"] };
    refused(site, (clinic, centre), role, kinds)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Expired,
    Foreign,
}

/// strongSwan shows a certificate that must not be accepted.
fn certificate(site: &mut Site, fault: Fault, role: Role) -> Result<String> {
    let dir =
        site.lab.dir().join(format!("pki-{}", if fault == Fault::Expired { "expired" } else { "stranger" }));
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let (root, other_root) = (Root::create("lab root")?, Root::create("another root")?);
    let root_file = dir.join("root.crt.pem");
    write(&root_file, &root.pem)?;
    let own = root.issue(&dir, "clinic", CLINIC_ID, 2100)?;
    let theirs = match fault {
        Fault::Expired => root.issue(&dir, "centre", CENTRE_ID, 2021)?,
        Fault::Foreign => other_root.issue(&dir, "centre", CENTRE_ID, 2100)?,
    };
    let credentials =
        Credentials::Certificates { chain: own.chain, key: own.key, peer_ca: root_file.clone() };
    let mut clinic = Settings::clinic(credentials).proposals(IKE, ESP);
    clinic.start = if role == Role::Ours { "manual" } else { "answer" };
    let centre = foreign(Family::V4, Proof::Certificates { own: theirs, root: root_file }, IKE, ESP);
    // strongSwan may keep a certificate that it knows to be bad to itself: then its proof has no certificate.
    let why = refused(site, (clinic, centre), role, &["certificate-rejected", "authentication-failed"])?;
    ensure!(
        fault == Fault::Foreign || why.contains("expired"),
        "the reason should be that it has expired: {why}"
    );
    Ok(why)
}

/// A root made here, for `sekisho pki` rightly issues nothing that has expired.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    fn create(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("generating a key")?;
        let pem = params.self_signed(&key).context("signing a root")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate that was valid from 2020 on, until the begin of a year.
    fn issue(&self, dir: &Path, name: &str, id: &str, until_year: i32) -> Result<Issued> {
        let mut params = CertificateParams::new(vec![id.to_owned()]).context("naming a certificate")?;
        params.distinguished_name.push(DnType::CommonName, id);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().context("generating a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("signing a certificate")?;
        let issued =
            Issued { chain: dir.join(format!("{name}.crt.pem")), key: dir.join(format!("{name}.key.pem")) };
        write(&issued.chain, &certificate.pem())?;
        write_psk(&issued.key, &key.serialize_pem())?;
        Ok(issued)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// While a tunnel is up, a host on the internet tries the gateway with the right identities and a wrong key.
fn stranger(site: &mut Site, _role: Role) -> Result<String> {
    let (clinic, centre) = session::psk(site, Role::Ours, IKE, ESP)?;
    site.reconfigure_foreign(&clinic, &centre)?;
    site.clinic.sekisho(&["up", "centre"])?;
    site.await_tunnel()?;
    let before = (site.child_spis()?, site.ike_spis()?);
    let web = Charon::beside(&site.lab, Place::Web)?;
    web.load(&Connection {
        local: Place::Web.address(Family::V4),
        proof: Proof::Psk("a stranger's guess at the key, long enough though".into()),
        ..centre
    })?;
    if web.initiate().is_ok() {
        bail!("the stranger got in");
    }
    tunnel::pages(site)?;
    let after = (site.child_spis()?, site.ike_spis()?);
    ensure!(before == after, "the tunnel's SAs changed: {before:?} → {after:?}");
    let status = site.clinic.status()?;
    let kinds = ["no-connection", "authentication-failed", "no-proposal-chosen"];
    let kind = kinds.into_iter().find(|kind| status.ike_failures(kind) > 0);
    ensure!(kind.is_some(), "the attempt was not counted under any of {}", kinds.join(", "));
    Ok(format!("counted as {}; the tunnel's SAs are the same", kind.unwrap_or_default()))
}
