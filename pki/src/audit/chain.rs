//! Makes the records of one chain. It knows no file and no clock.

use std::fmt::Write;
use std::time::SystemTime;

use rcgen::SigningKey;
use serde_json::{Map, Value, json};

use super::{MAX_RECORD, MAX_UNSIGNED, OPENING, SIGNATURE, SIGNED, STARTED};
use super::{hash, public_key_pem, statement};
use crate::clock::rfc3339;
use crate::key::{KeyError, PrivateKey};
use crate::x509;

/// Of what is recorded, strings and lists are cut to this: what callers send may be long, a record not.
const MAX_TEXT: usize = 1_024;
const MAX_LIST: usize = 64;

/// What makes the chain, and so cannot be overwritten by what is recorded.
const OWN: [&str; 6] = ["audit", "chain", "seq", "time", "event", "previous"];

pub struct Chain {
    id: String,
    next: u64,
    head: String,
    unsigned: u64,
}

impl Chain {
    /// Begins a chain with its first two records; `id` must be of this run alone. `after` is the hash of
    /// the record that the place where it is written ends with.
    pub fn begin(
        id: String,
        after: Option<&str>,
        key: &PrivateKey,
        now: SystemTime,
    ) -> Result<(Self, [String; 2]), KeyError> {
        let mut chain = Self { id, next: 0, head: String::new(), unsigned: 0 };
        let public = public_key_pem(key.public_key());
        let fields = format!(",\"publicKey\":{},\"after\":{}", json!(public), json!(after));
        let started = chain.close(chain.open(STARTED, now) + &fields);
        let signed = chain.sign(key, now)?;
        Ok((chain, [started, signed]))
    }

    /// One record, as the line to be written without its end.
    pub fn record(&mut self, event: &str, fields: &Map<String, Value>, now: SystemTime) -> String {
        let open = self.open(event, now);
        let mut line = open.clone();
        for (name, value) in fields.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            // Writing to a String cannot fail.
            let _ = write!(line, ",{}:{}", json!(name), shorten(value));
        }
        if line.len() >= MAX_RECORD {
            line = open + r#","tooLong":true"#;
        }
        self.close(line)
    }

    /// A record that signs all before it.
    pub fn sign(&mut self, key: &PrivateKey, now: SystemTime) -> Result<String, KeyError> {
        let mut line = self.open(SIGNED, now);
        // Writing to a String cannot fail.
        let _ = write!(line, r#","key":"{}""#, key.public_key().fingerprint());
        let signature = key.sign(&statement(&line)).map_err(|_| KeyError::Signing)?;
        let _ = write!(line, r#"{SIGNATURE}{}""#, x509::hex(&signature));
        let line = self.close(line);
        self.unsigned = 0;
        Ok(line)
    }

    /// Records that nothing signed yet.
    pub fn unsigned(&self) -> u64 {
        self.unsigned
    }

    /// Whether the next record must be a signature.
    pub fn must_sign(&self) -> bool {
        self.unsigned >= MAX_UNSIGNED
    }

    fn open(&self, event: &str, now: SystemTime) -> String {
        format!(
            r#"{OPENING}{},"seq":{},"time":"{}","event":{},"previous":"{}""#,
            json!(self.id),
            self.next,
            rfc3339(now),
            json!(event),
            self.head
        )
    }

    fn close(&mut self, mut line: String) -> String {
        line.push('}');
        self.next += 1;
        self.unsigned += 1;
        self.head = hash(line.as_bytes());
        line
    }
}

fn shorten(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
            json!(format!("{}…", text.get(..end).unwrap_or_default()))
        }
        Value::Array(items) => {
            let mut kept: Vec<Value> = items.iter().take(MAX_LIST).map(shorten).collect();
            if items.len() > MAX_LIST {
                kept.push(json!(format!("… {} more", items.len() - MAX_LIST)));
            }
            Value::Array(kept)
        }
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.clone(), shorten(value))).collect())
        }
        short => short.clone(),
    }
}
