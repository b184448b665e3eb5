//! Which of a route's hostnames a listener has.

/// What is left of the route's hostnames: none means every host. Nothing where the two have no host in
/// common.
pub fn intersect(listener: Option<&str>, route: &[String]) -> Option<Vec<String>> {
    let listener = listener.filter(|hostname| !hostname.is_empty()).map(str::to_ascii_lowercase);
    let route: Vec<_> = route.iter().map(|hostname| hostname.to_ascii_lowercase()).collect();
    let Some(listener) = listener else { return Some(route) };
    if route.is_empty() {
        return Some(vec![listener]);
    }
    let common: Vec<_> = route.iter().filter_map(|route| both(&listener, route)).map(str::to_owned).collect();
    (!common.is_empty()).then_some(common)
}

/// The narrower of two hostnames, where one holds for all of the other.
fn both<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    if holds(one, other) {
        Some(other)
    } else if holds(other, one) {
        Some(one)
    } else {
        None
    }
}

/// Whether `wide` holds for every host that `narrow` holds for. `*.a` is every host below `a`, and not `a`.
fn holds(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        None => wide == narrow,
        Some(end) => {
            narrow.strip_prefix('*').unwrap_or(narrow).ends_with(end) && narrow != end.trim_start_matches('.')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_hostnames_have_in_common_is_the_narrower_one() {
        for (listener, route, common) in [
            ("", vec![], Some(vec![])),
            ("", vec!["a.org"], Some(vec!["a.org"])),
            ("a.org", vec![], Some(vec!["a.org"])),
            ("A.org", vec!["a.ORG"], Some(vec!["a.org"])),
            ("a.org", vec!["b.org"], None),
            ("a.org", vec!["b.org", "a.org"], Some(vec!["a.org"])),
            ("*.a.org", vec!["x.a.org", "y.x.a.org", "a.org"], Some(vec!["x.a.org", "y.x.a.org"])),
            ("*.a.org", vec!["a.org"], None),
            ("*.a.org", vec!["xa.org"], None),
            ("*.a.org", vec!["*.x.a.org"], Some(vec!["*.x.a.org"])),
            ("*.x.a.org", vec!["*.a.org"], Some(vec!["*.x.a.org"])),
            ("x.a.org", vec!["*.a.org"], Some(vec!["x.a.org"])),
            ("*.a.org", vec!["*.a.org"], Some(vec!["*.a.org"])),
            ("*.a.org", vec!["*.b.org"], None),
        ] {
            let route: Vec<_> = route.into_iter().map(str::to_owned).collect();
            let common = common.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(intersect(Some(listener), &route), common, "{listener} {route:?}");
        }
    }
}
