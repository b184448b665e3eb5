//! Namespaces by their labels, as listeners select them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1 as k8s;
use kube::api::ObjectMeta;
use trellis_api::gateway::LabelSelector;

/// The label that every namespace of a cluster has: its name.
const NAME: &str = "kubernetes.io/metadata.name";

pub type Labels = BTreeMap<String, String>;
pub type Namespaces = HashMap<Arc<str>, Labels>;

pub fn name(meta: &ObjectMeta) -> Arc<str> {
    meta.name.as_deref().unwrap_or_default().into()
}

pub fn labels(namespace: &k8s::Namespace) -> Option<Labels> {
    let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
    labels.insert(NAME.to_owned(), namespace.metadata.name.clone().unwrap_or_default());
    Some(labels)
}

/// Whether objects of `namespace` are meant by `from`, which `owner`'s namespace says.
pub fn means(
    from: &str,
    selector: Option<&LabelSelector>,
    owner: &str,
    namespace: &str,
    namespaces: &Namespaces,
) -> bool {
    match from {
        "All" => true,
        "Same" => owner == namespace,
        "Selector" => match (selector, namespaces.get(namespace)) {
            (Some(selector), Some(labels)) => selects(selector, labels),
            _ => false,
        },
        _ => false,
    }
}

/// Whether labels are those that a selector means.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut exact = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    exact.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| {
            let value = labels.get(&expression.key);
            let listed =
                value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_are_meant_as_selectors_say() {
        let labels = |labels: &[(&str, &str)]| {
            labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect::<Labels>()
        };
        let namespaces = Namespaces::from([
            ("a".into(), labels(&[("team", "one"), (NAME, "a")])),
            ("b".into(), labels(&[(NAME, "b")])),
        ]);
        for (selector, meant) in [
            (json!({}), vec!["a", "b"]),
            (json!({"matchLabels": {"team": "one"}}), vec!["a"]),
            (json!({"matchLabels": {NAME: "b"}}), vec!["b"]),
            (
                json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["two", "one"]}]}),
                vec!["a"],
            ),
            (
                json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["one"]}]}),
                vec!["b"],
            ),
            (json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}), vec!["a"]),
            (json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}), vec!["b"]),
            (json!({"matchExpressions": [{"key": "team", "operator": "Near"}]}), vec![]),
            (json!({"matchLabels": {"team": "one", NAME: "b"}}), vec![]),
        ] {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            let found = ["a", "b", "unknown"].into_iter();
            let found = found.filter(|name| means("Selector", Some(&selector), "x", name, &namespaces));
            assert_eq!(found.collect::<Vec<_>>(), meant, "{selector:?}");
        }
        assert!(means("All", None, "a", "b", &namespaces) && means("Same", None, "a", "a", &namespaces));
        assert!(!means("Same", None, "a", "b", &namespaces) && !means("None", None, "a", "a", &namespaces));
    }
}
