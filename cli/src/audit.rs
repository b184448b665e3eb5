//! `trellis audit verify`: whether the CA's audit trail is what the CA wrote.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use trellis_pki::{
    audit::{Report, Verifier, public_keys},
    key::PublicKey,
};

/// What is read in one go.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Args)]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what was removed, changed, or put elsewhere in an audit trail.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// The trail, or a log that it is in; - reads standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Public keys in PEM that the trail may be signed with, as the CA shows its own at /audit-key, from a
    /// place that whoever writes the trail cannot change.
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// The trail may begin in the middle, as logs do that were rotated.
    #[arg(long)]
    partial: bool,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub fn run(self) -> Result<ExitCode> {
        let Command::Verify(verify) = self.command;
        verify.run()
    }
}

impl Verify {
    /// Fails where the trail is not what was written.
    fn run(self) -> Result<ExitCode> {
        let trusted = self.trusted()?;
        let proven = !trusted.is_empty();
        let cannot_read = || format!("cannot read {}", self.file.display());
        let input: Box<dyn Read> = match self.file.to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => Box::new(File::open(&self.file).with_context(cannot_read)?),
        };
        let report = read(input, Verifier::new(trusted, self.partial)).with_context(cannot_read)?;
        let mut out = io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", document(&report, proven))?,
            false => write!(out, "{}", words(&report, proven))?,
        }
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn trusted(&self) -> Result<Vec<PublicKey>> {
        let Some(path) = &self.key else { return Ok(Vec::new()) };
        let pem = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        public_keys(&pem)
            .with_context(|| format!("{} holds no public key in PEM, as /audit-key shows it", path.display()))
    }
}

fn read(mut input: impl Read, mut verifier: Verifier) -> io::Result<Report> {
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return Ok(verifier.finish()),
            Ok(length) => verifier.feed(piece.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn document(report: &Report, proven: bool) -> Value {
    let faults: Vec<Value> = report
        .faults
        .iter()
        .map(|fault| {
            json!({
                "line": fault.line, "chain": fault.chain, "record": fault.seq,
                "kind": fault.what.as_str(), "what": fault.what.to_string(),
            })
        })
        .collect();
    let chains: Vec<Value> = report
        .chains
        .iter()
        .map(|chain| {
            json!({
                "chain": chain.chain, "first": chain.first, "last": chain.last,
                "unsigned": chain.unsigned, "signed": chain.signed,
            })
        })
        .collect();
    let summary = &report.summary;
    json!({
        "good": report.is_good(), "keyTrusted": proven, "faults": faults, "moreFaults": report.more_faults,
        "chains": chains, "records": summary.records, "signatures": summary.signatures,
        "unchecked": summary.unchecked, "unsigned": summary.unsigned,
        "damagedLines": summary.damaged_lines, "otherLines": summary.other_lines,
    })
}

fn words(report: &Report, proven: bool) -> String {
    let summary = &report.summary;
    if summary.records == 0 {
        return "NOT GOOD: no record of an audit trail is in it\n".to_owned();
    }
    let (first, others) = match report.faults.split_first() {
        None => ("good: ".to_owned(), &[][..]),
        Some((first, others)) => (format!("NOT GOOD: {first}\n"), others),
    };
    let mut text = first;
    for fault in others {
        text += &format!("also {fault}\n");
    }
    if report.more_faults > 0 {
        text += &format!("and {} more\n", report.more_faults);
    }
    text += &format!(
        "{} in {}, {}\n",
        counted(summary.records, "record"),
        counted(report.chains.len() as u64, "chain"),
        counted(summary.signatures, "good signature")
    );
    if summary.damaged_lines > 0 {
        let lines = counted(summary.damaged_lines, "line");
        text +=
            &format!("{lines} cut in writing, or damaged: a record that is missing by that is named above\n");
    }
    if summary.unsigned > 0 {
        let records = counted(summary.unsigned, "record");
        text += &format!(
            "{records} at the end not signed yet: what was done to them, or cut off behind them, does not show\n"
        );
    }
    if summary.unchecked > 0 {
        text += &format!("{} of unknown keys: give --key\n", counted(summary.unchecked, "signature"));
    }
    if !proven {
        text +=
            "signatures were held to the keys that the trail itself names, which is no proof: give --key\n";
    }
    text
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::Map;
    use trellis_pki::{algorithm::Algorithm, audit::Chain, key::PrivateKey};

    use super::*;

    #[test]
    fn what_is_found_is_said_in_words_and_for_programs() {
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let (mut chain, first) = Chain::begin("ca-1".to_owned(), None, &key, UNIX_EPOCH).unwrap();
        let mut lines = Vec::from(first);
        for _ in 0..3 {
            lines.push(chain.record("issued", &Map::new(), UNIX_EPOCH));
        }
        let judge = |lines: &[&str], trusted: bool| {
            let trusted = trusted.then(|| key.public_key().clone()).into_iter().collect();
            read(lines.join("\n").as_bytes(), Verifier::new(trusted, false)).unwrap()
        };
        let all: Vec<&str> = lines.iter().map(String::as_str).collect();
        let said = words(&judge(&all, true), true);
        assert!(
            said.starts_with("good: 5 records in 1 chain, 1 good signature\n3 records at the end"),
            "{said}"
        );
        assert!(words(&judge(&all, false), false).contains("no proof: give --key"));

        let cut = judge(&[all[0], all[1], all[3], &all[4][..80], "other"], true);
        let said = words(&cut, true);
        let expected = "NOT GOOD: line 3: chain ca-1, record 3: record 2 before it is missing\n";
        assert!(said.starts_with(expected), "{said}");
        assert!(said.contains("1 line cut in writing"), "{said}");
        let found = document(&cut, true);
        assert_eq!((&found["good"], &found["faults"][0]["kind"]), (&json!(false), &json!("removed")));
        assert_eq!((&found["faults"][0]["line"], &found["otherLines"]), (&json!(3), &json!(1)));
        assert_eq!(found["chains"][0]["last"], 3);
        assert!(words(&judge(&["{}", "nothing"], true), true).contains("no record"));
    }
}
