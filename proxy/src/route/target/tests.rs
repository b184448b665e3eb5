use http::{Request, Uri};
use proptest::prelude::*;

use super::*;

fn target(method: &str, uri: &str, hosts: &[&str], slashes: Slashes) -> Result<Target, Refusal> {
    let mut request = Request::builder().method(method).uri(uri);
    for host in hosts {
        request = request.header(HOST, *host);
    }
    Target::of(&request.body(()).unwrap().into_parts().0, slashes)
}

fn path(sent: &str, slashes: Slashes) -> Result<String, Refusal> {
    target("GET", sent, &["a"], slashes).map(|target| target.path_and_query().to_string())
}

#[test]
fn a_path_has_one_form() {
    let both = [
        ("/", "/"),
        ("/admin", "/admin"),
        ("/admin/", "/admin/"),
        ("/./admin", "/admin"),
        ("/a/../admin", "/admin"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/../../admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/%2e%2E/admin", "/admin"),
        ("/a/%2e%2e/admin", "/admin"),
        ("/%7euser", "/~user"),
        ("/a%c3%a9", "/a%C3%A9"),
        ("/aé", "/a%C3%A9"),
        ("/a|b", "/a%7Cb"),
        ("/a%7cb", "/a%7Cb"),
        ("/a%20b", "/a%20b"),
        ("/a+b", "/a+b"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/admin;x", "/admin;x"),
        ("/a;b=..", "/a;b=.."),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/..a/.b.", "/..a/.b."),
        ("/pkg.Service/Method", "/pkg.Service/Method"),
        // Whoever parses drops it, before anybody judges.
        ("/admin#x", "/admin"),
        // Queries are the application's.
        ("/%61?q=%61&r=/../x&s=%2f&t=100%", "/a?q=%61&r=/../x&s=%2f&t=100%"),
        ("/a?", "/a?"),
    ];
    for (sent, normal) in both {
        for slashes in [Slashes::Data, Slashes::Separators] {
            assert_eq!(path(sent, slashes).as_deref(), Ok(normal), "{sent} {slashes:?}");
        }
    }
}

#[test]
fn slashes_are_data_or_separators() {
    let cases = [
        ("//admin", Ok("//admin"), Ok("/admin")),
        ("/a//b///c//", Ok("/a//b///c//"), Ok("/a/b/c/")),
        ("//", Ok("//"), Ok("/")),
        ("/a//../b", Ok("/a/b"), Ok("/b")),
        ("/a//.", Ok("/a//"), Ok("/a/")),
        ("/admin%2f", Ok("/admin%2F"), Err(Refusal::EscapedSlash)),
        ("/api/queues/%2F/one", Ok("/api/queues/%2F/one"), Err(Refusal::EscapedSlash)),
        ("/a%5cb", Ok("/a%5Cb"), Err(Refusal::EscapedSlash)),
    ];
    for (sent, data, separators) in cases {
        assert_eq!(path(sent, Slashes::Data).as_deref(), data.as_deref(), "{sent}");
        assert_eq!(path(sent, Slashes::Separators).as_deref(), separators.as_deref(), "{sent}");
    }
}

#[test]
fn what_two_could_read_differently_is_refused() {
    let cases = [
        ("/a\\b", Refusal::Backslash),
        ("/..\\admin", Refusal::Backslash),
        ("/a%00", Refusal::ControlCharacter),
        ("/a%0d%0ax", Refusal::ControlCharacter),
        ("/a%7f", Refusal::ControlCharacter),
        ("/a%zz", Refusal::BadEscape),
        ("/a%", Refusal::BadEscape),
        ("/a%2", Refusal::BadEscape),
        ("/a%é1", Refusal::BadEscape),
        ("/a/..;/admin", Refusal::HiddenDots),
        ("/a/.;x/b", Refusal::HiddenDots),
        ("/%2e%2e;x", Refusal::HiddenDots),
    ];
    for (sent, refusal) in cases {
        for slashes in [Slashes::Data, Slashes::Separators] {
            assert_eq!(path(sent, slashes), Err(refusal), "{sent} {slashes:?}");
        }
    }
    for sent in ["/a%2f..", "/a%2f..%2fadmin", "/..%2f", "/a%5c..;x%5cb", "/.%2Fx", "/a%2F%2e%2e"] {
        assert_eq!(path(sent, Slashes::Data), Err(Refusal::HiddenDots), "{sent}");
    }
}

#[test]
fn only_a_path_is_a_target() {
    let of = |method, uri: &str| {
        let host: &[&str] = if uri.contains('a') { &[] } else { &["a"] };
        target(method, uri, host, Slashes::Data).map(|target| target.path().to_owned())
    };
    assert_eq!(of("OPTIONS", "*").as_deref(), Ok("*"));
    assert_eq!(of("GET", "*"), Err(Refusal::NoPath));
    assert_eq!(of("CONNECT", "a:80"), Err(Refusal::NoPath));
    assert_eq!(of("GET", "a"), Err(Refusal::NoPath));
    assert_eq!(of("GET", "http://a").as_deref(), Ok("/"));
    assert_eq!(of("GET", "ftp://a/"), Err(Refusal::BadScheme));
    let query = target("GET", "http://a?q", &[], Slashes::Data).unwrap();
    assert_eq!(query.path_and_query().as_str(), "/?q");
}

#[test]
fn there_is_one_host() {
    let of = |uri, hosts: &[&str]| {
        target("GET", uri, hosts, Slashes::Data)
            .map(|target| (target.host().to_owned(), target.authority().to_owned()))
    };
    let is = |name: &str, sent: &str| Ok((name.to_owned(), sent.to_owned()));
    assert_eq!(of("/", &["Example.org.:80"]), is("example.org", "Example.org.:80"));
    assert_eq!(of("/", &["example.org:80"]), is("example.org", "example.org:80"));
    assert_eq!(of("http://b:1/", &[]), is("b", "b:1"));
    assert_eq!(of("http://b/", &["B"]), is("b", "b"));
    assert_eq!(of("/", &["[::1]:8080"]), is("[::1]", "[::1]:8080"));
    assert_eq!(of("/", &[]), Err(Refusal::NoHost));
    assert_eq!(of("/", &[""]), Err(Refusal::NoHost));
    assert_eq!(of("/", &["a", "a"]), Err(Refusal::SeveralHosts));
    assert_eq!(of("http://a/", &["a", "a"]), Err(Refusal::SeveralHosts));
    assert_eq!(of("http://a/", &["b"]), Err(Refusal::HostsDiffer));
    assert_eq!(of("http://a/", &["a:80"]), Err(Refusal::HostsDiffer));
    assert_eq!(of("http://a/", &[""]), Err(Refusal::NoHost));
    assert_eq!(of("http://user@a/", &[]), Err(Refusal::BadHost));
    assert_eq!(of("/", &["a,b"]), Err(Refusal::BadHost));
    assert_eq!(of("/", &["ä"]), Err(Refusal::BadHost));
}

#[test]
fn what_is_normal_is_not_copied() {
    let uri: Uri = "http://example.org:80/a/b.c?q".parse().unwrap();
    let sent = uri.path_and_query().unwrap().as_str().as_ptr();
    let (parts, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
    let target = Target::of(&parts, Slashes::Separators).unwrap();
    assert_eq!(target.path_and_query().as_str().as_ptr(), sent);
    assert!(target.host.is_none());
}

/// Paths of the pieces that attacks are made of.
pub fn hostile_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-c]",
        prop::sample::select(vec![
            "/", "/", "//", ".", "..", "/../", "%2e", "%2F", "%2f", "%5c", "%61", "%25", "%C3", "%00", "%",
            ";", "é", "|", "?", "admin", "\\",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #[test]
    fn a_normal_form_is_its_own(sent in hostile_path()) {
        for slashes in [Slashes::Data, Slashes::Separators] {
            let Ok(once) = path(&sent, slashes) else { continue };
            prop_assert_eq!(path(&once, slashes), Ok(once.clone()));
            let bare = once.split('?').next().unwrap_or_default();
            prop_assert!(bare.starts_with('/'));
            prop_assert!(bare.bytes().all(|byte| byte == b'/' || byte == b'%' || is_path_character(byte)));
            prop_assert!(!bare.split('/').any(|element| element == "." || element == ".."));
            if slashes == Slashes::Separators {
                prop_assert!(!bare.contains("//") && !bare.contains("%2F") && !bare.contains("%5C"));
            }
        }
    }

    #[test]
    fn a_host_is_its_own(sent in "[a-cA-C.:0-9\\[\\]_-]{0,12}") {
        if let Ok((name, _)) = host::split(&sent) {
            prop_assert_eq!(host::split(&name), Ok((name.clone(), None)));
        }
    }
}
