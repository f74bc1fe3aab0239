//! Another configuration without another start: what is unchanged does not notice, what is refused ends at once.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sekisho_tests::gateway::settings::{PRINT, is_kernels_path};
use sekisho_tests::lab::patience::{stretch, until};
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology::ip_show;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::ping::{self, Stream};
use sekisho_tests::traffic::tcp::{self, Conversation};

use super::negotiation::usual;

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 8] = [
        ("policies_change_under_traffic_without_a_loss", policies),
        ("a_rule_that_is_gone_cuts_its_flows_at_once", cut),
        ("lifetimes_of_flows_change_for_those_that_live", lifetimes),
        ("a_port_goes_and_comes", port),
        ("a_connection_comes_and_goes_beside_another_without_a_loss", second_connection),
        ("the_only_connection_goes_and_comes", only_connection),
        ("a_broken_file_changes_nothing", broken),
        ("a_gateway_that_could_not_go_back_opens_again", torn),
    ];
    // Of rules alone, the same on every data path: an emulated guest would compile them for half an hour.
    let of_the_engine: (&str, Test) = ("ten_thousand_policies", many);
    tests
        .into_iter()
        .chain((!is_kernels_path()).then_some(of_the_engine))
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("reload::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

/// Writes the clinic's file anew and has it reloaded; what `sekisho reload` said.
fn reload(site: &Site, text: &str) -> Result<String> {
    fs::write(site.clinic.config(), text).context("writing the configuration")?;
    site.clinic.sekisho(&["reload"])
}

fn file(site: &Site) -> Result<String> {
    fs::read_to_string(site.clinic.config()).context("reading the configuration")
}

/// The file without the table that begins with this line.
fn without(text: &str, first_line: &str) -> Result<String> {
    let begin = text.find(first_line).with_context(|| format!("there is no {first_line}"))?;
    let rest = text.get(begin + first_line.len()..).unwrap_or_default();
    let end = rest.find("\n[").map_or(text.len(), |length| begin + first_line.len() + length);
    Ok(format!("{}{}", &text[..begin], text.get(end..).unwrap_or_default()))
}

fn pings(site: &Site) -> Result<[Stream; 2]> {
    let lan1 = site.at(Place::Lan1);
    let every = Duration::from_millis(5) * stretch();
    Ok([
        Stream::start(&lan1, Place::Lan3.address(Family::V4), every)?,
        Stream::start(&lan1, Place::Server.address(Family::V6), every)?,
    ])
}

fn none_lost(pings: [Stream; 2]) -> Result<usize> {
    let mut sent = 0;
    for (stream, to) in pings.into_iter().zip(["LAN3", "the server behind the tunnel"]) {
        let outcome = stream.stop()?;
        ensure!(outcome.lost() == 0, "to {to}: {outcome}");
        sent += outcome.sent;
    }
    Ok(sent)
}

fn policies(site: &mut Site) -> Result<String> {
    usual(site)?;
    let (text, before) = (file(site)?, site.clinic.status()?);
    let spis = (site.ike_spis()?, site.child_spis()?);
    let mut held = Conversation::open(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))?;
    let pings = pings(site)?;
    let more =
        format!("{text}\n[[policy]]\nname = \"more\"\nfrom = \"lan2\"\nto = \"lan3\"\nallow = [\"print\"]\n");
    for round in 0..10 {
        fs::write(site.clinic.config(), &more)?;
        let would = site.clinic.sekisho(&["reload", "--check"])?;
        ensure!(would.contains("+ policy more") && would.contains("nothing was changed"), "{would}");
        if round == 0 {
            tcp::expect_silence(&site.at(Place::Lan2), Place::Lan3.socket(Family::V4, PRINT))?;
        }
        let said = site.clinic.sekisho(&["reload"])?;
        ensure!(said.contains("+ policy more") && said.contains("in force"), "{said}");
        tcp::ask(&site.at(Place::Lan2), Place::Lan3.socket(Family::V4, PRINT))?;
        held.say(b"under the new rules")?;
        let said = reload(site, &text)?;
        ensure!(said.contains("- policy more"), "{said}");
        held.say(b"under the old rules")?;
    }
    // As an administrator is used to from other daemons.
    fs::write(site.clinic.config(), &more)?;
    let pid = i32::try_from(before.pid()).context("a pid")?;
    kill(Pid::from_raw(pid), Signal::SIGHUP).context("sending SIGHUP")?;
    until(Duration::from_secs(5), "the rule that SIGHUP puts in force", || {
        Ok(tcp::ask(&site.at(Place::Lan2), Place::Lan3.socket(Family::V4, PRINT)).is_ok().then_some(()))
    })?;
    reload(site, &text)?;
    ensure!(reload(site, &text)?.contains("nothing has changed"), "the same file twice");
    let sent = none_lost(pings)?;
    ensure!(site.clinic.status()?.pid() == before.pid(), "it is another daemon now");
    ensure!((site.ike_spis()?, site.child_spis()?) == spis, "the SAs were made anew");
    Ok(format!("{sent} pings over 22 reloads, none lost; the same SAs"))
}

fn cut(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let printer = Place::Lan3.socket(Family::V4, PRINT);
    let mut held = Conversation::open(&site.at(Place::Lan1), printer)?;
    held.say(b"while it is allowed")?;
    reload(site, &text.replacen("\"print\", \"ping\", \"udp/9100\"", "\"ping\", \"udp/9100\"", 1))?;
    ensure!(held.say(b"now it is not").is_err(), "the open connection lives on");
    tcp::expect_silence(&site.at(Place::Lan1), printer)?;
    reload(site, &text)?;
    tcp::ask(&site.at(Place::Lan1), printer)?;
    Ok("the open connection and new ones are refused, until it is allowed again".into())
}

/// The sweeper follows, too: a flow that the new lifetime ends is gone from the table.
fn lifetimes(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let printer = Place::Lan3.socket(Family::V4, PRINT);
    let mut held = Conversation::open(&site.at(Place::Lan1), printer)?;
    held.say(b"to be forgotten")?;
    let pings = pings(site)?;
    let said = reload(site, &format!("{text}\n[timeouts]\ntcp_established = \"1s\"\n"))?;
    ensure!(said.contains("~ gateway timeouts"), "{said}");
    let listed =
        || site.clinic.sekisho(&["flows", "--json", "--zone", "lan3", "--protocol", "tcp", "--port", "9100"]);
    until(Duration::from_secs(20), "the flow's end", || Ok(listed()?.is_empty().then_some(())))?;
    let said = reload(site, &text)?;
    ensure!(said.contains("~ gateway timeouts"), "{said}");
    let sent = none_lost(pings)?;
    ensure!(held.say(b"whose beginning nobody knows").is_err(), "it is picked up in its middle");
    let mut held = Conversation::open(&site.at(Place::Lan1), printer)?;
    held.say(b"under the usual lifetime")?;
    ensure!(listed()?.contains("established"), "the flow is not listed");
    Ok(format!("an idle flow is forgotten at the new lifetime; {sent} pings, none lost"))
}

fn port(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let with_lan2 =
        format!("{text}\n[[policy]]\nname = \"lan2\"\nfrom = \"lan2\"\nto = \"lan3\"\nallow = [\"print\"]\n");
    reload(site, &with_lan2)?;
    let (lan2, printer) = (site.at(Place::Lan2), Place::Lan3.socket(Family::V4, PRINT));
    tcp::ask(&lan2, printer)?;
    let number = |site: &Site| -> Result<serde_json::Value> {
        let status: serde_json::Value = serde_json::from_str(&site.clinic.sekisho(&["status", "--json"])?)?;
        let ports = status["ports"].as_array().context("ports")?.clone();
        let lan4 = ports.into_iter().find(|port| port["name"] == "lan4").context("no port lan4")?;
        Ok(lan4["id"].clone())
    };
    let numbered = number(site)?;
    let pings = pings(site)?;
    let said = reload(site, &without(&text, "[ports.lan2]")?)?;
    ensure!(said.contains("- port lan2"), "{said}");
    tcp::expect_silence(&lan2, printer)?;
    let addresses = site.clinic.namespace().output(
        std::process::Command::new("ip").args(["-oneline", "addr", "show", "dev", "lan2", "scope", "global"]),
    )?;
    ensure!(addresses.trim().is_empty(), "the port that is gone has addresses: {addresses}");
    ensure!(number(site)? == numbered, "lan4 has another number");
    let said = reload(site, &with_lan2)?;
    ensure!(said.contains("+ port lan2"), "{said}");
    tcp::ask(&lan2, printer)?;
    ensure!(number(site)? == numbered, "lan4 has another number");
    let sent = none_lost(pings)?;
    reload(site, &text)?;
    Ok(format!("LAN2 refused without its port, served with it; {sent} pings elsewhere, none lost"))
}

fn second_connection(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let psk = site.lab.dir().join("shared.psk");
    let second = format!(
        "{text}\n[zones.other]\nvpn = \"other\"\n[[policy]]\nname = \"other\"\nfrom = \"lan1\"\nto = \"other\"\nallow = \
         [\"ping\"]\n[connections.other]\nlocal = {{ address = \"{}\", id = \"clinic.example\", psk = \"{1}\" }}\nremote = \
         {{ address = \"{2}\", id = \"other.example\", psk = \"{1}\" }}\nstart = \"manual\"\n[[connections.other.child]]\n\
         name = \"main\"\nlocal = [\"192.168.1.0/24\"]\nremote = [\"10.77.0.0/24\"]\n",
        Place::Clinic.address(Family::V4),
        psk.display(),
        Place::Web.address(Family::V4),
    );
    let spis = (site.ike_spis()?, site.child_spis()?);
    let pings = pings(site)?;
    for _ in 0..3 {
        let said = reload(site, &second)?;
        ensure!(said.contains("+ connection other"), "{said}");
        ensure!(site.clinic.status()?.connection("other")?.state() == "down");
        let before = site.clinic.status()?.verdict("lan1", "encrypt");
        ping::expect_silence(&site.at(Place::Lan1), "10.77.0.9".parse()?)?;
        ensure!(site.clinic.status()?.verdict("lan1", "encrypt") > before, "it is not the tunnel's");
        let said = reload(site, &second.replacen("start = \"manual\"", "start = \"on-demand\"", 1))?;
        ensure!(said.contains("~ connection other"), "{said}");
        let said = reload(site, &text)?;
        ensure!(said.contains("- connection other"), "{said}");
    }
    let sent = none_lost(pings)?;
    ensure!((site.ike_spis()?, site.child_spis()?) == spis, "the other connection's SAs were made anew");
    Ok(format!("{sent} pings, none lost; the same SAs"))
}

fn only_connection(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let mut without_vpn = text.clone();
    for table in [
        "[zones.centre]",
        "[[policy]]\nname = \"eligibility\"",
        "[connections.centre]",
        "[[connections.centre.child]]",
    ] {
        without_vpn = without(&without_vpn, table)?;
    }
    let ping =
        Stream::start(&site.at(Place::Lan1), Place::Lan3.address(Family::V4), Duration::from_millis(5))?;
    let said = reload(site, &without_vpn)?;
    ensure!(said.contains("- connection centre"), "{said}");
    for family in Family::BOTH {
        ping::expect_silence(&site.at(Place::Lan1), Place::Server.address(family))?;
    }
    let said = reload(site, &text)?;
    ensure!(said.contains("+ connection centre"), "{said}");
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let outcome = ping.stop()?;
    ensure!(outcome.lost() == 0, "from LAN to LAN: {outcome}");
    // Another key is another connection.
    let psk = site.lab.dir().join("shared.psk");
    let key = fs::read(&psk)?;
    fs::write(&psk, b"quite another key that is long enough 8231\n")?;
    let said = site.clinic.sekisho(&["reload"])?;
    fs::write(&psk, &key)?;
    ensure!(said.contains("~ credentials centre"), "{said}");
    until(Duration::from_secs(10), "the tunnel's end by another key", || {
        Ok((site.clinic.status()?.connection("centre")?.state() != "up").then_some(()))
    })?;
    site.clinic.sekisho(&["reload"])?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    Ok(format!("gone and back, {} pings beside it, none lost; another key closes it", outcome.sent))
}

fn broken(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let pings = pings(site)?;
    let wrong = text.replacen("to = \"lan3\"", "to = \"lan33\"", 1);
    let line = wrong.lines().position(|line| line.contains("lan33")).unwrap_or_default() + 1;
    let error = match reload(site, &wrong) {
        Ok(said) => anyhow::bail!("a policy towards a zone that does not exist was taken: {said}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains(&format!(":{line}:")) && error.contains("lan33"), "{error}");
    // An interface that does not exist is found only when it is to be used: everything goes back.
    let wrong = text.replacen("interface = \"lan2\"", "interface = \"lan22\"", 1);
    let error = match reload(site, &wrong) {
        Ok(said) => anyhow::bail!("a port without an interface was taken: {said}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("lan22") && error.contains("former configuration is in force"), "{error}");
    let wrong = text.replacen("[gateway]", "[gateway]\nflows_max = 4096", 1);
    let error = match reload(site, &wrong) {
        Ok(said) => anyhow::bail!("the flow table's size was changed: {said}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("flows_max"), "{error}");
    tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))?;
    let sent = none_lost(pings)?;
    fs::write(site.clinic.config(), &text)?;
    Ok(format!("line {line} named; {sent} pings, none lost"))
}

/// Neither another configuration nor the former one can be put in force: the filter closes, and the former one opens it
/// again once it can be.
fn torn(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = file(site)?;
    let clinic = site.at(Place::Clinic);
    let rename = |from: &str, to: &str| -> Result<()> {
        for words in [
            &["link", "set", from, "down"][..],
            &["link", "set", from, "name", to],
            &["link", "set", to, "up"],
        ] {
            ip_show(&clinic, words)?;
        }
        Ok(())
    };
    let print = || tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT));
    print()?;
    rename("lan2", "lan2gone")?;
    let other = text.replacen("interface = \"lan3\"", "interface = \"lan33\"", 1);
    let refused = reload(site, &other).unwrap_or_else(|error| format!("{error:#}"));
    let silence = tcp::expect_silence(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT));
    rename("lan2gone", "lan2")?;
    fs::write(site.clinic.config(), &text)?;
    ensure!(refused.contains("the filter is closed"), "{refused}");
    silence.context("while the filter is closed")?;
    let said = site.clinic.sekisho(&["reload"])?;
    ensure!(said.contains("~ gateway (filter)"), "{said}");
    print().context("by the former configuration")?;
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let said = site.clinic.sekisho(&["reload"])?;
    ensure!(said.contains("nothing has changed"), "{said}");
    Ok("closed, and open again by the unchanged file".into())
}

fn many(site: &mut Site) -> Result<String> {
    usual(site)?;
    let mut text = file(site)?;
    let before = text.clone();
    for number in 0..10_000_u32 {
        let (from, to) = if number % 2 == 0 { ("lan2", "lan4") } else { ("lan4", "lan2") };
        let port = 1000 + number * 5;
        text += &format!(
            "[[policy]]\nname = \"p{number}\"\nfrom = \"{from}\"\nto = \"{to}\"\nallow = [\"tcp/{port}\"]\n"
        );
    }
    let pings = pings(site)?;
    let said = reload(site, &text)?;
    let time = said.lines().last().unwrap_or_default().to_owned();
    ensure!(said.matches("+ policy p").count() == 10_000, "{time}");
    reload(site, &before)?;
    let sent = none_lost(pings)?;
    Ok(format!("{time}; {sent} pings, none lost"))
}
