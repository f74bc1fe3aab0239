//! Clients of one pool at one connection: each packet reaches the one that has the address, whoever comes, renews its keys
//! or leaves beside it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::certificates::write_psk;
use sekisho_tests::gateway::settings::{CENTRE_ID, Side, ports};
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::{stretch, until};
use sekisho_tests::lab::plan::{Family, Place, SERVER_NETWORKS};
use sekisho_tests::scenario::site::TUNNEL_PATIENCE;
use sekisho_tests::stage;
use sekisho_tests::traffic::ping::{self, Stream};
use sekisho_tests::traffic::tap::Tap;

use super::negotiation::PSK;
use super::peer::{Peer, head};

/// What the centre gives.
const POOL: [&str; 2] = ["10.9.0.0/28", "fd09::/64"];
/// From an event at one gateway to what the other makes of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// One echo request in this time, each way, of each family, for each client.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long they go on before an event, and behind it.
const TIME: Duration = Duration::from_secs(1);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "pools::two_clients_of_one_pool_each_get_what_is_theirs",
        || stage::words(two_clients()),
    )]
}

fn two_clients() -> Result<String> {
    let lab = Lab::up("pools")?;
    let outcome = in_the_lab(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

/// One connection for all clients, which come from anywhere.
fn centre(name: &str, psk: &Path) -> String {
    let psk = psk.display();
    format!(
        "{}{}\n[zones.clinics]\nvpn = \"clinics\"\n\n[[policy]]\nname = \"there\"\nfrom = \"clinics\"\nto = \"lan\"\nallow = \
         [\"icmp/echo\"]\n\n[[policy]]\nname = \"back\"\nfrom = \"lan\"\nto = \"clinics\"\nallow = [\"icmp/echo\"]\n\n\
         [pools.clinics]\naddresses = {POOL:?}\n\n[connections.clinics]\nstart = \"answer\"\npools = \"clinics\"\nlocal = {{ \
         address = \"{}\", id = \"{CENTRE_ID}\", psk = \"{psk}\" }}\nremote = {{ id = \"*.clinics.example\", psk = \"{psk}\" \
         }}\n\n[[connections.clinics.child]]\nname = \"main\"\nlocal = {SERVER_NETWORKS:?}\nremote = \"dynamic\"\n",
        head(name),
        ports(Side::Centre, &[]),
        Place::Centre.address(Family::V4),
    )
}

/// A client's: its host speaks by the address that is given, and the gateway itself answers to it.
fn tables(peer: &Peer, psk: &Path) -> String {
    let (number, psk) = (peer.number, psk.display());
    let mut tables = "[zones.centre]\nvpn = \"centre\"\n".to_owned();
    for (name, from, to) in
        [("there", "lan", "centre"), ("own", "gateway", "centre"), ("answers", "centre", "gateway")]
    {
        tables += &format!(
            "\n[[policy]]\nname = \"{name}\"\nfrom = \"{from}\"\nto = \"{to}\"\nallow = [\"icmp/echo\"]\n"
        );
    }
    tables
        + &format!(
            "\n[[nat.source]]\nfrom = \"lan\"\nto = \"centre\"\naddress = \"interface\"\n\n[connections.centre]\nstart = \
             \"manual\"\nrequest = [\"ipv4\", \"ipv6\"]\nlocal = {{ address = \"198.18.{number}.2\", id = \
             \"peer{number}.clinics.example\", psk = \"{psk}\" }}\nremote = {{ address = \"{}\", id = \"{CENTRE_ID}\", psk = \
             \"{psk}\" }}\n\n[[connections.centre.child]]\nname = \"main\"\nlocal = \"dynamic\"\nremote = \
             {SERVER_NETWORKS:?}\n",
            Place::Centre.address(Family::V4)
        )
}

/// A clinic with the addresses that the centre has given it.
struct Client {
    peer: Peer,
    gateway: Sekishod,
}

impl Client {
    fn start(lab: &Lab, number: u8, psk: &Path) -> Result<Client> {
        let peer = Peer::lay(lab, number)?;
        let gateway = peer.start(lab, &tables(&peer, psk))?;
        Ok(Client { peer, gateway })
    }

    fn connect(&self) -> Result<()> {
        self.gateway.sekisho(&["up", "centre"])?;
        self.gateway.await_up("centre", TUNNEL_PATIENCE).map(drop)
    }

    /// What it has been given, IPv4 first.
    fn addresses(&self) -> Result<[IpAddr; 2]> {
        let (addresses, _) = self.gateway.status()?.connection("centre")?.given();
        let parsed: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        parsed.try_into().map_err(|other| anyhow::anyhow!("{} has the addresses {other:?}", self.peer.name()))
    }

    /// Both ways, both families, at once: by its host over IPv4, by the gateway itself over IPv6.
    fn traffic(&self, lab: &Lab) -> Result<[Stream; 4]> {
        let (server, interval) = (lab.at(Place::Server), INTERVAL * stretch());
        let [v4, v6] = self.addresses()?;
        Ok([
            Stream::start(&self.peer.host, Place::Server.address(Family::V4), interval)?,
            Stream::start(&self.peer.gateway, Place::Server.address(Family::V6), interval)?,
            Stream::start(&server, v4, interval)?,
            Stream::start(&server, v6, interval)?,
        ])
    }

    /// Every request answered; how many there were.
    fn none_lost(&self, streams: [Stream; 4], when: &str) -> Result<usize> {
        let mut sent = 0;
        for (stream, way) in streams.into_iter().zip(["IPv4", "IPv6", "IPv4 to it", "IPv6 to it"]) {
            let outcome = stream.stop()?;
            ensure!(outcome.lost() == 0, "{when}: {} over {way}: {outcome}", self.peer.name());
            ensure!(outcome.sent > 10, "{when}: {} over {way}: too few to say anything", self.peer.name());
            sent += outcome.sent;
        }
        // What came by another's SA would be refused here: the kernel's counter is one for all SAs.
        let status = self.gateway.status()?;
        let refused = status.connection("centre")?.child_sum("inbound/selector")
            + status.esp_counter("xfrm-in-tmpl-mismatch")
            + status.esp_counter("xfrm-in-no-pols")
            + status.esp_counter("xfrm-in-pol-block");
        ensure!(refused == 0, "{when}: {} got {refused} packets of others", self.peer.name());
        Ok(sent)
    }

    fn rekey(&self, what: &[&str]) -> Result<()> {
        let spis = || -> Result<_> {
            let status = self.gateway.status()?;
            let connection = status.connection("centre")?;
            Ok((connection.ike_spis(), connection.child_spis()))
        };
        let before = spis()?;
        self.gateway.sekisho(what)?;
        until(PATIENCE, &format!("other SAs after {what:?}"), || Ok((spis()? != before).then_some(())))?;
        Ok(())
    }
}

/// Traffic of both clients around an event.
fn around(lab: &Lab, clients: &[&Client], when: &str, event: impl FnOnce() -> Result<()>) -> Result<usize> {
    let streams = clients.iter().map(|client| client.traffic(lab)).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(TIME * stretch());
    event().with_context(|| when.to_owned())?;
    std::thread::sleep(TIME * stretch());
    clients.iter().zip(streams).map(|(client, streams)| client.none_lost(streams, when)).sum()
}

/// Nothing answers to the addresses of a client that has left.
fn silent(lab: &Lab, addresses: [IpAddr; 2]) -> Result<()> {
    addresses.into_iter().try_for_each(|address| ping::expect_silence(&lab.at(Place::Server), address))
}

/// Leases of the pool that are in use.
fn in_use(centre: &Sekishod, number: u64) -> Result<()> {
    until(PATIENCE, &format!("{number} addresses of the pool in use"), || {
        Ok((centre.status()?.pool("clinics").1 == number).then_some(()))
    })
    .map(drop)
}

fn in_the_lab(lab: &Lab) -> Result<String> {
    let psk = lab.dir().join("shared.psk");
    write_psk(&psk, PSK)?;
    let mut centre = Sekishod::with_file(lab, Place::Centre, |name| centre(name, &psk), "info")?;
    centre.launch(lab)?;
    let (first, second) = (Client::start(lab, 1, &psk)?, Client::start(lab, 2, &psk)?);
    first.connect()?;
    let outside = Tap::start(&lab.at(Place::Internet), "centre", "no canary")?;
    let mut sent = around(lab, &[&first], "the second connects", || second.connect())?;
    let (of_first, of_second) = (first.addresses()?, second.addresses()?);
    ensure!(of_first.iter().all(|address| !of_second.contains(address)), "{of_first:?} were given twice");
    let both = [&first, &second];
    sent += around(lab, &both, "the first renews its keys", || {
        first.rekey(&["rekey", "centre"])?;
        first.rekey(&["rekey", "--ike", "centre"])
    })?;
    sent += around(lab, &both, "the second renews its keys", || second.rekey(&["rekey", "centre"]))?;
    sent += around(lab, &[&first], "the second leaves", || {
        second.gateway.sekisho(&["down", "centre"])?;
        in_use(&centre, 2)?;
        silent(lab, of_second)
    })?;
    second.connect()?;
    ensure!(second.addresses()? == of_second, "who comes back is given others than {of_second:?}");
    // Now the other way: who was first goes, and its place is nobody's.
    sent += around(lab, &both, "the second is back", || Ok(()))?;
    sent += around(lab, &[&second], "the first leaves", || {
        first.gateway.sekisho(&["down", "centre"])?;
        in_use(&centre, 2)?;
        silent(lab, of_first)
    })?;
    let seen = outside.stop()?;
    ensure!(seen.leaks().is_empty(), "in clear at the carrier: {}", seen.leaks().join(", "));
    let status = centre.stop().context("stopping the centre")?;
    ensure!(status.success(), "the centre ended with {status}");
    Ok(format!("{sent} pings to and from both, none lost and none astray"))
}
