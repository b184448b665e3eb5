//! Namespaces in which certificates have to resist a quantum computer, and where objects of such a namespace
//! name certificates.

use std::{collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::ByteString;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

/// Label of a namespace: `warn`, `hybrid` or `deny`.
pub const ENFORCE: &str = "trellis.dev/enforce";

/// ClusterRole that operators bind in a namespace so that the injector may read the certificates that
/// Ingresses and Gateways name there.
pub const CERTIFICATES_ROLE: &str = "trellis-injector-certificates";

/// The item of a Secret that holds the certificate, with its chain.
pub const CERTIFICATE_ITEM: &str = "tls.crt";
/// The type of a Secret that is there for one.
pub const TLS_SECRET: &str = "kubernetes.io/tls";

/// The end of the names of items that hold certificates.
const CERTIFICATE: &str = ".crt";
/// Whom a certificate's owner trusts is not shown to anybody.
const AUTHORITIES: &str = "ca.crt";

/// Those items of a Secret that hold certificates, PEM. All others are passed over while it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items(pub BTreeMap<String, Vec<u8>>);

/// What becomes of a certificate that does not resist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It is named, and let in.
    Warn,
    /// It may be served where one that resists stands beside it for the same names: clients that cannot verify
    /// that one, such as today's browsers, are shown the other.
    Hybrid,
    /// It is refused.
    Deny,
}

/// A value of the label that nobody can obey.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label `{ENFORCE}: {0}` of the namespace is none of warn, hybrid and deny")]
pub struct UnknownEnforcement(pub String);

impl Enforcement {
    pub const ALL: [Self; 3] = [Self::Warn, Self::Hybrid, Self::Deny];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Hybrid => "hybrid",
            Self::Deny => "deny",
        }
    }

    /// What the labels of a namespace ask for; nothing where they do not.
    pub fn of(labels: &BTreeMap<String, String>) -> Result<Option<Self>, UnknownEnforcement> {
        labels.get(ENFORCE).map(|value| value.parse()).transpose()
    }
}

impl FromStr for Enforcement {
    type Err = UnknownEnforcement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|one| one.as_str() == text);
        known.ok_or_else(|| UnknownEnforcement(text.to_owned()))
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kind whose objects name Secrets with certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Ingress,
    Gateway,
    ListenerSet,
}

/// A Secret that an object names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Where in the object.
    pub field: String,
    /// Those of one place are served together: of an Ingress all, of a Gateway those of one listener.
    pub place: String,
    pub namespace: String,
    pub name: String,
}

impl Route {
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Gateway, Self::ListenerSet];

    pub fn kind(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
        }
    }

    pub fn group(self) -> &'static str {
        match self {
            Self::Ingress => "networking.k8s.io",
            Self::Gateway | Self::ListenerSet => "gateway.networking.k8s.io",
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Ingress => "ingresses",
            Self::Gateway => "gateways",
            Self::ListenerSet => "listenersets",
        }
    }

    /// Of which kind objects of this resource are.
    pub fn of(group: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.group() == group && one.plural() == plural)
    }

    /// The Secrets that an object in `namespace` names, in its order. What is not as it should be is passed
    /// over: the API server has refused it, or is about to.
    pub fn named(self, object: &Value, namespace: &str) -> Vec<Named> {
        let spec = &object["spec"];
        match self {
            Self::Ingress => of_ingress(spec, namespace),
            Self::Gateway | Self::ListenerSet => of_listeners(spec, namespace),
        }
    }
}

fn of_ingress(spec: &Value, namespace: &str) -> Vec<Named> {
    let entries = items(&spec["tls"]).filter_map(|(at, entry)| {
        let name = entry["secretName"].as_str().filter(|name| !name.is_empty())?;
        Some(Named {
            field: format!("spec.tls[{at}].secretName"),
            place: "spec.tls".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    });
    entries.collect()
}

fn of_listeners(spec: &Value, namespace: &str) -> Vec<Named> {
    let mut named = Vec::new();
    for (at, listener) in items(&spec["listeners"]) {
        let place = format!("spec.listeners[{at}].tls");
        // What is passed through is another's certificate.
        if listener["tls"]["mode"] == "Passthrough" {
            continue;
        }
        for (of, reference) in items(&listener["tls"]["certificateRefs"]) {
            named.extend(of_reference(
                reference,
                format!("{place}.certificateRefs[{of}]"),
                &place,
                namespace,
            ));
        }
    }
    let backend = "spec.tls.backend";
    let field = format!("{backend}.clientCertificateRef");
    named.extend(of_reference(&spec["tls"]["backend"]["clientCertificateRef"], field, backend, namespace));
    named
}

fn of_reference(reference: &Value, field: String, place: &str, own: &str) -> Option<Named> {
    let text = |name: &str| reference[name].as_str().filter(|text| !text.is_empty());
    if text("group").is_some() || text("kind").is_some_and(|kind| kind != "Secret") {
        return None;
    }
    Some(Named {
        field,
        place: place.to_owned(),
        namespace: text("namespace").unwrap_or(own).to_owned(),
        name: text("name")?.to_owned(),
    })
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the items of a Secret")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Items, A::Error> {
        let mut items = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.ends_with(CERTIFICATE) && name != AUTHORITIES {
                let ByteString(bytes) = map.next_value()?;
                items.insert(name, bytes);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Items(items))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn places(route: Route, object: &Value) -> Vec<String> {
        let named = route.named(object, "shop");
        named.into_iter().map(|one| format!("{} {}/{}", one.field, one.namespace, one.name)).collect()
    }

    #[test]
    fn the_label_has_three_values_and_nothing_else_is_taken_for_one() {
        let of = |value: &str| Enforcement::of(&[(ENFORCE.to_owned(), value.to_owned())].into());
        assert_eq!(Enforcement::of(&BTreeMap::new()), Ok(None));
        for known in Enforcement::ALL {
            assert_eq!(of(known.as_str()), Ok(Some(known)));
        }
        for wrong in ["", "Deny", "dny", "true"] {
            let message = of(wrong).unwrap_err().to_string();
            assert!(message.contains(&format!("`{ENFORCE}: {wrong}`")), "{message}");
        }
    }

    #[test]
    fn an_ingress_names_secrets_of_its_own_namespace() {
        let object = json!({"spec": {"tls": [
            {"hosts": ["a"], "secretName": "a"}, {"hosts": ["b"]}, {"secretName": ""}, {"secretName": "c"},
        ]}});
        let expected = ["spec.tls[0].secretName shop/a", "spec.tls[3].secretName shop/c"];
        assert_eq!(places(Route::Ingress, &object), expected);
        for empty in
            [json!(null), json!({"spec": {"tls": {"secretName": "a"}}}), json!({"spec": {"tls": [5]}})]
        {
            assert_eq!(places(Route::Ingress, &empty), Vec::<String>::new());
        }
    }

    #[test]
    fn a_gateway_names_those_of_its_listeners_and_its_own_client_certificate() {
        let object = json!({"spec": {
            "listeners": [
                {"name": "http"},
                {"name": "web", "tls": {"certificateRefs": [
                    {"name": "a"}, {"group": "", "kind": "Secret", "name": "b", "namespace": "certs"},
                    {"group": "example.org", "kind": "Vault", "name": "c"}, {"kind": "ConfigMap", "name": "d"},
                ]}},
                {"name": "through", "tls": {"mode": "Passthrough", "certificateRefs": [{"name": "e"}]}},
            ],
            "tls": {"backend": {"clientCertificateRef": {"name": "me"}}},
        }});
        let listener = "spec.listeners[1].tls.certificateRefs";
        let expected = [
            format!("{listener}[0] shop/a"),
            format!("{listener}[1] certs/b"),
            "spec.tls.backend.clientCertificateRef shop/me".to_owned(),
        ];
        assert_eq!(places(Route::Gateway, &object), expected);
        assert_eq!(places(Route::ListenerSet, &object), expected);
    }

    #[test]
    fn of_a_secret_only_certificates_are_kept() {
        let data = json!({"tls.crt": "YQ==", "tls.key": "Yg==", "ca.crt": "Yw==", "pq.crt": "ZA=="});
        let Items(items) = serde_json::from_value(data).unwrap();
        assert_eq!(
            items,
            [("pq.crt".to_owned(), b"d".to_vec()), ("tls.crt".to_owned(), b"a".to_vec())].into()
        );
        assert!(serde_json::from_value::<Items>(json!({"tls.crt": "%"})).is_err());
    }

    #[test]
    fn resources_are_told_apart_by_group() {
        for route in Route::ALL {
            assert_eq!(Route::of(route.group(), route.plural()), Some(route));
            assert_eq!(Route::of("example.org", route.plural()), None);
        }
    }
}
