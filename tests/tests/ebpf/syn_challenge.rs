//! SYN floods: forged SYNs are answered by a challenge and leave nothing behind; who answers it gets through.

use sekisho_abi::nat::DestinationNat;
use sekisho_abi::rule::rule_flags;
use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, Lab, NEIGHBOUR_MAC, Service, VPN, WAN, address, mac};
use crate::packet::{ACK, RST, SYN, TCP, UDP, assert_checksums, ip};

const CLIENT: &str = "198.51.100.9";
const SERVER: &str = "10.1.0.2";

fn syn(client: &str) -> Vec<u8> {
    // With options, as every stack sends them.
    let options = [2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1];
    to(Device::Wan, ip(client, SERVER).tcp_with(40_000, 443, SYN, &options))
}

fn lab(flags: u16) -> Lab {
    let mut lab = Lab::new();
    lab.allow_challenged(WAN, LAN1, Service::Port(TCP, 443), flags);
    // The daemon sets this with rules that challenge.
    lab.set_flags(sekisho_abi::map::config_flags::CHALLENGES);
    lab
}

/// Sequence and acknowledgment number of a TCP segment over IPv4.
fn numbers(frame: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four"));
    (word(38), word(42))
}

/// The RST with which a client answers an acknowledgment that it did not wait for.
fn answer(client: &str, challenge: &[u8]) -> Vec<u8> {
    let (_, digest) = numbers(challenge);
    to(Device::Wan, ip(client, SERVER).tcp(40_000, 443, RST).numbers(digest, 0))
}

#[test]
fn forged_syns_leave_nothing_behind() {
    let lab = lab(rule_flags::SYN_CHALLENGE);
    for number in 0..500_u32 {
        let forged = syn(&format!("198.51.{}.{}", number >> 8, number & 0xff));
        assert_eq!(lab.receive(Device::Wan, &forged).verdict, Verdict::Challenge);
    }
    assert!(lab.flows().is_empty());
    assert_eq!((lab.counted(), lab.zone_flows(WAN)), ((0, 0), 0));
}

#[test]
fn who_answers_gets_through_with_its_own_options() {
    let lab = lab(rule_flags::SYN_CHALLENGE);
    let first = syn(CLIENT);
    let run = lab.receive(Device::Wan, &first);
    assert_eq!(run.verdict, Verdict::Challenge);
    // Back to where it came from, as a segment that a client in SYN-SENT answers by a RST.
    let challenge = &run.frame;
    assert_eq!((&challenge[..6], &challenge[6..12]), (&first[6..12], &first[..6]));
    assert_eq!((&challenge[26..30], &challenge[30..34]), (&first[30..34], &first[26..30]), "addresses");
    assert_eq!((&challenge[34..36], &challenge[36..38]), (&first[36..38], &first[34..36]), "ports");
    assert_eq!((challenge[16], challenge[17], challenge[46], challenge[47]), (0, 40, 0x50, SYN | ACK));
    assert_checksums(challenge);
    let (_, acknowledgment) = numbers(challenge);
    assert_ne!(acknowledgment, numbers(&first).0 + 1, "not what would be an answer");
    // A guess is refused, and so is an answer to another's challenge.
    let guess = to(Device::Wan, ip(CLIENT, SERVER).tcp(40_000, 443, RST).numbers(acknowledgment ^ 1, 0));
    assert_eq!(lab.receive(Device::Wan, &guess).verdict, Verdict::DropTcpState);
    let other = answer("198.51.100.10", challenge);
    assert_eq!(lab.receive(Device::Wan, &other).verdict, Verdict::DropTcpState);
    assert_eq!(lab.receive(Device::Wan, &first).verdict, Verdict::Challenge, "not proven yet");
    // The right one is.
    assert_eq!(lab.receive(Device::Wan, &answer(CLIENT, challenge)).verdict, Verdict::DropChallengeAnswered);
    assert!(lab.flows().is_empty());
    let run = lab.receive(Device::Wan, &first);
    assert_eq!(run.verdict, Verdict::Forward);
    assert_eq!(run.frame[46..], first[46..], "options and window as they were");
    let back = to(Device::Lan1, ip(SERVER, CLIENT).tcp(443, 40_000, SYN | ACK));
    assert_eq!(lab.receive(Device::Lan1, &back).verdict, Verdict::Forward);
    // Its next connections need no challenge; those of others do.
    let next = to(Device::Wan, ip(CLIENT, SERVER).tcp(40_001, 443, SYN));
    assert_eq!(lab.receive(Device::Wan, &next).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Wan, &syn("198.51.100.10")).verdict, Verdict::Challenge);
}

#[test]
fn an_answer_is_good_for_the_former_key_and_no_longer() {
    let mut lab = lab(rule_flags::SYN_CHALLENGE);
    // The key that the lab begins with becomes the former one.
    let challenge = lab.receive(Device::Wan, &syn(CLIENT)).frame;
    lab.renew_secrets(9);
    assert_eq!(lab.receive(Device::Wan, &answer(CLIENT, &challenge)).verdict, Verdict::DropTcpState);
    let challenge = lab.receive(Device::Wan, &syn(CLIENT)).frame;
    lab.renew_secrets(10);
    assert_eq!(lab.receive(Device::Wan, &answer(CLIENT, &challenge)).verdict, Verdict::DropChallengeAnswered);
}

#[test]
fn ipv6_too() {
    let lab = lab(rule_flags::SYN_CHALLENGE);
    let (client, server) = ("2001:db8:77::9", "2001:db8:1::2");
    let frame = to(Device::Wan, ip(client, server).tcp(40_000, 443, SYN));
    let run = lab.receive(Device::Wan, &frame);
    assert_eq!(run.verdict, Verdict::Challenge);
    assert_eq!((&run.frame[22..38], &run.frame[38..54]), (&address(server)[..], &address(client)[..]));
    assert_checksums(&run.frame);
    let digest = u32::from_be_bytes(run.frame[62..66].try_into().expect("four"));
    let answer = to(Device::Wan, ip(client, server).tcp(40_000, 443, RST).numbers(digest, 0));
    assert_eq!(lab.receive(Device::Wan, &answer).verdict, Verdict::DropChallengeAnswered);
    assert_eq!(lab.receive(Device::Wan, &frame).verdict, Verdict::Forward);
    // An address of the same /64 is the same host's.
    let sister = to(Device::Wan, ip("2001:db8:77::a", server).tcp(40_000, 443, SYN));
    assert_eq!(lab.receive(Device::Wan, &sister).verdict, Verdict::Forward);
}

#[test]
fn under_pressure_only() {
    let mut lab = lab(rule_flags::SYN_CHALLENGE_PRESSURE);
    lab.set_quotas(|quotas| quotas.pressure_per_destination = 10);
    let verdicts: Vec<_> =
        (1..=30).map(|host| lab.receive(Device::Wan, &syn(&format!("198.51.100.{host}"))).verdict).collect();
    assert!(verdicts[..10].iter().all(|verdict| *verdict == Verdict::Forward), "{verdicts:?}");
    assert!(verdicts[10..].iter().all(|verdict| *verdict == Verdict::Challenge), "{verdicts:?}");
    // One of them answers: one less is half-open, so one more gets through.
    let reset = to(Device::Wan, ip("198.51.100.1", SERVER).tcp(40_000, 443, RST).numbers(10, 0));
    let back = to(Device::Lan1, ip(SERVER, "198.51.100.1").tcp(443, 40_000, SYN | ACK));
    assert_eq!(lab.receive(Device::Lan1, &back).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Wan, &reset).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Wan, &syn("198.51.100.40")).verdict, Verdict::Forward);
    assert_eq!(lab.receive(Device::Wan, &syn("198.51.100.41")).verdict, Verdict::Challenge);
}

#[test]
fn a_forwarded_service_is_challenged_at_the_address_that_was_asked() {
    let mut lab = lab(rule_flags::SYN_CHALLENGE);
    let rule = DestinationNat {
        rule: 1,
        prefix_bits: 128,
        port_fixed: 443,
        prefix: address(SERVER),
        ..DestinationNat::default()
    };
    lab.add_destination_nat(WAN, ("203.0.113.1", 32), (TCP, 8443), rule);
    lab.set_flags(sekisho_abi::map::config_flags::CHALLENGES | sekisho_abi::map::config_flags::NAT);
    let frame = to(Device::Wan, ip(CLIENT, "203.0.113.1").tcp(40_000, 8443, SYN));
    let run = lab.receive(Device::Wan, &frame);
    assert_eq!(run.verdict, Verdict::Challenge);
    assert_eq!(
        (&run.frame[26..30], &run.frame[34..36]),
        (&[203, 0, 113, 1][..], &8443_u16.to_be_bytes()[..])
    );
    assert_checksums(&run.frame);
    let digest = numbers(&run.frame).1;
    let answer = to(Device::Wan, ip(CLIENT, "203.0.113.1").tcp(40_000, 8443, RST).numbers(digest, 0));
    assert_eq!(lab.receive(Device::Wan, &answer).verdict, Verdict::DropChallengeAnswered);
    let run = lab.receive(Device::Wan, &frame);
    assert_eq!((run.verdict, &run.frame[30..34]), (Verdict::Forward, &[10, 1, 0, 2][..]));
}

#[test]
fn services_of_the_gateway_and_clients_behind_a_vpn() {
    let mut lab = lab(rule_flags::SYN_CHALLENGE);
    lab.allow_challenged(LAN1, 0, Service::Port(TCP, 22), rule_flags::SYN_CHALLENGE);
    let ssh = to(Device::Lan1, ip("10.1.0.2", "10.1.0.1").tcp(5000, 22, SYN));
    let run = lab.receive(Device::Lan1, &ssh);
    assert_eq!(run.verdict, Verdict::Challenge);
    assert_eq!(run.frame[..6], NEIGHBOUR_MAC);
    lab.allow_challenged(VPN, LAN1, Service::Port(TCP, 443), rule_flags::SYN_CHALLENGE);
    let frame = from_engine(VPN, ip("10.9.0.5", SERVER).tcp(5000, 443, SYN));
    let run = lab.receive(Device::Engine, &frame);
    assert_eq!(run.verdict, Verdict::Challenge);
    // Back into the tunnel that it came from.
    assert_eq!(run.frame[..6], sekisho_abi::port::engine_mac(VPN));
    assert_eq!(run.frame[6..12], mac(Device::Engine));
}

#[test]
fn what_cannot_be_challenged_is_refused() {
    let lab = lab(rule_flags::SYN_CHALLENGE);
    let extended =
        ip("2001:db8:77::9", "2001:db8:1::2").tcp(40_000, 443, SYN).extended(60, [1, 4, 0, 0, 0, 0]);
    let run = lab.receive(Device::Wan, &to(Device::Wan, extended));
    assert_eq!(run.verdict, Verdict::DropChallenge);
    let stray = to(Device::Wan, ip(CLIENT, SERVER).tcp(40_000, 443, RST));
    assert_eq!(lab.receive(Device::Wan, &stray).verdict, Verdict::DropTcpState);
    let ack = to(Device::Wan, ip(CLIENT, SERVER).tcp(40_000, 443, ACK));
    assert_eq!(lab.receive(Device::Wan, &ack).verdict, Verdict::DropTcpState);
    let udp = to(Device::Wan, ip(CLIENT, SERVER).udp(40_000, 443, b""));
    assert_eq!(lab.receive(Device::Wan, &udp).verdict, Verdict::DropPolicy);
    assert!(lab.flows().iter().all(|(key, _)| key.protocol != UDP));
}
