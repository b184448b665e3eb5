//! PQPolicies: which of several holds, what becomes of those that are not understood, and who is told. The
//! tables of precedence are those of the operator guide.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::{Value, json};
use trellis_api::proto::discovery::{
    Demand, Demands, Policy, demand::Level, listener_tls::KeyExchange, resolve_response::Answer as Wire,
};
use trellis_discovery::{
    hub::{Hub, Session},
    name::Name,
    state::State,
    subject::Subject,
};

use crate::world::{applied, deleted, manifests, resets, state, viewer};

const GUIDE: &str = include_str!("../../../docs/operator-guide.md");
const NOW: &str = "2026-03-01T00:00:00Z";
const PODS: &str = "
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}, annotations: {trellis.dev/injected: '1'}}
spec: {serviceAccountName: web, containers: []}
status: {phase: Running}
---
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {serviceAccountName: db, containers: []}
status: {phase: Running, podIP: 10.0.0.2}
---
kind: Pod
metadata: {name: web-0, namespace: other, labels: {app: web}, annotations: {trellis.dev/injected: '1'}}
spec: {serviceAccountName: web, containers: []}
status: {phase: Running, podIP: 10.0.0.3}
";
const GATEWAY: &str = "
kind: GatewayClass
metadata: {name: trellis}
spec: {controllerName: trellis.dev/gateway}
---
kind: Pod
metadata: {name: edge-trellis-0, namespace: shop, annotations: {trellis.dev/gateway-name: edge}}
spec: {serviceAccountName: edge-trellis, containers: []}
status: {phase: Running, podIP: 10.0.0.4}
";

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"kind": "PQPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn world(more: &[Value]) -> State {
    let mut objects = manifests(PODS);
    objects.extend(more.iter().cloned());
    state(&objects)
}

/// `LEVEL by POLICY`.
fn said(demand: Option<&Demand>) -> String {
    demand.map_or("as started".to_owned(), |one| {
        let level = match one.level() {
            Level::Classical => "Classical",
            Level::Prefer => "Prefer",
            Level::Require => "Require",
            Level::Permissive => "Permissive",
            Level::Strict => "Strict",
            Level::Unspecified => "nothing",
        };
        format!("{level} by {}", one.source)
    })
}

fn told(state: &State, namespace: &str, pod: &str, account: &str) -> Option<Policy> {
    let subject = Subject::Pod(Name::new(namespace, pod));
    match state.lookup(&subject).to_proto(&subject, &viewer(namespace, account)).answer.unwrap() {
        Wire::Policy(policy) => Some(policy),
        Wire::Unknown(_) => None,
        other => panic!("{other:?}"),
    }
}

fn web(state: &State) -> [Demands; 2] {
    let policy = told(state, "shop", "web-0", "web").unwrap();
    [policy.inbound.unwrap(), policy.outbound.unwrap()]
}

/// The rows below the heading of a table in the guide, without what is code and what is empty.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let table = GUIDE.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = rows
        .map(|row| {
            let cells = row.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect();
    assert!(rows.len() >= 5, "the guide has no table {heading}");
    rows
}

/// The policy of a cell, if there is one.
fn of_cell(cell: &str, namespace: &str, name: &str, more: Value) -> Option<Value> {
    let mut spec = more;
    spec["keyExchange"] = json!(cell);
    (cell != "–").then(|| policy(namespace, name, spec))
}

#[test]
fn workloads_are_held_to_what_the_guides_table_says() {
    for row in rows("| Mesh | Namespace | Workload | What holds |") {
        let [mesh, namespace, workload, holds] = &row[..] else { panic!("{row:?}") };
        let web = json!({"selector": {"matchLabels": {"app": "web"}}});
        let policies = [
            of_cell(mesh, "trellis-system", "mesh", json!({})),
            of_cell(namespace, "shop", "namespace", json!({})),
            of_cell(workload, "shop", "workload", web),
        ];
        let policies: Vec<_> = policies.into_iter().flatten().collect();
        for demands in self::web(&world(&policies)) {
            let said = said(demands.key_exchange.as_ref());
            let said = said.replace("trellis-system/", "").replace("shop/", "");
            assert_eq!(said.replace(" by ", ", by the "), *holds, "{row:?}");
        }
    }
}

#[test]
fn listeners_are_held_to_what_the_guides_table_says() {
    let pair = crate::edge::pair();
    for row in rows("| Mesh | Gateway | Listener | Its `tls.options` | What holds |") {
        let [mesh, gateway, listener, options, holds] = &row[..] else { panic!("{row:?}") };
        let target = |section: Value| {
            let mut target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
            if !section.is_null() {
                target["sectionName"] = section;
            }
            json!({ "targetRefs": [target] })
        };
        let policies = [
            of_cell(mesh, "trellis-system", "mesh", json!({})),
            of_cell(gateway, "shop", "gateway", target(Value::Null)),
            of_cell(listener, "shop", "listener", target(json!("https"))),
        ];
        let mut objects: Vec<_> = policies.into_iter().flatten().chain(manifests(GATEWAY)).collect();
        objects.push(crate::edge::secret("shop", "tls", &pair.certificate, &pair.key));
        let options = match options.as_str() {
            "–" => json!({}),
            value => json!({"trellis.dev/key-exchange": value}),
        };
        let tls = json!({"certificateRefs": [{"name": "tls"}], "options": options});
        objects.push(json!({
            "kind": "Gateway", "metadata": {"name": "edge", "namespace": "shop"},
            "spec": {"gatewayClassName": "trellis",
                     "listeners": [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}]}
        }));
        let state = world(&objects);
        let serving = state.serving(&Name::new("shop", "edge")).unwrap();
        let listener = &serving.answer.listeners[0];
        let found = match KeyExchange::try_from(listener.tls.as_ref().unwrap().key_exchange).unwrap() {
            KeyExchange::Prefer => "Prefer",
            KeyExchange::Require => "Require",
            KeyExchange::Classical => "Classical",
        };
        assert_eq!(found, holds.as_str(), "{row:?}");
    }
}

#[test]
fn a_field_that_is_left_out_is_left_to_wider_policies_and_directions_are_apart() {
    let state = world(&[
        policy("trellis-system", "mesh", json!({"keyExchange": "Require", "signatures": "Prefer"})),
        policy("shop", "out", json!({"keyExchange": "Prefer", "direction": "Outbound"})),
        policy("shop", "in", json!({"plaintext": "Strict"})),
    ]);
    let [inbound, outbound] = web(&state);
    assert_eq!(said(inbound.key_exchange.as_ref()), "Require by trellis-system/mesh");
    assert_eq!(said(outbound.key_exchange.as_ref()), "Prefer by shop/out");
    assert_eq!(said(outbound.signatures.as_ref()), "Prefer by trellis-system/mesh");
    assert_eq!(said(inbound.plaintext.as_ref()), "Strict by shop/in");
    assert_eq!(said(outbound.plaintext.as_ref()), "as started");
}

#[test]
fn the_older_of_two_that_are_as_narrow_goes_first_and_the_younger_is_told() {
    let mut older = policy("shop", "z", json!({"keyExchange": "Prefer"}));
    older["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut younger = policy("shop", "a", json!({"keyExchange": "Require", "signatures": "Require"}));
    younger["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    let mut state = world(&[older, younger]);
    let [inbound, _] = web(&state);
    assert_eq!(said(inbound.key_exchange.as_ref()), "Prefer by shop/z");
    assert_eq!(said(inbound.signatures.as_ref()), "Require by shop/a");
    let statuses = statuses(&mut state);
    let conflicted = |name: &str| statuses[name]["conditions"][1].clone();
    assert_eq!(conflicted("PQPolicy shop/z")["status"], "False");
    assert_eq!(conflicted("PQPolicy shop/a")["status"], "True");
    let message = conflicted("PQPolicy shop/a")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("keyExchange (Inbound) is as shop/z says"), "{message}");
    // Of the same second, the one whose name is first.
    let state = world(&[
        policy("shop", "z", json!({"keyExchange": "Prefer"})),
        policy("shop", "a", json!({"keyExchange": "Classical"})),
    ]);
    assert_eq!(said(web(&state)[0].key_exchange.as_ref()), "Classical by shop/a");
}

fn statuses(state: &mut State) -> serde_json::Map<String, Value> {
    state.wanted_statuses(NOW).into_iter().collect()
}

#[test]
fn a_policy_that_is_not_understood_closes_its_scope_and_says_why() {
    let mut state = world(&[
        policy("shop", "typo", json!({"keyExchnge": "Prefer", "selector": {"matchLabels": {"app": "web"}}})),
        policy(
            "other",
            "good",
            json!({"algorithms": ["kyber768", "dilithium3"], "hybrid": true, "rollback": "enabled"}),
        ),
        policy(
            "other",
            "lost",
            json!({"targetRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "nowhere"}]}),
        ),
    ]);
    let [inbound, outbound] = web(&state);
    for demands in [&inbound, &outbound] {
        assert_eq!(said(demands.key_exchange.as_ref()), "Require by shop/typo");
        assert_eq!(said(demands.signatures.as_ref()), "Require by shop/typo");
    }
    assert_eq!(said(inbound.plaintext.as_ref()), "Strict by shop/typo");
    let other = told(&state, "other", "web-0", "web").unwrap().inbound.unwrap();
    assert_eq!(said(other.key_exchange.as_ref()), "Prefer by other/good");
    assert_eq!(said(other.signatures.as_ref()), "Prefer by other/good");
    let db = told(&state, "shop", "db-0", "db").unwrap().inbound.unwrap();
    assert_eq!(db, Demands::default(), "the selector is understood, and does not mean it");
    let statuses = statuses(&mut state);
    let accepted = |name: &str| statuses[name]["conditions"][0].clone();
    let typo = accepted("PQPolicy shop/typo");
    assert_eq!((&typo["status"], &typo["reason"]), (&json!("False"), &json!("UnknownField")));
    let message = typo["message"].as_str().unwrap();
    assert!(
        message.starts_with("keyExchnge: there is no such field; did you mean keyExchange?. Until"),
        "{message}"
    );
    assert_eq!(accepted("PQPolicy other/good")["status"], "True");
    assert_eq!(accepted("PQPolicy other/lost")["reason"], "TargetNotFound");
}

#[test]
fn the_status_says_who_can_be_held_to_it() {
    let pods = "
kind: Pod
metadata:
  name: old-0
  namespace: shop
  annotations: {trellis.dev/injected: '1', trellis.dev/leaf-algorithm: ecdsa-p256}
spec: {serviceAccountName: old, containers: []}
---
kind: Pod
metadata:
  name: mixed-0
  namespace: shop
  annotations: {trellis.dev/injected: '1', trellis.dev/skip-inbound-ports: '9000'}
spec: {serviceAccountName: mixed, containers: []}
---
kind: Pod
metadata: {name: agent, namespace: shop, annotations: {trellis.dev/injected: '1'}}
spec: {serviceAccountName: agent, hostNetwork: true, containers: []}
---
kind: Pod
metadata: {name: done, namespace: shop}
spec: {serviceAccountName: done, containers: []}
status: {phase: Succeeded}
";
    let strict = json!({"keyExchange": "Require", "signatures": "Require", "plaintext": "Strict"});
    let mut objects = manifests(pods);
    objects.push(policy("shop", "strict", strict));
    objects.push(policy(
        "shop",
        "db",
        json!({"selector": {"matchLabels": {"app": "db"}}, "keyExchange": "Prefer"}),
    ));
    let mut state = world(&objects);
    let shown = statuses(&mut state);
    let outside = |workload: &str, reason: &str| json!({"workload": workload, "reason": reason});
    assert_eq!(
        shown["PQPolicy shop/strict"]["workloads"],
        json!({
            "selected": 5, "within": 1, "outside": 4, "compliant": ["shop/web"],
            "exceptions": [
                outside("shop/agent", "host_network"), outside("shop/db", "not_injected"),
                outside("shop/mixed", "port_skipped"), outside("shop/old", "classical_leaf"),
            ],
        })
    );
    assert_eq!(
        shown["PQPolicy shop/db"]["workloads"],
        json!({"selected": 1, "within": 0, "outside": 1, "compliant": [],
               "exceptions": [outside("shop/db", "not_injected")]})
    );
    // What was said of workloads is taken away where the policy is for a gateway by now.
    let mut gateway = policy(
        "shop",
        "db",
        json!({"targetRefs": [
        {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]}),
    );
    gateway["status"] = json!({"conditions": [], "workloads": shown["PQPolicy shop/db"]["workloads"]});
    let mut state = world(&[gateway]);
    let shown = statuses(&mut state);
    assert_eq!(shown["PQPolicy shop/db"].get("workloads"), Some(&Value::Null));
}

#[test]
fn a_pod_hears_of_its_own_policies_and_nobody_else_does() {
    let hub = Arc::new(Hub::default());
    hub.apply(resets(&manifests(PODS)));
    let session = |namespace: &str, account: &str, pod: &str| {
        let session = hub.join(viewer(namespace, account));
        session.subscribe(Subject::Pod(Name::new(namespace, pod))).unwrap();
        session
    };
    let next = |session: &Session| {
        let (subject, answer) = session.next().now_or_never()?;
        answer.to_proto(&subject, session.viewer()).answer
    };
    let (own, other) = (session("shop", "web", "web-0"), session("other", "web", "web-0"));
    let (stranger, early) = (session("shop", "db", "web-0"), session("shop", "web", "web-9"));
    assert!(matches!(next(&own), Some(Wire::Policy(_))) && matches!(next(&other), Some(Wire::Policy(_))));
    assert!(matches!(next(&stranger), Some(Wire::Unknown(_))), "another account's pod");
    assert!(matches!(next(&early), Some(Wire::Unknown(_))));

    let first = policy("shop", "first", json!({"keyExchange": "Prefer"}));
    hub.apply([applied(&first)]);
    let Some(Wire::Policy(heard)) = next(&own) else { panic!("nothing was said") };
    assert_eq!(said(heard.inbound.unwrap().key_exchange.as_ref()), "Prefer by shop/first");
    assert_eq!(next(&other), None, "a policy of another namespace");
    hub.apply([deleted(&first)]);
    let Some(Wire::Policy(heard)) = next(&own) else { panic!("nothing was said") };
    assert_eq!(heard.inbound.unwrap(), Demands::default());
    hub.apply([applied(&policy("trellis-system", "mesh", json!({"rollback": "enabled"})))]);
    assert!(next(&own).is_some() && next(&other).is_some());

    // Its labels are what it is selected by, and a pod may be asked about before it is known.
    let mut pod = manifests(PODS)[0].clone();
    pod["metadata"]["name"] = json!("web-9");
    hub.apply([applied(&pod)]);
    assert!(matches!(next(&early), Some(Wire::Policy(_))));
    let selected = json!({"selector": {"matchLabels": {"app": "new"}}, "keyExchange": "Require"});
    hub.apply([applied(&policy("shop", "new", selected))]);
    assert_eq!(next(&early), None);
    pod["metadata"]["labels"]["app"] = json!("new");
    hub.apply([applied(&pod)]);
    let Some(Wire::Policy(heard)) = next(&early) else { panic!("nothing was said") };
    assert_eq!(said(heard.inbound.unwrap().key_exchange.as_ref()), "Require by shop/new");
}

#[test]
fn a_gateways_pods_are_held_to_its_policy_towards_the_mesh() {
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]);
    let mut objects = manifests(GATEWAY);
    objects.push(policy("shop", "edge", json!({"targetRefs": target, "signatures": "Prefer"})));
    let state = world(&objects);
    let pod = told(&state, "shop", "edge-trellis-0", "edge-trellis").unwrap();
    assert_eq!(said(pod.outbound.unwrap().signatures.as_ref()), "Prefer by shop/edge");
    assert_eq!(web(&state)[1].signatures, None);
}
