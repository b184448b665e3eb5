//! What the operator and the injector tell a proxy: flags, each also an environment variable.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use trellis_api::{
    annotations::{Egress, Plaintext, Ports},
    names::{INBOUND_PORT, OUTBOUND_PORT, TUNNEL_PORT},
};
use trellis_pki::algorithm::Algorithm;

use crate::{quota::Limits, worker::Rules};

mod gateway;
mod member;

pub use self::{gateway::Gateway, member::Member};

#[derive(Debug, Parser)]
#[command(
    name = "trellis-proxy",
    version,
    about = "The data plane of Trellis: one proxy beside one application, or a gateway before many"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry the traffic of one application.
    Run(Box<Run>),
    /// Carry what comes in by the listeners of a Gateway.
    Gateway(Box<Gateway>),
    /// Write the rules that send a pod's traffic through its proxy, then exit.
    Capture(Capture),
}

#[derive(Debug, Args)]
pub struct Capture {
    /// Ports of this pod that peers reach without the proxy: 80,9000-9010.
    #[arg(long, env = "TRELLIS_SKIP_INBOUND_PORTS", default_value = "")]
    pub skip_inbound_ports: Ports,
    /// Ports elsewhere that the application reaches without the proxy.
    #[arg(long, env = "TRELLIS_SKIP_OUTBOUND_PORTS", default_value = "")]
    pub skip_outbound_ports: Ports,
    /// Print the rules instead of writing them.
    #[arg(long)]
    pub print: bool,
    /// The program that writes them.
    #[arg(long, env = "TRELLIS_NFT", default_value = "nft")]
    pub nft: String,
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub member: Member,
    /// Every address of the pod. Peers are led to these and to nothing else.
    #[arg(long, env = "TRELLIS_POD_IPS", value_delimiter = ',', required = true)]
    pub pod_ips: Vec<IpAddr>,
    /// Addresses of the pod's node, from which the kubelet probes.
    #[arg(long, env = "TRELLIS_NODE_IPS", value_delimiter = ',')]
    pub node_ips: Vec<IpAddr>,
    /// Peers without a certificate: permissive lets them in and counts them, strict refuses them.
    #[arg(long, env = "TRELLIS_PLAINTEXT", default_value = "permissive")]
    pub plaintext: Plaintext,
    /// Ports whose bytes are carried unread.
    #[arg(long, env = "TRELLIS_OPAQUE_PORTS", default_value = "")]
    pub opaque_ports: Ports,
    /// What the application may reach outside of the mesh: allow, deny, or what is allowed while all else is
    /// denied, 10.0.0.0/8,*.example.org:443. Names are those that clients of TLS ask for.
    #[arg(long, env = "TRELLIS_EGRESS", default_value = "allow")]
    pub egress: Egress,
    /// Ports that the kubelet probes.
    #[arg(long, env = "TRELLIS_PROBE_PORTS", default_value = "")]
    pub probe_ports: Ports,
    #[arg(long, env = "TRELLIS_OUTBOUND_LISTEN", value_delimiter = ',',
          default_values_t = [local_v4(OUTBOUND_PORT), local_v6(OUTBOUND_PORT)])]
    pub outbound_listen: Vec<SocketAddr>,
    /// Also take outbound connections on a Service's own address, where nothing can be redirected.
    #[arg(long, env = "TRELLIS_SERVICE_LISTEN", value_delimiter = ',')]
    pub service_listen: Vec<SocketAddr>,
    #[arg(long, env = "TRELLIS_INBOUND_LISTEN", value_delimiter = ',', default_values_t = [any(INBOUND_PORT)])]
    pub inbound_listen: Vec<SocketAddr>,
    #[arg(long, env = "TRELLIS_TUNNEL_LISTEN", default_value_t = any(TUNNEL_PORT))]
    pub tunnel_listen: SocketAddr,
    /// Where the application listens, if not on the pod's own address.
    #[arg(long, env = "TRELLIS_APPLICATION_ADDRESS")]
    pub application_address: Option<IpAddr>,
    /// Tunnels that peers of one identity may have open to this proxy.
    #[arg(long, env = "TRELLIS_TUNNELS_PER_IDENTITY", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..))]
    pub tunnels_per_identity: u32,
    /// Connections that peers of one identity may have open to the application.
    #[arg(long, env = "TRELLIS_CONNECTIONS_PER_IDENTITY", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_identity: u32,
    /// Serve the SPIFFE Workload API on this Unix socket.
    #[arg(long, env = "TRELLIS_WORKLOAD_API_SOCKET")]
    pub workload_api_socket: Option<PathBuf>,
    /// The algorithm of the certificate that the application gets there, where it is not that of the proxy.
    #[arg(long, env = "TRELLIS_WORKLOAD_API_ALGORITHM", requires = "workload_api_socket")]
    pub workload_api_algorithm: Option<Algorithm>,
}

impl Run {
    pub fn per_identity(&self) -> Limits {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Limits { tunnels: count(self.tunnels_per_identity), streams: count(self.connections_per_identity) }
    }

    /// What the operator decided, for who asks.
    pub fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("plaintext", self.plaintext.to_string()),
            ("egress", self.egress.to_string()),
            ("opaquePorts", self.opaque_ports.to_string()),
            ("probePorts", self.probe_ports.to_string()),
        ]
    }

    /// What the data path must know; `gateways` are the node's addresses as the routing table shows them.
    pub fn rules(&self, gateways: impl IntoIterator<Item = IpAddr>) -> Rules {
        let mut own_ports = Rules::reserved_ports();
        own_ports.extend(self.listeners().map(|listener| listener.port()));
        // Where the proxy stands in for the application or a Service, their ports are not its own.
        own_ports.retain(|port| {
            let stands_in = |listener: &SocketAddr| listener.port() == *port;
            *port == INBOUND_PORT || !self.inbound_listen.iter().any(stands_in)
        });
        Rules {
            pod_ips: self.pod_ips.iter().map(IpAddr::to_canonical).collect(),
            application: self.application_address,
            opaque_ports: self.opaque_ports.clone(),
            probe_ports: self.probe_ports.clone(),
            node_ips: self.node_ips.iter().copied().chain(gateways).collect::<HashSet<_>>(),
            egress: self.egress.clone(),
            own_ports,
            removal_grace: self.member.drain(),
        }
    }

    fn listeners(&self) -> impl Iterator<Item = SocketAddr> {
        self.outbound_listen.iter().copied().chain([
            self.tunnel_listen,
            self.member.admin_listen,
            self.member.metrics_listen,
            self.member.ready_listen,
        ])
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0u16; 8], port))
}

fn local_v4(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn local_v6(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(extra: &[&str]) -> Run {
        let mut arguments = vec![
            "trellis-proxy",
            "run",
            "--pod-name=web-0",
            "--pod-namespace=shop",
            "--service-account=web",
            "--pod-ips=10.0.0.1,fd00::1",
            "--ca-address=ca:15012",
            "--discovery-address=discovery:15013",
        ];
        arguments.extend(extra);
        match Cli::try_parse_from(arguments).unwrap().command {
            Command::Run(run) => *run,
            Command::Gateway(_) | Command::Capture(_) => unreachable!("asked for run"),
        }
    }

    #[test]
    fn peers_are_led_to_the_pod_and_never_to_the_proxy_itself() {
        let rules = run(&[]).rules([]);
        for (target, admitted) in [
            ("10.0.0.1:8080", true),
            ("[fd00::1]:8080", true),
            ("10.0.0.2:8080", false),
            ("127.0.0.1:8080", false),
            ("10.0.0.1:15000", false),
            ("10.0.0.1:15001", false),
            ("10.0.0.1:15006", false),
            ("10.0.0.1:15008", false),
            ("10.0.0.1:15020", false),
            ("10.0.0.1:15021", false),
        ] {
            assert_eq!(rules.admits(target.parse().unwrap()), admitted, "{target}");
        }
    }

    #[test]
    fn only_the_node_on_a_probed_port_is_a_probe() {
        let rules =
            run(&["--probe-ports=8080", "--node-ips=192.0.2.1"]).rules(["10.0.0.254".parse().unwrap()]);
        assert!(rules.is_probe("192.0.2.1".parse().unwrap(), 8080));
        assert!(rules.is_probe("10.0.0.254".parse().unwrap(), 8080));
        assert!(!rules.is_probe("192.0.2.1".parse().unwrap(), 80));
        assert!(!rules.is_probe("10.0.0.7".parse().unwrap(), 8080));
    }

    /// What it tells there is its own pod's business.
    #[test]
    fn the_admin_port_is_for_the_pod_alone() {
        let member = run(&[]).member;
        assert!(member.admin_listen.ip().is_loopback());
        assert!(!member.metrics_listen.ip().is_loopback() && !member.ready_listen.ip().is_loopback());
    }

    #[test]
    fn the_application_may_listen_elsewhere() {
        let rules = run(&["--application-address=127.1.0.1"]).rules([]);
        assert_eq!(rules.application("10.0.0.1:80".parse().unwrap()), "127.1.0.1:80".parse().unwrap());
    }
}
