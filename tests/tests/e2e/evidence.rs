//! What an operator can see and later show: flows, refused packets, traces, and files that nobody changes unnoticed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::program;
use sekisho_tests::gateway::settings::PRINT;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::scenario::site::Site;
use sekisho_tests::stage::{self, Stage, Test};
use sekisho_tests::traffic::tcp::{self, Conversation};
use serde_json::Value;

use super::negotiation::usual;

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 3] = [
        ("flows_are_listed_and_forgotten", flows),
        ("a_trace_shows_verdicts_and_rules_and_ends", trace),
        ("what_happened_is_in_files_that_nobody_changes_unnoticed", files),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("evidence::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

/// JSON lines.
fn rows(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

fn flows(site: &mut Site) -> Result<String> {
    usual(site)?;
    let printer = Place::Lan3.socket(Family::V4, PRINT);
    let mut held = Conversation::open(&site.at(Place::Lan1), printer)?;
    held.say(b"a flow to be seen")?;
    let mut other = Conversation::open(&site.at(Place::Lan1), Place::Lan3.socket(Family::V6, PRINT))?;
    other.say(&[7; 4000])?;
    let address = Place::Lan1.address(Family::V4).to_string();
    let mine = ["flows", "--json", "--zone", "lan3", "--protocol", "tcp", "--port", "9100"];
    let found = rows(&site.clinic.sekisho(&[&mine[..], &["--address", &address]].concat())?)?;
    let flow = found.first().context("the flow is not listed")?;
    ensure!(found.len() == 1, "more than one: {found:?}");
    for (field, expected) in [
        ("source", Value::from(address.as_str())),
        ("destination_port", 9100.into()),
        ("from_zone", "lan1".into()),
        ("to_port", "lan3".into()),
        ("rule", "print".into()),
        ("state", "established".into()),
    ] {
        ensure!(flow[field] == expected, "{field} should be {expected}: {flow}");
    }
    ensure!(flow["packets"].as_u64() >= Some(3) && flow["reply_bytes"].as_u64() > Some(100), "{flow}");
    let sorted = rows(&site.clinic.sekisho(&[&mine[..], &["--sort", "bytes", "--limit", "1"]].concat())?)?;
    ensure!(sorted.len() == 1 && sorted[0]["source"] != address.as_str(), "not the largest: {sorted:?}");
    ensure!(site.clinic.sekisho(&["flows"])?.contains("established"), "the table lacks it");
    ensure!(site.clinic.sekisho(&["flows", "--delete"]).is_err(), "everything was forgotten without a word");
    site.clinic.sekisho(&["flows", "--delete", "--address", &address, "--port", "9100"])?;
    ensure!(held.say(b"forgotten").is_err(), "the flow lives on");
    other.say(b"not meant")?;
    Ok("listed by zone, address, port, protocol; sorted; forgotten one by one".into())
}

fn trace(site: &mut Site) -> Result<String> {
    usual(site)?;
    let gateway = site.clinic.name().to_owned();
    let seen = std::thread::scope(|scope| -> Result<String> {
        let tracing = scope.spawn(move || -> Result<String> {
            let mut command = Command::new(program("sekisho")?);
            let arguments = ["trace", "--json", "--time", "3s", "--port", "9100", "--protocol", "tcp"];
            let output = command.args(["--gateway", &gateway]).args(arguments).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8(output.stdout)?)
        });
        while !tracing.is_finished() {
            tcp::ask(&site.at(Place::Lan1), Place::Lan3.socket(Family::V4, PRINT))?;
            tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, PRINT))?;
        }
        tracing.join().map_err(|_| anyhow::anyhow!("the trace panicked"))?
    })?;
    let seen = rows(&seen)?;
    let with = |verdict: &str, rule: Option<&str>| {
        seen.iter().filter(|row| row["verdict"] == verdict && row["rule"].as_str() == rule).count()
    };
    let (passed, refused) = (with("forward", Some("print")), with("policy", None));
    ensure!(passed >= 6 && refused >= 1, "{passed} forwarded by the rule, {refused} refused: {seen:?}");
    ensure!(seen.iter().all(|row| row["kind"] == "traced"), "something else among them");
    // The last refused ones are remembered without a trace.
    let drops = rows(&site.clinic.sekisho(&["drops", "--json"])?)?;
    let refused_at_lan3 =
        drops.iter().filter(|row| row["verdict"] == "policy" && row["port"] == "lan3").count();
    ensure!(refused_at_lan3 > 0, "{drops:?}");
    ensure!(site.clinic.sekisho(&["drops"])?.contains("policy"), "no totals");
    let unknown = site.clinic.sekisho(&["trace", "--from", "nowhere"]);
    ensure!(
        unknown.is_err_and(|error| format!("{error:#}").contains("nowhere")),
        "an unknown port is traced"
    );
    Ok(format!("{passed} packets forwarded by rule print, {refused} refused, seen live"))
}

/// `sekisho evidence verify`: whether it is content, and its words.
fn verify(folder: &Path) -> Result<(bool, String)> {
    let output = Command::new(program("sekisho")?).args(["evidence", "verify"]).arg(folder).output()?;
    let words = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&words).into_owned()))
}

fn lines(folder: &Path) -> Result<String> {
    let mut names: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    names.sort();
    names.iter().map(|path| Ok(fs::read_to_string(path)?)).collect()
}

fn files(site: &mut Site) -> Result<String> {
    usual(site)?;
    let text = fs::read_to_string(site.clinic.config())?;
    let folder = site.lab.dir().join("evidence");
    let with_files = format!("{text}\n[evidence]\ndirectory = \"{}\"\n", folder.display());
    fs::write(site.clinic.config(), &with_files)?;
    let said = site.clinic.sekisho(&["reload"])?;
    ensure!(said.contains("~ gateway evidence"), "{said}");
    // What is written is written soon, and a flow's begin is seen by the next sweep.
    let patience = Duration::from_secs(15);
    let contains = |what: &[&str]| -> Result<Option<String>> {
        let all = lines(&folder)?;
        Ok(all.lines().find(|line| what.iter().all(|part| line.contains(part))).map(str::to_owned))
    };
    let printer = Place::Lan3.socket(Family::V4, PRINT);
    let mut held = Conversation::open(&site.at(Place::Lan1), printer)?;
    held.say(b"never to stand in a record")?;
    tcp::expect_silence(&site.at(Place::Lan3), Place::Lan1.socket(Family::V4, PRINT))?;
    site.clinic.sekisho(&["down", "centre"])?;
    site.clinic.sekisho(&["up", "centre"])?;
    site.await_tunnel()?;
    until(patience, "the flow's begin", || contains(&["\"flow-start\"", "\"rule\":\"print\""]))?;
    fs::write(site.clinic.config(), with_files.replacen("\"print\", \"ping\", \"udp/9100\"", "\"ping\"", 1))?;
    site.clinic.sekisho(&["reload"])?;
    ensure!(held.say(b"refused now").is_err(), "the flow lives on");
    let (end, _) = until(patience, "the flow's end with its counts", || {
        contains(&["\"flow-end\"", "\"end\":\"refused\"", "\"rule\":\"print\""])
    })?;
    let end: Value = serde_json::from_str(&end)?;
    ensure!(end["packets"].as_u64() >= Some(3) && end["reply_packets"].as_u64() >= Some(2), "{end}");
    for what in [
        &["\"refused\"", "\"port\":\"lan3\"", "\"verdict\":\"policy\""][..],
        &["\"command\"", "down centre"],
        &["\"child-down\"", "centre"],
        &["\"ike-up\"", "centre.example"],
        &["\"child-up\"", "main"],
        &["\"reload\"", "\"applied\":true"],
        &["\"seal\""],
    ] {
        until(patience, &format!("a record with {what:?}"), || contains(what))?;
    }
    ensure!(contains(&["never to stand"])?.is_none(), "a payload is in the records");
    fs::write(site.clinic.config(), &with_files)?;
    site.clinic.sekisho(&["reload"])?;

    let (good, words) = verify(&folder)?;
    ensure!(good && words.contains("sealed up to"), "{words}");
    let records = lines(&folder)?.lines().count();
    site.clinic.crash()?;
    site.clinic.launch(&site.lab)?;
    site.await_tunnel()?;
    let (good, words) = verify(&folder)?;
    ensure!(good && lines(&folder)?.lines().count() > records, "after a crash: {words}");

    // Somebody who would rather not have been refused.
    let forged = site.lab.dir().join("forged");
    fs::create_dir_all(&forged)?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        fs::copy(entry.path(), forged.join(entry.file_name()))?;
    }
    let file = fs::read_dir(&forged)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .context("no file")?;
    let lines = fs::read_to_string(&file)?;
    let number = lines.lines().position(|line| line.contains("\"refused\"")).context("no such record")?;
    let without: Vec<&str> =
        lines.lines().enumerate().filter(|(index, _)| *index != number).map(|(_, line)| line).collect();
    fs::write(&file, without.join("\n") + "\n")?;
    let (good, words) = verify(&forged)?;
    ensure!(!good && words.contains(&format!("records {number} to {number} are missing")), "{words}");
    usual(site)?;
    Ok(format!("{records} records; one removed is named: {}", words.trim().rsplit(": ").next().unwrap_or("")))
}
