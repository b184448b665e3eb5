//! Who gets how much.

use rand::{SeedableRng, rngs::StdRng};
use wire::filter::Filter;

use super::*;

const DRAWS: usize = 20_000;

/// Of the draws, how many went where.
fn shares(backends: Vec<wire::WeightedBackend>) -> HashMap<String, usize> {
    let routes = of_rules(vec![wire::HttpRule { backends, ..rule("", vec![any()]) }]);
    let request = asked("/");
    let rule = routes.matched(&request).rule;
    let mut random = StdRng::seed_from_u64(7);
    let mut shares = HashMap::new();
    for _ in 0..DRAWS {
        let to = match rule.choose(&mut random) {
            Choice::Backend(to, _) => to.name.to_string(),
            Choice::Invalid(why) => why.to_string(),
            Choice::Nobody => "nobody".into(),
        };
        *shares.entry(to).or_default() += 1;
    }
    shares
}

fn about(share: usize, of_hundred: usize) -> bool {
    share.abs_diff(DRAWS * of_hundred / 100) < DRAWS / 50
}

/// HTTPRouteWeight, MeshHTTPRouteWeight.
#[test]
fn shares_follow_weights_and_none_is_none() {
    let found = shares(vec![weighted("v1", 70), weighted("v2", 30), weighted("v3", 0)]);
    assert!(about(found["v1"], 70) && about(found["v2"], 30), "{found:?}");
    assert_eq!(found.len(), 2);
    assert_eq!(shares(vec![weighted("v1", 5)])["v1"], DRAWS);
    let large = shares(vec![weighted("v1", u32::MAX), weighted("v2", u32::MAX)]);
    assert!(about(large["v1"], 50), "{large:?}");
}

#[test]
fn an_invalid_backend_keeps_its_share() {
    let refused = wire::WeightedBackend { invalid: "no grant".into(), ..weighted("v2", 1) };
    let found = shares(vec![weighted("v1", 1), refused.clone()]);
    assert!(about(found["no grant"], 50), "{found:?}");
    assert_eq!(shares(vec![refused])["no grant"], DRAWS);

    let nameless = wire::WeightedBackend { weight: 1, ..Default::default() };
    assert_eq!(shares(vec![nameless])["it names no Service"], DRAWS);
    let mut portless = weighted("v1", 1);
    portless.backend.as_mut().unwrap().port = 0;
    assert_eq!(shares(vec![portless])["port 0 is not one of 1 to 65535"], DRAWS);
    let filters = vec![wire::Filter::default()];
    let filtered = shares(vec![weighted("v1", 1), wire::WeightedBackend { filters, ..weighted("v2", 1) }]);
    assert!(about(filtered["v1"], 50) && filtered.len() == 2, "{filtered:?}");
}

#[test]
fn without_a_weight_there_is_nobody() {
    for backends in [vec![], vec![weighted("v1", 0)], vec![weighted("v1", 0), weighted("v2", 0)]] {
        assert_eq!(shares(backends)["nobody"], DRAWS);
    }
}

/// HTTPRouteRequestPercentageMirror, HTTPRouteRequestMultipleMirrors.
#[test]
fn a_mirror_gets_its_share() {
    let mirror = |name: &str, numerator, denominator, invalid: &str| {
        filter(Filter::Mirror(wire::Mirror {
            backend: Some(service(name)),
            numerator,
            denominator,
            invalid: invalid.into(),
        }))
    };
    let routes = of_filters(vec![
        mirror("a", 20, 100, ""),
        mirror("b", 1, 2, ""),
        mirror("c", 1, 1, ""),
        mirror("d", 0, 100, ""),
        mirror("e", 1, 1, "no grant"),
        mirror("f", 1, 0, ""),
        mirror("g", 3, 2, ""),
    ]);
    let request = asked("/");
    let matched = routes.matched(&request);
    assert_eq!(matched.invalid, None);
    let mut random = StdRng::seed_from_u64(7);
    let mut shares = HashMap::<String, usize>::new();
    for _ in 0..DRAWS {
        for mirror in &matched.rule.filters.mirrors {
            if let Some(to) = mirror.choose(&mut random) {
                *shares.entry(to.name.to_string()).or_default() += 1;
            }
        }
    }
    assert!(about(shares["a"], 20) && about(shares["b"], 50), "{shares:?}");
    assert_eq!(shares["c"], DRAWS);
    assert_eq!(shares.len(), 3);
}

#[test]
fn bytes_go_by_name_and_weight() {
    let bytes = |name: &str, hostnames: &[&str]| wire::ByteRoute {
        namespace: "ns".into(),
        name: name.into(),
        hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
        backends: vec![weighted(name, 1)],
    };
    let routes = Routes::compile(&wire::Routes {
        tcp: vec![bytes("older", &[]), bytes("newer", &[])],
        tls: vec![
            bytes("org", &["*.org"]),
            bytes("below", &["*.example.org"]),
            bytes("exact", &["a.example.org", "b.example.org"]),
            bytes("late", &["a.example.org"]),
        ],
        ..Default::default()
    });
    let mut random = StdRng::seed_from_u64(7);
    let mut to = |route: Option<&Arc<ByteRoute>>| match route.map(|route| route.choose(&mut random)) {
        Some(Choice::Backend(to, _)) => to.name.to_string(),
        _ => "nobody".into(),
    };
    assert_eq!(to(routes.tcp()), "older");
    for (name, wanted) in [
        (Some("a.example.org"), "exact"),
        (Some("B.EXAMPLE.org."), "exact"),
        (Some("c.example.org"), "below"),
        (Some("x.c.example.org"), "below"),
        (Some("example.org"), "org"),
        (Some("example.net"), "nobody"),
        (Some("a\r\nb"), "nobody"),
        (Some("a.example.org:443"), "nobody"),
        (None, "nobody"),
    ] {
        assert_eq!(to(routes.tls(name)), wanted, "{name:?}");
    }
    let open = Routes::compile(&wire::Routes { tls: vec![bytes("open", &[])], ..Default::default() });
    for (name, wanted) in [(Some("a.b"), "open"), (None, "open"), (Some("a b"), "nobody")] {
        assert_eq!(to(open.tls(name)), wanted, "{name:?}");
    }
    assert!(open.tcp().is_none());
}
