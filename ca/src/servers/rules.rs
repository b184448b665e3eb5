//! Which names a server may be certified under: those that lead to its own namespace.

use trellis_custody::{Refused, Server};

/// As many as a workload's certificate has.
const MAX_NAMES: usize = 32;

/// Who may make objects in a namespace may run what its Services lead to, so their names are its own; those
/// of another namespace, of the control plane, and of the world outside are not. An unqualified name could be
/// anybody's.
pub(super) fn check_names(
    wanted: &Server<'_>,
    own_namespace: &str,
    cluster_domain: &str,
) -> Result<(), Refused> {
    let denied = |field, why| Err(Refused::Denied { field, why });
    let namespace = wanted.namespace;
    if namespace == own_namespace {
        let why = format!("the control plane's own namespace {namespace} gets no certificates in this way");
        return denied("spec.issuerRef", why);
    }
    if wanted.names.is_empty() || wanted.names.len() > MAX_NAMES {
        let why = format!("{} names: the CA of the mesh certifies 1 to {MAX_NAMES}", wanted.names.len());
        return denied("spec.dnsNames", why);
    }
    let long = format!(".{namespace}.svc.{cluster_domain}");
    let short = format!(".{namespace}.svc");
    let own = |name: &String| {
        let host = name.strip_suffix(&long).or_else(|| name.strip_suffix(&short));
        // A Service, or a pod of it: with more labels, a name could be one of two in odd cluster domains.
        host.is_some_and(|host| !host.is_empty() && host.split('.').count() <= 2)
    };
    match wanted.names.iter().find(|name| !own(name)) {
        None => Ok(()),
        Some(foreign) => denied(
            "spec.dnsNames",
            format!(
                "{foreign:?} is none of this namespace: the CA of the mesh certifies NAME{short} and NAME{long}, with \
                 a pod's name or a wildcard before it if need be; for others name a QuantumCertificate that is a CA"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use trellis_pki::{algorithm::Algorithm, key::PrivateKey};

    use super::*;

    fn check(namespace: &str, names: &[&str], cluster_domain: &str) -> Result<(), Refused> {
        let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Server {
            namespace,
            object: "web",
            names: &names,
            key: key.public_key(),
            companion: false,
            life: Duration::from_secs(3600),
            now: UNIX_EPOCH,
        };
        check_names(&wanted, "trellis-system", cluster_domain)
    }

    #[test]
    fn names_of_the_namespace_are_its_own_and_no_others() {
        for name in [
            "web.shop.svc",
            "web.shop.svc.cluster.local",
            "db-0.db.shop.svc.cluster.local",
            "*.db.shop.svc",
            "*.shop.svc.cluster.local",
        ] {
            assert_eq!(check("shop", &[name], "cluster.local"), Ok(()), "{name}");
        }
        for name in [
            "web",
            "web.shop",
            "shop.svc",
            ".shop.svc",
            "web.other.svc",
            "web.other.svc.cluster.local",
            "web.myshop.svc",
            "trellis-ca.trellis-system.svc",
            "kubernetes.default.svc",
            "web.shop.svc.cluster.local.evil.example",
            "web.shop.svc.other.local",
            "a.b.c.shop.svc",
            "shop.example",
            "*",
            "",
        ] {
            let said = check("shop", &["web.shop.svc", name], "cluster.local");
            assert!(matches!(said, Err(Refused::Denied { field: "spec.dnsNames", .. })), "{name}");
        }
        // Where a cluster is called like a namespace, a full name of another namespace ends as names of it do.
        assert!(check("shop", &["web.other.svc.shop.svc"], "shop.svc").is_err());
    }

    #[test]
    fn the_control_plane_gets_none_and_nobody_gets_a_list_without_end() {
        let own = check("trellis-system", &["trellis-ca.trellis-system.svc"], "cluster.local");
        assert!(matches!(own, Err(Refused::Denied { field: "spec.issuerRef", .. })));
        assert!(check("shop", &[], "cluster.local").is_err());
        assert!(check("shop", &["web.shop.svc"; 33], "cluster.local").is_err());
    }
}
