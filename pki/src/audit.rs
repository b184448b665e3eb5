//! An audit trail that shows what was done to it: each record carries the hash of the one before, and at
//! intervals the chain's head is signed. Here is the form of the records, how they are made, and how
//! whoever reads them finds what was removed, changed or put elsewhere.
//!
//! A record is one line of JSON. What is hashed is the line as it was written, so that nobody has to
//! agree on how JSON is spelt.

use std::collections::HashMap;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{PublicKeyData, SigningKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::rfc3339;
use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::x509;

/// Marks a line as a record, whatever else is in the same log.
pub const FORM: &str = "trellis.dev/audit/v1";

const STARTED: &str = "started";
const SIGNED: &str = "signed";
/// Longer lines are no records of ours.
const MAX_LINE: usize = 64 * 1024;
/// Chains in one log: one for each run of each replica.
const MAX_CHAINS: usize = 10_000;

/// Makes records. It knows no file and no clock.
pub struct Chain {
    id: String,
    next: u64,
    head: String,
    unsigned: u64,
}

impl Chain {
    /// Begins a chain; `id` must be of this run alone. `after` is the head of the chain that this one
    /// follows in the same file, so that a whole run cannot be cut out unseen.
    pub fn begin(id: String, after: Option<&str>, key: &PrivateKey, now: SystemTime) -> (Self, String) {
        let mut chain = Self { id, next: 0, head: String::new(), unsigned: 0 };
        let public = x509::pem("PUBLIC KEY", &key.public_key().subject_public_key_info());
        let mut fields = Map::new();
        fields.insert("publicKey".to_owned(), json!(public));
        fields.insert("after".to_owned(), json!(after));
        let line = chain.record(STARTED, fields, now);
        (chain, line)
    }

    /// One record, as the line to be written.
    pub fn record(&mut self, event: &str, fields: Map<String, Value>, now: SystemTime) -> String {
        let mut record = json!({
            "audit": FORM,
            "chain": self.id,
            "seq": self.next,
            "time": rfc3339(now),
            "event": event,
            "previous": self.head,
        });
        if let Some(record) = record.as_object_mut() {
            for (name, value) in fields {
                // What makes the chain cannot be overwritten by what is recorded.
                record.entry(name).or_insert(value);
            }
        }
        let line = record.to_string();
        self.next += 1;
        self.unsigned += 1;
        self.head = hash(&line);
        line
    }

    /// A record that signs all before it.
    pub fn sign(&mut self, key: &PrivateKey, now: SystemTime) -> Result<String, KeyError> {
        let signature =
            key.sign(&statement(&self.id, self.next, &self.head)).map_err(|_| KeyError::Signing)?;
        let mut fields = Map::new();
        fields.insert("key".to_owned(), json!(key.public_key().fingerprint()));
        fields.insert("signature".to_owned(), json!(x509::hex(&signature)));
        let line = self.record(SIGNED, fields, now);
        self.unsigned = 0;
        Ok(line)
    }

    /// Records that nothing signed yet.
    pub fn unsigned(&self) -> u64 {
        self.unsigned
    }
}

/// The hash of a record, by which the next one names it.
pub fn hash(line: &str) -> String {
    x509::hex(digest(&SHA256, line.as_bytes()).as_ref())
}

/// What is signed: nothing that could be taken for anything else.
fn statement(chain: &str, seq: u64, head: &str) -> Vec<u8> {
    format!("{FORM}\n{chain}\n{seq}\n{head}").into_bytes()
}

/// A public key in PEM, as `/audit-key` shows it.
pub fn public_key(pem: &str) -> Option<PublicKey> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (rest, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    x509::public_key(&info).ok()
}

pub fn public_key_pem(key: &PublicKey) -> String {
    x509::pem("PUBLIC KEY", &key.subject_public_key_info())
}

/// What is wrong with a trail, and where it shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: chain {chain}, record {seq}: {what}")]
pub struct Fault {
    pub line: u64,
    pub chain: String,
    pub seq: u64,
    pub what: Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("the records {0} to {1} before it are missing")]
    Removed(u64, u64),
    #[error("it stands there a second time, or at another place than it was written at")]
    Reordered,
    #[error("the record before it was changed, or this one was")]
    Changed,
    #[error("its signature is not that of the key {0}")]
    Forged(String),
    #[error("it is signed with the key {0}, which is not the one that is trusted here")]
    UnknownSigner(String),
    #[error("the run before it in this file is missing, or was changed at its end")]
    RunRemoved,
    #[error("it is no record: {0}")]
    Malformed(&'static str),
    #[error("there are more than {MAX_CHAINS} chains; look at them in several pieces")]
    TooManyChains,
}

/// What a trail without a fault holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    pub chains: u64,
    pub signatures: u64,
    /// Records behind the last signature of their chain: true as far as they are there, but who cut the
    /// end off would not be found out.
    pub unsigned: u64,
    pub other_lines: u64,
}

/// Reads a trail line by line, in whatever order several chains are mixed.
pub struct Verifier {
    trusted: Option<PublicKey>,
    /// Chains may have begun before the first line.
    partial: bool,
    chains: HashMap<String, Seen>,
    line: u64,
    summary: Summary,
}

struct Seen {
    next: u64,
    head: String,
    unsigned: u64,
    /// The key that the chain itself named; checked against the trusted one.
    named: Option<PublicKey>,
}

impl Verifier {
    /// Without a trusted key, signatures are only held to the keys that the chains name themselves.
    pub fn new(trusted: Option<PublicKey>, partial: bool) -> Self {
        Self { trusted, partial, chains: HashMap::new(), line: 0, summary: Summary::default() }
    }

    pub fn line(&mut self, text: &str) -> Result<(), Fault> {
        self.line += 1;
        // A log may put something before each line.
        let text = text.find('{').and_then(|at| text.get(at..)).unwrap_or_default().trim_end();
        if text.len() > MAX_LINE || !text.contains(FORM) {
            self.summary.other_lines += 1;
            return Ok(());
        }
        let Ok(record) = serde_json::from_str::<Value>(text) else {
            return Err(self.fault("?", 0, Wrong::Malformed("it is not JSON")));
        };
        if record.get("audit").and_then(Value::as_str) != Some(FORM) {
            self.summary.other_lines += 1;
            return Ok(());
        }
        self.record(&record, text)
    }

    /// What was found, once all lines were read.
    pub fn summary(&self) -> Summary {
        let unsigned = self.chains.values().map(|chain| chain.unsigned).sum();
        let chains = u64::try_from(self.chains.len()).unwrap_or(u64::MAX);
        Summary { unsigned, chains, ..self.summary.clone() }
    }

    fn record(&mut self, record: &Value, text: &str) -> Result<(), Fault> {
        let word = |name: &str| record.get(name).and_then(Value::as_str);
        let (Some(id), Some(seq), Some(previous), Some(event)) =
            (word("chain"), record.get("seq").and_then(Value::as_u64), word("previous"), word("event"))
        else {
            return Err(self.fault("?", 0, Wrong::Malformed("it lacks chain, seq, previous or event")));
        };
        let fault = |what| Err(Fault { line: self.line, chain: id.to_owned(), seq, what });
        let known = self.chains.get(id);
        if known.is_none() {
            if self.chains.len() >= MAX_CHAINS {
                return fault(Wrong::TooManyChains);
            }
            if seq > 0 && !self.partial {
                return fault(Wrong::Removed(0, seq - 1));
            }
            if seq == 0 && event != STARTED {
                return fault(Wrong::Malformed("a chain begins with the event started"));
            }
        }
        if let Some(known) = known {
            match seq.cmp(&known.next) {
                std::cmp::Ordering::Greater => return fault(Wrong::Removed(known.next, seq - 1)),
                std::cmp::Ordering::Less => return fault(Wrong::Reordered),
                std::cmp::Ordering::Equal if previous != known.head => return fault(Wrong::Changed),
                std::cmp::Ordering::Equal => {}
            }
        }
        if event == STARTED
            && let Some(after) = word("after")
            && !self.partial
            && !self.chains.values().any(|chain| chain.head == after)
        {
            return fault(Wrong::RunRemoved);
        }
        let named = match known.and_then(|known| known.named.clone()) {
            Some(named) => Some(named),
            None => word("publicKey").filter(|_| event == STARTED).and_then(public_key),
        };
        let signs = event == SIGNED;
        if signs && let Err(what) = self.signature(record, id, seq, previous, named.as_ref()) {
            return fault(what);
        }
        let unsigned = if signs { 0 } else { known.map_or(0, |known| known.unsigned) + 1 };
        self.chains.insert(id.to_owned(), Seen { next: seq + 1, head: hash(text), unsigned, named });
        self.summary.records += 1;
        self.summary.signatures += u64::from(signs);
        Ok(())
    }

    fn signature(
        &self,
        record: &Value,
        id: &str,
        seq: u64,
        previous: &str,
        named: Option<&PublicKey>,
    ) -> Result<(), Wrong> {
        let word = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = self.trusted.as_ref().or(named);
        let Some(key) = key.filter(|key| key.fingerprint() == word("key")) else {
            return Err(Wrong::UnknownSigner(word("key").to_owned()));
        };
        let signature = x509::from_hex(word("signature")).unwrap_or_default();
        match key.algorithm.verifies(&key.raw, &statement(id, seq, previous), &signature) {
            true => Ok(()),
            false => Err(Wrong::Forged(word("key").to_owned())),
        }
    }

    fn fault(&self, chain: &str, seq: u64, what: Wrong) -> Fault {
        Fault { line: self.line, chain: chain.to_owned(), seq, what }
    }
}
