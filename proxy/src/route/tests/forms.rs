//! One form of a request's target, whoever writes it how.

use proptest::{prop_assert_eq, proptest};

use super::*;
use crate::route::target::tests::hostile_path;

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
        let request = |uri: &str| {
            let request = Request::builder().uri(uri).header("host", "a").body(()).ok()?;
            let (parts, ()) = request.into_parts();
            let target = Target::of(&parts, slashes).ok()?;
            Some(Asked { target, method: parts.method, headers: parts.headers })
        };
        if let Some(first) = request(&sent) {
            let again = request(first.target.path_and_query().as_str()).unwrap();
            prop_assert_eq!(routes.to(&first), routes.to(&again));
        }
    }
}
