//! What lies between the two, and what changes there: IP versions, NATs, addresses that come and go, small fragments.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::certificates::KeyType;
use sekisho_tests::gateway::settings::{Child, Side};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, LAN1_NETWORKS, Place, SERVER_NETWORKS};
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::traffic::frame::Kind;
use sekisho_tests::traffic::ping;
use sekisho_tests::traffic::tap::Tap;

use super::matrix::{Role, Row};
use super::session::{self, Ends, PATIENCE, agree, close, strongswan_says, up_and_down, up_over, usual};

/// For both engines to find out that a path is gone, and another one.
const MOVE_PATIENCE: Duration = Duration::from_secs(20);

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let row = |title: &'static str, run: fn(&mut Site, Role) -> Result<String>| Row::new("Paths", title, run);
    vec![
        row("IPv6 outside, both inside", |site, role| families(site, role, Family::V6, &Family::BOTH)),
        row("IPv6 outside, IPv4 inside", |site, role| families(site, role, Family::V6, &[Family::V4])),
        row("IPv4 outside, IPv6 inside", |site, role| families(site, role, Family::V4, &[Family::V6])),
        row("NAT in front of our gateway", |site, role| translated(site, role, Side::Clinic)),
        row("NAT in front of strongSwan", |site, role| translated(site, role, Side::Centre)),
        row("the NAT in front of our gateway forgets its mapping", |site, role| {
            forgotten(site, role, Side::Clinic)
        })
        .not_for(Role::StrongSwan, "a NAT keeps a forwarded port"),
        row("the NAT in front of strongSwan forgets its mapping", |site, role| {
            forgotten(site, role, Side::Centre)
        })
        .not_for(Role::Ours, "a NAT keeps a forwarded port"),
        row("MOBIKE (RFC 4555): our address changes", |site, role| moved(site, role, Side::Clinic)),
        row("MOBIKE (RFC 4555): strongSwan's address changes", |site, role| moved(site, role, Side::Centre)),
        row("fragmentation (RFC 7383): RSA-4096, a chain of three", fragments),
    ]
}

fn families(site: &mut Site, role: Role, outer: Family, inner: &[Family]) -> Result<String> {
    let (mut clinic, mut centre) = usual(site, role)?;
    clinic.outer = outer;
    (centre.local, centre.remote) = (Place::Centre.address(outer), Some(Place::Clinic.address(outer)));
    let of = |networks: [&str; 2]| -> Vec<String> {
        let inside = |family| networks[usize::from(family == Family::V6)].to_owned();
        inner.iter().copied().map(inside).collect()
    };
    let (local, remote) = (of(LAN1_NETWORKS), of(SERVER_NETWORKS));
    (centre.local_ts, centre.remote_ts) = (remote.clone(), local.clone());
    clinic.children = vec![Child { name: "main".into(), local, remote }];
    let figure = up_over(site, role, &(clinic, centre), inner)?;
    close(site, role)?;
    Ok(figure)
}

/// A NAT at the router in front of one gateway: what leaves gets the router's address and another port, what comes to the
/// router's ports for IKE is forwarded.
struct Nat {
    site: sekisho_tests::lab::namespace::Namespace,
}

impl Nat {
    fn start(site: &Site, behind: Side) -> Result<Self> {
        let (inside, outside, other) = match behind {
            Side::Clinic => (Place::Clinic, outside_of(behind), "centre"),
            Side::Centre => (Place::Centre, outside_of(behind), "clinic"),
        };
        let inside = inside.address(Family::V4);
        let rules = format!(
            "table ip sekisho_lab {{ \
             chain out {{ type nat hook postrouting priority srcnat; \
             oifname \"{other}\" ip saddr {inside} udp sport {{ 500, 4500 }} masquerade to :20000-30000 random; \
             oifname \"{other}\" ip saddr {inside} masquerade; }}; \
             chain in {{ type nat hook prerouting priority dstnat; \
             iifname \"{other}\" ip daddr {outside} udp dport {{ 500, 4500 }} dnat to {inside}; }}; }}"
        );
        let nat = Self { site: site.at(Place::Internet) };
        nat.site.output(Command::new("nft").arg(&rules))?;
        Ok(nat)
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        // At the end of a lab that is gone there is nothing to remove.
        let _ = self.site.output(Command::new("nft").args(["delete", "table", "ip", "sekisho_lab"]));
    }
}

/// The router's address on the far side, which is what the other end sees of one behind the NAT.
fn outside_of(behind: Side) -> IpAddr {
    match behind {
        Side::Clinic => IpAddr::from([203, 0, 113, 1]),
        Side::Centre => IpAddr::from([198, 51, 100, 1]),
    }
}

/// Both ends with a NAT in front of one. Who initiates from behind it may come from any port; else its address is the NAT's.
fn behind_a_nat(site: &Site, role: Role, behind: Side) -> Result<Ends> {
    let (mut clinic, mut centre) = usual(site, role)?;
    match (behind, role) {
        (Side::Clinic, Role::Ours) => centre.remote = None,
        (Side::Clinic, Role::StrongSwan) => centre.remote = Some(outside_of(behind)),
        (Side::Centre, Role::Ours) => clinic.remote_address = Some(outside_of(behind)),
        (Side::Centre, Role::StrongSwan) => clinic.remote_anywhere = true,
    }
    Ok((clinic, centre))
}

fn translated(site: &mut Site, role: Role, behind: Side) -> Result<String> {
    let _nat = Nat::start(site, behind)?;
    let ends = behind_a_nat(site, role, behind)?;
    let figure = session::up(site, role, &ends)?;
    let (hidden, far) = match behind {
        Side::Clinic => (Place::Clinic, "centre"),
        Side::Centre => (Place::Centre, "clinic"),
    };
    let carrier = Tap::start(&site.at(Place::Internet), far, &site.canary)?;
    tunnel::pages(site)?;
    let seen = carrier.stop()?;
    let hidden = hidden.address(Family::V4);
    ensure!(seen.count(&Kind::Esp) == 0, "bare ESP behind the NAT: {}", seen.summary());
    ensure!(seen.count(&Kind::EspInUdp) > 0, "no ESP in UDP behind the NAT: {}", seen.summary());
    ensure!(
        seen.between.keys().all(|(_, from, to)| *from != hidden && *to != hidden),
        "the NAT did not translate: {:?}",
        seen.between.keys()
    );
    session::rekey_child(site, role)?;
    tunnel::pages(site).context("after a rekey")?;
    close(site, role)?;
    Ok(figure)
}

/// Mappings that die after a second of silence: the next packet comes from another port.
fn forgotten(site: &mut Site, role: Role, behind: Side) -> Result<String> {
    const TIMEOUTS: [&str; 2] =
        ["netfilter/nf_conntrack_udp_timeout", "netfilter/nf_conntrack_udp_timeout_stream"];
    let _nat = Nat::start(site, behind)?;
    let (mut clinic, centre) = behind_a_nat(site, role, behind)?;
    // Who is behind the NAT asks whether the other is alive, and the other sees where from.
    clinic.dpd = if behind == Side::Clinic { "3s" } else { "30s" };
    let centre = if behind == Side::Centre { centre.option("dpd_delay = 3s") } else { centre };
    session::up(site, role, &(clinic, centre))?;
    let router = site.at(Place::Internet);
    for timeout in TIMEOUTS {
        router.sysctl(timeout, "1")?;
    }
    // With the first packet from now on the mapping has the shorter life.
    let before = ports_seen(site, behind)?;
    std::thread::sleep(Duration::from_millis(2500));
    let moved = until(MOVE_PATIENCE, "pages through another mapping", || {
        tunnel::pages(site)?;
        Ok(Some(()))
    });
    let after = ports_seen(site, behind);
    for (timeout, usual) in TIMEOUTS.into_iter().zip(["30", "120"]) {
        router.sysctl(timeout, usual)?;
    }
    moved?;
    let after = after?;
    ensure!(before != after, "the NAT kept its mapping: {before:?}");
    agree(site)?;
    close(site, role)?;
    Ok("followed".into())
}

/// From which ports ESP in UDP comes out of the NAT.
fn ports_seen(site: &Site, behind: Side) -> Result<Vec<u16>> {
    let (far, to) = match behind {
        Side::Clinic => ("centre", Place::Centre),
        Side::Centre => ("clinic", Place::Clinic),
    };
    let carrier = Tap::start(&site.at(Place::Internet), far, &site.canary)?;
    tunnel::pages(site)?;
    let seen = carrier.stop()?;
    // Behind Ethernet and an IPv4 header without options.
    let port = |frame: &[u8]| Some(u16::from_be_bytes([*frame.get(34)?, *frame.get(35)?]));
    let frames = seen.frames_to(to.address(Family::V4), &[Kind::EspInUdp]);
    let mut ports: Vec<u16> = frames.into_iter().filter_map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// One end has a second address; the first goes away while the tunnel is up.
fn moved(site: &mut Site, role: Role, whose: Side) -> Result<String> {
    let (mut clinic, centre) = usual(site, role)?;
    clinic.dpd = "1s";
    let centre = centre.option("mobike = yes").option("dpd_delay = 1s");
    let (gateway, router) = (site.at(gateway_of(whose)), site.at(Place::Internet));
    let line = Line::of(whose);
    ip_show(&router, &["addr", "add", line.router, "dev", line.device])?;
    match whose {
        Side::Clinic => clinic.more_wan = vec![line.second.into()],
        Side::Centre => ip_show(&gateway, &["addr", "add", line.second, "dev", "wan"]).map(drop)?,
    }
    let outcome = move_over(site, role, &(clinic, centre), whose);
    // As it was, for the scenarios that follow.
    match whose {
        Side::Clinic => drop(site.clinic.stop()?),
        Side::Centre => {
            ip_show(&gateway, &["addr", "flush", "dev", "wan", "scope", "global"])?;
            ip_show(&gateway, &["addr", "add", line.first, "dev", "wan"])?;
            ip_show(&gateway, &["addr", "add", "2001:db8:2::2/64", "dev", "wan", "nodad"])?;
            for next_hop in ["203.0.113.1", "2001:db8:2::1"] {
                ip_show(&gateway, &["route", "replace", "default", "via", next_hop])?;
            }
        }
    }
    ip_show(&router, &["addr", "del", line.router, "dev", line.device])?;
    outcome
}

fn move_over(site: &mut Site, role: Role, ends: &Ends, whose: Side) -> Result<String> {
    session::up(site, role, ends)?;
    let line = Line::of(whose);
    let before = site.ike_spis()?;
    let gateway = site.at(gateway_of(whose));
    ip_show(&gateway, &["addr", "del", line.first, "dev", "wan"])?;
    if whose == Side::Centre {
        ip_show(&gateway, &["route", "replace", "default", "via", line.next_hop])?;
    }
    let former = line.first.split('/').next().unwrap_or_default();
    // To the second address, or to the pair of IPv6 addresses that both have announced: whichever answers first.
    until(MOVE_PATIENCE, "the IKE SA at another address", || {
        let status = site.clinic.status()?;
        let (ours, theirs) = status.connection("centre")?.path();
        let end = if whose == Side::Clinic { ours } else { theirs };
        Ok((!end.is_empty() && !end.starts_with(&format!("{former}:"))).then_some(()))
    })?;
    let (lan1, server) = (site.at(Place::Lan1), Place::Server.address(Family::V4));
    until(PATIENCE, "an answer through the tunnel", || {
        Ok((ping::ping(&lan1, server, 1, Duration::from_millis(10))?.lost() == 0).then_some(()))
    })?;
    tunnel::page_unseen(site)?;
    // The child SA may be another one: strongSwan's ESP in user space cannot move its own, and it rekeys them instead.
    ensure!(site.ike_spis()? == before, "the IKE SA was made anew");
    ensure!(site.child_spis()?.len() == 1, "child SAs: {:?}", site.child_spis()?);
    agree(site)?;
    close(site, role)?;
    Ok("the same IKE SA at another address".into())
}

const fn gateway_of(side: Side) -> Place {
    match side {
        Side::Clinic => Place::Clinic,
        Side::Centre => Place::Centre,
    }
}

/// The addresses of a gateway's line, and of the router's end of the second one.
struct Line {
    first: &'static str,
    second: &'static str,
    device: &'static str,
    router: &'static str,
    next_hop: &'static str,
}

impl Line {
    const fn of(side: Side) -> Self {
        match side {
            Side::Clinic => Self {
                first: "198.51.100.2/30",
                second: "198.51.100.6/30",
                device: "clinic",
                router: "198.51.100.5/30",
                next_hop: "198.51.100.5",
            },
            Side::Centre => Self {
                first: "203.0.113.2/30",
                second: "203.0.113.6/30",
                device: "centre",
                router: "203.0.113.5/30",
                next_hop: "203.0.113.5",
            },
        }
    }
}

/// Both certificates with their intermediates are far larger than a packet.
fn fragments(site: &mut Site, role: Role) -> Result<String> {
    let (clinic, centre) = session::certificates(site, role, (KeyType::Rsa4096, KeyType::Rsa4096))?;
    let centre = centre.option("fragmentation = yes").option("send_cert = always");
    let (figure, log) = strongswan_says(site, |site| up_and_down(site, role, &(clinic, centre)))?;
    for way in ["parsed", "generating"] {
        let fragmented =
            |line: &str| line.contains(way) && line.contains("IKE_AUTH") && line.contains("EF(2/");
        ensure!(log.lines().any(fragmented), "strongSwan's log has no second fragment of IKE_AUTH: {way}");
    }
    Ok(figure)
}
