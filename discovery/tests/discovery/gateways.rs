//! Gateways: what each serves, to whom it is told, and what became of everything that wants to be part of
//! it.

use std::sync::Arc;

use futures::FutureExt;
use rcgen::{CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use trellis_api::{proto::discovery as proto, source::Sight};
use trellis_discovery::{
    event::Event,
    gateway::serving::{ListenerVerdict, Serving},
    hub::Hub,
    name::Name,
    state::State,
    subject::Subject,
};

use crate::world::{applied, deleted, drawers, manifests, resets, state, viewer};

const EDGE: &str = include_str!("edge.yaml");

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

fn pair() -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["example.org".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().pem();
    Pair { certificate, key: key.serialize_pem() }
}

fn secret(namespace: &str, name: &str, certificate: &str, key: &str) -> Value {
    use k8s_openapi::{ByteString, api::core::v1::Secret};
    let data = [("tls.crt", certificate), ("tls.key", key)];
    let data = data.map(|(item, text)| (item.to_owned(), ByteString(text.as_bytes().to_vec())));
    let mut secret = json!(Secret { data: Some(data.into()), ..Secret::default() });
    secret["kind"] = json!("Secret");
    secret["type"] = json!("kubernetes.io/tls");
    secret["metadata"] = json!({"namespace": namespace, "name": name});
    secret
}

fn authority(namespace: &str, name: &str, pem: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": {"ca.crt": pem}})
}

/// Gateway edge/main with these listeners, in flow style.
fn gateway(listeners: &str) -> Value {
    manifests(&format!(
        "
kind: Gateway
metadata: {{name: main, namespace: edge, generation: 3}}
spec: {{gatewayClassName: trellis, listeners: [{listeners}]}}"
    ))
    .remove(0)
}

/// A route of a kind in a namespace; the parent, and what more is in its spec, in flow style.
fn route(kind: &str, namespace: &str, name: &str, parent: &str, more: &str) -> Value {
    manifests(&format!(
        "
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRefs: [{{name: main, namespace: edge{parent}}}]{more}}}"
    ))
    .remove(0)
}

const TO_WEB: &str = ", rules: [{backendRefs: [{name: web, port: 80}]}]";

fn world(more: &[Value]) -> State {
    let mut objects = manifests(EDGE);
    objects.extend(more.iter().cloned());
    state(&objects)
}

fn main_gateway() -> Subject {
    Subject::Gateway(Name::new("edge", "main"))
}

fn serving(state: &State) -> Arc<Serving> {
    state.serving(&Name::new("edge", "main")).unwrap().clone()
}

fn served(state: &State) -> proto::Gateway {
    let answer = state.lookup(&main_gateway()).to_proto(&main_gateway(), &viewer("edge", "main-trellis"));
    match answer.answer {
        Some(proto::resolve_response::Answer::Serving(gateway)) => gateway,
        other => panic!("{other:?}"),
    }
}

fn line(verdict: &ListenerVerdict) -> String {
    let said = |result: &Result<(), trellis_discovery::gateway::listener::Problem>| match result {
        Ok(()) => "ok".to_owned(),
        Err(problem) => problem.reason.to_owned(),
    };
    let conflicted = verdict.conflicted.as_ref().map_or("", |problem| problem.reason);
    let kinds: Vec<_> = verdict.kinds.iter().map(|kind| kind.name()).collect();
    format!(
        "{} accepted={} resolved={} conflicted={conflicted} serves={} attached={} {}",
        verdict.name,
        said(&verdict.accepted),
        said(&verdict.resolved),
        verdict.serves,
        verdict.attached,
        kinds.join("+"),
    )
}

#[test]
fn listeners_are_what_they_say_or_told_why_not() {
    const HTTP: &str = "HTTPRoute+GRPCRoute";
    let pair = pair();
    let objects = [
        secret("edge", "good", &pair.certificate, &pair.key),
        secret("edge", "bad", "Hello world", "Hello world"),
        secret("far", "good", &pair.certificate, &pair.key),
    ];
    let tls = |more: &str| format!("tls: {{certificateRefs: [{{name: good}}]{more}}}");
    for (listener, expected) in [
        ("{name: a, port: 80, protocol: HTTP}".to_owned(), format!("a accepted=ok resolved=ok conflicted= serves=true attached=0 {HTTP}")),
        ("{name: a, port: 80, protocol: UDP}".into(), "a accepted=UnsupportedProtocol resolved=ok conflicted= serves=false attached=0 ".into()),
        ("{name: a, port: 9000, protocol: TCP}".into(), "a accepted=ok resolved=ok conflicted= serves=true attached=0 TCPRoute".into()),
        ("{name: a, port: 15008, protocol: TCP}".into(), "a accepted=PortUnavailable resolved=ok conflicted= serves=false attached=0 TCPRoute".into()),
        ("{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough}}".into(), "a accepted=ok resolved=ok conflicted= serves=true attached=0 TLSRoute".into()),
        (format!("{{name: a, port: 443, protocol: TLS, {}}}", tls("")), "a accepted=ok resolved=ok conflicted= serves=true attached=0 TLSRoute".into()),
        (format!("{{name: a, port: 443, protocol: HTTPS, {}}}", tls("")), format!("a accepted=ok resolved=ok conflicted= serves=true attached=0 {HTTP}")),
        (format!("{{name: a, port: 443, protocol: HTTPS, {}}}", tls(", mode: Passthrough")), format!("a accepted=UnsupportedValue resolved=ok conflicted= serves=false attached=0 {HTTP}")),
        (format!("{{name: a, port: 443, protocol: HTTPS, {}}}", tls(", options: {trellis.dev/key-exchange: require}")), format!("a accepted=ok resolved=ok conflicted= serves=true attached=0 {HTTP}")),
        (format!("{{name: a, port: 443, protocol: HTTPS, {}}}", tls(", options: {trellis.dev/key-exchange: maybe}")), format!("a accepted=UnsupportedValue resolved=ok conflicted= serves=false attached=0 {HTTP}")),
        (format!("{{name: a, port: 443, protocol: HTTPS, {}}}", tls(", options: {trellis.dev/keyexchange: require}")), format!("a accepted=UnsupportedValue resolved=ok conflicted= serves=false attached=0 {HTTP}")),
        (format!("{{name: a, port: 443, protocol: HTTPS, {}}}", tls(", options: {example.com/x: require}")), format!("a accepted=ok resolved=ok conflicted= serves=true attached=0 {HTTP}")),
        ("{name: a, port: 443, protocol: HTTPS}".into(), format!("a accepted=ok resolved=InvalidCertificateRef conflicted= serves=false attached=0 {HTTP}")),
        ("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: gone}]}}".into(), format!("a accepted=ok resolved=InvalidCertificateRef conflicted= serves=false attached=0 {HTTP}")),
        ("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: bad}]}}".into(), format!("a accepted=ok resolved=InvalidCertificateRef conflicted= serves=false attached=0 {HTTP}")),
        ("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good, kind: Thing}]}}".into(), format!("a accepted=ok resolved=InvalidCertificateRef conflicted= serves=false attached=0 {HTTP}")),
        ("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good, group: example.com}]}}".into(), format!("a accepted=ok resolved=InvalidCertificateRef conflicted= serves=false attached=0 {HTTP}")),
        ("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good, namespace: far}]}}".into(), format!("a accepted=ok resolved=RefNotPermitted conflicted= serves=false attached=0 {HTTP}")),
        // One that is good is enough to serve.
        ("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}, {name: gone}]}}".into(), format!("a accepted=ok resolved=InvalidCertificateRef conflicted= serves=true attached=0 {HTTP}")),
        ("{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: Nothing}]}}".into(), "a accepted=ok resolved=InvalidRouteKinds conflicted= serves=false attached=0 ".into()),
        ("{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: Nothing}, {kind: HTTPRoute}]}}".into(), "a accepted=ok resolved=InvalidRouteKinds conflicted= serves=true attached=0 HTTPRoute".into()),
        ("{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: TLSRoute}]}}".into(), "a accepted=ok resolved=InvalidRouteKinds conflicted= serves=true attached=0 TLSRoute".into()),
    ] {
        let mut objects = objects.to_vec();
        objects.push(gateway(&listener));
        assert_eq!(line(&serving(&world(&objects)).listeners[0]), expected, "{listener}");
    }
}

#[test]
fn of_listeners_that_cannot_be_together_the_first_is() {
    let pair = pair();
    let listeners = "
        {name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: a.org},
        {name: c, port: 80, protocol: HTTP, hostname: A.ORG}, {name: d, port: 80, protocol: TCP},
        {name: e, port: 443, protocol: TLS, hostname: b.org, tls: {mode: Passthrough}},
        {name: f, port: 443, protocol: HTTPS, hostname: a.org, tls: {certificateRefs: [{name: good}]}},
        {name: g, port: 443, protocol: HTTPS, hostname: b.org, tls: {certificateRefs: [{name: good}]}},
        {name: h, port: 9000, protocol: TCP}, {name: i, port: 9000, protocol: TCP},
        {name: j, port: 10080, protocol: HTTP}";
    let serving =
        serving(&world(&[gateway(listeners), secret("edge", "good", &pair.certificate, &pair.key)]));
    let found = serving.listeners.iter().map(|one| {
        let why = one.accepted.as_ref().err().map_or("", |problem| problem.reason);
        assert_eq!(one.conflicted.is_some(), matches!(why, "HostnameConflict" | "ProtocolConflict"));
        format!("{} {why}", one.name)
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            "a ",
            "b ",
            "c HostnameConflict",
            "d ProtocolConflict",
            "e ",
            "f ",
            "g HostnameConflict",
            "h ",
            "i HostnameConflict",
            "j PortUnavailable"
        ]
    );
    let names: Vec<_> = serving.answer.listeners.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "e", "f", "h"]);
}

#[test]
fn a_route_is_attached_where_it_may_be_or_told_why_not() {
    let listeners = "
        {name: own, port: 80, protocol: HTTP},
        {name: all, port: 81, protocol: HTTP, hostname: '*.example.org', allowedRoutes: {namespaces: {from: All}}},
        {name: some, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {exposed: 'yes'}}}}},
        {name: grpc, port: 83, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}},
        {name: bytes, port: 84, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}";
    for (kind, namespace, parent, more, expected) in [
        ("HTTPRoute", "edge", "", "", "own[] all[*.example.org]"),
        ("HTTPRoute", "shop", "", "", "all[*.example.org] some[]"),
        ("HTTPRoute", "far", "", "", "all[*.example.org]"),
        ("HTTPRoute", "edge", ", sectionName: own", "", "own[]"),
        ("HTTPRoute", "edge", ", port: 81", ", hostnames: [a.example.org, b.org]", "all[a.example.org]"),
        ("HTTPRoute", "edge", ", port: 80, sectionName: own", "", "own[]"),
        ("HTTPRoute", "edge", ", port: 81, sectionName: own", "", "NoMatchingParent"),
        ("HTTPRoute", "edge", ", port: 99", "", "NoMatchingParent"),
        ("HTTPRoute", "edge", ", sectionName: gone", "", "NoMatchingParent"),
        ("HTTPRoute", "far", ", sectionName: own", "", "NotAllowedByListeners"),
        ("HTTPRoute", "far", ", sectionName: some", "", "NotAllowedByListeners"),
        ("HTTPRoute", "edge", ", sectionName: grpc", "", "NotAllowedByListeners"),
        ("HTTPRoute", "edge", ", sectionName: bytes", "", "NotAllowedByListeners"),
        ("TLSRoute", "edge", "", ", hostnames: [a.org]", "NotAllowedByListeners"),
        ("TCPRoute", "edge", "", "", "bytes[]"),
        ("GRPCRoute", "edge", ", sectionName: grpc", "", "grpc[]"),
        ("HTTPRoute", "edge", ", sectionName: all", ", hostnames: [a.org]", "NoMatchingListenerHostname"),
    ] {
        let route = route(kind, namespace, "r", parent, &format!("{more}{TO_WEB}"));
        let state = world(&[gateway(listeners), route]);
        let serving = serving(&state);
        let [verdict] = &serving.routes[..] else { panic!("{:?}", serving.routes) };
        let found = match &verdict.accepted {
            Err(problem) => problem.reason.to_owned(),
            Ok(()) => {
                let attached = serving.answer.listeners.iter().filter_map(|listener| {
                    let routes = listener.routes.as_ref().unwrap();
                    let http = routes.http.iter().map(|route| &route.hostnames);
                    let bytes = routes.tcp.iter().chain(&routes.tls).map(|route| &route.hostnames);
                    http.chain(bytes).next().map(|hosts| format!("{}[{}]", listener.name, hosts.join(" ")))
                });
                attached.collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(found, expected, "{kind} of {namespace} to {parent} with {more}");
        let attached: i32 = serving.listeners.iter().map(|one| one.attached).sum();
        assert_eq!(attached as usize, if verdict.accepted.is_ok() { expected.split(' ').count() } else { 0 });
    }
}

#[test]
fn a_route_is_resolved_with_the_grants_that_there_are() {
    let grant = |from: &str, to: &str| {
        manifests(&format!(
            "
kind: ReferenceGrant
metadata: {{name: g, namespace: shop}}
spec: {{from: [{from}], to: [{to}]}}"
        ))
        .remove(0)
    };
    const FROM: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}";
    let rules = ", rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]";
    for (grant, expected) in [
        (None, "RefNotPermitted"),
        (Some(grant(FROM, "{group: '', kind: Service}")), ""),
        (Some(grant(FROM, "{group: '', kind: Service, name: web}")), ""),
        (Some(grant(FROM, "{group: '', kind: Service, name: other}")), "RefNotPermitted"),
        (Some(grant(FROM, "{group: '', kind: Secret}")), "RefNotPermitted"),
        (Some(grant(&FROM.replace("edge", "far"), "{group: '', kind: Service}")), "RefNotPermitted"),
        (
            Some(grant(&FROM.replace("HTTPRoute", "TCPRoute"), "{group: '', kind: Service}")),
            "RefNotPermitted",
        ),
        (
            Some(grant(
                &FROM.replace("gateway.networking.k8s.io", "example.com"),
                "{group: '', kind: Service}",
            )),
            "RefNotPermitted",
        ),
    ] {
        let mut objects =
            vec![gateway("{name: a, port: 80, protocol: HTTP}"), route("HTTPRoute", "edge", "r", "", rules)];
        objects.extend(grant.clone());
        let serving = serving(&world(&objects));
        let verdict = &serving.routes[0];
        assert!(verdict.accepted.is_ok(), "a route is attached though it leads nowhere");
        assert_eq!(
            verdict.resolved.as_ref().err().map_or("", |problem| problem.reason),
            expected,
            "{grant:?}"
        );
        let backend = &serving.answer.listeners[0].routes.as_ref().unwrap().http[0].rules[0].backends[0];
        assert_eq!(backend.invalid.is_empty(), expected.is_empty());
    }
    for (reference, expected) in [
        ("{name: web, port: 80}", ""),
        ("{name: gone, port: 80}", "BackendNotFound"),
        ("{name: web, port: 81}", "BackendNotFound"),
        ("{name: web, kind: Thing, port: 80}", "InvalidKind"),
        (
            "{name: gone, port: 80}, {name: web, namespace: shop, port: 80}, {name: web, kind: Thing}",
            "InvalidKind",
        ),
    ] {
        let rules = format!(", rules: [{{backendRefs: [{reference}]}}]");
        let objects =
            [gateway("{name: a, port: 80, protocol: HTTP}"), route("HTTPRoute", "edge", "r", "", &rules)];
        let serving = serving(&world(&objects));
        let found = serving.routes[0].resolved.as_ref().err().map_or("", |problem| problem.reason);
        assert_eq!(found, expected, "{reference}");
    }
}

#[test]
fn a_route_that_cannot_be_obeyed_is_refused_and_one_that_can_in_part_is_served_in_part() {
    let told = |rules: &str| {
        let objects = [
            gateway("{name: a, port: 80, protocol: HTTP}"),
            route("HTTPRoute", "edge", "r", "", &format!(", rules: [{rules}]")),
        ];
        serving(&world(&objects))
    };
    let bad = "{filters: [{type: Compress}]}";
    let all = told(bad);
    assert_eq!(all.routes[0].accepted.as_ref().unwrap_err().reason, "UnsupportedValue");
    assert_eq!(all.listeners[0].attached, 0);
    let some = told(&format!("{bad}, {{backendRefs: [{{name: web, port: 80}}]}}"));
    assert!(some.routes[0].accepted.is_ok());
    assert_eq!(some.routes[0].partial.as_ref().unwrap().reason, "UnsupportedValue");
    let rules = &some.answer.listeners[0].routes.as_ref().unwrap().http[0].rules;
    assert_eq!(rules.iter().map(|rule| rule.invalid.is_empty()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn listener_sets_are_part_of_a_gateway_that_allows_them() {
    let set = |namespace: &str, name: &str, listeners: &str| {
        manifests(&format!(
            "
kind: ListenerSet
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRef: {{name: main, namespace: edge}}, listeners: [{listeners}]}}"
        ))
        .remove(0)
    };
    let allows = |from: &str| {
        let mut gateway = gateway("{name: a, port: 80, protocol: HTTP, hostname: a.org}");
        gateway["spec"]["allowedListeners"] = json!({"namespaces": {"from": from}});
        gateway
    };
    let sets = [
        set(
            "edge",
            "one",
            "{name: a, port: 80, protocol: HTTP, hostname: b.org}, {name: b, port: 80, protocol: HTTP, hostname: a.org}",
        ),
        set("far", "two", "{name: a, port: 80, protocol: HTTP, hostname: b.org}"),
    ];
    let mut routed = route("HTTPRoute", "edge", "r", "", TO_WEB);
    routed["spec"]["parentRefs"] = json!([{"kind": "ListenerSet", "name": "one"}, {"kind": "ListenerSet", "name": "two", "namespace": "far"}]);
    let told = |from: &str| {
        let mut objects = sets.to_vec();
        objects.extend([allows(from), routed.clone()]);
        let serving = serving(&world(&objects));
        let sets = serving.sets.iter().map(|(name, verdict)| {
            format!("{name} {}", verdict.accepted.as_ref().err().map_or("", |problem| problem.reason))
        });
        let routes = serving.routes.iter().map(|verdict| {
            format!(
                "parent {} {}",
                verdict.parent,
                verdict.accepted.as_ref().err().map_or("", |problem| problem.reason)
            )
        });
        let listeners = serving.answer.listeners.iter().map(|one| one.name.clone());
        let told = sets.chain(routes).chain(listeners).collect::<Vec<_>>();
        told.join(", ")
    };
    let none = "parent 0 NotAllowedByListeners, parent 1 NotAllowedByListeners, a";
    assert_eq!(told("None"), format!("edge/one NotAllowed, far/two NotAllowed, {none}"));
    assert_eq!(
        told("Same"),
        "edge/one , far/two NotAllowed, parent 0 , parent 1 NotAllowedByListeners, a, edge/one/a"
    );
    // The second's only listener conflicts with the first's.
    assert_eq!(
        told("All"),
        "edge/one , far/two ListenersNotValid, parent 0 , parent 1 NotAllowedByListeners, a, edge/one/a"
    );
    // By default there are none.
    let mut objects = sets.to_vec();
    objects.push(gateway("{name: a, port: 80, protocol: HTTP}"));
    let serving = serving(&world(&objects));
    assert!(serving.sets.iter().all(|(_, verdict)| verdict.accepted.is_err()));
}

#[test]
fn clients_are_validated_as_the_gateway_says_of_the_port() {
    let (pair, root) = (pair(), pair());
    let told = |frontend: Value| {
        let mut gateway = gateway(
            "{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}, {name: b, port: 80, protocol: HTTP}",
        );
        gateway["spec"]["tls"] = json!({ "frontend": frontend });
        let objects = [
            gateway,
            secret("edge", "good", &pair.certificate, &pair.key),
            authority("edge", "root", &root.certificate),
            authority("edge", "empty", ""),
            authority("far", "root", &root.certificate),
        ];
        serving(&world(&objects))
    };
    let refers = |reference: Value| json!({"validation": {"caCertificateRefs": [reference]}});
    let root_map = json!({"group": "", "kind": "ConfigMap", "name": "root"});
    for (frontend, accepted, resolved) in [
        (json!({"default": refers(root_map.clone())}), "ok", "ok"),
        (
            json!({"default": refers(json!({"group": "", "kind": "ConfigMap", "name": "gone"}))}),
            "NoValidCACertificate",
            "InvalidCACertificateRef",
        ),
        (
            json!({"default": refers(json!({"group": "", "kind": "ConfigMap", "name": "empty"}))}),
            "NoValidCACertificate",
            "InvalidCACertificateRef",
        ),
        (
            json!({"default": refers(json!({"group": "", "kind": "Service", "name": "root"}))}),
            "NoValidCACertificate",
            "InvalidCACertificateKind",
        ),
        (
            json!({"default": refers(json!({"group": "", "kind": "ConfigMap", "name": "root", "namespace": "far"}))}),
            "NoValidCACertificate",
            "RefNotPermitted",
        ),
        // Of the port instead.
        (
            json!({"default": refers(json!({"group": "", "kind": "ConfigMap", "name": "gone"})), "perPort": [{"port": 443, "tls": refers(root_map.clone())}]}),
            "ok",
            "ok",
        ),
        (json!({"default": refers(root_map.clone()), "perPort": [{"port": 443, "tls": {}}]}), "ok", "ok"),
    ] {
        let serving = told(frontend.clone());
        let said = |result: &Result<(), trellis_discovery::gateway::listener::Problem>| {
            result.as_ref().err().map_or("ok", |problem| problem.reason)
        };
        let listener = &serving.listeners[0];
        assert_eq!((said(&listener.accepted), said(&listener.resolved)), (accepted, resolved), "{frontend}");
        assert!(serving.listeners[1].serves, "without TLS it is not concerned");
    }
    let mut fallback = refers(root_map);
    fallback["validation"]["mode"] = json!("AllowInsecureFallback");
    let serving = told(json!({ "default": fallback }));
    let clients = serving.answer.listeners[0].tls.as_ref().unwrap().clients.as_ref().unwrap();
    assert!(clients.optional && serving.insecure_fallback);
    assert_eq!(clients.authorities.concat(), root.certificate);
}

#[test]
fn what_a_gateway_asks_for_and_cannot_have_is_said() {
    for (spec, reason) in [
        (
            json!({"infrastructure": {"parametersRef": {"group": "x", "kind": "y", "name": "z"}}}),
            "InvalidParameters",
        ),
        (json!({"addresses": [{"type": "Hostname", "value": "a.org"}]}), "UnsupportedAddress"),
        (json!({"tls": {"backend": {"clientCertificateRef": {"name": "a"}}}}), "Invalid"),
        (json!({"addresses": [{"value": "192.0.2.1"}]}), ""),
        (json!({"addresses": [{"type": "IPAddress"}]}), ""),
    ] {
        let mut gateway = gateway("{name: a, port: 80, protocol: HTTP}");
        for (field, value) in spec.as_object().unwrap() {
            gateway["spec"][field] = value.clone();
        }
        let serving = serving(&world(&[gateway]));
        assert_eq!(serving.accepted.as_ref().err().map_or("", |problem| problem.reason), reason, "{spec}");
        assert_eq!(serving.answer.listeners.is_empty(), !reason.is_empty());
    }
}

#[test]
fn only_the_gateway_itself_is_told() {
    let pair = pair();
    let listener = "{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}], options: {trellis.dev/key-exchange: classical}}}";
    let objects = [gateway(listener), secret("edge", "good", &pair.certificate, &pair.key)];
    let state = world(&objects);
    let listener = &served(&state).listeners[0];
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!((listener.kind(), listener.port), (proto::listener::Kind::Https, 443));
    assert_eq!(tls.key_exchange(), proto::listener_tls::KeyExchange::Classical);
    assert_eq!(tls.certificates[0].source, "edge/good");
    assert_eq!(tls.certificates[0].chain_pem, pair.certificate);
    assert_eq!(tls.certificates[0].key_pem, pair.key.as_bytes());
    for (namespace, account) in
        [("edge", "main"), ("edge", "default"), ("shop", "main-trellis"), ("edge", "other-trellis")]
    {
        let answer = state.lookup(&main_gateway()).to_proto(&main_gateway(), &viewer(namespace, account));
        assert!(
            matches!(answer.answer, Some(proto::resolve_response::Answer::Unknown(_))),
            "{namespace}/{account}"
        );
    }
    let other = Subject::Gateway(Name::new("edge", "gone"));
    let answer = state.lookup(&other).to_proto(&other, &viewer("edge", "gone-trellis"));
    assert!(matches!(answer.answer, Some(proto::resolve_response::Answer::Unknown(_))));
    // One of another class is not ours to serve.
    let mut foreign = gateway("{name: a, port: 80, protocol: HTTP}");
    foreign["spec"]["gatewayClassName"] = json!("other");
    assert!(world(&[foreign]).serving(&Name::new("edge", "main")).is_none());
}

#[test]
fn a_namespace_that_is_closed_says_how_it_is_opened() {
    let objects = [gateway("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}")];
    let mut state = world(&objects);
    state.apply(Event::Secrets("edge".into(), Sight::Forbidden), &mut Default::default());
    state.settle(&mut Default::default());
    let serving = serving(&state);
    let problem = serving.listeners[0].resolved.as_ref().unwrap_err();
    assert_eq!(problem.reason, "InvalidCertificateRef");
    assert_eq!(
        problem.message,
        "tls.certificateRefs: Secret edge/good: may not be read; make a RoleBinding in namespace edge of \
         ClusterRole trellis-gateway-certificates to ServiceAccount trellis-discovery, or add the namespace to the \
         chart's gateway.certificateNamespaces"
    );
}

#[test]
fn a_gateway_is_told_every_change_and_nobody_else_is() {
    let (old, new) = (pair(), pair());
    let hub = Arc::new(Hub::default());
    let mut objects = manifests(EDGE);
    objects.push(gateway("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}"));
    objects.push(secret("edge", "good", &old.certificate, &old.key));
    hub.apply(resets(&objects));
    assert_eq!(hub.missing(), ["Secret and ConfigMap that is referred to"]);
    hub.apply(drawers(&hub.wanted(), &objects));
    assert!(hub.missing().is_empty());
    let (own, stranger) = (hub.join(viewer("edge", "main-trellis")), hub.join(viewer("edge", "default")));
    for session in [&own, &stranger] {
        session.subscribe(main_gateway()).unwrap();
        assert!(session.next().now_or_never().is_some());
    }
    let next = || {
        let (subject, answer) = own.next().now_or_never()?;
        match answer.to_proto(&subject, own.viewer()).answer {
            Some(proto::resolve_response::Answer::Serving(gateway)) => Some(gateway),
            other => panic!("{other:?}"),
        }
    };
    hub.apply([applied(&secret("edge", "good", &new.certificate, &new.key))]);
    assert_eq!(next().unwrap().listeners[0].tls.as_ref().unwrap().certificates[0].chain_pem, new.certificate);
    let routed = route("HTTPRoute", "edge", "r", "", TO_WEB);
    hub.apply([applied(&routed)]);
    assert_eq!(next().unwrap().listeners[0].routes.as_ref().unwrap().http.len(), 1);
    // A Service that the route leads to goes.
    hub.apply([deleted(
        &manifests(EDGE).into_iter().find(|object| object["metadata"]["name"] == "web").unwrap(),
    )]);
    let told = next().unwrap();
    let backend = &told.listeners[0].routes.as_ref().unwrap().http[0].rules[0].backends[0];
    assert_eq!(backend.invalid, "backendRef edge/web: no such Service");
    // What changes nothing of what it serves is not sent.
    hub.apply([applied(&secret("edge", "unrelated", "", ""))]);
    hub.apply([applied(&route("HTTPRoute", "edge", "elsewhere", ", sectionName: gone", TO_WEB))]);
    assert!(next().is_none());
    assert!(stranger.next().now_or_never().is_none(), "a stranger learns nothing, and not when");
    // A certificate that goes takes the listener along.
    hub.apply([deleted(&secret("edge", "good", &new.certificate, &new.key))]);
    assert!(next().unwrap().listeners.is_empty());
}

#[test]
fn a_backend_that_wants_tls_says_how() {
    let root = pair();
    let policy = |name: &str, section: &str, validation: &str| {
        manifests(&format!(
            "
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: edge}}
spec: {{targetRefs: [{{group: '', kind: Service, name: web{section}}}], validation: {{{validation}}}}}"
        ))
        .remove(0)
    };
    let told = |port: u16, policies: &[Value]| {
        let mut objects = policies.to_vec();
        objects.push(authority("edge", "root", &root.certificate));
        let subject =
            Subject::Backend(trellis_discovery::subject::Backend { service: Name::new("edge", "web"), port });
        match world(&objects).lookup(&subject).to_proto(&subject, &viewer("edge", "main-trellis")).answer {
            Some(proto::resolve_response::Answer::Service(service)) => service.tls,
            other => panic!("{other:?}"),
        }
    };
    let good = "hostname: a.org, caCertificateRefs: [{group: '', kind: ConfigMap, name: root}]";
    let named = "hostname: b.org, wellKnownCACertificates: System, subjectAltNames: [{type: Hostname, hostname: c.org}, {type: URI, uri: 'spiffe://x/y'}]";
    assert_eq!(told(443, &[]), None);
    let tls = told(443, &[policy("p", "", good)]).unwrap();
    assert_eq!(
        (tls.hostname.as_str(), tls.authorities.clone(), tls.invalid.as_str()),
        ("a.org", vec![root.certificate.clone()], "")
    );
    // One that names the port comes first; of two that say the same target, the first by name.
    let policies =
        [policy("z", ", sectionName: https", named), policy("a", "", good), policy("b", "", named)];
    let tls = told(443, &policies).unwrap();
    assert_eq!(
        (tls.hostname.as_str(), tls.names.len(), tls.authorities.len(), tls.invalid.as_str()),
        ("b.org", 2, 0, "")
    );
    assert_eq!(told(80, &policies).unwrap().hostname, "a.org");
    // What cannot be obeyed fails every request.
    for (validation, invalid) in [
        (
            "hostname: a.org, caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]",
            "validation.caCertificateRefs: ConfigMap edge/gone: there is none",
        ),
        (
            "hostname: a.org, caCertificateRefs: [{group: x, kind: Thing, name: root}]",
            "validation.caCertificateRefs: kind \"Thing\" of group \"x\" holds no authority; use a ConfigMap",
        ),
        (
            "hostname: a.org, wellKnownCACertificates: Mozilla",
            "validation.wellKnownCACertificates: Mozilla is not known; use System, or caCertificateRefs",
        ),
    ] {
        let tls = told(443, &[policy("p", "", validation)]).unwrap();
        assert_eq!(tls.invalid, format!("BackendTLSPolicy edge/p: {invalid}"));
    }
}
