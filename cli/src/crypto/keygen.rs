//! `trellis crypto keygen`.

use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use trellis_crypto::{Algorithm, AlgorithmError, Named, PrivateKey};
use zeroize::Zeroizing;

use super::{Content, Output};

#[derive(Debug, Args)]
pub struct Keygen {
    /// What the key is of: ML-DSA-44, -65, -87 or a set of SLH-DSA to sign; X25519MLKEM768, ML-KEM-512, -768 or
    /// -1024 to encrypt to. Names of before the standards are taken as well.
    #[arg(long, value_name = "NAME", value_parser = algorithm)]
    algorithm: Named,
    /// Where the private key goes, which only its owner may read; - is standard output.
    #[arg(long, value_name = "FILE")]
    out: Output,
    /// Where the public key goes; FILE.pub if absent.
    #[arg(long, value_name = "FILE")]
    public_out: Option<Output>,
    /// How both are written.
    #[arg(long, value_enum, default_value_t = Encoding::Pem)]
    encoding: Encoding,
    /// Write over files that are there.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Encoding {
    /// PKCS#8 and SubjectPublicKeyInfo, in PEM.
    Pem,
    /// The same in DER.
    Der,
    /// The bytes of the standard alone.
    Raw,
    /// The bytes of the standard in PEM, with the algorithm in the label, as QubeSec does.
    Qubesec,
}

fn algorithm(name: &str) -> Result<Named, AlgorithmError> {
    Algorithm::parse(name)
}

impl Keygen {
    pub fn run(self) -> Result<()> {
        if let Some(note) = &self.algorithm.note {
            writeln!(io::stderr(), "note: {note}")?;
        }
        let public_out = match (&self.public_out, &self.out) {
            (Some(out), _) => Some(out.clone()),
            (None, Output::File(path)) => {
                let mut name = path.clone().into_os_string();
                name.push(".pub");
                Some(Output::File(name.into()))
            }
            (None, Output::Standard) => None,
        };
        if public_out == Some(Output::Standard) && self.out == Output::Standard {
            bail!("--out and --public-out cannot both be standard output: name a file");
        }
        if public_out.as_ref() == Some(&self.out) {
            bail!("--out and --public-out name the same file");
        }
        // Neither key is of use without the other.
        self.out.check(self.force)?;
        public_out.as_ref().map_or(Ok(()), |out| out.check(self.force))?;
        let key = PrivateKey::generate(self.algorithm.algorithm)?;
        let public = key.public_key();
        let (private_bytes, public_bytes) = match self.encoding {
            Encoding::Pem => (Zeroizing::new(key.pem()?.as_bytes().to_vec()), public.pem().into_bytes()),
            Encoding::Der => (key.der()?, public.der()),
            Encoding::Raw => (Zeroizing::new(key.expanded()?.as_bytes().to_vec()), public.raw().to_vec()),
            Encoding::Qubesec => {
                (Zeroizing::new(key.qubesec_pem()?.as_bytes().to_vec()), public.qubesec_pem().into_bytes())
            }
        };
        self.out.write_all(Content::Private, self.force, &private_bytes)?;
        if let Some(out) = &public_out {
            out.write_all(Content::Public, self.force, &public_bytes)?;
        }
        let mut said = format!("{} key in {}: keep it to yourself\n", key.algorithm(), self.out);
        if let Some(out) = &public_out {
            said.push_str(&format!("its public key in {out}, fingerprint {}\n", public.fingerprint()));
        }
        // Standard output may be the key itself.
        Ok(io::stderr().write_all(said.as_bytes())?)
    }
}
