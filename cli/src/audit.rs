//! `trellis audit verify`: whether the CA's audit trail is what the CA wrote.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::json;
use trellis_pki::audit::{Fault, Summary, Verifier, public_key};

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
    /// The trail's public key in PEM, as the CA shows it at /audit-key, from a place that whoever writes
    /// the trail cannot change.
    #[arg(long)]
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
    fn run(self) -> Result<ExitCode> {
        let trusted = match &self.key {
            Some(path) => {
                let pem = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let wrong =
                    || format!("{} holds no public key in PEM, as /audit-key shows it", path.display());
                Some(public_key(&pem).with_context(wrong)?)
            }
            None => None,
        };
        let proven = trusted.is_some();
        let mut verifier = Verifier::new(trusted, self.partial);
        let input: Box<dyn BufRead> = match self.file.to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => {
                let open = File::open(&self.file);
                Box::new(BufReader::new(
                    open.with_context(|| format!("cannot read {}", self.file.display()))?,
                ))
            }
        };
        let fault = read(input, &mut verifier)?;
        let summary = verifier.summary();
        let mut out = io::stdout().lock();
        if self.json {
            let fault = fault.as_ref().map(|fault| {
                json!({ "line": fault.line, "chain": fault.chain, "record": fault.seq, "what": fault.what.to_string() })
            });
            let found = json!({
                "records": summary.records, "chains": summary.chains, "signatures": summary.signatures,
                "unsigned": summary.unsigned, "otherLines": summary.other_lines, "keyTrusted": proven, "fault": fault,
            });
            writeln!(out, "{found}")?;
        } else {
            write!(out, "{}", words(&summary, fault.as_ref(), proven))?;
        }
        // A trail without a record proves nothing.
        let good = fault.is_none() && summary.records > 0;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Line by line, whatever is in it: a log may hold bytes that are no text.
fn read(mut input: impl BufRead, verifier: &mut Verifier) -> Result<Option<Fault>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).context("cannot read on")? == 0 {
            return Ok(None);
        }
        if let Err(fault) = verifier.line(&String::from_utf8_lossy(&line)) {
            return Ok(Some(fault));
        }
    }
}

fn words(summary: &Summary, fault: Option<&Fault>, proven: bool) -> String {
    if let Some(fault) = fault {
        return format!("NOT GOOD: {fault}\n{} records before it are good\n", summary.records);
    }
    if summary.records == 0 {
        return "no record of an audit trail is in it\n".to_owned();
    }
    let mut text = format!(
        "good: {} records in {} chains, {} signatures\n",
        summary.records, summary.chains, summary.signatures
    );
    if summary.unsigned > 0 {
        text += &format!(
            "{} records at the end are not signed yet: if more were cut off behind them, it does not show\n",
            summary.unsigned
        );
    }
    if !proven {
        text += "the signatures are those of the keys that the trail itself names, which proves little: give --key\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::Map;
    use trellis_pki::{algorithm::Algorithm, audit::Chain, key::PrivateKey};

    use super::*;

    #[test]
    fn what_is_found_is_said_in_words() {
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let (mut chain, first) = Chain::begin("ca-1".to_owned(), None, &key, UNIX_EPOCH);
        let lines = [
            first,
            chain.record("issued", Map::new(), UNIX_EPOCH),
            chain.sign(&key, UNIX_EPOCH).unwrap(),
            chain.record("issued", Map::new(), UNIX_EPOCH),
        ];
        let judge = |lines: &[&str], trusted: bool| {
            let mut verifier = Verifier::new(trusted.then(|| key.public_key().clone()), false);
            let fault = read(lines.join("\n").as_bytes(), &mut verifier).unwrap();
            words(&verifier.summary(), fault.as_ref(), trusted)
        };
        let all: Vec<&str> = lines.iter().map(String::as_str).collect();
        let said = judge(&all, true);
        assert!(
            said.starts_with("good: 4 records in 1 chains, 1 signatures\n1 records at the end"),
            "{said}"
        );
        assert!(judge(&all, false).contains("give --key"));
        let said = judge(&[all[0], all[2], all[3]], true);
        assert!(
            said.contains("line 2: chain ca-1, record 2: the records 1 to 1 before it are missing"),
            "{said}"
        );
        assert!(judge(&["{}", "nothing"], true).contains("no record"));
    }
}
