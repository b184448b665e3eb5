//! What a path of the API names: a collection, an object of it, or a part of one.

/// `/api/v1/namespaces/shop/secrets/keys/status`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// Group, version and plural: what is of one kind.
    pub kind: (&'a str, &'a str),
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
    pub part: Option<&'a str>,
}

impl<'a> Path<'a> {
    /// Nothing for paths above the kinds, such as those by which a client discovers them.
    pub fn of(path: &'a str) -> Option<Self> {
        let depth = if path.starts_with("/api/") { 3 } else { 4 };
        let (at, _) = path.match_indices('/').nth(depth - 1)?;
        let (group, rest) = (path.get(..at)?, path.get(at + 1..)?);
        let parts: Vec<&str> = rest.split('/').collect();
        let (namespace, parts) = match parts.as_slice() {
            ["namespaces", namespace, plural, parts @ ..] => (Some(*namespace), [&[*plural], parts].concat()),
            parts => (None, parts.to_vec()),
        };
        let plural = parts.first().copied().filter(|plural| !plural.is_empty())?;
        Some(Self {
            kind: (group, plural),
            namespace,
            name: parts.get(1).copied(),
            part: parts.get(2).copied(),
        })
    }

    /// Whether an object's path is of this collection.
    pub fn lists(&self, object: &str) -> bool {
        Path::of(object).is_some_and(|object| {
            object.kind == self.kind
                && object.name.is_some()
                && (self.namespace.is_none() || self.namespace == object.namespace)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let path = Path::of("/api/v1/namespaces/shop/secrets/keys").unwrap();
        assert_eq!(
            (path.kind, path.namespace, path.name),
            (("/api/v1", "secrets"), Some("shop"), Some("keys"))
        );
        let path = Path::of("/apis/a.b/v1/namespaces/shop/things/one/status").unwrap();
        assert_eq!(
            (path.kind, path.name, path.part),
            (("/apis/a.b/v1", "things"), Some("one"), Some("status"))
        );
        let path = Path::of("/api/v1/namespaces/shop").unwrap();
        assert_eq!((path.kind.1, path.namespace, path.name), ("namespaces", None, Some("shop")));
        assert_eq!(Path::of("/apis/a.b/v1"), None);
        let all = Path::of("/api/v1/secrets").unwrap();
        assert!(all.lists("/api/v1/namespaces/shop/secrets/keys"));
        assert!(!all.lists("/api/v1/namespaces/shop/configmaps/secrets"));
        let own = Path::of("/api/v1/namespaces/shop/secrets").unwrap();
        assert!(own.lists("/api/v1/namespaces/shop/secrets/keys"));
        assert!(!own.lists("/api/v1/namespaces/bank/secrets/keys"));
    }
}
