//! The binary itself, as an operator starts it where there is no cluster.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

/// Ends with the test.
struct Injector(Child);

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, settings: &str) -> Injector {
    fs::create_dir_all(folder.join("world")).unwrap();
    fs::write(folder.join("settings.json"), settings).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let child = Command::new(env!("CARGO_BIN_EXE_trellis-injector"))
        .env_clear()
        .args(["--config", &at("settings.json")])
        .args(["--source", &format!("folder:{}", at("world"))])
        .args(["--tls", &format!("file:{}", folder.display())])
        .args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--ready-listen=127.0.0.1:0"])
        .args(["--log-format=json"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Injector(child)
}

#[test]
fn becomes_ready_by_itself_and_leaves_its_certificate_where_it_was_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut injector = start(folder.path(), "{}");
    let mut unmet = BTreeSet::from(["certificate", "trust", "namespaces", "serving"]);
    let mut lines = BufReader::new(injector.0.stderr.take().unwrap()).lines();
    while !unmet.is_empty() {
        let line = lines.next().expect("it ended before it was ready").unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "condition met" {
            unmet.remove(line["condition"].as_str().unwrap());
        }
    }
    for file in ["certificates.json", "ca-bundle.pem"] {
        assert!(folder.path().join(file).exists(), "{file}");
    }
}

#[test]
fn does_not_start_with_settings_that_it_would_not_follow() {
    let folder = tempfile::tempdir().unwrap();
    let mut injector = start(folder.path(), r#"{"discoveryAddress": "somewhere"}"#);
    let mut message = String::new();
    std::io::Read::read_to_string(&mut injector.0.stderr.take().unwrap(), &mut message).unwrap();
    assert_eq!(injector.0.wait().unwrap().code(), Some(1));
    assert!(message.contains("`discoveryAddress: somewhere`: it is not a host and a port"), "{message}");
}
