//! `trellis crypto encrypt | decrypt`: sealed files.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use clap::Args;
use trellis_crypto::seal;

use super::{
    Content, Input, Output,
    files::at_most_one_standard,
    keys::{opener, recipient},
};

/// What a file is sealed as, unless it is said otherwise.
const PURPOSE: &str = "trellis crypto";

#[derive(Debug, Args)]
pub struct Encrypt {
    /// What to encrypt; standard input if absent or -.
    #[arg(default_value = "-")]
    file: Input,
    /// A public key that it is sealed to: of X25519MLKEM768, ML-KEM or X-Wing. May be repeated: each opens it.
    #[arg(long, value_name = "FILE", required = true)]
    to: Vec<Input>,
    /// What it is, in a line that everybody can read; whoever opens it has to say the same.
    #[arg(long, value_name = "TEXT", default_value = PURPOSE)]
    purpose: String,
    /// Where it goes; standard output if absent or -.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: Output,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Decrypt {
    /// The sealed file; standard input if absent or -.
    #[arg(default_value = "-")]
    file: Input,
    /// The private key that opens it.
    #[arg(long, value_name = "FILE")]
    key: Input,
    /// What it was sealed as.
    #[arg(long, value_name = "TEXT", default_value = PURPOSE)]
    purpose: String,
    /// Where the content goes, which only its owner may read; standard output if absent or -.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: Output,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

impl Encrypt {
    pub fn run(self) -> Result<()> {
        let mut inputs = vec![("the content", &self.file)];
        inputs.extend(self.to.iter().map(|to| ("--to", to)));
        at_most_one_standard(&inputs)?;
        if self.out == Output::Standard && io::stdout().is_terminal() {
            bail!(
                "sealed files are not for terminals: name one with --out, or send standard output elsewhere"
            );
        }
        let recipients = self.to.iter().map(recipient).collect::<Result<Vec<_>>>()?;
        let mut plain = self.file.open()?;
        self.out.write(Content::Public, self.force, |mut sealed| {
            seal::seal(&self.purpose, &recipients, &mut plain, &mut sealed)
                .with_context(|| format!("{} was not sealed", self.file))
        })?;
        Ok(())
    }
}

impl Decrypt {
    pub fn run(self) -> Result<()> {
        at_most_one_standard(&[("the sealed file", &self.file), ("--key", &self.key)])?;
        let key = opener(&self.key)?;
        let mut sealed = self.file.open()?;
        let opened = self.out.write(Content::Private, self.force, |mut plain| {
            seal::open(&self.purpose, &key, &mut sealed, &mut plain)
                .with_context(|| format!("{} was not opened", self.file))
        });
        if opened.is_err() && self.out == Output::Standard {
            writeln!(io::stderr(), "what was written is not all: do not use it")?;
        }
        opened.map(|_| ())
    }
}
