//! What an operator uses: metrics, check, commands with wrong arguments.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::{program, tail};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::process::Process;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::scenario::tunnel;
use sekisho_tests::stage::{self, Stage, Test};

pub(crate) fn trials(stage: &Stage) -> Vec<Trial> {
    let tests: [(&str, Test); 4] = [
        ("metrics_are_wellformed_and_agree_with_the_status", metrics),
        ("check_accepts_what_runs_and_explains_what_is_wrong", check),
        ("commands_about_unknown_connections_are_refused", unknown_connection),
        ("a_second_daemon_of_the_same_name_is_refused", second_daemon),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let stage = stage.clone();
            Trial::test(format!("operation::{name}"), move || stage::words(stage.run(test)))
        })
        .collect()
}

fn metrics(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    tunnel::pages(site)?;
    let before = site.clinic.status()?;
    let page = site.clinic.metrics()?;
    let after = site.clinic.status()?;
    ensure!(
        page.value("sekisho_connection_up", &[("connection", "centre")]) == 1.0,
        "the connection is not up"
    );
    for (port, verdict) in [("lan1", "encrypt"), ("lan1", "policy"), ("wan", "decrypt"), ("wan", "policy")] {
        // Counters far below 2^52.
        let value = page.value("sekisho_port_packets_total", &[("port", port), ("verdict", verdict)]) as u64;
        let range = before.verdict(port, verdict)..=after.verdict(port, verdict);
        ensure!(
            range.contains(&value),
            "{verdict} of {port}: {value} in the metrics, {range:?} in the status"
        );
        ensure!(value > 0, "{verdict} of {port} never occurred, though pages and attacks did");
    }
    let verdict = match page.judged_by_promtool()? {
        Some(()) => "promtool is content",
        None => "promtool is not installed",
    };
    Ok(format!("{} samples, {verdict}", page.names().len()))
}

fn check(site: &mut Site) -> Result<String> {
    let run = |file: &std::path::Path| -> Result<(bool, String)> {
        let output = Command::new(program("sekisho")?).arg("check").arg(file).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (accepted, said) = run(site.clinic.config())?;
    ensure!(accepted, "the configuration in use is refused:\n{said}");
    let text = std::fs::read_to_string(site.clinic.config())?;
    let broken = site.lab.dir().join("broken.toml");
    let wrong = text.replacen("to = \"lan3\"", "to = \"lan33\"", 1);
    ensure!(wrong != text, "the configuration has no policy towards lan3");
    std::fs::write(&broken, &wrong)?;
    let line = wrong.lines().position(|line| line.contains("lan33")).unwrap_or_default() + 1;
    let (accepted, said) = run(&broken)?;
    ensure!(!accepted, "a policy towards a zone that does not exist is accepted");
    ensure!(
        said.contains(&format!("broken.toml:{line}:")),
        "the mistake is in line {line}, but check said:\n{said}"
    );
    Ok(format!("mistake found in line {line}"))
}

fn unknown_connection(site: &mut Site) -> Result<String> {
    for arguments in [&["up", "nowhere"][..], &["down", "nowhere"], &["rekey", "nowhere"]] {
        let error = match site.clinic.sekisho(arguments) {
            Ok(said) => anyhow::bail!("{arguments:?} succeeded: {said}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains("centre"), "{arguments:?} does not name the connections there are: {error}");
    }
    Ok("each names the connections there are".into())
}

fn second_daemon(site: &mut Site) -> Result<String> {
    let mut command = Command::new(program("sekishod")?);
    command.arg("--config").arg(site.clinic.config());
    let mut second = Process::start(&site.lab, Place::Clinic, &mut command, "second-daemon")?;
    let (status, _) = until(Duration::from_secs(10), "the second daemon's end", || second.ended())?;
    ensure!(!status.success(), "a second daemon ran and ended well");
    site.await_tunnel()?;
    tunnel::pages(site)?;
    Ok(tail(&second.log(), 1))
}
