//! `trellis crypto sign | verify`.
//!
//! A signature is a document, a DSSE envelope around an in-toto statement, which names the file by its SHA-512, so
//! that one of any size is read once and not held. With `--raw` it is what FIPS 204 or 205 makes of the whole file, as
//! other programs have it, and the file has to fit into memory.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use clap::Args;
use trellis_crypto::{
    PublicKey,
    attestation::{Envelope, MAX_ENVELOPE, Statement, sha512},
    signature::MAX_CONTEXT,
};

use super::{Content, Input, Output, files::at_most_one_standard, signer, verifier};

/// What is signed raw is read whole, of SLH-DSA twice.
const MAX_RAW: usize = 256 << 20;
/// A signature is of a few kilobytes, and of 50 at most.
const MAX_SIGNATURE: usize = 64 * 1024;

#[derive(Debug, Args)]
pub struct Sign {
    /// What to sign; standard input if absent or -.
    #[arg(default_value = "-")]
    file: Input,
    /// The private key.
    #[arg(long, value_name = "FILE")]
    key: Input,
    #[command(flatten)]
    raw: Raw,
    /// Where the signature goes; FILE.sig if absent, and standard output for standard input.
    #[arg(long, value_name = "FILE")]
    out: Option<Output>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// What was signed; standard input if absent or -.
    #[arg(default_value = "-")]
    file: Input,
    /// The public key of who should have signed it.
    #[arg(long, value_name = "FILE")]
    key: Input,
    /// The signature; FILE.sig if absent.
    #[arg(long, value_name = "FILE")]
    signature: Option<Input>,
    #[command(flatten)]
    raw: Raw,
}

#[derive(Debug, Args)]
struct Raw {
    /// The bytes of the signature alone, over the whole file, instead of a document.
    #[arg(long)]
    raw: bool,
    /// What the signature is for, up to 255 bytes: it counts for nothing else. Only for raw ones.
    #[arg(long, value_name = "TEXT", default_value = "", requires = "raw")]
    context: String,
}

impl Sign {
    pub fn run(self) -> Result<()> {
        at_most_one_standard(&[("the content", &self.file), ("--key", &self.key)])?;
        self.raw.check()?;
        let out = self.out.clone().unwrap_or_else(|| Output::beside(&self.file, ".sig"));
        out.check(self.force)?;
        let key = signer(&self.key)?;
        let signature = if self.raw.raw {
            key.sign(&self.file.read(MAX_RAW)?, self.raw.context.as_bytes())?
        } else {
            let document = Envelope::sign(&statement(&self.file)?, &key)?.encode();
            [document.as_bytes(), b"\n"].concat()
        };
        out.write_all(Content::Public, self.force, &signature)?;
        if out != Output::Standard {
            writeln!(io::stderr(), "{}: signed by {} in {out}", self.file, fingerprint(key.public_key()))?;
        }
        Ok(())
    }
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let signature = match (&self.signature, Output::beside(&self.file, ".sig")) {
            (Some(signature), _) => signature.clone(),
            (None, Output::File(path)) => Input::File(path),
            (None, Output::Standard) => bail!("name the signature with --signature"),
        };
        at_most_one_standard(&[
            ("the content", &self.file),
            ("--key", &self.key),
            ("--signature", &signature),
        ])?;
        self.raw.check()?;
        let key = verifier(&self.key)?;
        if self.raw.raw {
            let bytes = signature.read(MAX_SIGNATURE)?;
            key.verify(&self.file.read(MAX_RAW)?, self.raw.context.as_bytes(), &bytes)
                .with_context(|| format!("{signature}"))?;
        } else {
            let envelope = Envelope::decode(&signature.read(MAX_ENVELOPE)?);
            let signed = envelope
                .and_then(|envelope| envelope.verify(&key))
                .with_context(|| format!("{signature}"))?;
            signed.covers(&statement(&self.file)?).with_context(|| format!("{signature}"))?;
        }
        writeln!(io::stdout(), "valid: {} is as {} signed it", self.file, fingerprint(&key))?;
        Ok(())
    }
}

impl Raw {
    fn check(&self) -> Result<()> {
        if self.context.len() > MAX_CONTEXT {
            bail!("--context has {} bytes: give up to {MAX_CONTEXT}", self.context.len());
        }
        Ok(())
    }
}

fn statement(file: &Input) -> Result<Statement> {
    let hash = sha512(&mut file.open()?).with_context(|| format!("cannot read {file}"))?;
    Ok(Statement::of_file(&file.name().unwrap_or_else(|| "-".to_owned()), &hash))
}

fn fingerprint(key: &trellis_crypto::signature::PublicKey) -> String {
    PublicKey::Signature(key.clone()).fingerprint().to_string()
}
