//! `sekisho check` and `sekisho pki` as an administrator runs them.

use std::path::Path;
use std::process::{Command, Output};

fn sekisho(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sekisho"));
    command.current_dir(folder).args(arguments).output().expect("sekisho runs")
}

fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = sekisho(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn fails(folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = sekisho(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

#[test]
fn from_an_authority_to_two_good_configurations() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let dir = folder.path();
    succeeds(dir, &["pki", "init", "--dir", "pki", "--name", "Test", "--ec", "p384"]);
    succeeds(dir, &["pki", "issue", "--dir", "pki", "--id", "clinic.example", "--out", "clinic"]);
    let made = succeeds(
        dir,
        &["pki", "issue", "--dir", "pki", "--id", "centre.example", "--rsa", "--out", "centre"],
    );
    assert!(made.contains("RSA 3072"), "{made}");
    std::fs::copy(dir.join("pki/root.crt.pem"), dir.join("root.crt.pem")).expect("the root");
    let readme = include_str!("../../README.md");
    let in_readme =
        readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    for (name, text) in [
        ("clinic.toml", include_str!("../examples/clinic.toml")),
        ("centre.toml", include_str!("../examples/centre.toml")),
        ("readme.toml", in_readme),
    ] {
        std::fs::write(dir.join(name), text).expect("a file");
        assert!(succeeds(dir, &["check", name]).contains(&format!("{name}: good")));
    }
    assert!(succeeds(dir, &["pki", "show", "clinic.crt.pem"]).contains("identity     clinic.example"));

    let (_, again) =
        fails(dir, &["pki", "issue", "--dir", "pki", "--id", "clinic.example", "--out", "clinic"]);
    assert!(again.contains("is not overwritten"), "{again}");
}

#[test]
fn a_bad_configuration_is_refused_with_places() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let text = "[gateway]\nname = \"x\"\nmetrix = \"127.0.0.1:1\"\n\n[ports.lan]\ninterface = \"lan\"\naddresses = [\"10.0.0.0/24\"]\n";
    std::fs::write(folder.path().join("bad.toml"), text).expect("a file");
    let (_, report) = fails(folder.path(), &["check", "bad.toml"]);
    for part in ["bad.toml:3:1", "did you mean `metrics`?", "bad.toml:7:14", "2 errors, 0 warnings"] {
        assert!(report.contains(part), "no {part} in\n{report}");
    }
    let (json, _) = fails(folder.path(), &["check", "--json", "bad.toml"]);
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(answer["accepted"], false);
    assert_eq!(answer["findings"][0]["line"], 3);
    assert_eq!(answer["findings"].as_array().map(Vec::len), Some(2));
}
