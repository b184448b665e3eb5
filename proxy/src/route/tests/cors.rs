//! HTTPRouteCORS, and what it leaves out.

use http::StatusCode;
use wire::filter::Filter;

use super::*;
use crate::route::filter::{Cors, cors::Preflight};

fn cors(origins: &[&str], methods: &[&str], headers: &[&str]) -> wire::Cors {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    wire::Cors {
        allow_origins: owned(origins),
        allow_methods: owned(methods),
        allow_headers: owned(headers),
        ..Default::default()
    }
}

fn compiled_cors(cors: wire::Cors) -> Cors {
    let routes = of_filters(vec![filter(Filter::Cors(cors))]);
    let matched = routes.matched(&asked("/"));
    assert_eq!(matched.invalid, None);
    matched.rule.filters.cors.clone().unwrap()
}

fn first() -> Cors {
    compiled_cors(wire::Cors {
        expose_headers: vec!["x-header-3".into(), "x-header-4".into()],
        allow_credentials: true,
        max_age: 3600,
        ..cors(
            &["https://www.foo.com", "https://*.bar.com"],
            &["GET", "OPTIONS"],
            &["x-header-1", "x-header-2"],
        )
    })
}

fn preflight(cors: &Cors, origin: &str, method: &str, headers: Option<&str>) -> Preflight {
    let mut sent = vec![("origin", origin), ("access-control-request-method", method)];
    sent.extend(headers.map(|headers| ("access-control-request-headers", headers)));
    let asked = with("OPTIONS /", &sent);
    cors.preflight(&asked.method, &asked.headers).unwrap()
}

fn said<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(format!("access-control-{name}")).iter();
    let value = values.next()?.to_str().unwrap();
    assert!(values.next().is_none(), "{name} twice");
    Some(value)
}

#[test]
fn a_preflight_of_an_allowed_origin_is_told_what_is_allowed() {
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        let answer = preflight(&first(), origin, "GET", Some("x-header-1, x-header-2"));
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert_eq!(said(&answer.headers, "allow-origin"), Some(origin));
        assert_eq!(said(&answer.headers, "allow-methods"), Some("GET, OPTIONS"));
        assert_eq!(said(&answer.headers, "allow-headers"), Some("x-header-1, x-header-2"));
        assert_eq!(said(&answer.headers, "expose-headers"), Some("x-header-3, x-header-4"));
        assert_eq!(said(&answer.headers, "max-age"), Some("3600"));
        assert_eq!(said(&answer.headers, "allow-credentials"), Some("true"));
        assert!(answer.headers["vary"].to_str().unwrap().contains("origin"));
    }
}

#[test]
fn an_origin_is_its_scheme_host_and_port() {
    let cors = compiled_cors(cors(
        &[
            "https://www.foo.com",
            "https://*.bar.com",
            "http://port.com:8080",
            "https://*:444",
            "http://WWW.baz.com:80",
        ],
        &[],
        &[],
    ));
    let allowed = |origin| preflight(&cors, origin, "GET", None).status == StatusCode::NO_CONTENT;
    for origin in [
        "https://www.foo.com",
        "https://www.foo.com:443",
        "https://WWW.foo.com",
        "https://a.b.bar.com",
        "http://port.com:8080",
        "https://whoever:444",
        "http://www.baz.com",
    ] {
        assert!(allowed(origin), "{origin}");
    }
    for origin in [
        "http://www.foo.com",
        "https://www.foo.com:8443",
        "https://foo.com",
        "https://xwww.foo.com",
        "https://bar.com",
        "https://xbar.com",
        "https://.bar.com",
        "https://a.bar.com.evil.org",
        "https://a.bar.com@evil.org",
        "http://port.com",
        "https://foobar.com",
        "https://*.bar.com",
        "https://*:444",
        "*",
        "null",
        "",
        "https://",
    ] {
        let answer = preflight(&cors, origin, "GET", None);
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin}");
        assert_eq!(said(&answer.headers, "allow-origin"), None, "{origin}");
    }
}

#[test]
fn a_star_is_said_only_without_credentials() {
    let all = cors(&["*"], &["*"], &["*"]);
    let open = compiled_cors(all.clone());
    let answer = preflight(&open, "https://other.foo.com:12345", "PUT", Some("x-header-1, x-header-2"));
    assert_eq!(said(&answer.headers, "allow-origin"), Some("*"));
    assert_eq!(said(&answer.headers, "allow-methods"), Some("*"));
    // By `*` a browser does not mean `authorization`.
    assert_eq!(said(&answer.headers, "allow-headers"), Some("x-header-1, x-header-2"));
    assert_eq!(said(&answer.headers, "allow-credentials"), None);
    assert_eq!(said(&answer.headers, "max-age"), Some("5"));

    let with_credentials =
        wire::Cors { allow_credentials: true, expose_headers: vec!["*".into()], ..all.clone() };
    let closed = compiled_cors(with_credentials);
    let answer = preflight(&closed, "https://other.foo.com", "PUT", Some("x-header-1, x-header-2"));
    assert_eq!(said(&answer.headers, "allow-origin"), Some("https://other.foo.com"));
    assert_eq!(said(&answer.headers, "allow-methods"), Some("PUT"));
    assert_eq!(said(&answer.headers, "allow-headers"), Some("x-header-1, x-header-2"));
    assert_eq!(said(&answer.headers, "allow-credentials"), Some("true"));
    assert_eq!(said(&answer.headers, "expose-headers"), None);
    let answer = preflight(&closed, "https://other.foo.com", "PUT", None);
    assert_eq!(said(&answer.headers, "allow-headers"), None);
    // What is no list of names is not said back.
    let answer = preflight(&closed, "https://other.foo.com", "PUT", Some("a b, <script>"));
    assert_eq!(said(&answer.headers, "allow-headers"), None);

    let exposed = compiled_cors(wire::Cors { expose_headers: vec!["*".into()], ..all });
    let answer = preflight(&exposed, "https://other.foo.com", "PUT", None);
    assert_eq!(said(&answer.headers, "expose-headers"), Some("*"));
}

#[test]
fn only_a_preflight_is_answered() {
    let cors = first();
    let of = |line: &str, headers: &[(&str, &str)]| {
        let asked = with(line, headers);
        cors.preflight(&asked.method, &asked.headers).is_some()
    };
    let origin = ("origin", "https://www.foo.com");
    let method = ("access-control-request-method", "GET");
    assert!(of("OPTIONS /", &[origin, method]));
    assert!(!of("OPTIONS /", &[origin]));
    assert!(!of("OPTIONS /", &[method]));
    assert!(!of("GET /", &[origin, method]));
}

#[test]
fn an_answer_is_for_those_who_may_read_it() {
    let of = |cors: &Cors, origins: &[&str]| {
        let sent: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        let asked = with("/", &sent);
        let mut answer = with(
            "/",
            &[
                ("access-control-allow-origin", "*"),
                ("access-control-allow-credentials", "true"),
                ("vary", "accept"),
            ],
        )
        .headers;
        cors.apply(cors.allowed(&asked.headers), &mut answer);
        answer
    };
    let answer = of(&first(), &["https://www.bar.com"]);
    assert_eq!(said(&answer, "allow-origin"), Some("https://www.bar.com"));
    assert_eq!(said(&answer, "allow-credentials"), Some("true"));
    assert_eq!(said(&answer, "expose-headers"), Some("x-header-3, x-header-4"));
    assert_eq!(answer.get_all("vary").iter().collect::<Vec<_>>(), ["accept", "origin"]);

    // What the backend says to others is not passed on.
    for origins in [&["https://foobar.com"][..], &[], &["https://www.bar.com", "https://www.bar.com"]] {
        let answer = of(&first(), origins);
        assert_eq!(said(&answer, "allow-origin"), None);
        assert_eq!(said(&answer, "allow-credentials"), None);
        assert_eq!(answer.get_all("vary").iter().count(), 2);
    }

    let open = compiled_cors(cors(&["*"], &["PUT"], &[]));
    let answer = of(&open, &["https://foobar.com:12345"]);
    assert_eq!(said(&answer, "allow-origin"), Some("*"));
    assert_eq!(said(&answer, "allow-credentials"), None);
    assert_eq!(answer.get_all("vary").iter().count(), 1);
}

#[test]
fn origins_that_nobody_has_fail_the_rule() {
    for origin in
        ["foo.com", "ftp://foo.com", "https://", "https://a.*.com", "https://a:0", "https://a/b", "null"]
    {
        let routes = of_filters(vec![filter(Filter::Cors(cors(&[origin], &[], &[])))]);
        let invalid = routes.matched(&asked("/")).invalid.expect(origin).to_string();
        assert!(invalid.contains("filter 1 (CORS): origin"), "{invalid}");
    }
    for wire in [cors(&[], &["GE T"], &[]), cors(&[], &[], &["a b"])] {
        assert!(of_filters(vec![filter(Filter::Cors(wire))]).matched(&asked("/")).invalid.is_some());
    }
}
