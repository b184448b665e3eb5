//! Gateway API in the mesh: routes whose parent is a Service, and what they say to whom.

use trellis_api::proto::discovery as proto;
use trellis_discovery::{
    name::Name,
    subject::{Backend, Subject},
};

use crate::world::{destination, manifests, state, viewer};

pub const SHOP: &str = include_str!("shop.yaml");

pub fn backend(namespace: &str, name: &str, port: u16) -> Subject {
    Subject::Backend(Backend { service: Name::new(namespace, name), port })
}

pub fn front() -> Subject {
    destination("10.96.1.1 80").into()
}

pub fn service(answer: Option<proto::resolve_response::Answer>) -> proto::Service {
    match answer {
        Some(proto::resolve_response::Answer::Service(service)) => service,
        other => panic!("{other:?} is no Service"),
    }
}

/// What one of this namespace is told about the subject, in a world with these objects besides.
fn told(namespace: &str, subject: &Subject, more: &str) -> proto::Service {
    let mut objects = manifests(SHOP);
    objects.extend(manifests(more));
    let answer = state(&objects).lookup(subject).to_proto(subject, &viewer(namespace, "client"));
    assert_eq!(answer.subject, Some(subject.to_proto()));
    service(answer.answer)
}

pub fn names(service: &proto::Service) -> Vec<String> {
    let routes = service.routes.clone().unwrap_or_default();
    let http = routes.http.iter().map(|route| format!("http {}/{}", route.namespace, route.name));
    let tcp = routes.tcp.iter().map(|route| format!("tcp {}/{}", route.namespace, route.name));
    let tls = routes.tls.iter().map(|route| format!("tls {}/{}", route.namespace, route.name));
    http.chain(tcp).chain(tls).collect()
}

/// An HTTPRoute of Service shop/web; `parent` and `rules` in flow style.
pub fn route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:00Z'}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, namespace: shop{parent}}}]
  rules: [{rules}]
---"
    )
}

pub const TO_V2: &str = "{backendRefs: [{name: web-v2, port: 80}]}";

#[test]
fn a_port_says_what_is_said_on_it() {
    use proto::Protocol::{ApplicationTls, Detect, Http1, Opaque};
    for (port, protocol) in
        [(80, Http1), (8080, Detect), (443, ApplicationTls), (5432, Opaque), (9000, Opaque)]
    {
        let service = told("shop", &destination(&format!("10.96.1.1 {port}")).into(), "");
        assert_eq!((service.port, service.protocol()), (port, protocol));
        assert_eq!(told("shop", &backend("shop", "web", port as u16), "").protocol(), protocol);
    }
    // A pod behind it whose owner says that its bytes are nobody's to read.
    let pod = SHOP
        .replace("trellis.dev/injected: '1'", "trellis.dev/injected: '1', trellis.dev/opaque-ports: '8080'");
    let answer = state(&manifests(&pod)).lookup(&front()).to_proto(&front(), &viewer("shop", "client"));
    assert_eq!(service(answer.answer).protocol(), Opaque);
}

#[test]
fn a_route_holds_for_everybody_beside_the_service_and_elsewhere_for_its_own_namespace() {
    let routes = [
        route("shop", "producer", "", TO_V2),
        route("shop", "other-port", ", port: 8080", TO_V2),
        route("shop", "by-port", ", port: 80", TO_V2),
        route("shop", "by-name", ", sectionName: http", TO_V2),
        route("shop", "by-both", ", port: 80, sectionName: alt", TO_V2),
        route("client", "consumer", "", "{backendRefs: [{name: web, namespace: shop, port: 80}]}"),
    ]
    .concat();
    assert_eq!(
        names(&told("shop", &front(), &routes)),
        ["http shop/by-name", "http shop/by-port", "http shop/producer"]
    );
    assert_eq!(names(&told("elsewhere", &front(), &routes)).len(), 3);
    // Instead of the producer's, and not beside them.
    assert_eq!(names(&told("client", &front(), &routes)), ["http client/consumer"]);
    assert_eq!(
        names(&told("shop", &destination("10.96.1.1 8080").into(), &routes)),
        ["http shop/other-port", "http shop/producer"]
    );
    // Routes lead to backends, and not to other routes.
    assert_eq!(names(&told("shop", &backend("shop", "web", 80), &routes)), [""; 0]);
    assert!(told("shop", &backend("shop", "web", 80), &routes).routes.is_none());
    assert!(told("shop", &front(), "").routes.is_none());
}

#[test]
fn the_oldest_route_wins_and_then_the_first_by_name() {
    let young = route("shop", "a-young", "", TO_V2).replace("2026-01-01", "2026-02-01");
    let routes = [young, route("shop", "b", "", TO_V2), route("shop", "a", "", TO_V2)].concat();
    assert_eq!(names(&told("shop", &front(), &routes)), ["http shop/a", "http shop/b", "http shop/a-young"]);
}

#[test]
fn what_leads_nowhere_says_so_in_its_own_place() {
    let rules = "{
        filters: [{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}],
        backendRefs: [
            {name: web, port: 80, weight: 9, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web-v2, port: 80}, percent: 5}}]},
            {name: web-v2, port: 81}, {name: web-v2}, {name: nobody, port: 80},
            {group: example.com, kind: Thing, name: web, port: 80}, {name: far, namespace: client, port: 80},
            {name: outside, port: 80}]
    }";
    let told = told("shop", &front(), &route("shop", "web", "", rules));
    let rule = &told.routes.as_ref().unwrap().http[0].rules[0];
    assert_eq!(rule.invalid, "");
    let Some(proto::filter::Filter::Mirror(mirror)) = &rule.filters[0].filter else {
        panic!("{:?}", rule.filters)
    };
    assert_eq!(mirror.invalid, "backendRef shop/gone: no such Service");
    let said: Vec<_> = rule.backends.iter().map(|one| (one.weight, one.invalid.as_str())).collect();
    assert_eq!(
        said,
        [
            (9, ""),
            (1, "backendRef shop/web-v2: has no TCP port 81"),
            (1, "backendRef shop/web-v2: names no port, which a Service needs"),
            (1, "backendRef shop/nobody: no such Service"),
            (
                1,
                "backendRef shop/web: kind \"Thing\" of group \"example.com\" is none that traffic can go to; use a Service"
            ),
            // In a mesh no grant is needed.
            (1, ""),
            // A name in DNS is no backend.
            (1, "backendRef shop/outside: no such Service"),
        ]
    );
    let Some(proto::filter::Filter::Mirror(mirror)) = &rule.backends[0].filters[0].filter else { panic!() };
    assert_eq!((mirror.invalid.as_str(), mirror.numerator, mirror.denominator), ("", 5, 100));
}

#[test]
fn a_rule_that_cannot_be_obeyed_stays_and_says_why() {
    for (rule, why) in [
        (
            "{filters: [{type: Compress}]}",
            "rules[0].filters[0].type: Compress is no filter that Trellis has; remove it",
        ),
        (
            "{filters: [{type: URLRewrite}]}",
            "rules[0].filters[0].urlRewrite: is not there, though `type` says so; add it",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}",
            "rules[0].filters[0].requestRedirect.statusCode: 200 is no redirect; use 301, 302, 303, 307 or 308",
        ),
        (
            "{matches: [{path: {type: Glob, value: /a}}]}",
            "rules[0].matches[0].path.type: Glob is not known; use PathPrefix, Exact or RegularExpression",
        ),
        (
            "{matches: [{path: {type: RegularExpression, value: '('}}]}",
            "rules[0].matches[0].path.value: \"(\" is no regular expression that Trellis reads: error: unclosed group",
        ),
        (
            "{timeouts: {request: 1.5s}}",
            "rules[0].timeouts.request: \"1.5s\" is no duration; write it as in `1m30s` or `500ms`",
        ),
        ("{sessionPersistence: {}}", "rules[0].sessionPersistence: Trellis does not have it; remove it"),
    ] {
        let told = told("shop", &front(), &route("shop", "web", "", rule));
        assert_eq!(told.routes.unwrap().http[0].rules[0].invalid, why, "{rule}");
    }
}

#[test]
fn every_part_of_a_rule_reaches_the_proxy() {
    let rule = "{
        name: all,
        matches: [{path: {value: /a}, method: GET, headers: [{name: X-One, value: '1'}, {name: x-one, value: '2'}, {name: b, value: c.*, type: RegularExpression}],
            queryParams: [{name: q, value: v}]}, {path: {type: Exact, value: /b}}],
        filters: [
            {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: '1'}], add: [{name: b, value: '2'}], remove: [c]}},
            {type: RequestRedirect, requestRedirect: {scheme: https, hostname: example.org, port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /x}}},
            {type: URLRewrite, urlRewrite: {hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}},
            {type: CORS, cors: {allowOrigins: ['https://example.org'], allowCredentials: true, maxAge: 7}}],
        timeouts: {request: 1m, backendRequest: 500ms},
        retry: {attempts: 3, codes: [503], backoff: 10ms},
        backendRefs: [{name: web-v2, port: 80, weight: 0}]
    }";
    let told = told("shop", &front(), &route("shop", "web", "", rule));
    let named =
        |name: &str, value: &str, regex| proto::NamedMatch { name: name.into(), value: value.into(), regex };
    let header = |name: &str, value: &str| proto::Header { name: name.into(), value: value.into() };
    let path = |kind: proto::path_match::Kind, value: &str| {
        Some(proto::PathMatch { kind: kind.into(), value: value.into() })
    };
    let change = |change| Some(proto::PathChange { change: Some(change) });
    let filter = |filter| proto::Filter { filter: Some(filter) };
    use proto::{filter::Filter, path_change::Change, path_match::Kind};
    assert_eq!(
        told.routes.unwrap().http[0].rules[0],
        proto::HttpRule {
            name: "all".into(),
            matches: vec![
                proto::HttpMatch {
                    path: path(Kind::Prefix, "/a"),
                    method: "GET".into(),
                    headers: vec![named("x-one", "1", false), named("b", "c.*", true)],
                    query: vec![named("q", "v", false)],
                },
                proto::HttpMatch { path: path(Kind::Exact, "/b"), ..Default::default() },
            ],
            filters: vec![
                filter(Filter::RequestHeaders(proto::HeaderChange {
                    set: vec![header("a", "1")],
                    add: vec![header("b", "2")],
                    remove: vec!["c".into()],
                })),
                filter(Filter::Redirect(proto::Redirect {
                    scheme: "https".into(),
                    hostname: "example.org".into(),
                    path: change(Change::Full("/x".into())),
                    port: 8443,
                    status: 302,
                })),
                filter(Filter::Rewrite(proto::Rewrite {
                    hostname: "example.org".into(),
                    path: change(Change::Prefix("/y".into())),
                })),
                filter(Filter::Cors(proto::Cors {
                    allow_origins: vec!["https://example.org".into()],
                    allow_credentials: true,
                    max_age: 7,
                    ..Default::default()
                })),
            ],
            backends: vec![proto::WeightedBackend {
                backend: Some(proto::Backend { namespace: "shop".into(), name: "web-v2".into(), port: 80 }),
                weight: 0,
                filters: vec![],
                invalid: String::new(),
            }],
            request_timeout_ms: 60_000,
            backend_timeout_ms: 500,
            retry: Some(proto::Retry { codes: vec![503], attempts: 3, backoff_ms: 10 }),
            invalid: String::new(),
        }
    );
}

#[test]
fn a_grpc_method_is_a_path() {
    use proto::path_match::Kind::{Exact, Prefix, Regex};
    for (method, kind, path) in [
        ("{service: a.B, method: C}", Exact, "/a.B/C"),
        ("{service: a.B}", Prefix, "/a.B"),
        ("{method: C}", Regex, "^/[^/]+/C$"),
        ("{type: RegularExpression, service: 'a|b', method: 'C+'}", Regex, "^/(?:a|b)/(?:C+)$"),
        ("{type: RegularExpression, method: 'C+'}", Regex, "^/[^/]+/(?:C+)$"),
    ] {
        let rule = format!(
            "{{matches: [{{method: {method}, headers: [{{name: a, value: b}}]}}], backendRefs: [{{name: web, port: 80}}]}}"
        );
        let grpc = route("shop", "web", "", &rule).replace("HTTPRoute", "GRPCRoute");
        let routes = told("shop", &front(), &grpc).routes.unwrap();
        assert_eq!(routes.http[0].kind(), proto::http_route::Kind::GrpcRoute);
        let found = &routes.http[0].rules[0].matches[0];
        let expected = proto::PathMatch { kind: kind.into(), value: path.into() };
        assert_eq!((found.path.as_ref(), found.headers.len()), (Some(&expected), 1), "{method}");
    }
}

#[test]
fn bytes_are_routed_with_and_without_names() {
    let rules = "{backendRefs: [{name: web-v2, port: 80, weight: 3}, {name: gone, port: 1}]}";
    let tcp = route("shop", "tcp", "", rules).replace("HTTPRoute", "TCPRoute");
    let tls = route("shop", "tls", "", rules)
        .replace("HTTPRoute", "TLSRoute")
        .replace("spec:", "spec:\n  hostnames: [a.example.org]");
    let routes = told("shop", &front(), &[tcp, tls].concat()).routes.unwrap();
    assert_eq!((routes.http.len(), routes.tcp.len(), routes.tls.len()), (0, 1, 1));
    assert_eq!(routes.tls[0].hostnames, ["a.example.org"]);
    let said: Vec<_> = routes.tcp[0].backends.iter().map(|one| (one.weight, one.invalid.as_str())).collect();
    assert_eq!(said, [(3, ""), (1, "backendRef shop/gone: no such Service")]);
}

#[test]
fn backends_are_services_of_any_sort() {
    let addresses = |subject: &Subject| {
        let told = told("shop", subject, "");
        let endpoints = told.endpoints.iter();
        endpoints
            .map(|one| format!("{} {} {} {:?}", one.address, one.port, one.zone, one.for_zones))
            .collect::<Vec<_>>()
    };
    assert_eq!(addresses(&backend("shop", "web", 80)), ["10.244.9.1 8080 north []"]);
    // Headless, and with endpoints that somebody wrote.
    assert_eq!(addresses(&backend("shop", "headless", 80)), ["10.244.9.1 8080 north []"]);
    assert_eq!(addresses(&backend("shop", "manual", 80)), ["203.0.113.8 3000 east [\"east\", \"west\"]"]);
    // Of the family that the Service has first, and of the other where there is none.
    assert_eq!(addresses(&backend("shop", "six", 80)), ["fd00:9::1 8080 north []"]);
    assert_eq!(addresses(&backend("shop", "dual", 80)), ["fd00:9::1 8080 north []"]);
    for nobody in [backend("shop", "gone", 80), backend("shop", "outside", 80)] {
        let answer = state(&manifests(SHOP)).lookup(&nobody).to_proto(&nobody, &viewer("shop", "client"));
        assert!(matches!(answer.answer, Some(proto::resolve_response::Answer::Unknown(_))), "{answer:?}");
    }
}
