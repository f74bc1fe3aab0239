//! What must fail between the two, from both roles, with the reason at either side; and a stranger who tries while a tunnel
//! is up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use sekisho_tests::gateway::certificates::{Issued, KeyType, write_psk};
use sekisho_tests::gateway::settings::{CENTRE_ID, CLINIC_ID, Credentials, Settings, Side};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::{Site, foreign};
use sekisho_tests::scenario::tunnel;
use sekisho_tests::strongswan::{Charon, Connection, Demand, Proof};

use super::matrix::{Role, Row};
use super::session::{self, ESP, Ends, IKE, PATIENCE, start, usual};

/// What must be said at either side: the kind of failure at ours, and words of strongSwan's log.
struct Reasons {
    ours: &'static str,
    strongswans: &'static str,
}

/// What the end that refuses says, and what the one that is told so says.
const fn reasons(ours: &'static str, strongswans: &'static str) -> Reasons {
    Reasons { ours, strongswans }
}

/// Title, both ends, and the reasons for each role: we initiate, strongSwan initiates.
type Case = (&'static str, fn(&Site, Role) -> Result<Ends>, [Reasons; 2]);

/// strongSwan has initiated, and is told so in the answer.
const TOLD: &str = "received AUTHENTICATION_FAILED notify error";
/// strongSwan has answered, and is told so afterwards (RFC 7296 section 2.21.2).
const TOLD_LATER: &str = "INFORMATIONAL request 2 [ N(AUTH_FAILED) D ]";

const CASES: [Case; 11] = [
    (
        "wrong pre-shared key",
        wrong_psk,
        [
            reasons(
                "refused-by-peer",
                "tried 1 shared key for 'centre.example' - 'clinic.example', but MAC mismatched",
            ),
            reasons("authentication-failed", TOLD),
        ],
    ),
    (
        "our identity is another than strongSwan expects",
        our_identity,
        [reasons("refused-by-peer", "no matching peer config found"), reasons("no-connection", TOLD)],
    ),
    (
        "strongSwan's identity is another than we expect",
        their_identity,
        [reasons("refused-by-peer", "no matching peer config found"), reasons("no-connection", TOLD)],
    ),
    (
        "strongSwan's certificate is of an authority we do not know",
        their_authority,
        [reasons("certificate-rejected", TOLD_LATER), reasons("certificate-rejected", TOLD)],
    ),
    (
        "our certificate is of an authority strongSwan does not know",
        our_authority,
        [
            reasons("refused-by-peer", "no issuer certificate found for \"CN=Clinics Intermediate CA\""),
            reasons("refused-by-peer", "no issuer certificate found for \"CN=Clinics Intermediate CA\""),
        ],
    ),
    (
        "strongSwan's certificate has expired",
        expired,
        [reasons("certificate-rejected", TOLD_LATER), reasons("certificate-rejected", TOLD)],
    ),
    (
        "strongSwan's certificate is on a CRL",
        their_revoked,
        [reasons("certificate-rejected", TOLD_LATER), reasons("certificate-rejected", TOLD)],
    ),
    (
        "our certificate is on a CRL",
        our_revoked,
        [
            reasons("refused-by-peer", "certificate was revoked"),
            reasons("refused-by-peer", "certificate was revoked"),
        ],
    ),
    (
        "no IKE proposal in common",
        ike_proposals,
        [
            reasons("no-proposal-chosen", "received proposals unacceptable"),
            reasons("no-proposal-chosen", "received NO_PROPOSAL_CHOSEN notify error"),
        ],
    ),
    (
        "no ESP proposal in common",
        esp_proposals,
        [
            reasons("no-proposal-chosen", "no acceptable proposal found"),
            reasons("no-proposal-chosen", "received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built"),
        ],
    ),
    (
        "selectors without overlap",
        selectors,
        [
            reasons(
                "ts-unacceptable",
                "traffic selectors 10.2.0.0/24 fd10:2::/64 === 192.168.1.0/24 fd00:1::/64 unacceptable",
            ),
            reasons("ts-unacceptable", "received TS_UNACCEPTABLE notify, no CHILD_SA built"),
        ],
    ),
];

/// Of strangers' failures our engine reports one a second (control/ike/src/outbox.rs).
const BETWEEN_REPORTS: Duration = Duration::from_millis(1100);

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let group = "Refused, with both sides' reasons";
    let mut rows: Vec<Row> = CASES
        .iter()
        .map(|(title, ends, [ours, strongswans])| {
            let run = move |site: &mut Site, role| {
                let ends = ends(site, role)?;
                refused(site, &ends, role, if role == Role::Ours { ours } else { strongswans })
            };
            Row::new(group, title, run).with_words()
        })
        .collect();
    rows.push(
        Row::new(group, "a stranger knocks while a tunnel is up", |site, _| stranger(site))
            .with_words()
            .not_for(Role::Ours, "the stranger is the one who initiates"),
    );
    rows
}

/// Tries, and expects failures with these reasons at both sides, and nothing up at either.
fn refused(site: &mut Site, (clinic, centre): &Ends, role: Role, reasons: &Reasons) -> Result<String> {
    site.reconfigure_foreign(clinic, centre)?;
    if role == Role::StrongSwan {
        std::thread::sleep(BETWEEN_REPORTS);
    }
    // Logs are appended to: what an earlier case logged is not this one's.
    let (our_log, their_log) = (site.clinic.log().len(), site.charon()?.log().len());
    let before = site.clinic.status()?.ike_failures(reasons.ours);
    if role == Role::Ours {
        site.clinic.sekisho(&["up", "centre"])?;
    } else if site.charon()?.initiate().is_ok() {
        bail!("strongSwan says that the connection came up");
    }
    let ours = format!("a failure of kind {} at our side", reasons.ours);
    until(PATIENCE, &ours, || Ok((site.clinic.status()?.ike_failures(reasons.ours) > before).then_some(())))
        .with_context(|| our_words(site))?;
    let log = site.clinic.log();
    let said = log.get(our_log..).unwrap_or_default().lines().find_map(|line| message(line, reasons.ours));
    let said = said.with_context(|| format!("our log does not mention {}", reasons.ours))?;
    let theirs = format!("\"{}\" in strongSwan's log", reasons.strongswans);
    until(PATIENCE, &theirs, || {
        let log = site.charon()?.log();
        let said = log.get(their_log..).unwrap_or_default();
        Ok(said.contains(reasons.strongswans).then_some(()))
    })?;
    let status = site.clinic.status()?;
    let connection = status.connection("centre")?;
    ensure!(
        connection.state() != "up" && connection.child_spis().is_empty(),
        "our side is {}",
        connection.describe()
    );
    if role == Role::Ours {
        // It would try again.
        site.clinic.sekisho(&["down", "centre"])?;
    }
    ensure!(site.charon()?.child_spis()?.is_empty(), "strongSwan has child SAs");
    Ok(format!("refused. Ours: {}: {said}. strongSwan: {}", reasons.ours, reasons.strongswans))
}

/// What our status says about the last attempt.
fn our_words(site: &Site) -> String {
    let words =
        || Ok::<_, anyhow::Error>(site.clinic.status()?.connection("centre")?.last_failure().to_owned());
    words().unwrap_or_else(|error| format!("no status: {error:#}"))
}

/// The sentence of a line about a failure of this kind: `<time> ERROR sekisho::daemon::tunnels::events: <sentence>
/// connection="centre" peer=… kind="no-connection"`.
fn message<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    let (_, told) = line.split_once(" sekisho::daemon::tunnels")?;
    let (_, rest) = told.split_once(": ").filter(|_| line.contains(&format!("kind=\"{kind}\"")))?;
    let end = [" connection=", " peer="].iter().filter_map(|field| rest.find(field)).min();
    rest.get(..end?)
}

fn wrong_psk(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = usual(site, role)?;
    let other = "another key, of the same length and quality: 98765";
    (centre.proof, centre.demand) = (Proof::Psk(other.into()), Demand::Psk(other.into()));
    Ok((clinic, centre))
}

fn our_identity(site: &Site, role: Role) -> Result<Ends> {
    let (mut clinic, centre) = usual(site, role)?;
    clinic.local_id = Some("another.example".into());
    Ok((clinic, centre))
}

fn their_identity(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = usual(site, role)?;
    centre.local_id = "another.example".into();
    Ok((clinic, centre))
}

fn ike_proposals(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = usual(site, role)?;
    centre.ike = "aes256-sha512-modp4096".into();
    Ok((clinic, centre))
}

fn esp_proposals(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = usual(site, role)?;
    centre.esp = "aes256-sha512".into();
    Ok((clinic, centre))
}

fn selectors(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = usual(site, role)?;
    centre.remote_ts = vec!["192.168.2.0/24".into()];
    Ok((clinic, centre))
}

/// Each end below an authority of its own; ours knows its own only.
fn their_authority(site: &Site, role: Role) -> Result<Ends> {
    let (mut clinic, centre) = two_authorities(site, role)?;
    if let Credentials::Certificates { peer_ca, .. } = &mut clinic.credentials {
        *peer_ca = session::authority(site, "Strangers", KeyType::Ecdsa)?.root();
    }
    Ok((clinic, centre))
}

/// strongSwan knows another authority than that of ours.
fn our_authority(site: &Site, role: Role) -> Result<Ends> {
    let (clinic, mut centre) = two_authorities(site, role)?;
    centre.demand = Demand::Authority(session::authority(site, "Strangers", KeyType::Ecdsa)?.root());
    Ok((clinic, centre))
}

/// Each end below an authority of its own, and each knows the other's.
fn two_authorities(site: &Site, role: Role) -> Result<Ends> {
    let ours = session::authority(site, "Clinics", KeyType::Ecdsa)?;
    let theirs = session::authority(site, "Centres", KeyType::Ecdsa)?;
    let (mut clinic, mut centre) = usual(site, role)?;
    let Issued { chain, key } = ours.issue(CLINIC_ID, KeyType::Ecdsa, "clinic")?;
    clinic.credentials = Credentials::Certificates { chain, key, peer_ca: theirs.root() };
    centre.proof = Proof::Certificate(theirs.issue(CENTRE_ID, KeyType::Ecdsa, "swan")?);
    centre.demand = Demand::Authority(ours.root());
    Ok((clinic, centre))
}

fn their_revoked(site: &Site, role: Role) -> Result<Ends> {
    let authority = session::authority(site, "Lab", KeyType::Ecdsa)?;
    let mut clinic =
        Settings::clinic(authority.credentials(Side::Clinic, KeyType::Ecdsa)?).proposals(IKE, ESP);
    clinic.start = start(role);
    let own = authority.issue(CENTRE_ID, KeyType::Ecdsa, "swan")?;
    let crl = authority.revoke(&own.chain)?;
    clinic.more_keys[2].push(format!("crl = [\"{}\"]", crl.display()));
    let ends = (Proof::Certificate(own), Demand::Authority(authority.root()));
    Ok((clinic, foreign(Family::V4, ends, IKE, ESP)))
}

fn our_revoked(site: &Site, role: Role) -> Result<Ends> {
    let authority = session::authority(site, "Lab", KeyType::Ecdsa)?;
    let credentials = authority.credentials(Side::Clinic, KeyType::Ecdsa)?;
    let Credentials::Certificates { chain, .. } = &credentials else {
        bail!("an authority issues certificates")
    };
    let crl = authority.revoke(chain)?;
    let mut clinic = Settings::clinic(credentials).proposals(IKE, ESP);
    clinic.start = start(role);
    let own = authority.issue(CENTRE_ID, KeyType::Ecdsa, "swan")?;
    let ends = (Proof::Certificate(own), Demand::Authority(authority.root()));
    let mut centre = foreign(Family::V4, ends, IKE, ESP);
    centre.crls = vec![crl];
    Ok((clinic, centre))
}

fn expired(site: &Site, role: Role) -> Result<Ends> {
    let dir = site.lab.dir().join(format!("pki-expired-{role:?}").to_lowercase());
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let root = Root::create("lab root")?;
    let root_file = dir.join("root.crt.pem");
    write(&root_file, &root.pem)?;
    let own = root.issue(&dir, "clinic", CLINIC_ID, 2100)?;
    let theirs = root.issue(&dir, "centre", CENTRE_ID, 2021)?;
    let credentials =
        Credentials::Certificates { chain: own.chain, key: own.key, peer_ca: root_file.clone() };
    let mut clinic = Settings::clinic(credentials).proposals(IKE, ESP);
    clinic.start = start(role);
    let ends = (Proof::Certificate(theirs), Demand::Authority(root_file));
    Ok((clinic, foreign(Family::V4, ends, IKE, ESP)))
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
fn stranger(site: &mut Site) -> Result<String> {
    let (clinic, centre) = usual(site, Role::Ours)?;
    site.reconfigure_foreign(&clinic, &centre)?;
    session::open(site, Role::Ours)?;
    let before = (site.child_spis()?, site.ike_spis()?);
    let counted = |site: &Site, kind: &str| Ok::<_, anyhow::Error>(site.clinic.status()?.ike_failures(kind));
    let strangers = counted(site, "no-connection")?;
    let web = Charon::beside(&site.lab, Place::Web)?;
    let guess = "a stranger's guess at the key, long enough though";
    web.load(&Connection {
        local: Place::Web.address(Family::V4),
        proof: Proof::Psk(guess.into()),
        demand: Demand::Psk(guess.into()),
        ..centre
    })?;
    if web.initiate().is_ok() {
        bail!("the stranger got in");
    }
    tunnel::pages(site)?;
    let after = (site.child_spis()?, site.ike_spis()?);
    ensure!(before == after, "the tunnel's SAs changed: {before:?} → {after:?}");
    ensure!(counted(site, "no-connection")? > strangers, "the attempt was not counted as no-connection");
    session::delete_from_us(site)?;
    Ok("refused. Ours: counted as no-connection; the tunnel's SAs are the same".into())
}
