//! What each kind of destination is answered, as a table over one small cluster.

use crate::world::{WORLD, destination, manifests, state, told};

const WEB_0: &str = "10.244.1.5 8080 shop/web-0/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn every_kind_of_destination_has_its_answer() {
    let state = state(&manifests(WORLD));
    let table = [
        // A Service by its ports, on each address that leads to it. Ready endpoints only, each once.
        ("10.96.0.10 80", format!("service shop/web [{WEB_0}]")),
        ("::ffff:10.96.0.10 80", format!("service shop/web [{WEB_0}]")),
        (
            "fd00:96::a 80",
            "service shop/web [fd00:244:1::5 8080 shop/web-0/web tunnel 15008 \
             spiffe://cluster.local/ns/shop/sa/web]"
                .into(),
        ),
        ("198.51.100.7 80", format!("service shop/web [{WEB_0}]")),
        // Two Services claim this external IP and port: the older one has it.
        ("192.0.2.10 80", format!("service shop/web [{WEB_0}]")),
        // A port that the pod's capture leaves alone.
        ("10.96.0.10 9000", "service shop/web [10.244.1.5 9000 shop/web-0/web PORT_SKIPPED]".into()),
        // A port, or no port at all, that the Service does not have.
        ("10.96.0.10 81", "service shop/web []".into()),
        ("10.96.0.10 0", "service shop/web []".into()),
        // An external IP belongs to the Service for its ports only, and never when it is a pod's.
        ("198.51.100.7 22", "unknown".into()),
        ("198.51.100.7 0", "unknown".into()),
        ("10.244.2.9 80", "workload 10.244.2.9 80 shop/db-0/default NOT_INJECTED".into()),
        // Nothing ready: what still serves while it ends.
        (
            "10.96.0.11 80",
            "service shop/ending [10.244.2.6 8080 shop/web-2/web tunnel 15008 \
             spiffe://cluster.local/ns/shop/sa/web]"
                .into(),
        ),
        (
            "10.96.0.12 80",
            "service shop/early [10.244.2.5 8080 shop/web-1/web tunnel 15008 \
             spiffe://cluster.local/ns/shop/sa/web]"
                .into(),
        ),
        // A pod by its own address, ready or not.
        ("10.244.1.5 8080", format!("workload {WEB_0}")),
        (
            "fd00:244:1::5 1",
            "workload fd00:244:1::5 1 shop/web-0/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web"
                .into(),
        ),
        (
            "10.244.2.5 0",
            "workload 10.244.2.5 0 shop/web-1/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web".into(),
        ),
        ("10.244.1.5 7001", "workload 10.244.1.5 7001 shop/web-0/web PORT_SKIPPED".into()),
        (
            "10.244.1.5 7003",
            "workload 10.244.1.5 7003 shop/web-0/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web"
                .into(),
        ),
        // Endpoints written by hand: outside, or a pod of the same namespace; nobody else's pod, no ghost.
        (
            "10.96.0.20 443",
            "service legacy/billing [10.244.3.1 8443 legacy/old-0/old NOT_INJECTED, \
             203.0.113.9 8443 legacy// NO_POD]"
                .into(),
        ),
        // Pods on their node's network are reached through a Service; the node itself is nobody.
        (
            "10.96.0.30 9100",
            "service monitoring/agent [172.18.0.2 9100 monitoring/agent-a/agent HOST_NETWORK, \
             172.18.0.3 9100 monitoring/agent-b/agent HOST_NETWORK]"
                .into(),
        ),
        ("172.18.0.2 9100", "unknown".into()),
        ("172.18.0.2 0", "unknown".into()),
        // Of several pods with one address, the one that is alive and stays.
        (
            "10.244.4.1 80",
            "workload 10.244.4.1 80 jobs/runner/runner tunnel 15008 spiffe://cluster.local/ns/jobs/sa/runner"
                .into(),
        ),
        // A pod whose names make no identity is never a stranger that could be reached in plaintext.
        ("10.244.5.1 80", "workload 10.244.5.1 80 odd/odd/Not_A_Name no reach".into()),
        ("203.0.113.9 8443", "unknown".into()),
    ];
    for (at, expected) in table {
        let at = destination(at);
        assert_eq!(told(&state.lookup(&at.into()), at), expected, "{at}");
    }
}

#[test]
fn only_what_can_be_answered_is_kept() {
    let counts = state(&manifests(WORLD)).counts();
    // No ExternalName Services, no FQDN slices, no pods that ended or have no address.
    assert_eq!(counts[..3], [("Service", 6), ("EndpointSlice", 7), ("Pod", 10)]);
}

#[test]
fn a_service_says_who_is_at_its_endpoints_in_another_trust_domain() {
    use serde_json::json;
    let told = |identity: Option<&str>| {
        let mut objects = manifests(WORLD);
        for object in &mut objects {
            if object["kind"] == "Service" && object["metadata"]["name"] == "billing" {
                object["metadata"]["annotations"] = json!({ "trellis.dev/identity": identity });
            }
        }
        let at = destination("10.96.0.20 443");
        told(&state(&objects).lookup(&at.into()), at)
    };
    let partner = "spiffe://b.example/ns/billing/sa/api";
    // Pods of this cluster go on saying themselves who they are.
    let pod = "10.244.3.1 8443 legacy/old-0/old NOT_INJECTED";
    for (identity, reach) in [
        (Some(partner), format!("tunnel 15008 {partner}")),
        (Some("b.example/billing"), "no reach".into()),
        (Some("spiffe://b.example/billing"), "no reach".into()),
        (Some(""), "no reach".into()),
    ] {
        let expected = format!("service legacy/billing [{pod}, 203.0.113.9 8443 legacy// {reach}]");
        assert_eq!(told(identity), expected, "{identity:?}");
    }
}
