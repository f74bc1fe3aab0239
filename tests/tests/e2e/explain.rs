//! `sekisho explain` against what packets then get, and against what it leaves behind: nothing.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::program;
use sekisho_tests::gateway::settings::{ECHO, HTTP, PRINT};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::tcp::{self, Conversation};
use sekisho_tests::traffic::{http, ping};
use serde_json::Value;

use super::nat::with;
use super::negotiation::usual;

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 3] = [
        ("the_answer_is_what_packets_then_get", policies),
        ("translations_are_told", translations),
        ("known_flows_and_questions_without_an_answer", known),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("explain::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

/// What the command says, and its exit code.
fn ask(site: &Site, arguments: &str) -> Result<(i32, String)> {
    let mut command = Command::new(program("sekisho")?);
    command.args(["explain", "--gateway", site.clinic.name()]).args(arguments.split_whitespace());
    let output = command.output()?;
    let words = [output.stdout, output.stderr].concat();
    let code = output.status.code().context("ended by a signal")?;
    Ok((code, String::from_utf8(words)?))
}

/// The answer as JSON, which must come with this exit code.
fn explained(site: &Site, code: i32, arguments: &str) -> Result<Value> {
    let (ended, words) = ask(site, &format!("{arguments} --json"))?;
    ensure!(ended == code, "exit code {ended} in place of {code} for {arguments}: {words}");
    serde_json::from_str(&words).with_context(|| format!("no JSON: {words}"))
}

/// That the answer has these fields.
fn has(answer: &Value, fields: &[(&str, Value)]) -> Result<()> {
    for (pointer, expected) in fields {
        let found = answer.pointer(pointer).unwrap_or(&Value::Null);
        ensure!(found == expected, "{pointer} should be {expected}: {answer:#}");
    }
    Ok(())
}

/// Everything that a packet would have changed: flows, counters of rules, and what each port forwarded and refused.
fn traces(site: &Site) -> Result<BTreeMap<String, Value>> {
    let status: Value = serde_json::from_str(&site.clinic.sekisho(&["status", "--json"])?)?;
    let mut traces = BTreeMap::new();
    let mut flows: Vec<Value> = Vec::new();
    for row in site.clinic.sekisho(&["flows", "--json"])?.lines() {
        let row: Value = serde_json::from_str(row)?;
        flows.push(
            ["protocol", "source", "source_port", "destination", "packets"]
                .iter()
                .map(|f| row[f].clone())
                .collect(),
        );
    }
    flows.sort_by_key(ToString::to_string);
    traces.insert("flows".into(), flows.into());
    traces.insert("policies".into(), status["policies"].clone());
    for port in status["ports"].as_array().context("no ports")? {
        let name = port["name"].as_str().context("no name")?;
        let verdicts = port["verdicts"].as_object().context("no verdicts")?;
        for (verdict, count) in verdicts {
            // Neighbours are asked for at any time, and groups told; and what is left of an earlier connection is sent again
            // for minutes.
            if !["pass", "multicast", "decrypt", "no-port", "tcp-state"].contains(&verdict.as_str()) {
                traces.insert(format!("{name} {verdict}"), count.clone());
            }
        }
    }
    Ok(traces)
}

fn policies(site: &mut Site) -> Result<String> {
    usual(site)?;
    let file = fs::read_to_string(site.clinic.config())?;
    let line = |name: &str| {
        let at = file.find(&format!("name = \"{name}\"")).with_context(|| format!("no policy {name}"))?;
        Ok::<_, anyhow::Error>(Value::from(file[..at].lines().count()))
    };
    let v = |text: &str| Value::from(text);
    let (lan1, lan3, lan4) = (site.at(Place::Lan1), site.at(Place::Lan3), site.at(Place::Lan4));
    // From here on the gateway knows its neighbour, and everything is quiet again.
    tcp::ask(&lan1, Place::Lan3.socket(Family::V4, PRINT))?;
    let (before, _) = until(Duration::from_secs(10), "quiet", || {
        let before = traces(site)?;
        Ok((before == traces(site)?).then_some(before))
    })?;
    let mut answers = Vec::new();
    for (code, question, fields) in [
        (
            0,
            "--from lan1 --to lan3 --src 192.168.1.10 --dst 192.168.3.10 --proto tcp --dport 9100",
            vec![
                ("/verdict", v("forward")),
                ("/rule/name", v("print")),
                ("/rule/line", line("print")?),
                ("/to_port", v("lan3")),
                ("/known_flow", false.into()),
            ],
        ),
        (
            0,
            "--to lan3 --src fd00:1::10 --dst fd00:3::10 --proto udp --dport 9100",
            vec![("/rule/name", v("print")), ("/from_port", v("lan1"))],
        ),
        (0, "--src 192.168.1.10 --dst 192.168.3.10 --proto icmp", vec![("/rule/name", v("print"))]),
        (
            1,
            "--from lan3 --to lan1 --src 192.168.3.10 --dst 192.168.1.10 --dport 9100",
            vec![("/verdict", v("policy")), ("/rule", Value::Null), ("/near/0/name", v("scan-to-pc"))],
        ),
        (
            1,
            "--from lan3 --src 192.168.1.10 --dst 192.168.1.20 --dport 8600",
            vec![("/verdict", v("spoofed-source"))],
        ),
        (
            1,
            "--from wan --src 10.2.0.10 --dst 192.168.1.10 --dport 80",
            vec![("/verdict", v("vpn-address-in-clear"))],
        ),
        (
            0,
            "--from lan1 --to centre --src 192.168.1.10 --dst 10.2.0.10 --dport 80",
            vec![
                ("/verdict", v("encrypt")),
                ("/rule/name", v("eligibility")),
                ("/tunnel/connection", v("centre")),
                ("/tunnel/child", v("main")),
                ("/tunnel/up", true.into()),
            ],
        ),
        (1, "--from centre --src 10.2.0.10 --dst 192.168.1.10 --dport 80", vec![("/verdict", v("policy"))]),
        (1, "--src 192.0.2.80 --dst 192.168.1.10 --dport 80", vec![("/from_port", v("wan"))]),
        (0, "--to wan --src 192.168.4.10 --dst 192.0.2.80 --dport 80", vec![("/rule/name", v("internet"))]),
        (1, "--to lan3 --src 192.168.4.10 --dst 192.0.2.80 --dport 80", vec![("/to_port", v("wan"))]),
        (1, "--src 192.168.1.10 --dst 192.168.1.1 --dport 22", vec![("/to_zone", v("gateway"))]),
        (1, "--src 192.168.1.10 --dst 192.168.3.10 --proto 47", vec![("/verdict", v("policy"))]),
    ] {
        let answer = explained(site, code, question)?;
        has(&answer, &fields).with_context(|| question.to_owned())?;
        answers.push(answer);
    }
    let after = traces(site)?;
    for (what, trace) in &before {
        ensure!(after.get(what) == Some(trace), "{what} was {trace} and is {:?}", after.get(what));
    }
    ensure!(before.len() == after.len(), "something new is counted: {after:?}");
    // Packets get what was said.
    tcp::ask(&lan1, Place::Lan3.socket(Family::V4, PRINT))?;
    ensure!(
        ping::ping(&lan1, Place::Lan3.address(Family::V4), 1, Duration::from_millis(20))?.lost() == 0,
        "no ping"
    );
    tcp::expect_silence(&lan3, Place::Lan1.socket(Family::V4, PRINT))?;
    tcp::ask(&lan1, Place::Server.socket(Family::V4, ECHO))?;
    http::get(&lan4, Place::Web.socket(Family::V4, HTTP), "/")?;
    let hop = explained(site, 0, "--src 192.168.1.10 --dst 192.168.3.10 --dport 9100")?;
    let mac = lan3.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
    has(&hop, &[("/next_hop", mac.into())])?;
    let (_, words) = ask(site, "--src 192.168.3.10 --dst 192.168.1.10 --dport 9100")?;
    ensure!(words.contains("\"scan-to-pc\" (line") && words.contains("Refused (policy)"), "{words}");
    Ok(format!("{} answers, nothing left behind; the last:\n{words}", answers.len()))
}

const NAT: &str = r#"
[[nat.source]]
from = "lan4"
to = "wan"
address = "interface"

[[nat.destination]]
on = "wan"
service = ["tcp/8443"]
to = "192.168.2.10:9100"

[[policy]]
name = "published"
from = "wan"
to = "lan2"
allow = ["tcp/9100"]
"#;

fn translations(site: &mut Site) -> Result<String> {
    with(site, NAT)?;
    let out = explained(site, 0, "--to wan --src 192.168.4.10 --dst 192.0.2.80 --sport 40404 --dport 80")?;
    has(
        &out,
        &[
            ("/source_nat/table", "[[nat.source]] number 1".into()),
            ("/source_nat/address", "198.51.100.2".into()),
            ("/source_nat/port", 40_404.into()),
        ],
    )?;
    let forwarded = [
        ("/destination_nat/table", "[[nat.destination]] number 1".into()),
        ("/destination_nat/address", "192.168.2.10".into()),
        ("/destination_nat/port", 9100.into()),
        ("/to_port", "lan2".into()),
    ];
    let in_ = explained(site, 0, "--to lan2 --src 192.0.2.80 --dst 198.51.100.2 --dport 8443")?;
    has(&in_, &forwarded)?;
    has(&in_, &[("/rule/name", "published".into())])?;
    tcp::ask(&site.at(Place::Web), Place::Clinic.socket(Family::V4, 8443))?;
    // Translated, and then refused.
    let text = fs::read_to_string(site.clinic.config())?;
    fs::write(site.clinic.config(), text.replacen("\"tcp/9100\"]\n", "\"tcp/9101\"]\n", 2))?;
    site.clinic.sekisho(&["reload"])?;
    let refused = explained(site, 1, "--src 192.0.2.80 --dst 198.51.100.2 --dport 8443")?;
    has(&refused, &forwarded)?;
    has(&refused, &[("/verdict", "policy".into()), ("/near/0/name", "published".into())])?;
    // A source port that another flow was given outside is not given twice.
    let web = site.at(Place::Web);
    let held = Conversation::open(&site.at(Place::Lan4), Place::Web.socket(Family::V4, HTTP))?;
    let port = held.local_port()?;
    let known =
        explained(site, 0, &format!("--src 192.168.4.10 --dst 192.0.2.80 --sport {port} --dport 80"))?;
    has(&known, &[("/known_flow", true.into()), ("/source_nat/port", port.into())])?;
    let other =
        explained(site, 0, &format!("--src 192.168.4.77 --dst 192.0.2.80 --sport {port} --dport 80"))?;
    let given = other.pointer("/source_nat/port").and_then(Value::as_u64);
    ensure!(given.is_some_and(|given| given != u64::from(port)), "{port} is given twice: {other:#}");
    // Its answers, as they come to the gateway's address.
    let reply = format!("--src 192.0.2.80 --dst 198.51.100.2 --sport 80 --dport {port}");
    let reply = explained(site, 0, &reply)?;
    has(&reply, &[("/known_flow", true.into()), ("/destination_nat/address", "192.168.4.10".into())])?;
    drop((held, web));
    usual(site)?;
    Ok("before the rules and on the way out, new and known".into())
}

fn known(site: &mut Site) -> Result<String> {
    usual(site)?;
    let lan1 = site.at(Place::Lan1);
    let mut held = Conversation::open(&lan1, Place::Lan3.socket(Family::V4, PRINT))?;
    held.say(b"a flow")?;
    let port = held.local_port()?;
    let there = format!("--src 192.168.1.10 --dst 192.168.3.10 --sport {port} --dport 9100");
    let back = format!("--src 192.168.3.10 --dst 192.168.1.10 --sport 9100 --dport {port}");
    for question in [&there, &back] {
        let answer = explained(site, 0, question)?;
        has(&answer, &[("/known_flow", true.into()), ("/rule/name", "print".into())])?;
    }
    has(&explained(site, 0, &format!("{there} --new"))?, &[("/known_flow", false.into())])?;
    let anew = explained(site, 1, &format!("{back} --new"))?;
    has(&anew, &[("/known_flow", false.into()), ("/verdict", "policy".into())])?;
    held.say(b"as before")?;
    for (question, word) in [
        ("--from nowhere --src 192.168.1.10 --dst 192.168.3.10 --dport 1", "lan1"),
        ("--src 192.168.1.10 --dst 192.168.3.10", "--dport"),
        ("--src 192.168.1.10 --dst fd00:3::10 --dport 1", "IP version"),
        ("--src 192.168.1.1 --dst 192.168.3.10 --dport 1", "gateway's own"),
    ] {
        let (code, words) = ask(site, question)?;
        ensure!(code == 2 && words.contains(word), "{question}: {code}, {words}");
    }
    usual(site)?;
    Ok("both directions of a known flow, as such and as new ones".into())
}
