//! Whether certificates of namespaces that say so resist a quantum computer. Admission looks at what changes;
//! here is looked at what is there.

use std::collections::BTreeMap;

use trellis_api::enforcement::{CERTIFICATE_ITEM, ENFORCE, Enforcement, Items};
use trellis_pki::resistance::{Chain, ChainError};

use super::{
    before::name,
    facts::{After, Enforced, Naming},
    report::{Check, few},
};

pub fn all(facts: &After) -> Vec<Check> {
    let check = Check::new("certificates", "those of enforced namespaces resist a quantum computer");
    let Ok(namespaces) = &facts.before.namespaces else {
        return vec![check.skipped("the namespaces are not known")];
    };
    let (mut refused, mut warned, mut looked_at) = (Vec::new(), Vec::new(), 0);
    for namespace in namespaces {
        let none = BTreeMap::new();
        let asked = Enforcement::of(namespace.metadata.labels.as_ref().unwrap_or(&none));
        let own = name(namespace);
        let (enforcement, enforced) = match (asked, facts.enforced.get(own)) {
            (Ok(None), _) | (Ok(Some(_)), None) => continue,
            (Err(error), _) => {
                refused.push(format!("{own}: {error}, so that all are refused"));
                continue;
            }
            (Ok(Some(_)), Some(Err(error))) => {
                refused.push(format!("{own}: {error}"));
                continue;
            }
            (Ok(Some(enforcement)), Some(Ok(enforced))) => (enforcement, enforced),
        };
        looked_at += 1;
        let found = weak(own, enforced, enforcement);
        if enforcement == Enforcement::Warn { &mut warned } else { &mut refused }.extend(found);
    }
    let remedy = format!(
        "have them made by a QuantumCertificate with the same secretName, or beside it where the label is {ENFORCE}: \
         {}; nothing of what is there is broken until it changes",
        Enforcement::Hybrid
    );
    vec![match (refused.as_slice(), warned.as_slice()) {
        ([], []) if looked_at == 0 => check.skipped(format!("no namespace is labelled {ENFORCE}")),
        ([], []) => check.passed(format!("in {looked_at} namespaces")),
        ([], some) => check.warned(few(some), remedy),
        (some, more) => check.failed(few(&[some, more].concat()), remedy),
    }]
}

fn weak(own: &str, enforced: &Enforced, enforcement: Enforcement) -> Vec<String> {
    let mut found = Vec::new();
    for ((namespace, name), items) in &enforced.certificates {
        // In a hybrid namespace it may be half of a pair: what counts is where it is served.
        if namespace == own && enforcement != Enforcement::Hybrid {
            found.extend(weakness(items).map(|what| format!("Secret {namespace}/{name}: {what}")));
        }
    }
    for Naming { route, name, named } in &enforced.routes {
        for one in named {
            let certificate = |namespace: &str, name: &str| {
                enforced.certificates.get(&(namespace.to_owned(), name.to_owned()))
            };
            let Some(items) = certificate(&one.namespace, &one.name) else { continue };
            let Some(what) = weakness(items) else { continue };
            let beside = named.iter().filter(|other| other.place == one.place);
            let beside: Vec<&Items> =
                beside.filter_map(|other| certificate(&other.namespace, &other.name)).collect();
            if enforcement == Enforcement::Hybrid && paired(items, &beside) {
                continue;
            }
            let (kind, secret) = (route.kind(), format!("Secret {}/{}", one.namespace, one.name));
            found.push(format!("{kind} {own}/{name}, {}: {secret}: {what}", one.field));
        }
    }
    found
}

fn weakness(items: &Items) -> Option<String> {
    match Chain::read(items.0.get(CERTIFICATE_ITEM)?) {
        Ok(chain) => Some(chain.weaknesses().join("; ")).filter(|weak| !weak.is_empty()),
        Err(ChainError::Empty) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn paired(items: &Items, beside: &[&Items]) -> bool {
    let own = items.0.values();
    let others = own.chain(beside.iter().filter_map(|other| other.0.get(CERTIFICATE_ITEM)));
    items.0.get(CERTIFICATE_ITEM).is_some_and(|pem| Chain::has_stand_in(pem, others.map(Vec::as_slice)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trellis_api::enforcement::Route;
    use trellis_pki::{clock::Clock, clock::ManualClock, serving::serving_certificate};

    use super::*;
    use crate::check::samples::{self, after, outcome};

    const NAME: &str = "those of enforced namespaces resist a quantum computer";
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

    fn classical() -> Vec<u8> {
        let clock = ManualClock::new(std::time::UNIX_EPOCH + 20_000 * DAY);
        let made = serving_certificate(&["web.example.org".to_owned()], clock.now(), DAY).unwrap();
        made.certificate_pem.into_bytes()
    }

    fn facts(label: &str, certificate: &[u8]) -> After {
        let mut facts = after();
        let namespace = samples::namespace("edge", json!({ENFORCE: label}));
        facts.before.namespaces = Ok(vec![namespace]);
        let items = Items([(CERTIFICATE_ITEM.to_owned(), certificate.to_vec())].into());
        let object = json!({"spec": {"tls": [{"secretName": "web-tls"}, {"secretName": "none"}]}});
        let enforced = Enforced {
            certificates: [(("edge".to_owned(), "web-tls".to_owned()), items)].into(),
            routes: vec![Naming {
                route: Route::Ingress,
                name: "web".to_owned(),
                named: Route::Ingress.named(&object, "edge"),
            }],
        };
        facts.enforced = [("edge".to_owned(), Ok(enforced))].into();
        facts
    }

    #[test]
    fn what_does_not_resist_is_named_where_it_is_and_where_it_is_served() {
        let certificate = classical();
        let what = "the certificate of CN=web.example.org has a key of ECDSA-P256 and a signature of ECDSA";
        let secret = format!("Secret edge/web-tls: {what}");
        let served = format!("Ingress edge/web, spec.tls[0].secretName: {secret}");
        let of = |label: &str| outcome(&all(&facts(label, &certificate)), NAME);
        assert_eq!(of("deny"), format!("failed: {secret}, {served}"));
        assert_eq!(of("warn"), format!("warned: {secret}, {served}"));
        assert_eq!(of("hybrid"), format!("failed: {served}"));
        assert!(of("dny").starts_with("failed: edge: label `trellis.dev/enforce: dny`"), "{}", of("dny"));
        assert!(outcome(&all(&facts("deny", b"x")), NAME).contains("it is no PEM of certificates"));
    }

    #[test]
    fn what_resists_and_what_is_not_filled_passes() {
        let anchor =
            trellis_pki::bundle::Bundle::from_pem("cluster.local", &samples::bundle()).unwrap().to_pem();
        for certificate in [anchor.as_bytes(), b""] {
            for label in ["warn", "hybrid", "deny"] {
                assert_eq!(outcome(&all(&facts(label, certificate)), NAME), "passed: in 1 namespaces");
            }
        }
        let mut nowhere = after();
        nowhere.before.namespaces = Ok(Vec::new());
        assert!(outcome(&all(&nowhere), NAME).starts_with("skipped: no namespace is labelled"));
        let mut facts = facts("deny", b"");
        facts.enforced = [("edge".to_owned(), Err("forbidden".to_owned()))].into();
        assert_eq!(outcome(&all(&facts), NAME), "failed: edge: forbidden");
    }
}
