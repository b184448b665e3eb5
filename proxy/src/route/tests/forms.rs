//! One form of a request's target, whoever writes it how.

use proptest::{prop_assert_eq, proptest};

use super::*;
use crate::route::target::tests::hostile_path;

/// `None` where it is refused.
fn request(uri: &str, slashes: Slashes) -> Option<Asked> {
    let request = Request::builder().uri(uri).header("host", "a").body(()).ok()?;
    let (parts, ()) = request.into_parts();
    let target = Target::of(&parts, slashes).ok()?;
    Some(Asked { target, method: parts.method, headers: parts.headers })
}

proptest! {
    /// Whoever writes a path in another way finds the same rule, and the backend sees that one way.
    #[test]
    fn a_path_and_its_normal_form_find_the_same(sent in hostile_path(), merged in proptest::bool::ANY) {
        let routes = of_rules(vec![
            rule("admin", vec![prefix("/admin"), path(Kind::Regex, "/.*/admin")]),
            rule("a", vec![exact("/a"), prefix("/a/b")]),
            rule("c", vec![with_query("admin", "", prefix("/c"))]),
            rule("any", vec![any()]),
        ]);
        let slashes = if merged { Slashes::Separators } else { Slashes::Data };
        if let Some(first) = request(&sent, slashes) {
            let again = request(first.target.path_and_query().as_str(), slashes).unwrap();
            prop_assert_eq!(routes.to(&first), routes.to(&again));
        }
    }

    /// What a rewrite makes of a path in its one form is in that form too.
    #[test]
    fn a_rewritten_path_is_in_its_normal_form(
        sent in hostile_path(),
        replacement in hostile_path(),
        merged in proptest::bool::ANY,
    ) {
        use wire::{filter::Filter, path_change::Change};
        let path = wire::PathChange { change: Some(Change::Prefix(replacement)) };
        let rewrite = wire::Rewrite { path: Some(path), ..Default::default() };
        let filters = vec![filter(Filter::Rewrite(rewrite))];
        let routes = of_rules(vec![wire::HttpRule { filters, ..rule("v1", vec![prefix("/a"), any()]) }]);
        let slashes = if merged { Slashes::Separators } else { Slashes::Data };
        let Some(asked) = request(&sent, slashes) else { return Ok(()) };
        let matched = routes.matched(&asked);
        let Some(rewrite) = &matched.rule.filters.rewrite else { return Ok(()) };
        let target = rewrite.apply(&asked.target, matched.prefix).unwrap();
        let again = request(target.path_and_query().as_str(), Slashes::Data).unwrap();
        prop_assert_eq!(target.path_and_query(), again.target.path_and_query());
    }
}
