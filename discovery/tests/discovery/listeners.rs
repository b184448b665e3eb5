//! Listeners, of Gateways and of ListenerSets: what each may be, and what becomes of what it asks for.

use serde_json::{Value, json};
use trellis_discovery::gateway::listener::Problem;

use crate::{
    edge::{TO_WEB, authority, gateway, line, pair, route, secret, serving, world},
    world::manifests,
};

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
        let said =
            |result: &Result<(), Problem>| result.as_ref().err().map_or("ok", |problem| problem.reason);
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
        (json!({"infrastructure": {"annotations": {"trellis.dev/access-log": "on"}}}), "InvalidParameters"),
        (
            json!({"infrastructure": {"annotations": {"trellis.dev/plaintext": "strict"}}}),
            "InvalidParameters",
        ),
        (json!({"addresses": [{"type": "Hostname", "value": "a.org"}]}), "UnsupportedAddress"),
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

/// What a gateway proves itself with is given to it, or it is told why it cannot, so that it does not go without.
#[test]
fn a_gateway_proves_itself_to_applications_or_says_why_it_cannot() {
    let pair = pair();
    let grant = &manifests(
        "
kind: ReferenceGrant
metadata: {name: g, namespace: far}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}], to: [{group: '', kind: Secret}]}",
    )[0];
    for (reference, granted, expected) in [
        (json!({"name": "proof"}), false, Ok("edge/proof")),
        (json!({"name": "proof", "namespace": "far"}), true, Ok("far/proof")),
        (json!({"name": "proof", "namespace": "far"}), false, Err("RefNotPermitted")),
        (json!({"name": "none"}), false, Err("InvalidClientCertificateRef")),
        (json!({"name": "bad"}), false, Err("InvalidClientCertificateRef")),
        (json!({"name": "proof", "kind": "ConfigMap"}), false, Err("InvalidClientCertificateRef")),
    ] {
        let mut gateway = gateway("{name: a, port: 80, protocol: HTTP}");
        gateway["spec"]["tls"] = json!({"backend": {"clientCertificateRef": reference}});
        let mut objects = vec![
            gateway,
            secret("edge", "proof", &pair.certificate, &pair.key),
            secret("far", "proof", &pair.certificate, &pair.key),
            secret("edge", "bad", "Hello world", "Hello world"),
        ];
        objects.extend(granted.then(|| grant.clone()));
        let serving = serving(&world(&objects));
        // Whatever becomes of it, listeners are served.
        assert!(serving.accepted.is_ok() && serving.answer.listeners.len() == 1, "{reference}");
        let proves = serving.proves.as_ref().unwrap().as_ref();
        let given = serving.answer.client_certificate.as_ref().map(|one| one.source.as_str());
        let invalid = &serving.answer.client_certificate_invalid;
        assert_eq!(
            proves.map(|()| given.unwrap()).map_err(|problem| problem.reason),
            expected,
            "{reference}"
        );
        assert_eq!(given.is_some(), expected.is_ok(), "{reference}");
        assert_eq!(invalid.starts_with("tls.backend.clientCertificateRef: "), expected.is_err(), "{invalid}");
    }
}
