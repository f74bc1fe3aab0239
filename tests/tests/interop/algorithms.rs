//! Every algorithm and group: up, pages, and a rekey of the child SA with a key exchange of its own.

use anyhow::{Context, Result, bail, ensure};
use sekisho_tests::lab::patience::until;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;

use super::matrix::{Role, Row};
use super::session::{self, IKE, PATIENCE, agree, close, strongswan_says};

/// What the row is about, IKE proposal, ESP proposal: in strongSwan's words, which are ours too.
const ALGORITHMS: [(&str, &str, &str); 11] = [
    (
        "AES-GCM-16-256, PRF HMAC-SHA2-384, group 20 (P-384)",
        "aes256gcm16-prfsha384-ecp384",
        "aes256gcm16-ecp384",
    ),
    ("AES-GCM-16-128, group 31 (X25519)", "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    ("ChaCha20-Poly1305, PRF HMAC-SHA2-512", "chacha20poly1305-prfsha512-x25519", "chacha20poly1305-x25519"),
    ("AES-CBC-128, HMAC-SHA2-256, group 14 (MODP-2048)", "aes128-sha256-modp2048", "aes128-sha256-modp2048"),
    ("AES-CBC-256, HMAC-SHA2-256, group 19 (P-256)", "aes256-sha256-ecp256", "aes256-sha256-ecp256"),
    ("AES-CBC-128, HMAC-SHA2-384, group 15 (MODP-3072)", "aes128-sha384-modp3072", "aes128-sha384-modp3072"),
    ("AES-CBC-256, HMAC-SHA2-384, group 20", "aes256-sha384-ecp384", "aes256-sha384-ecp384"),
    ("AES-CBC-128, HMAC-SHA2-512, group 31", "aes128-sha512-x25519", "aes128-sha512-x25519"),
    ("AES-CBC-256, HMAC-SHA2-512, group 16 (MODP-4096)", "aes256-sha512-modp4096", "aes256-sha512-modp4096"),
    ("`sha256` for the PRF of an AEAD proposal", "aes128gcm16-sha256-x25519", "aes128gcm16"),
    ("child SAs without a key exchange of their own", "aes256gcm16-prfsha256-x25519", "aes256gcm16"),
];

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = ALGORITHMS
        .iter()
        .map(|&(title, ike, esp)| Row::new("Algorithms", title, move |site, role| used(site, role, ike, esp)))
        .collect();
    rows.push(Row::new("Algorithms", "ESN offered, and sequence numbers of 32 bits chosen", esn_declined));
    rows.push(Row::new("Algorithms", "ESN", esn).with_words());
    rows.push(Row::new("Algorithms", "ML-KEM-768 beside X25519 (RFC 9370)", mlkem).with_words());
    rows
}

fn used(site: &mut Site, role: Role, ike: &str, esp: &str) -> Result<String> {
    let ends = session::psk(site, role, ike, esp)?;
    let figure = session::up(site, role, &ends)?;
    session::rekey_child(site, role)?;
    tunnel::pages(site).context("after the rekey")?;
    agree(site)?;
    close(site, role)?;
    Ok(figure)
}

/// The initiator offers both, and the responder would have only what every implementation has.
fn esn_declined(site: &mut Site, role: Role) -> Result<String> {
    let (both, short) = ("aes128gcm16-x25519-esn-noesn", "aes128gcm16-x25519-noesn");
    let (ours, theirs) = if role == Role::Ours { (both, short) } else { (short, both) };
    let (clinic, mut centre) = session::psk(site, role, IKE, ours)?;
    centre.esp = theirs.into();
    let (figure, log) = strongswan_says(site, |site| session::up_and_down(site, role, &(clinic, centre)))?;
    ensure!(log.contains("/NO_EXT_SEQ"), "strongSwan's log does not say NO_EXT_SEQ");
    Ok(figure)
}

/// Both agree on it, and then strongSwan's ESP in user space cannot do it.
fn esn(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, centre) = session::psk(site, role, IKE, "aes128gcm16-x25519-esn")?;
    site.reconfigure_foreign(&clinic, &centre)?;
    let ((), log) = strongswan_says(site, |site| {
        match role {
            Role::Ours => site.clinic.sekisho(&["up", "centre"]).map(drop)?,
            // It fails, which the log below shows.
            Role::StrongSwan => drop(site.charon()?.initiate()),
        }
        until(PATIENCE, "strongSwan's word on ESN", || {
            Ok(site.charon()?.log().contains("ESN not supported").then_some(()))
        })
        .map(drop)
    })?;
    for words in ["selected proposal: ESP:AES_GCM_16_128/EXT_SEQ", "IPsec SA: ESN not supported"] {
        ensure!(log.contains(words), "strongSwan's log does not say \"{words}\"");
    }
    site.charon()?.forget()?;
    if role == Role::Ours {
        site.clinic.sekisho(&["down", "centre"])?;
    }
    Ok("not supported by strongSwan 5.9.8: both agree on it, then its ESP in user space says \"ESN not supported\"".into())
}

/// strongSwan knows it from version 6.0 on. That this one doesn't is seen, not assumed.
fn mlkem(site: &mut Site, role: Role) -> Result<String> {
    let (_, mut centre) = session::usual(site, role)?;
    centre.ike = "aes256gcm16-prfsha384-x25519-ke1_mlkem768".into();
    let Err(error) = site.charon()?.load(&centre) else {
        bail!("this strongSwan takes ML-KEM: run it against ours");
    };
    let words = format!("{error:#}");
    ensure!(words.contains("invalid value for: proposals"), "it refuses for another reason: {words}");
    Ok("not supported by strongSwan 5.9.8: it refuses the proposal `ke1_mlkem768`".into())
}
