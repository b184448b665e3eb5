//! `trellis crypto`: the algorithms of the cryptographic resources on files, in the same encodings.

mod files;
mod inspect;
mod keygen;
mod keys;
mod permission;
mod sealing;
mod signing;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

pub use self::{
    files::{Content, Input, Output},
    keys::{signer, verifier},
};

#[derive(Debug, Args)]
pub struct CryptoArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key pair.
    Keygen(keygen::Keygen),
    /// Seal a file of any size to the public keys of those who may open it.
    Encrypt(sealing::Encrypt),
    /// Open a sealed file.
    Decrypt(sealing::Decrypt),
    /// Sign a file of any size.
    Sign(signing::Sign),
    /// Say whether a file is as it was signed.
    Verify(signing::Verify),
    /// Say what a key, a sealed file, a signature or a certificate is. Nothing private is shown.
    Inspect(inspect::Inspect),
    /// Let the CA keep the Secrets of cryptographic resources in namespaces.
    Allow(permission::Permission),
    /// Take that back. Secrets that are there stay.
    Withdraw(permission::Permission),
}

impl CryptoArgs {
    pub async fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Keygen(keygen) => keygen.run(),
            Command::Encrypt(encrypt) => encrypt.run(),
            Command::Decrypt(decrypt) => decrypt.run(),
            Command::Sign(sign) => sign.run(),
            Command::Verify(verify) => verify.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Allow(permission) => permission.allow().await,
            Command::Withdraw(permission) => permission.withdraw().await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
