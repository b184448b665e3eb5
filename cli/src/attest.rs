//! `trellis sign | verify`: that an image, or a Kubernetes resource, is the one that somebody has approved. What is
//! signed is an in-toto statement in a DSSE envelope, as cosign does, and so short that a QuantumSignMessage signs it
//! as well.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use trellis_crypto::{
    PublicKey,
    attestation::{Envelope, ImageReference, MAX_ENVELOPE, RESOURCE_ANNOTATION, Statement},
};

use crate::crypto::{Content, Input, Output, signer, verifier};

/// The API server takes no larger ones.
const MAX_RESOURCE: usize = 4 << 20;
const MAX_SIGNATURE: usize = 64 * 1024;

#[derive(Debug, Args)]
#[group(skip)]
struct What {
    /// The image, by its digest: a tag can be moved.
    #[arg(value_name = "NAME@sha256:DIGEST", required_unless_present = "file", conflicts_with = "file")]
    image: Option<ImageReference>,
    /// A Kubernetes resource instead, as YAML or JSON; - is standard input. Its status, and what the API server adds
    /// to its metadata, do not count.
    #[arg(long, short, value_name = "FILE")]
    file: Option<Input>,
}

#[derive(Debug, Args)]
pub struct Sign {
    #[command(flatten)]
    what: What,
    /// The private key.
    #[arg(long, value_name = "FILE", required_unless_present = "message")]
    key: Option<Input>,
    /// Show the bytes that are to be signed instead, for the Secret that a QuantumSignMessage refers to.
    #[arg(long, conflicts_with_all = ["key", "annotate"])]
    message: bool,
    /// Show the resource with its signature in an annotation, instead of the signature alone.
    #[arg(long, requires = "file")]
    annotate: bool,
    /// Where it goes; standard output if absent or -.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: Output,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    what: What,
    /// The public key of who should have signed it.
    #[arg(long, value_name = "FILE")]
    key: Input,
    /// The signature: a document, or the bytes that a QuantumSignMessage makes. A resource may carry its own.
    #[arg(long, value_name = "FILE", required_unless_present = "file")]
    signature: Option<Input>,
}

impl Sign {
    pub fn run(self) -> Result<ExitCode> {
        let (statement, resource) = self.what.read()?;
        let Some(key) = &self.key else {
            self.out.write_all(Content::Public, self.force, &statement.message())?;
            return Ok(ExitCode::SUCCESS);
        };
        if self.what.file == Some(Input::Standard) && *key == Input::Standard {
            bail!("--file and --key cannot both be standard input: name files");
        }
        let document = Envelope::sign(&statement, &signer(key)?)?.encode();
        let shown = match resource {
            Some(resource) if self.annotate => annotated(resource, &document)?,
            _ => document,
        };
        self.out.write_all(Content::Public, self.force, &[shown.as_bytes(), b"\n"].concat())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    pub fn run(self) -> Result<ExitCode> {
        let (wanted, resource) = self.what.read()?;
        let key = verifier(&self.key)?;
        let (signature, from) = match (&self.signature, &resource) {
            (Some(input), _) => (input.read(MAX_ENVELOPE)?.to_vec(), input.to_string()),
            (None, Some(resource)) => (carried(resource)?, format!("annotation {RESOURCE_ANNOTATION}")),
            (None, None) => bail!("name the signature with --signature"),
        };
        match Envelope::decode(&signature) {
            Ok(envelope) => {
                envelope.verify(&key).and_then(|signed| signed.covers(&wanted)).with_context(|| from)?
            }
            // One that was made over the message alone.
            Err(_)
                if signature.len() == key.algorithm().signature_len() && signature.len() <= MAX_SIGNATURE =>
            {
                key.verify(&wanted.message(), b"", &signature).with_context(|| from)?;
            }
            Err(error) => return Err(error).with_context(|| from),
        }
        let name = wanted.subjects.first().and_then(|subject| subject.name.clone()).unwrap_or_default();
        let by = PublicKey::Signature(key).fingerprint();
        writeln!(io::stdout(), "valid: {name} is as {by} signed it")?;
        Ok(ExitCode::SUCCESS)
    }
}

impl What {
    /// What a signature is about, and the resource if it is one.
    fn read(&self) -> Result<(Statement, Option<Value>)> {
        if let Some(image) = &self.image {
            return Ok((Statement::of_image(image), None));
        }
        let Some(file) = &self.file else { bail!("name an image, or a resource with --file") };
        let bytes = file.read(MAX_RESOURCE)?;
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{file} is no text"))?;
        let resource: Value = serde_saphyr::from_str(text)
            .with_context(|| format!("{file} is not one resource in YAML or JSON"))?;
        let statement = Statement::of_resource(&resource).with_context(|| file.to_string())?;
        Ok((statement, Some(resource)))
    }
}

/// The document that a resource carries.
fn carried(resource: &Value) -> Result<Vec<u8>> {
    let annotation = &resource["metadata"]["annotations"][RESOURCE_ANNOTATION];
    match annotation.as_str() {
        Some(document) => Ok(document.as_bytes().to_vec()),
        None => {
            bail!("the resource has no annotation {RESOURCE_ANNOTATION}: name the signature with --signature")
        }
    }
}

fn annotated(mut resource: Value, document: &str) -> Result<String> {
    let annotations = resource["metadata"].as_object_mut().map(|metadata| {
        let annotations = metadata.entry("annotations").or_insert(Value::Null);
        if annotations.is_null() {
            *annotations = Value::Object(Default::default());
        }
        annotations
    });
    match annotations.and_then(Value::as_object_mut) {
        Some(annotations) => annotations.insert(RESOURCE_ANNOTATION.to_owned(), document.into()),
        None => bail!("metadata.annotations is not a map: give a resource as it is applied"),
    };
    Ok(format!("{resource:#}"))
}
