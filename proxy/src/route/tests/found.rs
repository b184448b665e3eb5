//! Which rule a request finds.

use super::*;

#[track_caller]
fn check(routes: &Routes, cases: Vec<(Asked, &str)>) {
    for (asked, to) in cases {
        assert_eq!(routes.to(&asked), to, "{asked:?}");
    }
}

/// HTTPRouteMatching, MeshHTTPRouteMatching.
#[test]
fn paths_match_by_elements_and_the_longest_wins() {
    let routes = of_rules(vec![
        rule("v1", vec![prefix("/"), with_header("version", "one", any())]),
        rule("v2", vec![prefix("/v2"), with_header("version", "two", any())]),
    ]);
    check(
        &routes,
        vec![
            (asked("/"), "v1"),
            (asked("/example"), "v1"),
            (with("/", &[("Version", "one")]), "v1"),
            (asked("/v2"), "v2"),
            (asked("/v2/example"), "v2"),
            (with("/", &[("Version", "two")]), "v2"),
            (asked("/v2/"), "v2"),
            (asked("/v2example"), "v1"),
            (asked("/foo/v2/example"), "v1"),
            (asked("OPTIONS *"), "v1"),
        ],
    );
}

/// HTTPRouteMatchingAcrossRoutes.
#[test]
fn rules_of_several_routes_compete() {
    let routes = compiled(vec![
        route(
            "part1",
            &["example.com", "example.net"],
            vec![rule("v1", vec![prefix("/"), with_header("version", "one", any())])],
        ),
        route(
            "part2",
            &["example.com"],
            vec![rule("v2", vec![prefix("/v2"), with_header("version", "two", any())])],
        ),
    ]);
    check(
        &routes,
        vec![
            (on("example.com", "/", &[]), "v1"),
            (on("example.com", "/example", &[]), "v1"),
            (on("example.net", "/example", &[]), "v1"),
            (on("example.com", "/example", &[("Version", "one")]), "v1"),
            (on("example.com", "/v2", &[]), "v2"),
            (on("example.net", "/v2", &[]), "v1"),
            (on("example.com", "/v2/example", &[]), "v2"),
            (on("example.com", "/", &[("Version", "two")]), "v2"),
            (on("example.org", "/", &[]), "404"),
        ],
    );
}

/// HTTPRoutePathMatchOrder.
#[test]
fn an_exact_path_wins_over_a_prefix() {
    let routes = of_rules(vec![
        rule("v1", vec![exact("/match")]),
        rule("v2", vec![exact("/match/exact")]),
        rule("v3", vec![exact("/match/exact/one")]),
        rule("v3", vec![prefix("/match/")]),
        rule("v1", vec![prefix("/match/prefix/")]),
        rule("v2", vec![prefix("/match/prefix/one")]),
    ]);
    check(
        &routes,
        vec![
            (asked("/match/exact/one"), "v3"),
            (asked("/match/exact"), "v2"),
            (asked("/match"), "v1"),
            (asked("/match/prefix/one/any"), "v2"),
            (asked("/match/prefix/any"), "v1"),
            (asked("/match/any"), "v3"),
        ],
    );
}

/// HTTPRouteExactPathMatching.
#[test]
fn an_exact_path_is_that_path_alone() {
    let routes = of_rules(vec![rule("v1", vec![exact("/one")]), rule("v2", vec![exact("/two")])]);
    let paths = ["/one", "/two", "/", "/one/example", "/two/", "/Two"];
    for (path, to) in paths.into_iter().zip(["v1", "v2", "404", "404", "404", "404"]) {
        assert_eq!(routes.to(&asked(path)), to, "{path}");
    }
    assert!(matches!(routes.of(&asked("/")), Found::NoMatch));
    assert!(matches!(compiled(Vec::new()).of(&asked("/")), Found::NoHost));
}

/// HTTPRouteHeaderMatching.
#[test]
fn headers_match_and_more_of_them_win() {
    let color = |color| with_header("color", color, any());
    let routes = of_rules(vec![
        rule("v1", vec![with_header("version", "one", any())]),
        rule("v2", vec![with_header("version", "two", any())]),
        rule("v1", vec![with_header("color", "orange", with_header("version", "two", any()))]),
        rule("v1", vec![color("blue"), color("green")]),
        rule("v2", vec![color("red"), color("yellow")]),
    ]);
    check(
        &routes,
        vec![
            (with("/", &[("Version", "one")]), "v1"),
            (with("/", &[("Version", "two")]), "v2"),
            (with("/", &[("Version", "two"), ("Color", "orange")]), "v1"),
            (with("/", &[("Version", "two"), ("Color", "blue")]), "v2"),
            (with("/", &[("Color", "orange")]), "404"),
            (with("/", &[("Some-Other-Header", "one")]), "404"),
            (with("/", &[("Color", "blue")]), "v1"),
            (with("/", &[("Color", "green")]), "v1"),
            (with("/", &[("Color", "red")]), "v2"),
            (with("/", &[("Color", "yellow")]), "v2"),
            (with("/", &[("Color", "purple")]), "404"),
            (with("/", &[("Color", "Blue")]), "404"),
        ],
    );
}

/// HTTPRouteQueryParamMatching, MeshHTTPRouteQueryParamMatching.
#[test]
fn query_parameters_match_and_come_after_headers() {
    let animal = |animal, wire| with_query("animal", animal, wire);
    let version = |version, wire| with_header("version", version, wire);
    let routes = of_rules(vec![
        rule("v1", vec![animal("whale", any())]),
        rule("v2", vec![animal("dolphin", any())]),
        rule(
            "v3",
            vec![with_query("color", "blue", animal("dolphin", any())), with_query("ANIMAL", "Whale", any())],
        ),
        rule("v1", vec![animal("whale", prefix("/path1"))]),
        rule("v2", vec![version("one", animal("whale", any()))]),
        rule("v3", vec![version("two", animal("whale", prefix("/path2")))]),
        rule(
            "v1",
            vec![animal("shark", prefix("/path3")), version("three", animal("kraken", prefix("/path4")))],
        ),
        rule("v1", vec![prefix("/path5")]),
        rule("v2", vec![animal("hydra", any())]),
        rule("v3", vec![version("four", any())]),
    ]);
    check(
        &routes,
        vec![
            (asked("/?animal=whale"), "v1"),
            (asked("/?animal=dolphin"), "v2"),
            (asked("/?animal=dolphin&color=blue"), "v3"),
            (asked("/?color=blue&animal=dolphin"), "v3"),
            (asked("/?ANIMAL=Whale"), "v3"),
            (asked("/?animal=whale&otherparam=irrelevant"), "v1"),
            (asked("/?animal=dolphin&color=yellow"), "v2"),
            (asked("/?color=blue"), "404"),
            (asked("/?animal=dog"), "404"),
            (asked("/?animal=whaledolphin"), "404"),
            (asked("/"), "404"),
            (asked("/path1?animal=whale"), "v1"),
            (with("/?animal=whale", &[("version", "one")]), "v2"),
            (with("/path2?animal=whale", &[("version", "two")]), "v3"),
            (asked("/path3?animal=shark"), "v1"),
            (with("/path4?animal=kraken", &[("version", "three")]), "v1"),
            (asked("/?animal=shark"), "404"),
            (asked("/path4?animal=kraken"), "404"),
            (asked("/path5?animal=hydra"), "v1"),
            (with("/?animal=hydra", &[("version", "four")]), "v3"),
            // The first of several, decoded.
            (asked("/?animal=whale&animal=dolphin"), "v1"),
            (asked("/?animal=dog&animal=whale"), "404"),
            (asked("/?%61nimal=wh%61le"), "v1"),
            (asked("/?animal=whale%"), "404"),
            (asked("/?animal"), "404"),
        ],
    );
}

/// HTTPRouteMethodMatching.
#[test]
fn methods_match_and_come_before_headers() {
    let version = |version, wire| with_header("version", version, wire);
    let routes = of_rules(vec![
        rule("v1", vec![with_method("POST", any())]),
        rule("v2", vec![with_method("GET", any())]),
        rule("v1", vec![with_method("GET", prefix("/path1"))]),
        rule("v2", vec![with_method("PUT", version("one", any()))]),
        rule("v3", vec![with_method("POST", version("two", prefix("/path2")))]),
        rule(
            "v1",
            vec![
                with_method("PATCH", prefix("/path3")),
                with_method("DELETE", version("three", prefix("/path4"))),
            ],
        ),
        rule("v1", vec![prefix("/path5")]),
        rule("v2", vec![with_method("PATCH", any())]),
        rule("v3", vec![version("four", any())]),
    ]);
    check(
        &routes,
        vec![
            (asked("POST /"), "v1"),
            (asked("GET /"), "v2"),
            (asked("HEAD /"), "404"),
            (asked("GET /path1"), "v1"),
            (with("PUT /", &[("version", "one")]), "v2"),
            (with("POST /path2", &[("version", "two")]), "v3"),
            (asked("PATCH /path3"), "v1"),
            (with("DELETE /path4", &[("version", "three")]), "v1"),
            (asked("PUT /"), "404"),
            (asked("DELETE /path4"), "404"),
            (asked("PATCH /path5"), "v1"),
            (with("PATCH /", &[("version", "four")]), "v2"),
        ],
    );
}

/// HTTPRouteHostnameIntersection, as far as it is about routes.
#[test]
fn hosts_match_without_case_port_and_dot() {
    let routes = compiled(vec![
        route("exact", &["very.specific.com"], vec![rule("v1", vec![prefix("/s1")])]),
        route("below", &["*.wildcard.io"], vec![rule("v2", vec![prefix("/s2")])]),
    ]);
    check(
        &routes,
        vec![
            (on("very.specific.com", "/s1", &[]), "v1"),
            (on("very.specific.com:1234", "/s1", &[]), "v1"),
            (on("VERY.specific.com.:1234", "/s1", &[]), "v1"),
            (on("non.matching.com", "/s1", &[]), "404"),
            (on("foo.wildcard.io", "/s1", &[]), "404"),
            (on("very.specific.com", "/non-matching-prefix", &[]), "404"),
            (on("foo.wildcard.io", "/s2", &[]), "v2"),
            (on("foo.bar.wildcard.io", "/s2", &[]), "v2"),
            (on("wildcard.io", "/s2", &[]), "404"),
            (on("[::1]:80", "/s1", &[]), "404"),
        ],
    );
}

#[test]
fn the_most_precise_hostname_wins_whatever_else_matches() {
    let routes = compiled(vec![
        route("any", &[], vec![rule("any", vec![exact("/a"), prefix("/b")])]),
        route("org", &["*.org"], vec![rule("org", vec![with_header("x", "y", exact("/a"))])]),
        route("below", &["*.example.org"], vec![rule("below", vec![prefix("/a")])]),
        route("exact", &["a.example.org"], vec![rule("exact", vec![prefix("/")])]),
    ]);
    let sent = |host| on(host, "/a", &[("x", "y")]);
    check(
        &routes,
        vec![
            (sent("a.example.org"), "exact"),
            (sent("b.example.org"), "below"),
            (sent("example.org"), "org"),
            (sent("example.net"), "any"),
            // What no rule of a more precise hostname takes is left for the others.
            (on("b.example.org", "/b", &[]), "any"),
            (on("example.org", "/a", &[]), "any"),
        ],
    );
}

#[test]
fn what_ties_stays_in_the_order_of_routes_and_rules() {
    let one = |to| rule(to, vec![with_header("x", "y", prefix("/a"))]);
    let routes = compiled(vec![
        route("older", &["example.net"], vec![one("older"), one("second")]),
        route("newer", &["example.net"], vec![one("newer")]),
    ]);
    assert_eq!(routes.to(&with("/a", &[("x", "y")])), "older");
    // A second match for a header's name is none: it counts for nothing, and takes nothing away.
    let twice = |to, value| rule(to, vec![with_header("X", value, with_header("x", "y", prefix("/a")))]);
    let routes = of_rules(vec![one("older"), twice("twice", "y")]);
    assert_eq!(routes.to(&with("/a", &[("x", "y")])), "older");
    let routes = of_rules(vec![twice("twice", "z")]);
    assert_eq!(routes.to(&with("/a", &[("x", "y")])), "twice");
}

/// GRPCExactMethodMatching: what discovery makes of services and methods.
#[test]
fn grpc_services_and_methods_match() {
    let both = |path| exact(path);
    let service = prefix("/pkg.Service");
    let method = path(Kind::Regex, r"/[^/]+/Method");
    let mut grpc = route(
        "grpc",
        &[],
        vec![
            rule("any", vec![any()]),
            rule("method", vec![method]),
            rule("service", vec![service]),
            rule("both", vec![both("/pkg.Service/Method")]),
        ],
    );
    grpc.kind = wire::http_route::Kind::GrpcRoute as i32;
    let routes = compiled(vec![grpc]);
    check(
        &routes,
        vec![
            (asked("POST /pkg.Service/Method"), "both"),
            (asked("POST /pkg.Service/Other"), "service"),
            (asked("POST /pkg.ServiceTwo/Method"), "method"),
            (asked("POST /pkg.ServiceTwo/Other"), "any"),
        ],
    );
    assert_eq!(routes.matched(&asked("/")).rule.route.kind, "GRPCRoute");
    assert_eq!(&*routes.matched(&asked("/")).rule.route.label, "ns/grpc");
}

#[test]
fn expressions_are_of_the_whole_value_and_come_before_what_names_no_path() {
    let of = |name: &str, value: &str| wire::NamedMatch { regex: true, ..named(name, value) };
    let header = wire::HttpMatch { headers: vec![of("x", "a.c|b")], ..Default::default() };
    let query = wire::HttpMatch { query: vec![of("q", r"\d+")], ..Default::default() };
    let routes = of_rules(vec![
        rule("any", vec![any()]),
        rule("header", vec![header]),
        rule("query", vec![query]),
        rule("path", vec![path(Kind::Regex, "/v[0-9]+(/.*)?")]),
        rule("prefix", vec![prefix("/v7")]),
    ]);
    check(
        &routes,
        vec![
            (asked("/v1"), "path"),
            (asked("/v12/x"), "path"),
            (asked("/v12x"), "any"),
            (asked("/x/v1"), "any"),
            (asked("/v7/x"), "prefix"),
            (with("/", &[("x", "abc")]), "header"),
            (with("/", &[("x", "abcd")]), "any"),
            (asked("/?q=12"), "query"),
            (asked("/?q=%312"), "query"),
            (asked("/?q=12x"), "any"),
        ],
    );
}

#[test]
fn a_repeated_header_matches_by_any_value_and_by_all_joined() {
    let routes = of_rules(vec![
        rule("one", vec![with_header("x", "a", any())]),
        rule("both", vec![with_header("x", "b, c", any())]),
        rule("cookies", vec![with_header("cookie", "a=1; b=2", any())]),
        rule("host", vec![with_header("host", "example.net:8080", any())]),
    ]);
    check(
        &routes,
        vec![
            (with("/", &[("x", "z"), ("x", "a")]), "one"),
            (with("/", &[("x", "b"), ("x", "c")]), "both"),
            (with("/", &[("x", "b, c")]), "both"),
            (with("/", &[("x", "c"), ("x", "b")]), "404"),
            (with("/", &[("x", "b")]), "404"),
            (with("/", &[("cookie", "a=1"), ("cookie", "b=2")]), "cookies"),
            (on("example.net:8080", "/", &[]), "host"),
        ],
    );
}

/// What a rule keeps for some must not be passed by with a space that the application does not see.
#[test]
fn space_around_a_header_says_nothing() {
    let routes = of_rules(vec![
        rule("one", vec![with_header("x", "a", any())]),
        rule("both", vec![with_header("x", "b, c", any())]),
    ]);
    check(
        &routes,
        vec![
            (with("/", &[("x", "a ")]), "one"),
            (with("/", &[("x", " a\t")]), "one"),
            (with("/", &[("X", "\ta")]), "one"),
            (with("/", &[("x", "z"), ("x", "a ")]), "one"),
            (with("/", &[("x", "b "), ("x", "\tc")]), "both"),
            (with("/", &[("x", "a b")]), "404"),
        ],
    );
}

#[test]
fn the_host_of_http_2_is_matched_as_a_header() {
    let routes = of_rules(vec![rule("host", vec![with_header("host", "a.b", any())])]);
    let (parts, ()) = Request::builder().uri("http://a.b/").body(()).unwrap().into_parts();
    let target = Target::of(&parts, Slashes::Data).unwrap();
    assert!(matches!(routes.find(&target, &parts.method, &parts.headers), Found::Rule(_)));
}
