//! Statuses: what they say, what of them stays, and that nothing is written that is there already.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trellis_discovery::{
    gateway::infrastructure::made,
    name::Name,
    state::{State, Touched},
};

use crate::world::{applied, deleted, manifests, state};

const EDGE: &str = include_str!("edge.yaml");
const NOW: &str = "2026-03-01T00:00:00Z";
const BEFORE: &str = "2026-01-01T00:00:00Z";

/// Gateway edge/main, its Service with an address, and a pod of it that is ready.
const MAIN: &str = "
kind: Gateway
metadata: {name: main, namespace: edge, generation: 3, uid: u1, resourceVersion: '7'}
spec: {gatewayClassName: trellis, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: Service
metadata: {name: main-trellis, namespace: edge}
spec: {clusterIPs: [10.96.2.9], ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
---
kind: EndpointSlice
metadata: {name: main-trellis-1, namespace: edge, labels: {kubernetes.io/service-name: main-trellis}}
addressType: IPv4
ports: [{port: 10080}]
endpoints: [{addresses: [10.244.0.9], conditions: {ready: true}}]
";

fn world(more: &str) -> State {
    let mut objects = manifests(EDGE);
    objects.extend(manifests(more));
    state(&objects)
}

/// What is to be written, by object.
fn due(state: &mut State) -> BTreeMap<String, Value> {
    state.due(NOW).into_iter().map(|due| (due.object.to_string(), due.status)).collect()
}

fn put(state: &mut State, object: &Value) {
    state.apply(applied(object), &mut Touched::default());
    state.settle(&mut Touched::default());
}

/// `TYPE=STATUS REASON` of each condition.
fn said(conditions: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = conditions.as_array().unwrap().iter();
    all.map(|one| format!("{}={} {}", text(&one["type"]), text(&one["status"]), text(&one["reason"])))
        .collect()
}

fn route(name: &str, parents: Value, more: Value) -> Value {
    let mut route = json!({
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "edge", "generation": 5, "resourceVersion": "9"},
        "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
    });
    for (field, value) in more.as_object().unwrap() {
        route[field] = value.clone();
    }
    route
}

#[test]
fn a_gateway_that_serves_says_so() {
    let mut state = world(MAIN);
    let all = due(&mut state);
    let status = &all["Gateway edge/main"];
    assert_eq!(said(&status["conditions"]), ["Accepted=True Accepted", "Programmed=True Programmed"]);
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.1"}]));
    let listener = &status["listeners"][0];
    assert_eq!(
        said(&listener["conditions"]),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "ResolvedRefs=True ResolvedRefs",
            "Conflicted=False NoConflicts"
        ]
    );
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("http"), &json!(0)));
    let kind = |kind: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind});
    assert_eq!(listener["supportedKinds"], json!([kind("HTTPRoute"), kind("GRPCRoute")]));
    for condition in
        status["conditions"].as_array().unwrap().iter().chain(listener["conditions"].as_array().unwrap())
    {
        assert_eq!(
            (&condition["observedGeneration"], &condition["lastTransitionTime"]),
            (&json!(3), &json!(NOW))
        );
    }
    let class = &all["GatewayClass trellis"];
    assert_eq!(said(&class["conditions"]), ["Accepted=True Accepted"]);
    assert!(class["supportedFeatures"].as_array().unwrap().contains(&json!({"name": "HTTPRoute"})));
    assert!(!all.contains_key("GatewayClass other"), "it is somebody else's");
}

#[test]
fn a_gateway_that_cannot_prove_itself_says_so_and_is_accepted() {
    let mut main = crate::edge::gateway("{name: http, port: 80, protocol: HTTP}");
    main["spec"]["tls"] = json!({"backend": {"clientCertificateRef": {"name": "none"}}});
    let status = &due(&mut crate::edge::world(&[main]))["Gateway edge/main"];
    let said = said(&status["conditions"]);
    assert!(said.contains(&"Accepted=True Accepted".to_owned()), "{said:?}");
    assert!(said.contains(&"ResolvedRefs=False InvalidClientCertificateRef".to_owned()), "{said:?}");
}

#[test]
fn a_gateway_that_cannot_serve_says_why() {
    for (from, to, accepted, programmed) in [
        ("protocol: HTTP", "protocol: UDP", "Accepted=False ListenersNotValid", "Programmed=False Invalid"),
        (
            "{name: http, port: 80, protocol: HTTP}",
            "{name: http, port: 80, protocol: HTTP}, {name: udp, port: 81, protocol: UDP}",
            "Accepted=True ListenersNotValid",
            "Programmed=True Programmed",
        ),
        ("[{ip: 192.0.2.1}]", "[]", "Accepted=True Accepted", "Programmed=False AddressNotAssigned"),
        ("ready: true", "ready: false", "Accepted=True Accepted", "Programmed=False NoResources"),
        (
            "listeners:",
            "addresses: [{value: 192.0.2.2}], listeners:",
            "Accepted=True Accepted",
            "Programmed=False AddressNotUsable",
        ),
        (
            "listeners:",
            "addresses: [{value: 192.0.2.1}], listeners:",
            "Accepted=True Accepted",
            "Programmed=True Programmed",
        ),
        (
            "listeners:",
            "addresses: [{value: 192.0.2.2}, {value: 192.0.2.1}], listeners:",
            "Accepted=True Accepted",
            "Programmed=False AddressNotUsable",
        ),
        (
            "listeners:",
            "addresses: [{type: x/y, value: z}], listeners:",
            "Accepted=False UnsupportedAddress",
            "Programmed=False Invalid",
        ),
        (
            "protocol: HTTP",
            "protocol: HTTPS, tls: {certificateRefs: [{name: gone}]}",
            "Accepted=True Accepted",
            "Programmed=False Invalid",
        ),
    ] {
        let status = &due(&mut world(&MAIN.replace(from, to)))["Gateway edge/main"];
        assert_eq!(said(&status["conditions"]), [accepted, programmed], "{to}");
    }
    // One that was asked for and is not there is named, though there is none at all.
    let none = MAIN.replace("[{ip: 192.0.2.1}]", "[]");
    let asks = |text: &str| text.replace("listeners:", "addresses: [{value: 192.0.2.1}], listeners:");
    let status = &due(&mut world(&asks(&none)))["Gateway edge/main"];
    assert_eq!(said(&status["conditions"])[1], "Programmed=False AddressNotUsable");
    // Who asks is shown what it asked for, whatever else its Service has.
    let more = MAIN.replace("[{ip: 192.0.2.1}]", "[{ip: 192.0.2.1}, {ip: '2001:db8::1'}]");
    let of = |text: &str| due(&mut world(text))["Gateway edge/main"]["addresses"].as_array().unwrap().len();
    assert_eq!((of(&more), of(&asks(&more))), (2, 1));
    // A listener that could be served waits for the gateway.
    let status = &due(&mut world(&MAIN.replace("ready: true", "ready: false")))["Gateway edge/main"];
    assert_eq!(said(&status["listeners"][0]["conditions"])[1], "Programmed=False Pending");
    // What could not be made.
    let mut state = world(MAIN);
    state.made(&Name::new("edge", "main"), Some("its parts cannot be made: no".into()));
    state.settle(&mut Touched::default());
    let status = &due(&mut state)["Gateway edge/main"];
    assert_eq!(said(&status["conditions"])[1], "Programmed=False NoResources");
    assert_eq!(status["conditions"][1]["message"], "its parts cannot be made: no");
}

#[test]
fn a_route_says_what_became_of_it_at_each_of_its_parents() {
    let table = [
        (json!({"name": "main"}), vec!["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]),
        (
            json!({"name": "main", "port": 81}),
            vec!["Accepted=False NoMatchingParent", "ResolvedRefs=True ResolvedRefs"],
        ),
        (
            json!({"group": "", "kind": "Service", "name": "web"}),
            vec!["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"],
        ),
        (
            json!({"group": "", "kind": "Service", "name": "web", "port": 81}),
            vec!["Accepted=False NoMatchingParent", "ResolvedRefs=True ResolvedRefs"],
        ),
        (
            json!({"group": "", "kind": "Service", "name": "gone"}),
            vec!["Accepted=False NoMatchingParent", "ResolvedRefs=True ResolvedRefs"],
        ),
    ];
    let mut parents: Vec<_> = table.iter().map(|(parent, _)| parent.clone()).collect();
    // Neither a Gateway that nobody knows nor one of somebody else is ours to speak of.
    parents.extend([json!({"name": "unknown"}), json!({"group": "x", "kind": "Thing", "name": "main"})]);
    let mut state = world(MAIN);
    due(&mut state);
    put(&mut state, &route("r", json!(parents), json!({})));
    let all = due(&mut state);
    let status = all["HTTPRoute edge/r"]["parents"].as_array().unwrap();
    assert_eq!(status.len(), table.len());
    for (entry, (parent, expected)) in status.iter().zip(&table) {
        assert_eq!((&entry["parentRef"], &entry["controllerName"]), (parent, &json!("trellis.dev/gateway")));
        assert_eq!(said(&entry["conditions"]), *expected, "{parent}");
        assert_eq!(entry["conditions"][0]["observedGeneration"], 5);
    }
    assert_eq!(all["Gateway edge/main"]["listeners"][0]["attachedRoutes"], 1);
    // A rule that cannot be obeyed, in part and as a whole.
    let bad = json!({"filters": [{"type": "Compress"}]});
    let spec = |rules: Value| json!({"spec": {"parentRefs": [{"name": "main"}, {"group": "", "kind": "Service", "name": "web"}], "rules": rules}});
    put(&mut state, &route("r", json!([]), spec(json!([bad, {}]))));
    let all = due(&mut state);
    for entry in all["HTTPRoute edge/r"]["parents"].as_array().unwrap() {
        assert_eq!(said(&entry["conditions"])[0], "Accepted=True Accepted");
        assert_eq!(said(&entry["conditions"])[2], "PartiallyInvalid=True UnsupportedValue");
    }
    put(&mut state, &route("r", json!([]), spec(json!([bad]))));
    for entry in due(&mut state)["HTTPRoute edge/r"]["parents"].as_array().unwrap() {
        assert_eq!(said(&entry["conditions"])[0], "Accepted=False UnsupportedValue");
    }
}

#[test]
fn what_others_say_stays_and_what_is_there_is_not_written_again() {
    let foreign = json!({"parentRef": {"name": "main"}, "controllerName": "example.com/x", "conditions": []});
    let mut state = world(MAIN);
    let mut object = route("r", json!([{"name": "main"}]), json!({"status": {"parents": [foreign]}}));
    put(&mut state, &object);
    let written = due(&mut state).remove("HTTPRoute edge/r").unwrap();
    assert_eq!(written["parents"][0], foreign);
    assert_eq!(written["parents"].as_array().unwrap().len(), 2);
    // As the API server shows it afterwards.
    object["status"] = written;
    object["status"]["parents"][1]["conditions"][0]["lastTransitionTime"] = json!(BEFORE);
    object["metadata"]["resourceVersion"] = json!("10");
    put(&mut state, &object);
    assert!(!due(&mut state).contains_key("HTTPRoute edge/r"), "it is as it shall be");
    // A new generation is observed, and what is as it was has been so since it was.
    object["metadata"]["generation"] = json!(6);
    put(&mut state, &object);
    let written = due(&mut state).remove("HTTPRoute edge/r").unwrap();
    let condition = &written["parents"][1]["conditions"][0];
    assert_eq!(
        (&condition["observedGeneration"], &condition["lastTransitionTime"]),
        (&json!(6), &json!(BEFORE))
    );
    // Somebody takes it away.
    object["status"] = json!({"parents": [foreign]});
    put(&mut state, &object);
    assert!(due(&mut state).contains_key("HTTPRoute edge/r"));
    // It is no longer ours.
    object["status"] = written;
    object["spec"]["parentRefs"] = json!([]);
    put(&mut state, &object);
    assert_eq!(due(&mut state)["HTTPRoute edge/r"], json!({"parents": [foreign]}));
    // One that never was is left alone.
    put(&mut state, &route("stranger", json!([{"name": "unknown"}]), json!({})));
    assert!(!due(&mut state).contains_key("HTTPRoute edge/stranger"));
    // The gateway goes, and with it what was said of its routes.
    put(&mut state, &route("r", json!([{"name": "main"}]), json!({})));
    due(&mut state);
    object["spec"]["parentRefs"] = json!([{"name": "main"}]);
    put(&mut state, &object);
    due(&mut state);
    state.apply(deleted(&manifests(MAIN)[0]), &mut Touched::default());
    state.settle(&mut Touched::default());
    assert_eq!(due(&mut state)["HTTPRoute edge/r"], json!({"parents": [foreign]}));
}

#[test]
fn listener_sets_and_policies_say_what_became_of_them() {
    let more = "
---
kind: ListenerSet
metadata: {name: more, namespace: edge, generation: 2}
spec: {parentRef: {name: main}, listeners: [{name: a, port: 80, protocol: HTTP, hostname: a.org}, {name: b, port: 80, protocol: TCP}]}
---
kind: BackendTLSPolicy
metadata: {name: old, namespace: edge, generation: 4, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: a.org, wellKnownCACertificates: System}}
---
kind: BackendTLSPolicy
metadata: {name: new, namespace: edge, creationTimestamp: '2026-02-01T00:00:00Z'}
spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: a.org, caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]}}
";
    let allowing = MAIN.replace(
        "spec: {gatewayClassName: trellis,",
        "spec: {gatewayClassName: trellis, allowedListeners: {namespaces: {from: Same}},",
    );
    let mut state = world(&format!("{allowing}{more}"));
    put(&mut state, &route("r", json!([{"name": "main"}]), json!({})));
    let all = due(&mut state);
    assert_eq!(all["Gateway edge/main"]["attachedListenerSets"], 1);
    let set = &all["ListenerSet edge/more"];
    assert_eq!(said(&set["conditions"]), ["Accepted=True ListenersNotValid", "Programmed=True Programmed"]);
    assert_eq!(set["conditions"][0]["observedGeneration"], 2);
    assert_eq!(
        said(&set["listeners"][1]["conditions"]),
        [
            "Accepted=False ProtocolConflict",
            "Programmed=False ProtocolConflict",
            "ResolvedRefs=True ResolvedRefs",
            "Conflicted=True ProtocolConflict"
        ]
    );
    let gateway =
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "edge", "name": "main"});
    let ancestors = |name: &str| all[&format!("BackendTLSPolicy edge/{name}")]["ancestors"].clone();
    assert_eq!(ancestors("old")[0]["ancestorRef"], gateway);
    assert_eq!(
        said(&ancestors("old")[0]["conditions"]),
        ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
    );
    assert_eq!(
        said(&ancestors("new")[0]["conditions"]),
        ["Accepted=False Conflicted", "ResolvedRefs=False InvalidCACertificateRef"]
    );
    // Not allowed any more.
    put(&mut state, &manifests(MAIN)[0]);
    let set = &due(&mut state)["ListenerSet edge/more"];
    assert_eq!(said(&set["conditions"]), ["Accepted=False NotAllowed", "Programmed=False NotAllowed"]);
    assert_eq!(set["listeners"], json!([]));
}

/// Bytes are spoken to in TLS as requests are, but for those whose TLS goes through.
#[test]
fn a_policy_names_the_gateways_that_obey_it_and_the_services_within_the_mesh() {
    let world = "
kind: Gateway
metadata: {name: main, namespace: edge, resourceVersion: '7'}
spec:
  gatewayClassName: trellis
  listeners:
  - {name: tcp, port: 7000, protocol: TCP}
  - {name: ends, port: 443, protocol: TLS, hostname: ends.org, tls: {mode: Terminate, certificateRefs: [{name: good}]}}
  - {name: through, port: 443, protocol: TLS, hostname: through.org, tls: {mode: Passthrough}}
---
kind: BackendTLSPolicy
metadata: {name: p, namespace: edge}
spec: {targetRefs: [{group: '', kind: Service, name: web, sectionName: http}, {group: '', kind: Service, name: gone}], validation: {hostname: a.org, wellKnownCACertificates: System}}
";
    let pair = crate::edge::pair();
    let mut objects = manifests(world);
    objects.push(crate::edge::secret("edge", "good", &pair.certificate, &pair.key));
    let mut state = crate::edge::world(&objects);
    let reference = |group: &str, kind: &str, name: &str| json!({"group": group, "kind": kind, "namespace": "edge", "name": name});
    let gateway = reference("gateway.networking.k8s.io", "Gateway", "main");
    let service = reference("", "Service", "web");
    let ancestors = |state: &mut State| {
        let all: BTreeMap<_, _> = state.wanted_statuses(NOW).into_iter().collect();
        let ancestors = all["BackendTLSPolicy edge/p"]["ancestors"].as_array().unwrap().clone();
        for ancestor in &ancestors {
            assert_eq!(
                said(&ancestor["conditions"]),
                ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
            );
        }
        ancestors.iter().map(|one| one["ancestorRef"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ancestors(&mut state), std::slice::from_ref(&service), "no route leads there");
    let rules = ", rules: [{backendRefs: [{name: web, port: 80}]}]";
    let tls = |name: &str| {
        let hostnames = format!(", hostnames: [{name}.org]{rules}");
        crate::edge::route("TLSRoute", "edge", name, &format!(", sectionName: {name}"), &hostnames)
    };
    for (route, obeys) in [
        (tls("through"), false),
        (tls("ends"), true),
        (crate::edge::route("TCPRoute", "edge", "bytes", ", sectionName: tcp", rules), true),
    ] {
        put(&mut state, &route);
        let expected = if obeys { vec![gateway.clone(), service.clone()] } else { vec![service.clone()] };
        assert_eq!(ancestors(&mut state), expected, "{route}");
        state.apply(deleted(&route), &mut Touched::default());
        state.settle(&mut Touched::default());
        assert_eq!(ancestors(&mut state), std::slice::from_ref(&service), "the route is gone");
    }
    // It goes, and comes back with other ports.
    let web = &manifests(EDGE)[5];
    state.apply(deleted(web), &mut Touched::default());
    state.settle(&mut Touched::default());
    assert_eq!(ancestors(&mut state), Vec::<Value>::new());
    put(&mut state, web);
    assert_eq!(ancestors(&mut state), [service]);
}

#[test]
fn a_gateway_consists_of_four_objects_that_are_its_own() {
    let infrastructure = "infrastructure: {labels: {team: edge}, annotations: {note: x, trellis.dev/access-log: errors}}, addresses: [{value: 192.0.2.1}], listeners: [{name: more, port: 8443, protocol: TCP}, ";
    let state = world(&MAIN.replace("listeners: [", infrastructure));
    let (name, gateway, serving) = &state.served()[0];
    let all = made(name, gateway, serving, &Default::default(), 2);
    let kinds: Vec<_> = all.iter().map(|one| one.object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Deployment", "Service", "PodDisruptionBudget"]);
    for one in &all {
        let meta = &one.object["metadata"];
        assert_eq!((&meta["namespace"], &meta["name"]), (&json!("edge"), &json!("main-trellis")));
        assert_eq!(meta["ownerReferences"][0]["uid"], "u1");
        assert_eq!(meta["labels"]["gateway.networking.k8s.io/gateway-name"], "main");
        assert_eq!((&meta["labels"]["team"], &meta["annotations"]["note"]), (&json!("edge"), &json!("x")));
    }
    let deployment = &all[1].object["spec"];
    assert_eq!(deployment["replicas"], 2);
    assert_eq!(deployment["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let template = &deployment["template"];
    assert_eq!(template["metadata"]["annotations"]["trellis.dev/gateway-name"], "main");
    assert_eq!(template["metadata"]["annotations"]["trellis.dev/inject"], "disabled");
    let pod = &template["spec"];
    let proxy = &pod["containers"][0];
    assert_eq!(pod["serviceAccountName"], "main-trellis");
    assert_eq!(proxy["args"], json!(["gateway", "--gateway-namespace", "edge", "--gateway-name", "main"]));
    let log = json!({"name": "TRELLIS_ACCESS_LOG", "value": "errors"});
    assert!(proxy["env"].as_array().unwrap().contains(&log), "its own wish");
    assert_eq!(proxy["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(pod["terminationGracePeriodSeconds"], 45);
    let service = &all[2].object["spec"];
    let ports: Vec<_> = service["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (port["port"].clone(), port["targetPort"].clone()))
        .collect();
    assert_eq!(ports, [(json!(80), json!(10080)), (json!(8443), json!(8443))]);
    assert_eq!((&service["type"], &service["loadBalancerIP"]), (&json!("LoadBalancer"), &json!("192.0.2.1")));
    // One pod needs no budget, and a gateway that is refused nothing at all.
    assert_eq!(made(name, gateway, serving, &Default::default(), 1).len(), 3);
    let refused = world(&MAIN.replace("protocol: HTTP", "protocol: UDP"));
    let (name, gateway, serving) = &refused.served()[0];
    assert!(made(name, gateway, serving, &Default::default(), 2).is_empty());
}
