//! Proof that what claims to be encrypted is: a text that occurs nowhere by chance is sent through the tunnel, and a tap at
//! the carrier must see packets between the gateways, but the text in none of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::canary;
use sekisho_tests::traffic::tap::{Seen, Tap};

/// Datagrams that carry the text.
const DATAGRAMS: u64 = 50;
/// A port that nobody listens at: what comes back is an ICMP error that quotes the text, through the tunnel as well.
const PORT: u16 = 7;

/// Between LAN1 and the server, while no other traffic is under way. Says what was seen.
///
/// # Errors
/// When the text was seen in clear, or addresses of the inside, or too little to say.
pub fn prove(lab: &Lab, outside_device: &str) -> Result<String> {
    let text = canary();
    // The same text at the sender's own cable, which shows that the tap would find it.
    let inside = Tap::start(&lab.at(Place::Lan1), "eth0", &text)?;
    let outside = Tap::start(&lab.at(Place::Internet), outside_device, &text)?;
    send(lab, &text)?;
    judge(&inside.stop()?, &outside.stop()?)
}

fn send(lab: &Lab, text: &str) -> Result<()> {
    let to = SocketAddr::new(Place::Server.address(Family::V4), PORT);
    lab.at(Place::Lan1).run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).context("binding a UDP socket")?;
        for _ in 0..DATAGRAMS {
            socket.send_to(text.as_bytes(), to).with_context(|| format!("sending to {to}"))?;
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    })
}

fn judge(inside: &Seen, outside: &Seen) -> Result<String> {
    let hidden: [IpAddr; 2] = [Place::Lan1, Place::Server].map(|place| place.address(Family::V4));
    let gateways = [Place::Clinic, Place::Centre].map(|place| place.address(Family::V4));
    ensure!(inside.canaries >= DATAGRAMS, "the tap of the sender's cable has not seen all of the text");
    ensure!(outside.canaries == 0, "the carrier has seen the text in clear in {} packets", outside.canaries);
    let between = |wanted: &dyn Fn(&IpAddr, &IpAddr) -> bool| -> u64 {
        let kinds = outside.between.iter().filter(|((_, from, to), _)| wanted(from, to));
        kinds.map(|(_, count)| count).sum()
    };
    let clear = between(&|from, to| hidden.contains(from) || hidden.contains(to));
    ensure!(clear == 0, "the carrier has seen {clear} packets with addresses of the inside");
    let tunnelled = between(&|from, to| [*from, *to] == gateways);
    ensure!(
        tunnelled >= DATAGRAMS,
        "the carrier has seen {tunnelled} packets from gateway to gateway for {DATAGRAMS} datagrams"
    );
    Ok(format!("{tunnelled} packets from gateway to gateway at the carrier, the text in none of them"))
}
