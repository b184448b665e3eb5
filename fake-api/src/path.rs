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
        let parts = rest.split('/');
        let mut inside = parts.clone();
        let (namespace, mut parts) = match (inside.next(), inside.next(), inside.clone().next()) {
            (Some("namespaces"), Some(namespace), Some(_)) => (Some(namespace), inside),
            _ => (None, parts),
        };
        let plural = parts.next().filter(|plural| !plural.is_empty())?;
        Some(Self { kind: (group, plural), namespace, name: parts.next(), part: parts.next() })
    }

    /// What paths of all objects of this collection begin with.
    pub fn folder(&self) -> String {
        let (group, plural) = self.kind;
        match self.namespace {
            Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/"),
            None => format!("{group}/"),
        }
    }

    /// Whether an object's path is of this collection.
    pub fn lists(&self, object: &str) -> bool {
        let of = |object: Path<'_>| {
            object.kind == self.kind
                && object.name.is_some()
                && (self.namespace.is_none() || self.namespace == object.namespace)
        };
        // Most are of another group, which is cheap to see.
        object.starts_with(self.kind.0) && Path::of(object).is_some_and(of)
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
