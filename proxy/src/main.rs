//! `trellis-proxy`: parses, wires, runs.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use clap::Parser;
use trellis_proxy::{
    capture::Rules,
    config::{Capture, Cli, Command},
    gateway, run,
};

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(config) => run::run(*config),
        Command::Gateway(config) => gateway::run(*config),
        Command::Capture(Capture { skip_inbound_ports, skip_outbound_ports, print, nft }) => {
            let rules = Rules { skip_inbound: skip_inbound_ports, skip_outbound: skip_outbound_ports };
            if print {
                io::stdout().write_all(rules.render().as_bytes())?;
            } else {
                rules.apply(&nft)?;
            }
            Ok(())
        }
    }
}
