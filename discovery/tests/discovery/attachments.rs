//! Routes at a gateway: where each is attached, and what of it can be obeyed.

use crate::{
    edge::{TO_WEB, gateway, route, serving, world},
    world::manifests,
};

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
