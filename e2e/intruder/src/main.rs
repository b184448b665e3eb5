//! Tries to get into the mesh, or to be taken for a part of it, with certificates that are wrong in one
//! way each, and says as JSON what came of it. The end-to-end suite runs it in pods.

#![forbid(unsafe_code)]

mod certificate;
mod connect;
mod serve;
mod trusting;

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::spiffe::SpiffeId;

use crate::certificate::Wrong;

#[derive(Parser)]
#[command(version, about)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Connect to a tunnel and report how it answers.
    Connect {
        #[arg(long)]
        to: SocketAddr,
        /// Offer classical key exchange only.
        #[arg(long)]
        classical: bool,
        #[command(flatten)]
        credentials: Credentials,
    },
    /// Pretend to be a tunnel, and report each client: one line of JSON for each connection.
    Serve {
        #[arg(long, default_value = "[::]:15008")]
        listen: SocketAddr,
        #[command(flatten)]
        credentials: Credentials,
    },
}

/// What the intruder presents.
#[derive(Args)]
struct Credentials {
    #[arg(long, value_enum, default_value = "none")]
    certificate: Wrong,
    /// Identity in the certificate.
    #[arg(long)]
    identity: Option<SpiffeId>,
    /// The mesh's root, certificate and key in PEM, as one has it who could read the CA's Secret.
    /// Certificates that are wrong in another way than their issuer are signed by it.
    #[arg(long)]
    root: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Command::parse().what {
        What::Connect { to, classical, credentials } => {
            let key_exchange = if classical { Ladder::Classical } else { Ladder::Require };
            let policy = Policy { key_exchange, signatures: Ladder::Prefer };
            let presented = certificate::make(&credentials)?;
            let outcome = connect::attempt(to, policy, presented)?;
            writeln!(stdout(), "{outcome}")?;
            Ok(())
        }
        What::Serve { listen, credentials } => {
            serve::forever(listen, certificate::make(&credentials)?, &mut stdout())
        }
    }
}
