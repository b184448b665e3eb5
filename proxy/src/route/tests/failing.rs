//! What cannot be understood goes nowhere else, and is described.

use std::time::Duration;

use super::*;

#[test]
fn an_unknown_condition_catches_what_it_may_have_meant() {
    let regex = |value: &str| wire::NamedMatch { regex: true, ..named("x", value) };
    let long = "a".repeat(1025);
    for bad in ["(", &long] {
        let header = wire::HttpMatch { headers: vec![regex(bad)], ..prefix("/a") };
        let query = wire::HttpMatch { query: vec![regex(bad)], ..prefix("/b") };
        let routes = of_rules(vec![
            rule("any", vec![any()]),
            rule("header", vec![header, prefix("/c")]),
            rule("query", vec![query]),
        ]);
        // What the condition was for, nobody knows: whatever else the match asks for is enough.
        assert_eq!(routes.to(&with("/a/x", &[("x", "y")])), "500");
        assert_eq!(routes.to(&asked("/b?x=y")), "500");
        // Only what depends on it: no such header, no such request.
        assert_eq!(routes.to(&asked("/a/x")), "any");
        assert_eq!(routes.to(&asked("/b")), "any");
        assert_eq!(routes.to(&asked("/c")), "header");
        assert_eq!(routes.to(&asked("/")), "any");
        assert!(!routes.describe().is_valid());
    }
}

#[test]
fn an_unknown_path_catches_what_no_known_path_takes() {
    let unknown = wire::PathMatch { kind: 99, value: "/x".into() };
    let unknown = wire::HttpMatch { path: Some(unknown), ..Default::default() };
    for bad in [path(Kind::Regex, "("), unknown] {
        let routes = of_rules(vec![
            rule("any", vec![any()]),
            rule("known", vec![prefix("/a"), exact("/b")]),
            rule("bad", vec![with_header("x", "y", bad)]),
        ]);
        // A path that is named goes before every expression, whatever it says.
        assert_eq!(routes.to(&with("/a", &[("x", "y")])), "known");
        assert_eq!(routes.to(&with("/b", &[("x", "y")])), "known");
        assert_eq!(routes.to(&with("/c", &[("x", "y")])), "500");
        assert_eq!(routes.to(&asked("/c")), "any");
    }
}

#[test]
fn a_condition_that_no_request_can_fulfil_never_holds() {
    let impossible = [
        with_method("GE T", any()),
        with_header("a b", "x", any()),
        with_header(":path", "/", any()),
        with_header("x", "a\nb", any()),
        exact(""),
        exact("a"),
        prefix("a"),
        exact("/a%00"),
        exact("/%zz"),
        prefix("/a\\b"),
    ];
    for wire in impossible {
        let routes = of_rules(vec![rule("never", vec![wire.clone()]), rule("any", vec![any()])]);
        assert_eq!(routes.to(&with("/", &[("x", "a")])), "any", "{wire:?}");
        let described = &routes.describe().routes[0].rules[0];
        assert!(described.matches[0].invalid.is_some(), "{wire:?}");
    }
}

#[test]
fn a_route_whose_hostnames_are_none_is_for_nobody() {
    let routes = compiled(vec![route("bad", &["a..b", "", "*"], vec![rule("bad", vec![any()])])]);
    for host in ["a", "a.b", "example.net"] {
        assert!(matches!(routes.of(&on(host, "/", &[])), Found::NoHost));
    }
    let partly = compiled(vec![route("partly", &["a..b", "a.b"], vec![rule("v1", vec![any()])])]);
    assert_eq!(partly.to(&on("a.b", "/", &[])), "v1");
    assert_eq!(partly.to(&on("a", "/", &[])), "404");
    let hostnames = &partly.describe().routes[0].hostnames;
    assert!(hostnames[0].invalid.is_some() && hostnames[1].invalid.is_none());
}

#[test]
fn a_rule_that_cannot_be_obeyed_answers_500_and_says_why() {
    let said = wire::HttpRule { invalid: "no such filter".into(), ..rule("v1", vec![prefix("/a")]) };
    let retry = wire::Retry { codes: vec![503, 200], ..Default::default() };
    let retry = wire::HttpRule { retry: Some(retry), ..rule("v1", vec![prefix("/b")]) };
    let nobody = wire::HttpRule { backends: vec![], ..rule("", vec![prefix("/c")]) };
    let routes = of_rules(vec![said, retry, nobody, rule("any", vec![any()])]);
    assert_eq!(routes.matched(&asked("/a")).invalid.unwrap().as_str(), "no such filter");
    let why = routes.matched(&asked("/b")).invalid.unwrap().as_str();
    assert_eq!(why, "retry: code 200 is not one of 400 to 599");
    for line in ["/a", "/b", "/c"] {
        assert_eq!(routes.to(&asked(line)), "500", "{line}");
    }
    assert_eq!(routes.to(&asked("/d")), "any");

    let newer = wire::HttpRoute { kind: 9, ..route("newer", &[], vec![rule("v1", vec![any()])]) };
    assert_eq!(compiled(vec![newer]).to(&asked("/")), "500");
}

#[test]
fn a_rule_says_how_long_and_how_often() {
    let retry = wire::Retry { codes: vec![500, 503], attempts: 3, backoff_ms: 25 };
    let wire = wire::HttpRule {
        name: "named".into(),
        request_timeout_ms: 500,
        retry: Some(retry),
        ..rule("v1", vec![any()])
    };
    let routes = of_rules(vec![wire]);
    let request = asked("/");
    let rule = routes.matched(&request).rule;
    assert_eq!(rule.name, "named");
    assert_eq!(rule.request_timeout, Some(Duration::from_millis(500)));
    assert_eq!(rule.backend_timeout, None);
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(retry.codes, [500, 503]);
    assert_eq!((retry.attempts, retry.backoff), (3, Duration::from_millis(25)));
}

#[test]
fn routes_are_described_with_what_is_wrong_with_them() {
    let mirror =
        wire::Mirror { backend: Some(service("m")), invalid: "no grant".into(), ..Default::default() };
    let refused = wire::WeightedBackend { invalid: "no such Service".into(), ..weighted("v2", 3) };
    let bad = with_header("x", "y", path(Kind::Regex, "("));
    let mut wire = rule("v1", vec![with_query("q", "1", with_method("GET", prefix("/a/"))), bad]);
    wire.filters = vec![filter(wire::filter::Filter::Mirror(mirror))];
    wire.backends.push(refused);
    let routes = Routes::compile(&wire::Routes {
        http: vec![route("one", &["a.b"], vec![wire])],
        tcp: vec![wire::ByteRoute {
            namespace: "ns".into(),
            name: "two".into(),
            backends: vec![weighted("v3", 1)],
            ..Default::default()
        }],
        ..Default::default()
    });
    let described = serde_json::to_value(routes.describe()).unwrap();
    let mut why = described["routes"][0]["rules"][0]["matches"][1]["invalid"].as_str().unwrap().to_owned();
    why.truncate(r#"path: the regular expression "(":"#.len());
    assert_eq!(why, r#"path: the regular expression "(":"#);
    let mut expected = serde_json::json!({ "routes": [
        {
            "kind": "HTTPRoute",
            "route": "ns/one",
            "hostnames": [{ "what": "a.b" }],
            "rules": [{
                "matches": [
                    { "what": "GET, /a/*, query q=1" },
                    { "what": "~(, header x=y", "invalid": null },
                ],
                "filters": [{ "what": "mirror", "invalid": "no grant" }],
                "backends": [
                    { "what": "ns/v1:8080, weight 1" },
                    { "what": "ns/v2:8080, weight 3", "invalid": "no such Service" },
                ],
            }],
        },
        {
            "kind": "TCPRoute",
            "route": "ns/two",
            "rules": [{ "backends": [{ "what": "ns/v3:8080, weight 1" }] }],
        },
    ] });
    expected["routes"][0]["rules"][0]["matches"][1]["invalid"] =
        described["routes"][0]["rules"][0]["matches"][1]["invalid"].clone();
    assert_eq!(described, expected);
    assert!(!routes.describe().is_valid());
    assert!(of_rules(vec![rule("v1", vec![any()])]).describe().is_valid());
}
