//! Fragments: those of an allowed flow go on, whatever their order within bounds; what attacks reassembly is dropped
//! under its own name.

use sekisho_abi::flow::tcp_state;
use sekisho_abi::verdict::Verdict;

use crate::forward::{from_engine, to};
use crate::lab::{Device, LAN1, Lab, Service, VPN, WAN};
use crate::packet::{ACK, Ip, SYN, UDP, ip};

/// Two hosts for each family.
const HOSTS: [(&str, &str); 2] = [("10.1.0.2", "198.51.100.7"), ("2001:db8:1::2", "2001:db8:77::7")];

/// A datagram of 4,000 bytes and a bit, whose last fragment is shorter.
fn datagram(source: &str, destination: &str, port: u16) -> Ip {
    ip(source, destination).udp(5000, port, &[0x5a; 4003])
}

/// The fragments of a datagram, 1,400 bytes each.
fn cut(packet: Ip, id: u16) -> Vec<Ip> {
    packet.fragments(id, 1400)
}

fn receive(lab: &Lab, packet: &Ip) -> Verdict {
    lab.receive(Device::Lan1, &to(Device::Lan1, packet.clone())).verdict
}

fn open() -> Lab {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Port(UDP, 53));
    lab.allow(LAN1, WAN, Service::Port(6, 80));
    lab.allow(LAN1, VPN, Service::Any);
    lab.allow(LAN1, 0, Service::Port(UDP, 53));
    lab
}

#[test]
fn a_datagram_goes_by_its_first_fragment() {
    let lab = open();
    for (number, (host, server)) in HOSTS.into_iter().enumerate() {
        for fragment in cut(datagram(host, server, 53), 1) {
            assert_eq!(receive(&lab, &fragment), Verdict::Forward);
        }
        assert_eq!(lab.flows().len(), number + 1, "one flow for all of them");
        // Ports that no rule allows: none of them.
        let refused: Vec<_> =
            cut(datagram(host, server, 54), 2).iter().map(|fragment| receive(&lab, fragment)).collect();
        assert_eq!(refused[0], Verdict::DropPolicy);
        // Without a first one that passed the others may go ahead of it, but no more.
        assert!(
            refused[1..]
                .iter()
                .all(|verdict| matches!(verdict, Verdict::Forward | Verdict::DropFragmentOrphan))
        );
    }
    assert!(lab.flows().iter().all(|(_, flow)| flow.original.packets == 3));
}

#[test]
fn later_fragments_alone() {
    let lab = open();
    for (host, server) in HOSTS {
        let fragments = cut(datagram(host, server, 53), 1);
        // Hosts that have sent no first one yet.
        assert_eq!(receive(&lab, &fragments[1]), Verdict::DropFragmentOrphan);
        for fragment in &fragments {
            assert_eq!(receive(&lab, fragment), Verdict::Forward);
        }
        // From now on some may come before their first, by the same port and no other way.
        let mut passed = 0;
        for id in 2..100 {
            let early = &cut(datagram(host, server, 53), id)[2];
            match receive(&lab, early) {
                Verdict::Forward => passed += 1,
                verdict => assert_eq!(verdict, Verdict::DropFragmentOrphan),
            }
        }
        assert_eq!(passed, 32);
        let elsewhere =
            &cut(datagram(host, if server.contains(':') { "2001:db8:9::5" } else { "10.9.0.5" }, 53), 9)[1];
        assert_eq!(receive(&lab, elsewhere), Verdict::DropFragmentOrphan);
    }
}

#[test]
fn any_order() {
    let lab = open();
    for (host, server) in HOSTS {
        for fragment in cut(datagram(host, server, 53), 1) {
            assert_eq!(receive(&lab, &fragment), Verdict::Forward);
        }
        let fragments = cut(datagram(host, server, 53), 2);
        for at in [2, 1, 0] {
            assert_eq!(receive(&lab, &fragments[at]), Verdict::Forward, "fragment {at}");
        }
        for fragment in &fragments {
            assert_eq!(receive(&lab, fragment), Verdict::DropFragmentOverlap, "sent again");
        }
        // One that goes ahead of a first that is refused takes the rest with it.
        let fragments = cut(datagram(host, server, 54), 3);
        assert_eq!(receive(&lab, &fragments[2]), Verdict::Forward);
        assert_eq!(receive(&lab, &fragments[0]), Verdict::DropPolicy);
        assert_eq!(receive(&lab, &fragments[1]), Verdict::DropFragmentOrphan);
    }
}

#[test]
fn attacks_on_reassembly() {
    let lab = open();
    for (host, server) in HOSTS {
        let whole = datagram(host, server, 53);
        let parts = |id| cut(whole.clone(), id);
        // Overlapping (RFC 1858 section 3, RFC 5722): the fragment, and all that comes after it.
        let first = parts(1);
        assert_eq!(receive(&lab, &first[0]), Verdict::Forward);
        let overlapping = whole.clone().fragment(1, 8, 1400, true);
        assert_eq!(receive(&lab, &overlapping), Verdict::DropFragmentOverlap);
        assert_eq!(receive(&lab, &first[1]), Verdict::DropFragmentOrphan);
        // Another end, or data behind the end.
        for other in [whole.clone().fragment(2, 1400, 800, false), whole.clone().fragment(2, 3200, 808, true)]
        {
            let fragments = parts(2);
            let lab = open();
            assert_eq!(receive(&lab, &fragments[0]), Verdict::Forward);
            let _ = receive(&lab, &fragments[2]);
            assert!(matches!(
                receive(&lab, &other),
                Verdict::DropFragmentInconsistent | Verdict::DropFragmentOverlap
            ));
            assert_eq!(receive(&lab, &fragments[1]), Verdict::DropFragmentOrphan);
        }
        // No whole units of eight bytes, yet not the last.
        assert_eq!(
            receive(&lab, &whole.clone().fragment(3, 0, 1401, true)),
            Verdict::DropFragmentInconsistent
        );
        // Beyond the longest packet ("ping of death").
        let far = Ip { fragment: Some((4, 65_528, false)), ..whole.clone().fragment(4, 8, 400, false) };
        assert_eq!(receive(&lab, &far), Verdict::DropFragmentOversize);
        // Too small to show the flow (RFC 1858, RFC 7112).
        let tcp = ip(host, server).tcp(5000, 80, SYN);
        for tiny in [tcp.clone().fragment(5, 0, 8, true), tcp.fragment(5, 0, 16, true)] {
            assert_eq!(receive(&lab, &tiny), Verdict::DropFragmentTiny);
        }
    }
}

#[test]
fn too_many_fragments() {
    let lab = open();
    for (host, server) in HOSTS {
        let whole = ip(host, server).udp(5000, 53, &[0; 800]);
        let verdicts: Vec<_> =
            (0..66).map(|number| receive(&lab, &whole.clone().fragment(7, number * 8, 8, true))).collect();
        assert!(verdicts[..64].iter().all(|&verdict| verdict == Verdict::Forward), "{verdicts:?}");
        assert_eq!(verdicts[64..], [Verdict::DropFragmentTooMany, Verdict::DropFragmentOrphan]);
    }
}

#[test]
fn a_flood_is_bounded_by_source() {
    let mut lab = open();
    let (host, server) = HOSTS[0];
    assert_eq!(receive(&lab, &cut(datagram(host, server, 53), 1)[0]), Verdict::Forward);
    lab.use_up_fragments(host, LAN1);
    assert_eq!(receive(&lab, &cut(datagram(host, server, 53), 2)[0]), Verdict::DropFragmentRate);
    assert_eq!(receive(&lab, &cut(datagram(host, server, 53), 1)[1]), Verdict::Forward, "begun before");
    // Another host, and packets that are whole, go on.
    assert_eq!(receive(&lab, &cut(datagram("10.1.0.3", server, 53), 1)[0]), Verdict::Forward);
    assert_eq!(receive(&lab, &ip(host, server).udp(5000, 53, b"whole")), Verdict::Forward);
}

#[test]
fn tcp_in_fragments() {
    let lab = open();
    let (host, server) = HOSTS[0];
    for (device, packet) in [
        (Device::Lan1, ip(host, server).tcp(5000, 80, SYN)),
        (Device::Wan, ip(server, host).tcp(80, 5000, SYN | ACK)),
        (Device::Lan1, ip(host, server).tcp(5000, 80, ACK).numbers(10, 10)),
    ] {
        assert_eq!(lab.receive(device, &to(device, packet)).verdict, Verdict::Forward);
    }
    let mut segment = ip(host, server).tcp(5000, 80, ACK).numbers(30, 10);
    segment.payload.extend([0; 2000]);
    for fragment in cut(segment, 1) {
        assert_eq!(receive(&lab, &fragment), Verdict::Forward);
    }
    let flow = lab.flow();
    assert_eq!((flow.tcp_state, flow.original_window.end), (tcp_state::ESTABLISHED, 30 + 20 + 2000));
    let answer = ip(server, host).tcp(80, 5000, ACK).numbers(10, 2050);
    assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, answer)).verdict, Verdict::Forward);
}

#[test]
fn into_a_tunnel_out_of_it_and_to_the_gateway() {
    let mut lab = open();
    lab.allow(VPN, LAN1, Service::Any);
    for fragment in datagram("10.1.0.2", "10.9.0.5", 53).fragments(1, 1360) {
        assert_eq!(receive(&lab, &fragment), Verdict::Encrypt);
    }
    for fragment in datagram("10.9.0.6", "10.1.0.2", 53).fragments(1, 1360) {
        let run = lab.receive(Device::Engine, &from_engine(VPN, fragment));
        assert_eq!(run.verdict, Verdict::Forward);
    }
    for (port, verdict) in [(53, Verdict::Pass), (54, Verdict::DropPolicy)] {
        let fragments = cut(datagram("10.1.0.2", "10.1.0.1", port), port);
        assert_eq!(receive(&lab, &fragments[0]), verdict);
        if port == 53 {
            assert_eq!(receive(&lab, &fragments[1]), verdict);
        }
    }
    // IKE may be cut, and ESP of a known SA: the kernel puts them together.
    lab.add_spi("203.0.113.1", 1, false);
    let ike = ip("198.51.100.9", "203.0.113.1").udp(500, 500, &[7; 2000]);
    let esp = |spi| {
        let mut esp = ip("198.51.100.9", "203.0.113.1").esp(spi);
        esp.payload.extend([0; 2000]);
        esp
    };
    for (number, packet) in [(5, ike), (6, esp(1))] {
        for fragment in cut(packet, number) {
            assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, fragment)).verdict, Verdict::Pass);
        }
    }
    let first = cut(esp(2), 7)[0].clone();
    assert_eq!(lab.receive(Device::Wan, &to(Device::Wan, first)).verdict, Verdict::DropUnknownSpi);
}

#[test]
fn a_fragment_that_is_the_whole() {
    let lab = open();
    let (host, server) = HOSTS[1];
    let whole = ip(host, server).udp(5000, 53, b"12345678");
    let length = u16::try_from(whole.payload.len()).expect("short");
    for id in [1, 1, 2] {
        assert_eq!(receive(&lab, &whole.clone().fragment(id, 0, length, false)), Verdict::Forward);
    }
    assert_eq!(lab.flow().original.packets, 3);
}

#[test]
fn what_the_kernel_cuts_itself_goes_out() {
    let mut lab = open();
    lab.allow(0, WAN, Service::Port(UDP, 53));
    let own = datagram("203.0.113.1", "198.51.100.7", 53);
    for fragment in cut(own, 1) {
        assert_eq!(lab.send(Device::Wan, &fragment.frame([2; 6], [2; 6])).verdict, Verdict::Pass);
    }
    let refused = cut(datagram("203.0.113.1", "198.51.100.7", 54), 2);
    assert_eq!(lab.send(Device::Wan, &refused[0].clone().frame([2; 6], [2; 6])).verdict, Verdict::DropPolicy);
    let later = refused[1].clone().frame([2; 6], [2; 6]);
    assert_eq!(lab.send(Device::Wan, &later).verdict, Verdict::DropFragmentOrphan);
    // What XDP left to it, cut on the way.
    let (host, server) = HOSTS[0];
    let large = ip(host, server).udp(5000, 53, &[0x5a; 2000]);
    assert_eq!(receive(&lab, &large), Verdict::Pass, "too large to go by redirect");
    for fragment in cut(large, 3) {
        assert_eq!(lab.send(Device::Wan, &fragment.frame([2; 6], [2; 6])).verdict, Verdict::Pass);
    }
}
