//! `trellis crypto inspect`: what something is, in lines or as JSON.

mod certificate;
mod kinds;

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use trellis_crypto::seal;
use zeroize::Zeroizing;

use super::Input;

/// Longer things are sealed files, of which the beginning tells enough.
const MAX_READ: usize = 8 << 20;

#[derive(Debug, Args)]
pub struct Inspect {
    /// What to look at; standard input if absent or -.
    #[arg(default_value = "-")]
    file: Input,
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Show the public key of what is found, in PEM, and nothing else.
    #[arg(long, conflicts_with = "json")]
    public: bool,
}

/// What was found: a name, what there is to say about it, and the public key of it.
#[derive(Debug, Default, PartialEq)]
struct Found {
    what: String,
    facts: Vec<(&'static str, String)>,
    public: Option<String>,
}

impl Found {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    fn fact(mut self, name: &'static str, value: impl ToString) -> Self {
        self.facts.push((name, value.to_string()));
        self
    }

    fn public(mut self, pem: String) -> Self {
        self.public = Some(pem);
        self
    }

    fn text(&self) -> String {
        let width = self.facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut text = format!("{}\n", shown(&self.what));
        for (name, value) in &self.facts {
            text.push_str(&format!("  {name:width$}  {}\n", shown(value)));
        }
        text
    }

    fn json(&self) -> Value {
        let mut object = Map::from_iter([("type".to_owned(), json!(self.what))]);
        for (name, value) in &self.facts {
            // What is there several times is a list.
            match object.get_mut(*name) {
                None => {
                    object.insert((*name).to_owned(), json!(value));
                }
                Some(Value::Array(values)) => values.push(json!(value)),
                Some(one) => *one = json!([one.take(), value]),
            }
        }
        Value::Object(object)
    }
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let mut source = self.file.open()?;
        let mut content = Zeroizing::new(Vec::with_capacity(64 * 1024));
        let context = || format!("cannot read {}", self.file);
        source.by_ref().take(MAX_READ as u64).read_to_end(&mut content).with_context(context)?;
        let found = if content.starts_with(b"trellis.dev/sealed/") {
            vec![sealed(&content).with_context(|| self.file.to_string())?]
        } else if content.len() == MAX_READ {
            bail!("{} is larger than a key, a certificate or a signature, and no sealed file", self.file);
        } else {
            kinds::found(&content)
        };
        if found.is_empty() {
            bail!(
                "{} is nothing that is known here: no key, sealed file, signature or certificate",
                self.file
            );
        }
        Ok(io::stdout().write_all(self.shown(&found)?.as_bytes())?)
    }

    fn shown(&self, found: &[Found]) -> Result<String> {
        if self.public {
            let keys: String = found.iter().filter_map(|one| one.public.as_deref()).collect();
            if keys.is_empty() {
                bail!("{} has no public key", self.file);
            }
            return Ok(keys);
        }
        if self.json {
            return Ok(format!("{:#}\n", json!(found.iter().map(Found::json).collect::<Vec<_>>())));
        }
        Ok(found.iter().map(Found::text).collect())
    }
}

fn sealed(mut content: &[u8]) -> Result<Found> {
    let envelope = seal::inspect(&mut content)?;
    let found = Found::new("sealed file").fact("format", seal::FORM).fact("purpose", envelope.purpose);
    Ok(envelope.recipients.into_iter().fold(found, |found, recipient| found.fact("recipient", recipient)))
}

/// A terminal obeys control characters, whoever put them there.
fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
