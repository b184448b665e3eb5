//! Gateways: what each is told, who else is told nothing, and how its backends are spoken to.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::{Value, json};
use trellis_api::{proto::discovery as proto, source::Sight};
use trellis_discovery::{
    event::Event,
    hub::Hub,
    name::Name,
    subject::{Backend, Subject},
};

use crate::{
    edge::{EDGE, TO_WEB, authority, gateway, main_gateway, pair, route, secret, served, serving, world},
    world::{applied, deleted, drawers, manifests, resets, viewer},
};

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
fn both_certificates_of_a_hybrid_are_shown_and_half_a_one_is_none() {
    use k8s_openapi::{ByteString, api::core::v1::Secret};
    let (first, second) = (pair(), pair());
    let listener = "{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}";
    let hybrid = |items: &[(&str, &str)]| {
        let mut value = secret("edge", "good", &first.certificate, &first.key);
        let data =
            items.iter().map(|(item, text)| ((*item).to_owned(), ByteString(text.as_bytes().to_vec())));
        let more = json!(Secret { data: Some(data.collect()), ..Secret::default() });
        value["data"].as_object_mut().unwrap().extend(more["data"].as_object().unwrap().clone());
        world(&[gateway(listener), value])
    };
    let both =
        [("tls-classical.crt", second.certificate.as_str()), ("tls-classical.key", second.key.as_str())];
    let told = served(&hybrid(&both)).listeners[0].tls.clone().unwrap().certificates;
    let chains: Vec<_> = told.iter().map(|one| one.chain_pem.as_str()).collect();
    assert_eq!(chains, [first.certificate.as_str(), second.certificate.as_str()]);
    assert!(told.iter().all(|one| one.source == "edge/good"));
    assert_eq!(told[1].key_pem, second.key.as_bytes());
    for (items, said) in [
        (&both[..1], "has no item tls-classical.key"),
        (&both[1..], "has no item tls-classical.crt"),
        (&[both[0], ("tls-classical.key", first.key.as_str())], "is not the key of tls-classical.crt"),
    ] {
        let serving = serving(&hybrid(items)).clone();
        let problem = serving.listeners[0].resolved.as_ref().unwrap_err();
        assert!(problem.message.contains(said), "{}", problem.message);
    }
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
        let subject = Subject::Backend(Backend { service: Name::new("edge", "web"), port });
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

#[test]
fn a_gateway_is_made_anew_when_anything_that_it_depends_on_changes() {
    let hub = Arc::new(Hub::default());
    let mut main = gateway(
        "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {exposed: 'yes'}}}}}",
    );
    main["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
    let far = ", rules: [{backendRefs: [{name: web, namespace: edge, port: 80}]}]";
    let mut objects = manifests(EDGE);
    objects.extend([main, route("HTTPRoute", "far", "r", "", far)]);
    hub.apply(resets(&objects));
    let session = hub.join(viewer("edge", "main-trellis"));
    session.subscribe(main_gateway()).unwrap();
    let next = || {
        let (subject, answer) = session.next().now_or_never()?;
        answer.to_proto(&subject, session.viewer()).answer
    };
    let serving = || match next() {
        Some(proto::resolve_response::Answer::Serving(gateway)) => gateway,
        other => panic!("{other:?}"),
    };
    let routes = |gateway: &proto::Gateway| gateway.listeners[0].routes.clone().unwrap().http;
    assert!(routes(&serving()).is_empty());
    // The namespace is labelled.
    let namespace = json!({"kind": "Namespace", "metadata": {"name": "far", "labels": {"exposed": "yes"}}});
    hub.apply([applied(&namespace)]);
    let invalid = |gateway: &proto::Gateway| routes(gateway)[0].rules[0].backends[0].invalid.clone();
    assert_eq!(invalid(&serving()), "backendRef edge/web: no ReferenceGrant of namespace edge allows it");
    // It is granted what it refers to, and then no more.
    let grant = &manifests(
        "
kind: ReferenceGrant
metadata: {name: g, namespace: edge}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: far}], to: [{group: '', kind: Service}]}",
    )[0];
    hub.apply([applied(grant)]);
    assert_eq!(invalid(&serving()), "");
    hub.apply([deleted(grant)]);
    assert!(invalid(&serving()).starts_with("backendRef edge/web: no ReferenceGrant"));
    // A ListenerSet adds to it.
    let set = &manifests(
        "
kind: ListenerSet
metadata: {name: more, namespace: edge}
spec: {parentRef: {name: main}, listeners: [{name: b, port: 81, protocol: HTTP}]}",
    )[0];
    hub.apply([applied(set)]);
    assert_eq!(serving().listeners[1].name, "edge/more/b");
    hub.apply([deleted(set)]);
    assert_eq!(serving().listeners.len(), 1);
    // Its class is no longer ours, and then is.
    let class = &manifests(EDGE)[0];
    hub.apply([deleted(class)]);
    assert!(matches!(next(), Some(proto::resolve_response::Answer::Unknown(_))));
    hub.apply([applied(class)]);
    assert_eq!(serving().listeners.len(), 1);
    assert!(next().is_none());
}
