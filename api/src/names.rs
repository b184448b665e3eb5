//! Names, ports and paths that more than one part of Trellis must agree on.

/// Namespace label and pod annotation that switch injection: `enabled` or `disabled`.
pub const INJECT: &str = "trellis.dev/inject";
pub const ENABLED: &str = "enabled";
pub const DISABLED: &str = "disabled";

/// Annotation that the injector leaves on a pod it injected: the version that did it.
pub const INJECTED: &str = "trellis.dev/injected";
/// Annotation that the injector leaves on a pod it was asked to inject but could not: the reason.
pub const NOT_INJECTED: &str = "trellis.dev/not-injected";

/// Annotation of a Service without a selector: who must answer at its endpoints, which are workloads of
/// another trust domain.
pub const IDENTITY: &str = "trellis.dev/identity";

/// Prefix of every label and annotation of ours.
pub const PREFIX: &str = "trellis.dev/";

/// The controller of Gateway API that discovery is, by which GatewayClasses name it.
pub const GATEWAY_CONTROLLER: &str = "trellis.dev/gateway";
/// ClusterRole whose bindings let discovery read certificates of a namespace.
pub const GATEWAY_CERTIFICATES_ROLE: &str = "trellis-gateway-certificates";
/// Option of a listener's TLS: `prefer`, `require` or `classical`.
pub const KEY_EXCHANGE_OPTION: &str = "trellis.dev/key-exchange";

/// Annotation of a gateway's pods: its name. They live by the mesh's trust, though nobody injected them.
pub const GATEWAY: &str = "trellis.dev/gateway-name";

/// The longest name of a Service and of a label's value.
const MAX_LABEL: usize = 63;
const GATEWAY_SUFFIX: &str = "-trellis";

/// What the Deployment, the Service and the ServiceAccount of a Gateway are called. A name that a Service
/// cannot have is cut and told apart by a hash of the whole.
pub fn gateway_workload(gateway: &str) -> String {
    let plain = format!("{gateway}{GATEWAY_SUFFIX}");
    if plain.len() <= MAX_LABEL && !gateway.contains('.') {
        return plain;
    }
    // FNV-1a: it has to be the same everywhere and forever, and nothing more.
    let hash = gateway
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let tail = format!("-{hash:08x}{GATEWAY_SUFFIX}");
    let head: String = gateway.replace('.', "-").chars().take(MAX_LABEL - tail.len()).collect();
    format!("{}{tail}", head.trim_end_matches('-'))
}

/// The port in the pod on which a gateway listens for a listener's port: it runs without the right to take
/// those below 1024.
pub fn gateway_port(listener: u16) -> u16 {
    if listener < 1024 { listener + 10_000 } else { listener }
}

pub const SYSTEM_NAMESPACE: &str = "trellis-system";
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Audience of the ServiceAccount tokens that the CA accepts. There is no fallback.
pub const TOKEN_AUDIENCE: &str = "trellis.dev/ca";

/// ConfigMap in each labelled namespace, and its key, that hold the trust bundle in PEM.
pub const TRUST_CONFIG_MAP: &str = "trellis-trust";
pub const TRUST_BUNDLE_KEY: &str = "bundle.pem";
/// The ClusterTrustBundle with the same certificates, where the cluster has that kind, and the signer that
/// it is of.
pub const CLUSTER_BUNDLE: &str = "trellis.dev:mesh:bundle";
pub const CLUSTER_BUNDLE_SIGNER: &str = SIGNER;
/// The signer that certificates of the mesh are asked of through the APIs of Kubernetes.
pub const SIGNER: &str = "trellis.dev/mesh";
/// Label on everything that Trellis made and may therefore change or delete.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const MANAGER: &str = "trellis";

/// Secret that holds the state of trust and the keys of its anchors.
pub const ROOT_SECRET: &str = "trellis-ca-root";
/// The same as one file, for a CA without Kubernetes.
pub const ROOT_FILE: &str = "trust-domain.json";
/// Its item with the state; what is not secret.
pub const TRUST_STATE: &str = "trust.json";
/// The end of the names of its items with keys, behind the first digits of the anchor's fingerprint.
pub const ANCHOR_KEY: &str = ".key";
pub const ANCHOR_KEY_DIGITS: usize = 16;
/// Secret that the injector's replicas share for the webhook's serving certificate.
pub const WEBHOOK_SECRET: &str = "trellis-injector-tls";
pub const WEBHOOK_CONFIGURATION: &str = "trellis-injector";

/// ServiceAccounts of the control plane, and so the last part of their SPIFFE IDs.
pub const CA: &str = "trellis-ca";
pub const DISCOVERY: &str = "trellis-discovery";
pub const INJECTOR: &str = "trellis-injector";

/// Ports of the data plane.
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;
pub const TUNNEL_PORT: u16 = 15008;
pub const ADMIN_PORT: u16 = 15000;
/// Ports of every binary: `/metrics` and `/evidence`; `/ready` and `/live`.
pub const METRICS_PORT: u16 = 15020;
pub const READY_PORT: u16 = 15021;

/// Ports of the control plane.
pub const CA_PORT: u16 = 15012;
pub const DISCOVERY_PORT: u16 = 15013;
/// Where the CA serves its trust bundle to other trust domains.
pub const BUNDLE_PORT: u16 = 15016;
/// The HTTPS API of the CA, for programs without a proxy.
pub const CA_API_PORT: u16 = 15014;
pub const WEBHOOK_PORT: u16 = 8443;

/// The user that the proxy runs as; its traffic is not captured.
pub const PROXY_UID: i64 = 1337;

/// Names of what the injector adds to a pod.
pub const PROXY_CONTAINER: &str = "trellis-proxy";
pub const CAPTURE_CONTAINER: &str = "trellis-capture";
pub const IDENTITY_VOLUME: &str = "trellis-identity";
/// Where that volume is mounted, and what is in it.
pub const IDENTITY_DIR: &str = "/var/run/secrets/trellis.dev/identity";
pub const TOKEN_FILE: &str = "token";
pub const BUNDLE_FILE: &str = "bundle.pem";
/// The volume with the socket of the SPIFFE Workload API, where it is mounted, and the socket in it.
pub const WORKLOAD_API_VOLUME: &str = "trellis-workload-api";
pub const WORKLOAD_API_DIR: &str = "/var/run/secrets/trellis.dev/workload-api";
pub const WORKLOAD_API_SOCKET: &str = "socket";
/// By this variable clients of the SPIFFE Workload API find it.
pub const SPIFFE_ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gateway_has_a_name_that_a_service_can_have() {
        assert_eq!(gateway_workload("edge"), "edge-trellis");
        let longest = "a".repeat(MAX_LABEL - GATEWAY_SUFFIX.len());
        assert_eq!(gateway_workload(&longest), format!("{longest}-trellis"));
        assert_eq!(gateway_workload("a.b"), "a-b-108bf50c-trellis");
        assert_ne!(gateway_workload("a.b"), gateway_workload("a-b"));
        let (one, other) = (gateway_workload(&"a".repeat(100)), gateway_workload(&"a".repeat(101)));
        assert!(one.len() <= MAX_LABEL && one.ends_with("-trellis") && one != other, "{one}");
        assert_eq!([80, 443, 1023, 1024, 8443].map(gateway_port), [10_080, 10_443, 11_023, 1024, 8443]);
    }
}
