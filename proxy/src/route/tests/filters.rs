//! What filters make of requests and answers.

use wire::{filter::Filter, path_change::Change};

use super::*;
use crate::route::filter::Entry;

fn header(name: &str, value: &str) -> wire::Header {
    wire::Header { name: name.into(), value: value.into() }
}

fn change(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> wire::HeaderChange {
    wire::HeaderChange {
        set: set.iter().map(|(name, value)| header(name, value)).collect(),
        add: add.iter().map(|(name, value)| header(name, value)).collect(),
        remove: remove.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

/// HTTPRouteRequestHeaderModifier, HTTPRouteResponseHeaderModifier.
#[test]
fn headers_are_set_added_and_removed() {
    let change = change(
        &[("X-Header-Set-1", "header-set-1"), ("X-Header-Set-2", "header-set-2")],
        &[("X-Header-Add-1", "header-add-1"), ("x-Header-ADD-2", "header-add-2")],
        &["X-Header-Remove-1", "X-Header-Remove-2"],
    );
    let sent = map(&[
        ("x-header-set-2", "set-val-2"),
        ("x-header-set-2", "set-val-3"),
        ("x-header-add-2", "add-val-2"),
        ("x-header-remove-2", "remove-val-2"),
        ("x-header-remove-2", "remove-val-3"),
        ("another-header", "another-header-val"),
    ]);
    let wanted = map(&[
        ("x-header-set-1", "header-set-1"),
        ("x-header-set-2", "header-set-2"),
        ("x-header-add-1", "header-add-1"),
        ("x-header-add-2", "add-val-2"),
        ("x-header-add-2", "header-add-2"),
        ("another-header", "another-header-val"),
    ]);
    let routes = of_filters(vec![
        filter(Filter::RequestHeaders(change.clone())),
        filter(Filter::ResponseHeaders(change)),
    ]);
    let filters = &routes.matched(&asked("/")).rule.filters;
    for change in [&filters.request, &filters.response] {
        let mut headers = sent.clone();
        change.as_ref().unwrap().apply(&mut headers);
        assert_eq!(headers, wanted);
    }
}

fn changed(path: Change) -> Option<wire::PathChange> {
    Some(wire::PathChange { change: Some(path) })
}

fn rewritten(matched: wire::HttpMatch, rewrite: wire::Rewrite, asked: &Asked) -> Target {
    let filters = vec![filter(Filter::Rewrite(rewrite))];
    let routes = of_rules(vec![wire::HttpRule { filters, ..rule("v1", vec![matched]) }]);
    let matched = routes.matched(asked);
    assert_eq!(matched.invalid, None);
    matched.rule.filters.rewrite.as_ref().unwrap().apply(&asked.target, matched.prefix).unwrap()
}

/// HTTPRouteRewritePath, and the table of ReplacePrefixMatch in its API.
#[test]
fn a_prefix_is_replaced() {
    let table = [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo", "/foo", "/xyz/", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/prefix/one/two", "/prefix/one", "/one", "/one/two"),
        ("/strip-prefix/three", "/strip-prefix", "/", "/three"),
        ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ("/f%6fo/bar?a=/foo", "/foo", "/x%79z", "/xyz/bar?a=/foo"),
    ];
    for (sent, matched, replacement, wanted) in table {
        let path = changed(Change::Prefix(replacement.into()));
        let target = rewritten(prefix(matched), wire::Rewrite { path, ..Default::default() }, &asked(sent));
        assert_eq!(target.path_and_query(), wanted, "{sent} {matched} {replacement}");
        assert_eq!(target.authority(), "example.net");
    }
}

/// HTTPRouteRewriteHost.
#[test]
fn hosts_and_whole_paths_are_replaced() {
    let full = |path: &str| changed(Change::Full(path.into()));
    let host = |hostname: &str, path| wire::Rewrite { hostname: hostname.into(), path };
    let asked = |line| on("Rewrite.example:8080", line, &[]);

    let target = rewritten(prefix("/one"), host("one.example.org", None), &asked("/one?x"));
    assert_eq!((target.authority(), target.host()), ("one.example.org", "one.example.org"));
    assert_eq!(target.host_header(), "one.example.org");
    assert_eq!(target.path_and_query(), "/one?x");

    let target = rewritten(prefix("/full/one"), host("", full("/one")), &asked("/full/one/two?x=y"));
    assert_eq!(target.path_and_query(), "/one?x=y");
    // Which stays as it came.
    assert_eq!((target.authority(), target.host()), ("Rewrite.example:8080", "rewrite.example"));
    assert_eq!(target.host_header(), "Rewrite.example:8080");

    let target = rewritten(exact("/x"), host("", full("")), &asked("/x"));
    assert_eq!(target.path_and_query(), "/");
    let target = rewritten(any(), host("", full("/one")), &asked("OPTIONS *"));
    assert_eq!(target.path_and_query(), "*");
}

fn location(redirect: wire::Redirect, matched: &str, asked: &Asked, entry: Entry) -> (u16, String) {
    let filters = vec![filter(Filter::Redirect(redirect))];
    let rule = wire::HttpRule { filters, matches: vec![prefix(matched)], ..Default::default() };
    let routes = of_rules(vec![rule]);
    let matched = routes.matched(asked);
    assert_eq!(matched.invalid, None);
    let redirect = matched.rule.filters.redirect.as_ref().unwrap();
    let location = redirect.location(&asked.target, matched.prefix, entry).unwrap();
    (redirect.status().as_u16(), location.to_str().unwrap().to_owned())
}

const HTTP: Entry = Entry { tls: false, port: 80 };

/// HTTPRouteRedirectPortAndScheme, HTTPRouteRedirectPort, HTTPRouteRedirectScheme.
#[test]
fn a_redirect_names_a_port_only_where_it_must() {
    let other = Entry { port: 8080, ..HTTP };
    let https = Entry { tls: true, port: 443 };
    let table = [
        (HTTP, "", 0, "http://example.org/x"),
        (HTTP, "", 80, "http://example.org/x"),
        (HTTP, "", 8080, "http://example.org:8080/x"),
        (HTTP, "https", 0, "https://example.org/x"),
        (HTTP, "https", 443, "https://example.org/x"),
        (HTTP, "https", 8443, "https://example.org:8443/x"),
        (other, "", 0, "http://example.org:8080/x"),
        (other, "", 80, "http://example.org/x"),
        (other, "https", 0, "https://example.org/x"),
        (other, "http", 0, "http://example.org/x"),
        (https, "", 0, "https://example.org/x"),
        (https, "", 443, "https://example.org/x"),
        (https, "", 8443, "https://example.org:8443/x"),
        (https, "http", 0, "http://example.org/x"),
        (https, "http", 80, "http://example.org/x"),
        (https, "http", 8080, "http://example.org:8080/x"),
        (https, "http", 443, "http://example.org:443/x"),
    ];
    for (entry, scheme, port, wanted) in table {
        let redirect = wire::Redirect {
            scheme: scheme.into(),
            hostname: "example.org".into(),
            port,
            ..Default::default()
        };
        let found = location(redirect, "/x", &asked("/x"), entry);
        assert_eq!(found, (302, wanted.to_owned()), "{entry:?} {scheme} {port}");
    }
}

/// HTTPRouteRedirectPath, HTTPRouteRedirectHostAndStatus, HTTPRoute303Redirect and so on.
#[test]
fn a_redirect_changes_what_it_is_told_to() {
    let to_prefix = || changed(Change::Prefix("/replacement-prefix".into()));
    let to_full = || changed(Change::Full("/full-path-replacement".into()));
    let none = wire::Redirect::default;
    let host = || wire::Redirect { hostname: "example.org".into(), ..none() };
    let table = [
        (
            wire::Redirect { path: to_prefix(), ..none() },
            "/original-prefix",
            "/original-prefix/lemon?a=b",
            (302, "http://example.net/replacement-prefix/lemon?a=b"),
        ),
        (
            wire::Redirect { path: to_full(), ..none() },
            "/full",
            "/full/path/original",
            (302, "http://example.net/full-path-replacement"),
        ),
        (
            wire::Redirect { path: to_prefix(), ..host() },
            "/path-and-host",
            "/path-and-host",
            (302, "http://example.org/replacement-prefix"),
        ),
        (
            wire::Redirect { path: to_full(), status: 301, ..host() },
            "/full-path-and-host",
            "/full-path-and-host",
            (301, "http://example.org/full-path-replacement"),
        ),
        (host(), "/hostname-redirect", "/hostname-redirect", (302, "http://example.org/hostname-redirect")),
        (wire::Redirect { status: 303, ..none() }, "/", "/a/../%62", (303, "http://example.net/b")),
        (wire::Redirect { status: 307, ..none() }, "/", "POST /", (307, "http://example.net/")),
        (wire::Redirect { status: 308, ..none() }, "/", "OPTIONS *", (308, "http://example.net/")),
    ];
    for (redirect, matched, line, (status, wanted)) in table {
        let found = location(redirect, matched, &asked(line), HTTP);
        assert_eq!(found, (status, wanted.to_owned()), "{line}");
    }
    // Where no other host is asked for it is the request's, without a port that may be another's.
    let found = location(none(), "/", &on("[2001:DB8::1]:8080", "//evil.org", &[]), HTTP);
    assert_eq!(found.1, "http://[2001:db8::1]//evil.org");
}

#[test]
fn what_a_filter_may_not_do_fails_its_rule() {
    let redirect = |redirect| filter(Filter::Redirect(redirect));
    let headers = |change| filter(Filter::RequestHeaders(change));
    let table = [
        (headers(change(&[("Host", "a")], &[], &[])), "use a rewrite's hostname"),
        (headers(change(&[], &[("Content-Length", "1")], &[])), "content-length is the proxy's own"),
        (headers(change(&[], &[], &["transfer-encoding"])), "transfer-encoding is the proxy's own"),
        (headers(change(&[], &[], &["Connection"])), "connection is the proxy's own"),
        (headers(change(&[], &[], &["Upgrade"])), "upgrade is the proxy's own"),
        (headers(change(&[], &[], &["TE"])), "te is the proxy's own"),
        (headers(change(&[(":path", "/")], &[], &[])), "is no name of a header"),
        (headers(change(&[("a b", "/")], &[], &[])), "is no name of a header"),
        (headers(change(&[("x", "a\r\nb: c")], &[], &[])), "has characters that a header may not"),
        (headers(change(&[("x", "a")], &[("X", "b")], &[])), "x is changed twice"),
        (headers(change(&[], &[("X", "b")], &["x"])), "x is changed twice"),
        (redirect(wire::Redirect { status: 399, ..Default::default() }), "none of 301"),
        (redirect(wire::Redirect { scheme: "ftp".into(), ..Default::default() }), "neither \"http\""),
        (redirect(wire::Redirect { port: 65_536, ..Default::default() }), "not one of 1 to 65535"),
        (redirect(wire::Redirect { hostname: "a/b".into(), ..Default::default() }), "no name of a host"),
        (redirect(wire::Redirect { hostname: "a:1".into(), ..Default::default() }), "no name of a host"),
        (
            redirect(wire::Redirect { path: Some(wire::PathChange::default()), ..Default::default() }),
            "does not know how the path",
        ),
        (
            redirect(wire::Redirect { path: changed(Change::Full("/a?b".into())), ..Default::default() }),
            "has a query",
        ),
        (
            redirect(wire::Redirect { path: changed(Change::Full("a".into())), ..Default::default() }),
            "begins with /",
        ),
        (wire::Filter::default(), "does not know its kind"),
    ];
    for (wire, reason) in table {
        let routes = of_filters(vec![wire]);
        let invalid = routes.matched(&asked("/")).invalid.expect(reason).to_string();
        assert!(invalid.starts_with("filter 1 (") && invalid.contains(reason), "{invalid}");
        assert_eq!(routes.to(&asked("/")), "500");
    }
}

#[test]
fn filters_that_exclude_each_other_fail_their_rule() {
    let redirect = || filter(Filter::Redirect(wire::Redirect::default()));
    let rewrite = || filter(Filter::Rewrite(wire::Rewrite::default()));
    let twice = of_filters(vec![redirect(), redirect()]);
    let invalid = twice.matched(&asked("/")).invalid.unwrap().to_string();
    assert!(invalid.contains("filter 2 (redirect): there is one of its kind already"), "{invalid}");
    let both = of_filters(vec![redirect(), rewrite()]);
    assert!(both.matched(&asked("/")).invalid.unwrap().as_str().contains("a redirect and a rewrite"));

    let path = changed(Change::Prefix("/x".into()));
    let filters = vec![filter(Filter::Rewrite(wire::Rewrite { path, ..Default::default() }))];
    let rule = wire::HttpRule { filters, ..rule("v1", vec![prefix("/a"), exact("/b")]) };
    let routes = of_rules(vec![rule]);
    let invalid = routes.matched(&asked("/a")).invalid.unwrap().to_string();
    assert!(invalid.contains("not every match of the rule is by prefix"), "{invalid}");
}
