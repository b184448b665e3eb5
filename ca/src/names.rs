//! Which DNS names a pod may carry: those of the Services that select it. Nobody else has a say.

use std::collections::BTreeMap;

/// So many Services at most are named in one leaf: it has to stay small enough for one flight.
pub const MAX_SERVICES: usize = 32;

/// The names of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Sorted by Service: `NAME.NAMESPACE.svc.DOMAIN`, then `NAME`.
    pub dns: Vec<String>,
    /// Services that select the pod too, and are not named.
    pub left_out: usize,
}

type Labels = BTreeMap<String, String>;

/// Names a pod with `labels` after the Services of its namespace, each a name and a selector.
pub fn of<'a>(
    namespace: &str,
    cluster_domain: &str,
    labels: &Labels,
    services: impl IntoIterator<Item = (&'a str, &'a Labels)>,
) -> Names {
    let mut selecting: Vec<&str> = services
        .into_iter()
        .filter(|(_, selector)| selects(selector, labels))
        .map(|(name, _)| name)
        .collect();
    selecting.sort_unstable();
    let left_out = selecting.len().saturating_sub(MAX_SERVICES);
    selecting.truncate(MAX_SERVICES);
    let dns = selecting
        .into_iter()
        .flat_map(|name| [format!("{name}.{namespace}.svc.{cluster_domain}"), name.to_owned()])
        .collect();
    Names { dns, left_out }
}

/// A Service without a selector has endpoints that somebody else decides.
fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pod_is_named_after_each_service_that_selects_it() {
        let pod = labels(&[("app", "orders"), ("tier", "api")]);
        let services = [
            ("orders", labels(&[("app", "orders")])),
            ("api", labels(&[("tier", "api"), ("app", "orders")])),
            ("other", labels(&[("app", "payments")])),
            ("half", labels(&[("app", "orders"), ("version", "2")])),
            ("external", labels(&[])),
        ];
        let names =
            of("shop", "cluster.local", &pod, services.iter().map(|(name, selector)| (*name, selector)));
        assert_eq!(
            names.dns,
            ["api.shop.svc.cluster.local", "api", "orders.shop.svc.cluster.local", "orders"]
        );
        assert_eq!(names.left_out, 0);
    }

    #[test]
    fn more_services_than_fit_are_counted_not_named() {
        let pod = labels(&[("app", "x")]);
        let names: Vec<String> = (0..40).map(|n| format!("s{n:02}")).collect();
        let found = of("ns", "cluster.local", &pod, names.iter().rev().map(|name| (name.as_str(), &pod)));
        assert_eq!((found.dns.len(), found.left_out), (2 * MAX_SERVICES, 8));
        assert_eq!(
            found.dns.get(1).map(String::as_str),
            Some("s00"),
            "sorted, so that a renewal names the same"
        );
    }
}
