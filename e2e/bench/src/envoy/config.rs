//! What Istio would tell an Envoy, without what it can only tell one of its own builds: its statistics and
//! its exchange of metadata. A real sidecar does more than this one.

use std::net::SocketAddr;

use serde_json::{Value, json};
use trellis_pki::spiffe::SpiffeId;

use super::{Certificates, Kind, Plan};

/// The application's side: mutual TLS ends here.
pub fn server(plan: &Plan, certificates: &Certificates) -> Value {
    let pairs = plan.tunnels.into_iter().zip(plan.application).enumerate();
    let (listeners, clusters): (Vec<Value>, Vec<Value>) = pairs
        .map(|(number, (tunnel, application))| {
            let name = format!("inbound-{number}");
            let transport = transport("Downstream", tls(certificates, "server", &certificates.client));
            let listener = json!({
                "name": name,
                "address": address(tunnel),
                "filter_chains": [{"filters": [filter(plan.kind, &name)], "transport_socket": transport}],
            });
            (listener, cluster(plan.kind, &name, &[application], None))
        })
        .unzip();
    whole(plan.server_admin, listeners, clusters)
}

/// The client's side: it chooses an endpoint, and mutual TLS begins here.
pub fn client(plan: &Plan, certificates: &Certificates) -> Value {
    let transport = transport("Upstream", tls(certificates, "client", &certificates.server));
    let listener = json!({
        "name": "outbound",
        "address": address(plan.entry),
        "filter_chains": [{"filters": [filter(plan.kind, "server")]}],
    });
    let cluster = cluster(plan.kind, "server", &plan.tunnels, Some(transport));
    whole(plan.client_admin, vec![listener], vec![cluster])
}

fn whole(admin: SocketAddr, listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

/// What leads a connection to a cluster.
fn filter(kind: Kind, cluster: &str) -> Value {
    let (name, config) = match kind {
        Kind::Tcp => (
            "envoy.filters.network.tcp_proxy",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": cluster,
                "cluster": cluster,
            }),
        ),
        Kind::Http => (
            "envoy.filters.network.http_connection_manager",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                          HttpConnectionManager",
                "stat_prefix": cluster,
                "normalize_path": true,
                "stream_idle_timeout": "0s",
                "route_config": {
                    "name": cluster,
                    "virtual_hosts": [{
                        "name": "server.bench",
                        "domains": ["server.bench", "server.bench.svc", "server.bench.svc.cluster.local", "*"],
                        "routes": [{
                            "match": {"prefix": "/"},
                            "route": {
                                "cluster": cluster,
                                "timeout": "0s",
                                "retry_policy": {
                                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
                                    "num_retries": 2,
                                },
                            },
                        }],
                    }],
                },
                "http_filters": [
                    http_filter("fault", "fault.v3.HTTPFault"),
                    http_filter("cors", "cors.v3.Cors"),
                    http_filter("router", "router.v3.Router"),
                ],
            }),
        ),
    };
    json!({"name": name, "typed_config": config})
}

fn http_filter(name: &str, kind: &str) -> Value {
    json!({
        "name": format!("envoy.filters.http.{name}"),
        "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{kind}")},
    })
}

fn cluster(kind: Kind, name: &str, endpoints: &[SocketAddr], transport: Option<Value>) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|endpoint| json!({"endpoint": {"address": address(*endpoint)}})).collect();
    let most = u32::MAX;
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if kind == Kind::Http {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
            },
        });
    }
    if let Some(transport) = transport {
        cluster["transport_socket"] = transport;
    }
    cluster
}

fn transport(direction: &str, common: Value) -> Value {
    let mut config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{direction}TlsContext"),
        "common_tls_context": common,
    });
    if direction == "Downstream" {
        config["require_client_certificate"] = true.into();
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
}

/// What one side shows, and whom it lets in.
fn tls(certificates: &Certificates, own: &str, peer: &SpiffeId) -> Value {
    let file = |name: String| json!({"filename": certificates.path(&name)});
    json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519MLKEM768"],
        },
        "tls_certificates": [{
            "certificate_chain": file(format!("{own}.pem")),
            "private_key": file(format!("{own}.key")),
        }],
        "validation_context": {
            "trusted_ca": file("root.pem".to_owned()),
            "match_typed_subject_alt_names": [{
                "san_type": "URI",
                "matcher": {"exact": peer.to_string()},
            }],
        },
    })
}
