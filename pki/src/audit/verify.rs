//! Reads a trail, of any length and in whatever order several chains are mixed, and finds what was done to
//! it. What it keeps in memory is one small state for each chain.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::seen::{Order, Place, Seen};
use super::{ChainSummary, Fault, Hash, MAX_RECORD, OPENING, Report, SIGNATURE, SIGNED, STARTED, Wrong};
use super::{public_keys, record_in, sha256, statement};
use crate::key::PublicKey;
use crate::x509;

/// A record, and what a log may put before it.
const MAX_LINE: usize = MAX_RECORD + 4 * 1024;
/// Chains in one log: one for each run of each replica.
const MAX_CHAINS: usize = 10_000;
const MAX_CHAIN_ID: usize = 256;
const MAX_FAULTS: usize = 100;
/// Records that a new run may name as the one it was written behind: while it began, others that write to
/// the same file may have gone on.
const RECENT: usize = 1_024;

pub struct Verifier {
    trusted: Vec<Arc<PublicKey>>,
    /// Keys that chains named themselves, by fingerprint.
    named: BTreeMap<String, Arc<PublicKey>>,
    partial: bool,
    chains: BTreeMap<String, Seen>,
    recent: VecDeque<Hash>,
    /// The part of a line that has come so far.
    held: Vec<u8>,
    /// Whether more came of this line than is held.
    overlong: bool,
    line: u64,
    report: Report,
}

/// What a verifier needs of a record.
struct Record<'a> {
    bytes: &'a str,
    value: &'a Value,
    chain: &'a str,
    seq: u64,
    event: &'a str,
    previous: Option<Hash>,
}

/// What became of a signature.
enum Signature {
    Good,
    /// There is no key to check it with.
    Unchecked,
    Bad(Wrong),
}

impl Record<'_> {
    fn word(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }
}

impl Verifier {
    /// Without trusted keys, signatures are only held to the keys that the chains name themselves.
    /// `partial`: chains may have begun before the first line, as in logs that were rotated.
    pub fn new(trusted: Vec<PublicKey>, partial: bool) -> Self {
        Self {
            trusted: trusted.into_iter().map(Arc::new).collect(),
            named: BTreeMap::new(),
            partial,
            chains: BTreeMap::new(),
            recent: VecDeque::new(),
            held: Vec::new(),
            overlong: false,
            line: 0,
            report: Report::default(),
        }
    }

    /// Takes the next bytes of the trail, wherever they were cut.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(at);
            self.hold(line);
            self.end_line();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.hold(bytes);
    }

    /// What was found, once all bytes were taken.
    pub fn finish(mut self) -> Report {
        if !self.held.is_empty() {
            self.end_line();
        }
        for (id, seen) in &self.chains {
            for fault in seen.end(id) {
                note(&mut self.report, fault);
            }
        }
        self.report.summary.unsigned = self.chains.values().map(|seen| seen.unsigned).sum();
        self.report.chains = self.chains.iter().map(|(id, seen)| summary(id, seen)).collect();
        self.report.faults.sort_by_key(|fault| fault.line);
        self.report
    }

    fn hold(&mut self, part: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.held.len());
        self.overlong |= part.len() > room;
        self.held.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn end_line(&mut self) {
        self.line += 1;
        let line = std::mem::take(&mut self.held);
        let begins = || line.windows(OPENING.len()).any(|window| window == OPENING.as_bytes());
        match record_in(&line).filter(|record| !self.overlong && record.len() <= MAX_RECORD) {
            Some(bytes) if self.read(bytes).is_some() => self.report.summary.records += 1,
            None if !begins() => self.report.summary.other_lines += 1,
            // If it was a record, its chain misses it.
            _ => self.report.summary.damaged_lines += 1,
        }
        self.overlong = false;
        // Its memory serves the next line.
        self.held = line;
        self.held.clear();
    }

    /// `None` if it is no record.
    fn read(&mut self, bytes: &[u8]) -> Option<()> {
        let bytes = std::str::from_utf8(bytes).ok()?;
        let value = serde_json::from_str::<Value>(bytes).ok()?;
        let word = |name: &str| value.get(name).and_then(Value::as_str);
        let chain = word("chain").filter(|id| id.len() <= MAX_CHAIN_ID && !id.contains(char::is_control))?;
        let seq = value.get("seq").and_then(Value::as_u64).filter(|seq| *seq < u64::MAX)?;
        let (previous, event) = (hash_of(word("previous")?), word("event")?);
        self.judge(&Record { bytes, value: &value, chain, seq, event, previous });
        Some(())
    }

    fn judge(&mut self, record: &Record<'_>) {
        let place = Place { line: self.line, seq: record.seq };
        let head = sha256(record.bytes.as_bytes());
        let order = self.chains.get(record.chain).map(|seen| seen.order(record.seq));
        match order {
            None if self.chains.len() >= MAX_CHAINS => {
                return self.fault(place, record.chain, Wrong::TooManyChains(MAX_CHAINS));
            }
            None => self.begin(record, place, head),
            Some(Order::Next) => {}
            Some(Order::Moved(place)) => return self.moved(place, record.chain),
            Some(Order::Repeated) => return self.fault(place, record.chain, Wrong::Repeated),
        }
        let signature = (record.event == SIGNED).then(|| self.signature(record));
        let Some(seen) = self.chains.get_mut(record.chain) else { return };
        let mut faults = Vec::new();
        if order.is_some() {
            let authentic = matches!(signature, Some(Signature::Good));
            faults.extend(seen.follow(place, record.previous, head, authentic));
        }
        match signature {
            None if order.is_none() => {}
            None if seen.goes_unsigned() => faults.push((place, Wrong::Unsigned)),
            None => {}
            Some(signature) => {
                seen.is_signed(record.word("time").unwrap_or_default().to_owned());
                match signature {
                    Signature::Good => self.report.summary.signatures += 1,
                    Signature::Unchecked => self.report.summary.unchecked += 1,
                    Signature::Bad(wrong) => faults.push((place, wrong)),
                }
            }
        }
        for (place, wrong) in faults {
            self.fault(place, record.chain, wrong);
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(head);
    }

    fn begin(&mut self, record: &Record<'_>, place: Place, head: Hash) {
        if record.seq > 0 && !self.partial {
            self.fault(place, record.chain, Wrong::Removed { from: 0, to: record.seq - 1 });
        }
        if record.seq == 0 && record.event != STARTED {
            self.fault(place, record.chain, Wrong::NotStarted);
        }
        if record.seq == 0 && record.event == STARTED {
            // Whoever names many keys gains nothing by it: one for each chain is the most.
            for key in record.word("publicKey").and_then(public_keys).into_iter().flatten().take(1) {
                self.named.entry(key.fingerprint()).or_insert_with(|| Arc::new(key));
            }
            let follows = |after| hash_of(after).is_some_and(|after| self.recent.contains(&after));
            if !self.partial && record.word("after").is_some_and(|after| !follows(after)) {
                self.fault(place, record.chain, Wrong::RunRemoved);
            }
        }
        self.chains.insert(record.chain.to_owned(), Seen::new(place, head));
    }

    fn signature(&self, record: &Record<'_>) -> Signature {
        let fingerprint = record.word("key").unwrap_or_default();
        let key = match self.trusted.is_empty() {
            false => self.trusted.iter().find(|key| key.fingerprint() == fingerprint),
            true => self.named.get(fingerprint),
        };
        let Some(key) = key else {
            // Of a piece, the record that names the key may be in another one.
            return match self.trusted.is_empty() && self.partial {
                true => Signature::Unchecked,
                false => Signature::Bad(Wrong::UnknownSigner(fingerprint.to_owned())),
            };
        };
        let good = record.bytes.rsplit_once(SIGNATURE).is_some_and(|(signed, rest)| {
            let signature = rest.strip_suffix("\"}").and_then(x509::from_hex).unwrap_or_default();
            key.algorithm.verifies(&key.raw, &statement(signed), &signature)
        });
        if good { Signature::Good } else { Signature::Bad(Wrong::Forged(fingerprint.to_owned())) }
    }

    /// What seemed to be missing before the record at `place` stands behind it.
    fn moved(&mut self, place: Place, chain: &str) {
        let known = self.report.faults.iter_mut().find(|fault| {
            fault.line == place.line && matches!(fault.what, Wrong::Removed { .. } | Wrong::Reordered)
        });
        match known {
            Some(fault) => fault.what = Wrong::Reordered,
            None => self.fault(place, chain, Wrong::Reordered),
        }
    }

    fn fault(&mut self, place: Place, chain: &str, what: Wrong) {
        note(&mut self.report, Fault { line: place.line, chain: chain.to_owned(), seq: place.seq, what });
    }
}

fn hash_of(hex: &str) -> Option<Hash> {
    x509::from_hex(hex).and_then(|hash| Hash::try_from(hash).ok())
}

fn note(report: &mut Report, fault: Fault) {
    match report.faults.len() < MAX_FAULTS {
        true => report.faults.push(fault),
        false => report.more_faults += 1,
    }
}

fn summary(id: &str, seen: &Seen) -> ChainSummary {
    ChainSummary {
        chain: id.to_owned(),
        first: seen.first,
        last: seen.next - 1,
        unsigned: seen.unsigned,
        signed: seen.signed.clone(),
    }
}
