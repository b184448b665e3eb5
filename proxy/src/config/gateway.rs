//! What a gateway is told beside what every proxy is.

use std::{net::IpAddr, time::Duration};

use clap::Args;

use super::Member;
use crate::gateway::proxied::{Mode, Network};

#[derive(Clone, Debug, Args)]
pub struct Gateway {
    #[command(flatten)]
    pub member: Member,
    /// The namespace of the Gateway that this proxy serves.
    #[arg(long, env = "TRELLIS_GATEWAY_NAMESPACE")]
    pub gateway_namespace: String,
    /// The name of the Gateway that this proxy serves.
    #[arg(long, env = "TRELLIS_GATEWAY_NAME")]
    pub gateway_name: String,
    /// The address that listeners are opened on. A listener's port below 1024 is opened 10000 higher, and the
    /// gateway's Service maps it.
    #[arg(long, env = "TRELLIS_GATEWAY_LISTEN", default_value = "::")]
    pub gateway_listen: IpAddr,
    /// Clients' addresses by PROXY protocol, version 1 or 2: off, accept (where it is there) or require.
    #[arg(long, env = "TRELLIS_PROXY_PROTOCOL", default_value = "off")]
    pub proxy_protocol: Mode,
    /// Networks whose word is taken for a client's address: 10.0.0.0/8,fd00::/8.
    #[arg(long, env = "TRELLIS_PROXY_PROTOCOL_SOURCES", value_delimiter = ',',
          required_if_eq_any([("proxy_protocol", "accept"), ("proxy_protocol", "require")]))]
    pub proxy_protocol_sources: Vec<Network>,
    /// Connections that one client address may have open; of IPv6, one /64.
    #[arg(long, env = "TRELLIS_CONNECTIONS_PER_SOURCE", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_source: u32,
    /// How long a client may keep a request waiting: for more of its body, or with an answer that it does not
    /// take. An application that is silent is waited for without end.
    #[arg(long, env = "TRELLIS_CLIENT_STALL_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub client_stall_seconds: u32,
    /// How long connections are still accepted after SIGTERM, so that whoever sends them here has noticed.
    #[arg(long, env = "TRELLIS_DRAIN_DELAY_SECONDS", default_value_t = 5)]
    pub drain_delay_seconds: u32,
}

impl Gateway {
    pub fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay_seconds.into())
    }

    pub fn client_stall(&self) -> Duration {
        Duration::from_secs(self.client_stall_seconds.into())
    }
}
