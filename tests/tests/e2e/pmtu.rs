//! Path MTU discovery (RFC 1191, RFC 8201): a sender hears of every narrower link, the gateway's own, the tunnel's and
//! those beyond, and then gets through. What nobody has a reason to say is not believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::IpNumber;
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::{ECHO, LOAD};
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::{forget_paths, ip_show, set_mtu};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::frame::Addressing;
use sekisho_tests::traffic::inject::Injector;
use sekisho_tests::traffic::numbered::{Numbered, Pace};
use sekisho_tests::traffic::tcp::{Conversation, Service};
use sekisho_tests::traffic::{ping, udp};

use super::negotiation::{psk, usual};

/// The MTU of every link where nothing else is said.
const ETHERNET: u32 = 1500;
/// A narrower line to the provider.
const UPLINK: u32 = 1400;
/// A narrower link beyond the provider.
const BEYOND: u32 = 1320;
/// What a forger would like: the least that hosts take (RFC 8200 section 5), or less.
const FORGED: u32 = 1280;
/// A TCP port of the internet that the policies allow.
const HTTPS: u16 = 443;
/// The UDP service of the internet.
const UDP_PORT: u16 = 5353;
/// What goes to and fro in a conversation: many segments of full size.
const SAID: usize = 60_000;
/// Ports that are made wider than Ethernet; veth pairs with XDP go up to some 3,500.
const WIDE: u32 = 3000;
/// How often a link narrows beneath a stream, and how often at least a router's word must be what had the gateway look at its
/// route: it looks once a second in any case, and that may be in the same moment.
const FALLS: usize = 4;
const BY_WORD: usize = 2;
/// From the gateway's look at the clock, which has found the path wide, to some time before the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// What the gateway logs then.
const HEARD: &str = "a router has told of a narrower path";
/// A datagram each 2 ms that fits the tunnel before, and not then.
const STREAM: Pace = Pace { rate: 500, bytes: 1350 };
/// How often a line changes while a file is reloaded: which of the two the gateway sees first is chance.
const BESIDE_A_RELOAD: u32 = 4;
/// Patience for what follows from a packet at once.
const SOON: Duration = Duration::from_secs(5);
/// Patience for one answer.
const ANSWER: Duration = Duration::from_millis(500);

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 9] = [
        ("a_narrower_uplink_is_told_of_by_the_gateway", uplink),
        ("a_tunnel_is_told_of_by_the_gateway", tunnel),
        ("a_wider_line_beside_a_reload_carries_full_packets", beside_a_reload),
        ("a_narrower_link_on_the_way_to_the_peer_is_learned", on_the_way),
        ("a_line_that_narrows_beneath_a_stream_is_followed_at_a_routers_word", beneath_a_stream),
        ("lines_wider_than_the_engines_frames_lose_nothing", wider_than_frames),
        ("esp_in_fragments_is_put_together", fragments),
        ("a_narrower_link_beyond_is_told_of_through_the_gateway", beyond),
        ("what_fits_no_flow_is_not_believed", forged),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("pmtu::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

const QUESTIONS: &str = r#"
[[policy]]
name = "questions"
from = "lan4"
to = "wan"
allow = ["udp/5353"]
"#;

/// The web server answers TCP and UDP, and the internet PCs may ask it. What was learned before is forgotten.
fn ask_the_web(site: &mut Site) -> Result<(Service, udp::Echo)> {
    usual(site)?;
    let text = std::fs::read_to_string(site.clinic.config())?;
    std::fs::write(site.clinic.config(), text + QUESTIONS)?;
    site.clinic.sekisho(&["reload"])?;
    forget(site)?;
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let web = site.at(Place::Web);
    Ok((Service::echo(&web, any(HTTPS))?, udp::Echo::start(&web, any(UDP_PORT))?))
}

/// Hosts forget what they have learned of paths.
fn forget(site: &Site) -> Result<()> {
    let hosts = [Place::Lan1, Place::Lan4, Place::Web, Place::Server];
    hosts.into_iter().try_for_each(|place| forget_paths(&site.at(place)))
}

/// What a host knows of the path to an address.
fn known(host: &Namespace, to: IpAddr) -> Result<u32> {
    let route = ip_show(host, &["route", "get", &to.to_string()])?;
    let mut words = route.split_whitespace();
    match words.find(|word| *word == "mtu").and_then(|_| words.next()) {
        Some(mtu) => mtu.parse().with_context(|| format!("no MTU: {route}")),
        None => Ok(ETHERNET),
    }
}

/// Asks a UDP echo with an IP packet of this size: whether an answer of the same size came.
fn asked(host: &Namespace, to: SocketAddr, packet: u32) -> Result<bool> {
    let (any, headers): (IpAddr, u32) = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 20 + 8),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 40 + 8),
    };
    let question = vec![0x5e; usize::try_from(packet - headers)?];
    let socket = host.run(|| UdpSocket::bind((any, 0)).context("binding a UDP socket"))?;
    socket.set_read_timeout(Some(ANSWER))?;
    // By default Linux does not fragment what fits the path as far as it is known, and says so in the packet.
    socket.send_to(&question, to).with_context(|| format!("{packet} bytes to {to}"))?;
    let mut answer = vec![0; question.len() + 1];
    match socket.recv(&mut answer) {
        Ok(length) => Ok(length == question.len()),
        Err(_) => Ok(false),
    }
}

/// A packet too large for the path is answered with the path's MTU, and one of that size gets through and back.
fn discovered(host: &Namespace, to: SocketAddr, mtu: u32) -> Result<()> {
    ensure!(known(host, to.ip())? == ETHERNET, "something is known of the path to {to} already");
    until(SOON, &format!("the MTU {mtu} of the path to {to}"), || {
        ensure!(!asked(host, to, ETHERNET)?, "{ETHERNET} bytes got to {to} and back");
        let now = known(host, to.ip())?;
        ensure!(now == mtu || now == ETHERNET, "told of {now} in place of {mtu} on the path to {to}");
        Ok((now == mtu).then_some(()))
    })?;
    ensure!(asked(host, to, mtu)?, "no answer to {mtu} bytes from {to}, though that is the path's MTU");
    Ok(())
}

/// Much goes to and fro over TCP.
fn spoken(host: &Namespace, to: SocketAddr) -> Result<()> {
    let mut conversation = Conversation::open(host, to)?;
    conversation.say(&vec![0x5e; SAID]).with_context(|| format!("{SAID} bytes to {to} and back")).map(drop)
}

fn uplink(site: &mut Site) -> Result<String> {
    let _services = ask_the_web(site)?;
    let (gateway, internet) = (site.at(Place::Clinic), site.at(Place::Internet));
    let lan4 = site.at(Place::Lan4);
    let line = [(&gateway, "wan"), (&internet, "clinic")];
    set_mtu(line, UPLINK)?;
    for family in Family::BOTH {
        discovered(&lan4, Place::Web.socket(family, UDP_PORT), UPLINK)?;
        forget(site)?;
        spoken(&lan4, Place::Web.socket(family, HTTPS))?;
        ensure!(known(&lan4, Place::Web.address(family))? == UPLINK, "TCP over {family} was told of nothing");
    }
    set_mtu(line, ETHERNET)?;
    usual(site)?;
    Ok(format!("{UPLINK} bytes, told of by the gateway over IPv4 and IPv6, UDP and TCP"))
}

fn tunnel(site: &mut Site) -> Result<String> {
    usual(site)?;
    forget(site)?;
    let (gateway, internet) = (site.at(Place::Clinic), site.at(Place::Internet));
    let lan1 = site.at(Place::Lan1);
    let line = [(&gateway, "wan"), (&internet, "clinic")];
    let mut told = Vec::new();
    for mtu in [ETHERNET, UPLINK] {
        set_mtu(line, mtu)?;
        // The gateway looks at its links once in a while. A host that asks before would be told of the former MTU, and
        // fragment by it from then on.
        routed(&gateway, mtu)?;
        forget(site)?;
        for family in Family::BOTH {
            let server = Place::Server.socket(family, ECHO);
            let inside = until(SOON, &format!("an MTU of the tunnel over {family}"), || {
                ensure!(!asked(&lan1, server, ETHERNET)?, "{ETHERNET} bytes went through the tunnel");
                Ok(Some(known(&lan1, server.ip())?).filter(|inside| *inside < mtu))
            })?
            .0;
            ensure!(inside > mtu - 100, "{inside} bytes are few for a tunnel over a line of {mtu}");
            ensure!(asked(&lan1, server, inside)?, "no answer to {inside} bytes, though told of them");
            spoken(&lan1, server)?;
            told.push(format!("{inside} of {mtu}"));
        }
    }
    set_mtu(line, ETHERNET)?;
    usual(site)?;
    Ok(told.join(", "))
}

/// The gateway's routes into the tunnel have what a line of this MTU leaves.
fn routed(gateway: &Namespace, mtu: u32) -> Result<()> {
    Family::BOTH.into_iter().try_for_each(|family| {
        let what = format!("the tunnel's MTU over a line of {mtu} in the gateway's {family} route");
        until(SOON, &what, || {
            let inside = known(gateway, Place::Server.address(family))?;
            Ok((inside < mtu && inside > mtu - 100).then_some(()))
        })
        .map(drop)
    })
}

/// A line gets wider in the moment in which another configuration comes into force. Filter, routes and data path go by it, and not
/// some of them: what the one lets through and the other does not take would be lost without a word.
fn beside_a_reload(site: &mut Site) -> Result<String> {
    usual(site)?;
    let (gateway, internet) = (site.at(Place::Clinic), site.at(Place::Internet));
    let lan1 = site.at(Place::Lan1);
    let line = [(&internet, "clinic"), (&gateway, "wan")];
    let text = std::fs::read_to_string(site.clinic.config())?;
    for round in 1..=BESIDE_A_RELOAD {
        set_mtu(line, UPLINK)?;
        routed(&gateway, UPLINK)?;
        let other = format!("{text}\n[timeouts]\ntcp_established = \"{round}h\"\n");
        std::fs::write(site.clinic.config(), other)?;
        set_mtu(line, ETHERNET)?;
        let said = site.clinic.sekisho(&["reload"])?;
        ensure!(said.contains("~ gateway timeouts"), "{said}");
        routed(&gateway, ETHERNET)?;
        forget(site)?;
        for family in Family::BOTH {
            spoken(&lan1, Place::Server.socket(family, ECHO))
                .with_context(|| format!("over {family}, reload {round}"))?;
        }
    }
    usual(site)?;
    Ok(format!("{SAID} bytes each way after each of {BESIDE_A_RELOAD} reloads"))
}

/// The last line to the peer is narrower than the gateway's own. A router on the way says so of an ESP packet; from then on
/// hosts are told of what fits.
fn on_the_way(site: &mut Site) -> Result<String> {
    let mut told = Vec::new();
    for (outer, force_udp) in [(Family::V4, false), (Family::V4, true), (Family::V6, false)] {
        let [mut clinic, mut centre] = psk(site)?;
        (clinic.outer, centre.outer, clinic.force_udp) = (outer, outer, force_udp);
        site.reconfigure(&clinic, &centre)?;
        site.await_tunnel()?;
        let (internet, peer, gateway) =
            (site.at(Place::Internet), site.at(Place::Centre), site.at(Place::Clinic));
        let lan1 = site.at(Place::Lan1);
        let line = [(&internet, "centre"), (&peer, "wan")];
        set_mtu(line, UPLINK)?;
        forget_paths(&gateway)?;
        forget(site)?;
        for family in Family::BOTH {
            let server = Place::Server.socket(family, ECHO);
            // What is sent meanwhile is lost on the way.
            let inside = until(SOON, &format!("the tunnel's MTU over {family}"), || {
                ensure!(!asked(&lan1, server, ETHERNET)?, "{ETHERNET} bytes went through the tunnel");
                asked(&lan1, server, known(&lan1, server.ip())?)?;
                Ok(Some(known(&lan1, server.ip())?).filter(|inside| *inside < UPLINK))
            })?
            .0;
            ensure!(inside > UPLINK - 100, "{inside} bytes are few for a tunnel over a line of {UPLINK}");
            ensure!(asked(&lan1, server, inside)?, "no answer to {inside} bytes, though told of them");
            forget(site)?;
            spoken(&lan1, server)?;
            told.push(format!("{inside} over {outer}{}", if force_udp { " and UDP" } else { "" }));
        }
        set_mtu(line, ETHERNET)?;
        forget_paths(&gateway)?;
    }
    usual(site)?;
    Ok(format!("{} of {UPLINK}", told.join(", ")))
}

/// A link on the way narrows while much is under way. The gateway is told with the first packet that is too big, and looks then;
/// the peer's, whose own link it is, hears of it from its kernel.
fn beneath_a_stream(site: &mut Site) -> Result<String> {
    usual(site)?;
    let (internet, peer, gateway) =
        (site.at(Place::Internet), site.at(Place::Centre), site.at(Place::Clinic));
    let (lan1, host) = (site.at(Place::Lan1), site.at(Place::Server));
    let line = [(&internet, "centre"), (&peer, "wan")];
    let server = Place::Server.socket(Family::V4, LOAD);
    let log_before = site.clinic.log().len();
    let mut lost = Vec::new();
    for _ in 0..FALLS {
        // The gateway looks once a second, and when its own routes have changed: in the middle between two looks of that kind.
        std::thread::sleep(BETWEEN_LOOKS);
        let stream = Numbered::start(&lan1, &host, server, STREAM)?;
        set_mtu(line, UPLINK)?;
        let told = until(SOON, "the sender hears of the narrower tunnel", || {
            Ok((known(&lan1, server.ip())? < UPLINK).then_some(()))
        });
        lost.push(stream.stop().map(|way| way.lost()));
        set_mtu(line, ETHERNET)?;
        told?;
        forget_paths(&gateway)?;
        routed(&gateway, ETHERNET)?;
        forget(site)?;
    }
    usual(site)?;
    let heard = site.clinic.log().get(log_before..).unwrap_or_default().matches(HEARD).count();
    ensure!(heard >= BY_WORD, "{heard} of {FALLS} times by the router's word; lost: {lost:?}");
    Ok(format!(
        "{heard} of {FALLS} times by the router's word; lost there and back of {} a second: {lost:?}",
        STREAM.rate
    ))
}

/// Every port gets a larger MTU than the engine's frames have room for, while it runs. Then a tunnel carries as much as
/// they do, and hosts are told.
fn wider_than_frames(site: &mut Site) -> Result<String> {
    usual(site)?;
    let [internet, peer, gateway, lan1, host] =
        [Place::Internet, Place::Centre, Place::Clinic, Place::Lan1, Place::Server]
            .map(|place| site.at(place));
    let cables = [
        [(&lan1, "eth0"), (&gateway, "lan1")],
        [(&internet, "clinic"), (&gateway, "wan")],
        [(&internet, "centre"), (&peer, "wan")],
        [(&host, "eth0"), (&peer, "lan")],
    ];
    let resize = |mtu| cables.into_iter().try_for_each(|cable| set_mtu(cable, mtu));
    resize(WIDE)?;
    let carried = carried_between(site, [&gateway, &peer], &lan1);
    resize(ETHERNET)?;
    forget_paths(&gateway)?;
    forget(site)?;
    let carried = carried?;
    usual(site)?;
    Ok(format!("{carried} of {WIDE}"))
}

/// What a wide tunnel carries, in words.
fn carried_between(site: &Site, gateways: [&Namespace; 2], lan1: &Namespace) -> Result<String> {
    let mut told = Vec::new();
    for family in Family::BOTH {
        let server = Place::Server.socket(family, ECHO);
        for (gateway, far) in gateways.into_iter().zip([Place::Server, Place::Lan1]) {
            until(SOON, &format!("a tunnel wider than {ETHERNET} in the {family} route"), || {
                Ok((known(gateway, far.address(family))? > ETHERNET).then_some(()))
            })?;
        }
        forget(site)?;
        let inside = until(SOON, &format!("an MTU of the tunnel over {family}"), || {
            // Over IPv6 a kernel tells of the next device's MTU before it tells of the route's.
            asked(lan1, server, WIDE)?;
            let now = known(lan1, server.ip())?;
            Ok((now > ETHERNET && now < WIDE && asked(lan1, server, now)?).then_some(now))
        })?
        .0;
        spoken(lan1, server)?;
        told.push(format!("{inside} over {family}"));
    }
    Ok(told.join(", "))
}

/// A router on the way cuts ESP in pieces where its sender allowed that, and the peer's gateway takes the whole.
fn fragments(site: &mut Site) -> Result<String> {
    usual(site)?;
    let mut counts = Vec::new();
    for force_udp in [false, true] {
        let [mut clinic, centre] = psk(site)?;
        clinic.force_udp = force_udp;
        site.reconfigure(&clinic, &centre)?;
        site.await_tunnel()?;
        let (internet, peer) = (site.at(Place::Internet), site.at(Place::Centre));
        let line = [(&internet, "centre"), (&peer, "wan")];
        set_mtu(line, UPLINK)?;
        let lan1 = site.at(Place::Lan1);
        // IP_PMTUDISC_DONT for every socket: packets may be cut.
        let mode = |value: &str| {
            lan1.output(Command::new("sysctl").args(["-qw", &format!("net.ipv4.ip_no_pmtu_disc={value}")]))
        };
        mode("1")?;
        let received = || {
            Ok::<_, anyhow::Error>(
                site.our_centre()?.status()?.connection("clinic")?.child_sum("inbound/packets"),
            )
        };
        let before = received()?;
        let server = Place::Server.socket(Family::V4, ECHO);
        let outcome = until(SOON, "an answer to what is cut on the way", || {
            Ok(asked(&lan1, server, UPLINK)?.then_some(()))
        });
        mode("0")?;
        set_mtu(line, ETHERNET)?;
        outcome?;
        counts.push(received()? - before);
    }
    usual(site)?;
    ensure!(counts.iter().all(|count| *count > 0), "the centre's SA counts {counts:?}");
    Ok(format!("{UPLINK} bytes and ESP around them over a line of {UPLINK}, bare and in UDP"))
}

fn beyond(site: &mut Site) -> Result<String> {
    let _services = ask_the_web(site)?;
    let (internet, web, lan4) = (site.at(Place::Internet), site.at(Place::Web), site.at(Place::Lan4));
    let link = [(&internet, "web"), (&web, "eth0")];
    set_mtu(link, BEYOND)?;
    for family in Family::BOTH {
        discovered(&lan4, Place::Web.socket(family, UDP_PORT), BEYOND)?;
        forget(site)?;
        spoken(&lan4, Place::Web.socket(family, HTTPS))?;
    }
    set_mtu(link, ETHERNET)?;
    usual(site)?;
    Ok(format!("{BEYOND} bytes, told of by a router of the internet over IPv4 and IPv6, UDP and TCP"))
}

/// "Fragmentation needed" or "packet too big" about a packet between these ends (RFC 1191 section 4, RFC 4443 section 3.2).
fn too_big(quoted: &[u8], family: Family, from: IpAddr, to: IpAddr) -> (IpNumber, Vec<u8>) {
    let mtu = FORGED.to_be_bytes();
    let (protocol, mut message, pseudo) = match (family, from, to) {
        (Family::V6, IpAddr::V6(from), IpAddr::V6(to)) => {
            let message = [&[2, 0, 0, 0][..], &mtu, quoted].concat();
            let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
            let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58]].concat();
            (IpNumber::IPV6_ICMP, message, pseudo)
        }
        _ => (IpNumber::ICMP, [&[3, 4, 0, 0][..], &mtu, quoted].concat(), Vec::new()),
    };
    let mut sum = 0_u32;
    for word in pseudo.chunks(2).chain(message.chunks(2)) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    (protocol, message)
}

fn forged(site: &mut Site) -> Result<String> {
    let _services = ask_the_web(site)?;
    let lan4 = site.at(Place::Lan4);
    let carrier = Injector::open(&site.at(Place::Internet), "clinic")?;
    let mac = (carrier.mac(), site.at(Place::Clinic).mac("wan")?);
    let mut refused = 0;
    for family in Family::BOTH {
        let (host, web) = (Place::Lan4.address(family), Place::Web.address(family));
        let mut held = Conversation::open(&lan4, SocketAddr::new(web, HTTPS))?;
        held.say(b"before")?;
        let port = held.local_port()?;
        ensure!(asked(&lan4, SocketAddr::new(web, UDP_PORT), ETHERNET)?, "no answer over {family}");
        let about = Addressing { mac, ip: (host, web) };
        let router = Place::Internet.address(family);
        let ethernet = 14;
        // Of a flow that is not there; of one that is, with a sequence number that nobody has sent.
        let quotes = [about.udp((40_001, UDP_PORT), &[0; 32])?, about.syn((port, HTTPS))?];
        let (grown, ()) = site.growth(
            |status| status.verdict("wan", "icmp-error"),
            || {
                for quoted in &quotes {
                    let (protocol, message) = too_big(&quoted[ethernet..], family, router, host);
                    carrier.send(&Addressing { mac, ip: (router, host) }.raw(protocol, &message)?)?;
                }
                // Behind them on the same wire.
                let echo = ping::ping(&lan4, web, 1, Duration::from_millis(20))?;
                ensure!(echo.lost() == 0, "no ping over {family}");
                Ok(())
            },
        )?;
        ensure!(grown == 2, "2 forged errors over {family}, {grown} refused");
        refused += grown;
        let now = known(&lan4, web)?;
        ensure!(now == ETHERNET, "the host believes in {now} bytes over {family}");
        held.say(&vec![0x5e; SAID])?;
    }
    usual(site)?;
    Ok(format!("{refused} forged errors refused; the hosts go on with {ETHERNET} bytes"))
}
