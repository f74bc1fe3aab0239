//! TCP against its windows: what a stranger injects, and beside it what the endpoints themselves send.

use sekisho_abi::flow::{Flow, Lifetime, tcp_state};
use sekisho_abi::map::config_flags;
use sekisho_abi::verdict::Verdict;

use crate::forward::to;
use crate::lab::{Device, LAN1, Lab, Service, WAN};
use crate::packet::{ACK, FIN, Ip, RST, SYN, ip};

const CLIENT: &str = "10.1.0.2";
const SERVER: &str = "198.51.100.7";
/// Where the two sides begin: the client's numbers wrap.
const CLIENT_ISN: u32 = 0xffff_ff00;
const SERVER_ISN: u32 = 5_000_000;

/// A packet of one side, by numbers relative to where both began.
#[derive(Clone)]
struct Sent(Device, Ip);

fn client(flags: u8, sequence: u32, ack: u32) -> Sent {
    let ack = if flags & ACK == 0 { 0 } else { SERVER_ISN.wrapping_add(ack) };
    let packet = ip(CLIENT, SERVER).tcp(5000, 80, flags).numbers(CLIENT_ISN.wrapping_add(sequence), ack);
    Sent(Device::Lan1, packet)
}

fn server(flags: u8, sequence: u32, ack: u32) -> Sent {
    let ack = if flags & ACK == 0 { 0 } else { CLIENT_ISN.wrapping_add(ack) };
    let packet = ip(SERVER, CLIENT).tcp(80, 5000, flags).numbers(SERVER_ISN.wrapping_add(sequence), ack);
    Sent(Device::Wan, packet)
}

impl Sent {
    fn window(self, window: u16) -> Self {
        Self(self.0, self.1.window(window))
    }
}

#[track_caller]
fn passes(lab: &Lab, sent: Sent) {
    assert_eq!(lab.receive(sent.0, &to(sent.0, sent.1)).verdict, Verdict::Forward);
}

/// The packet is refused, and the flow stays as it was.
#[track_caller]
fn refused(lab: &Lab, sent: Sent, verdict: Verdict) {
    let before = lab.flow();
    assert_eq!(lab.receive(sent.0, &to(sent.0, sent.1)).verdict, verdict);
    assert_eq!(lab.flow(), before);
}

/// What judges later packets; counters and times aside.
fn judged_by(flow: Flow) -> Flow {
    let now = Flow::default();
    let (original, reply) = (now.original, now.reply);
    Flow {
        original,
        reply,
        replied: 0,
        last_seen_ns: 0,
        original_hop: now.original_hop,
        reply_hop: now.reply_hop,
        ..flow
    }
}

/// The packet goes on, but isn't believed.
#[track_caller]
fn passes_unbelieved(lab: &Lab, sent: Sent) {
    let before = judged_by(lab.flow());
    passes(lab, sent);
    assert_eq!(judged_by(lab.flow()), before);
}

/// A flow on which the client has sent 20 bytes that the server acknowledged.
fn established() -> Lab {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for sent in [client(SYN, 0, 0), server(SYN | ACK, 0, 1), client(ACK, 1, 1), server(ACK, 1, 21)] {
        passes(&lab, sent);
    }
    assert_eq!(lab.flow().tcp_state, tcp_state::ESTABLISHED);
    lab
}

#[test]
fn data_out_of_the_window() {
    let lab = established();
    for (name, sent) in [
        ("beyond what the client offered", server(ACK, 1 + 65_536 + 21, 21)),
        ("far away", server(ACK, 1 << 31, 21)),
        ("older than any window", server(ACK, 1_u32.wrapping_sub(70_000), 21)),
        ("acknowledges what was never sent", server(ACK, 21, 22)),
        ("acknowledges what is long gone", server(ACK, 21, 21_u32.wrapping_sub(70_000))),
        ("the same from the client", client(ACK, 100_000, 21)),
        ("a FIN", server(FIN | ACK, 100_000, 21)),
    ] {
        println!("{name}");
        refused(&lab, sent, Verdict::DropTcpWindow);
    }
    passes(&lab, server(ACK, 1, 21));
    passes(&lab, server(ACK, 21, 21));
    passes(&lab, client(ACK, 1, 21));
}

#[test]
fn windows_that_open_close_and_are_probed() {
    let lab = established();
    passes(&lab, server(ACK, 21, 21).window(0));
    let data = |sequence| client(ACK, sequence, 41);
    // 65535 bytes had been offered before, and what was offered stays offered (RFC 9293 section 3.8.6).
    passes(&lab, data(21));
    refused(&lab, data(21 + 70_000), Verdict::DropTcpWindow);
    // A keepalive repeats the last byte.
    passes(&lab, client(ACK, 40, 41));
    passes(&lab, server(ACK, 41, 41).window(0xffff));
    passes(&lab, data(41));
}

#[test]
fn scaled_windows() {
    const SCALE_7: [u8; 4] = [1, 3, 3, 7];
    let far = 1 + (0xffff << 7) - 1;
    for (name, offered, answered, room) in
        [("both", true, true, true), ("one", true, false, false), ("none", false, false, false)]
    {
        println!("{name}");
        let mut lab = Lab::new();
        lab.allow(LAN1, WAN, Service::Any);
        let options = |offers: bool| if offers { &SCALE_7[..] } else { &[] };
        let syn = ip(CLIENT, SERVER).tcp_with(5000, 80, SYN, options(offered)).numbers(CLIENT_ISN, 0);
        passes(&lab, Sent(Device::Lan1, syn));
        let answer = ip(SERVER, CLIENT)
            .tcp_with(80, 5000, SYN | ACK, options(answered))
            .numbers(SERVER_ISN, CLIENT_ISN.wrapping_add(1));
        passes(&lab, Sent(Device::Wan, answer));
        passes(&lab, client(ACK, 1, 1));
        let sent = server(ACK, far, 21);
        if room { passes(&lab, sent) } else { refused(&lab, sent, Verdict::DropTcpWindow) }
    }
}

#[test]
fn resets_need_the_exact_number() {
    let lab = established();
    // The server expects 21 and the client 1.
    for guess in [20, 22, 1000, 65_000, 1 << 31] {
        refused(&lab, client(RST, guess, 0), Verdict::DropTcpReset);
        refused(&lab, client(RST | ACK, guess, 1), Verdict::DropTcpReset);
    }
    refused(&lab, server(RST, 2, 0), Verdict::DropTcpReset);
    passes(&lab, client(RST, 21, 0));
    assert_eq!(lab.flow().tcp_state, tcp_state::CLOSE);
}

#[test]
fn a_reset_behind_data_on_its_way() {
    let lab = established();
    passes(&lab, client(ACK, 21, 1));
    // The server has acknowledged 21 of 41.
    passes(&lab, client(RST, 41, 0));
    let flow = lab.flow();
    assert_eq!((flow.tcp_state, flow.lifetime), (tcp_state::ESTABLISHED, Lifetime::TcpClosed as u8));
    passes(&lab, server(ACK, 1, 21));
    assert_eq!(lab.flow().lifetime, Lifetime::TcpClosed as u8, "the client is gone all the same");
    passes(&lab, server(ACK, 1, 41));
    assert_eq!(lab.flow().tcp_state, tcp_state::CLOSE);
    // Forged after all: the client goes on.
    let lab = established();
    passes(&lab, client(ACK, 21, 1));
    passes(&lab, client(RST, 41, 0));
    passes(&lab, client(ACK, 41, 1));
    let flow = lab.flow();
    assert_eq!((flow.tcp_state, flow.lifetime), (tcp_state::ESTABLISHED, Lifetime::TcpEstablished as u8));
}

#[test]
fn a_refused_connection() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    passes(&lab, client(SYN, 0, 0));
    refused(&lab, server(RST, 0, 0), Verdict::DropTcpReset);
    refused(&lab, server(RST | ACK, 0, 2), Verdict::DropTcpReset);
    passes(&lab, server(RST | ACK, 0, 1));
    assert_eq!(lab.flow().tcp_state, tcp_state::CLOSE);
    passes(&lab, client(SYN, 77, 0));
    assert_eq!(lab.flow().tcp_state, tcp_state::SYN_SENT);
}

#[test]
fn a_syn_never_resets_a_living_flow() {
    let lab = established();
    // Where even an old stack answers by an ACK it may challenge; where it would give up, it never sees it.
    passes_unbelieved(&lab, client(SYN, 1 << 30, 0));
    refused(&lab, client(SYN, 21, 0), Verdict::DropTcpWindow);
    refused(&lab, client(SYN, 1000, 0), Verdict::DropTcpWindow);
    refused(&lab, server(SYN, 1 << 30, 0), Verdict::DropTcpState);
    refused(&lab, server(SYN | ACK, 1 << 30, 21), Verdict::DropTcpWindow);
    passes(&lab, client(ACK, 21, 1));
    // The opener has crashed and begins again: challenge, RST, SYN.
    passes_unbelieved(&lab, client(SYN, 1 << 30, 0));
    passes(&lab, server(ACK, 1, 41));
    passes(&lab, client(RST, 41, 0));
    assert_eq!(lab.flow().tcp_state, tcp_state::CLOSE);
    passes(&lab, client(SYN, 1 << 30, 0));
    assert_eq!((lab.flow().tcp_state, lab.flow().original.packets), (tcp_state::SYN_SENT, 1));
}

#[test]
fn an_old_connection_answers_a_syn() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    passes(&lab, client(SYN, 0, 0));
    refused(&lab, server(ACK, 1, 777), Verdict::DropTcpState);
    let mut challenge = server(ACK, 1, 777);
    challenge.1.payload.truncate(20);
    passes_unbelieved(&lab, challenge);
    passes_unbelieved(&lab, client(RST, 999_999, 0));
    passes(&lab, client(SYN, 0, 0));
    passes(&lab, server(SYN | ACK, 0, 1));
    assert_eq!(lab.flow().tcp_state, tcp_state::SYN_RECV);
}

#[test]
fn both_open_at_once() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for (sent, state) in [
        (client(SYN, 0, 0), tcp_state::SYN_SENT),
        (server(SYN, 0, 0), tcp_state::SYN_SENT2),
        (client(SYN, 0, 0), tcp_state::SYN_SENT2),
        (client(SYN | ACK, 0, 1), tcp_state::SYN_RECV),
        (server(SYN | ACK, 0, 1), tcp_state::SYN_RECV),
        (client(ACK, 1, 1), tcp_state::ESTABLISHED),
        (server(ACK, 1, 21), tcp_state::ESTABLISHED),
    ] {
        passes(&lab, sent);
        assert_eq!(lab.flow().tcp_state, state);
    }
    // A stranger's SYN in between keeps no one from opening.
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    for sent in [client(SYN, 0, 0), server(SYN, 123_456_789, 0), server(SYN | ACK, 0, 1), client(ACK, 1, 1)] {
        passes(&lab, sent);
    }
    assert_eq!(lab.flow().tcp_state, tcp_state::ESTABLISHED);
    passes(&lab, server(ACK, 1, 21));
}

#[test]
fn a_flow_is_picked_up_only_where_configured() {
    let mut lab = Lab::new();
    lab.allow(LAN1, WAN, Service::Any);
    let there = |flags| client(flags, 1_000, 50);
    let frame = |sent: Sent| to(sent.0, sent.1);
    assert_eq!(lab.receive(Device::Lan1, &frame(there(ACK))).verdict, Verdict::DropTcpState);
    lab.set_flags(config_flags::TCP_PICK_UP);
    for flags in [RST, FIN | ACK, SYN | ACK] {
        assert_eq!(lab.receive(Device::Lan1, &frame(there(flags))).verdict, Verdict::DropTcpState);
    }
    assert_eq!(lab.receive(Device::Wan, &frame(server(ACK, 50, 1_020))).verdict, Verdict::DropPolicy);
    passes(&lab, there(ACK));
    assert_eq!(lab.flow().tcp_state, tcp_state::ESTABLISHED);
    // Whether windows are scaled was never seen.
    passes(&lab, server(ACK, 50 + 1_000_000, 1_020));
    refused(&lab, server(RST, 77, 0), Verdict::DropTcpReset);
    passes(&lab, client(ACK, 1_020, 50));
    passes(&lab, server(FIN | ACK, 1_000_070, 1_040));
    assert_eq!(lab.flow().tcp_state, tcp_state::FIN_WAIT);
}
