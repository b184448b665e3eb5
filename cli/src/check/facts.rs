//! What was asked of the cluster. Checks look at this and at nothing else.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
};

use trellis_api::{
    enforcement::{Items, Named, Route},
    pq_policy::PqPolicy,
};

use crate::stat::Seen;

/// What the cluster answered, or why it did not.
pub type Asked<T> = Result<T, String>;

#[derive(Debug)]
pub struct Before {
    /// The namespace of the control plane.
    pub system: String,
    pub version: Asked<Version>,
    /// Seconds that the local clock is ahead of the API server's.
    pub skew: Asked<i64>,
    /// What the user may not do, of what the installation needs.
    pub denied: Asked<Vec<Right>>,
    pub namespaces: Asked<Vec<Namespace>>,
}

#[derive(Debug)]
pub struct After {
    pub before: Before,
    pub deployments: Asked<Vec<Deployment>>,
    /// Whether the root's Secret is there. Its content stays where it is.
    pub root: Asked<bool>,
    pub trust_domain: String,
    /// The trust bundle in PEM of the control plane's namespace and of each that is labelled or has a pod in
    /// the mesh, where there is one.
    pub bundles: BTreeMap<String, Asked<Option<String>>>,
    pub webhook: Asked<Option<MutatingWebhookConfiguration>>,
    /// What became of a pod that was made on trial in a labelled namespace; nothing where none is labelled.
    pub trial: Option<Trial>,
    pub pods: Asked<Vec<Pod>>,
    /// None where the cluster does not know the kind.
    pub policies: Asked<Vec<PqPolicy>>,
    /// Of each namespace in which certificates have to resist.
    pub enforced: BTreeMap<String, Asked<Enforced>>,
    /// What the proxies of those pods say.
    pub proxies: Vec<Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    /// As the API server says it.
    pub text: String,
}

/// Something that a user may or may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
    pub namespaced: bool,
}

/// What of a namespace names or holds certificates.
#[derive(Clone, Debug, Default)]
pub struct Enforced {
    /// Of its Secrets of type kubernetes.io/tls, and of those that are named elsewhere, by namespace and name.
    pub certificates: BTreeMap<(String, String), Items>,
    /// Its Ingresses, Gateways and ListenerSets.
    pub routes: Vec<Naming>,
}

#[derive(Clone, Debug)]
pub struct Naming {
    pub route: Route,
    pub name: String,
    pub named: Vec<Named>,
}

#[derive(Clone, Debug)]
pub struct Trial {
    pub namespace: String,
    /// The pod as the cluster would have made it, or what it says against it.
    pub outcome: Asked<Pod>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, .. } = self;
        if group.is_empty() { write!(f, "{verb} {resource}") } else { write!(f, "{verb} {resource}.{group}") }
    }
}

const fn create(group: &'static str, resource: &'static str, namespaced: bool) -> Right {
    Right { verb: "create", group, resource, namespaced }
}

/// What the installation makes.
pub const NEEDED: [Right; 16] = [
    create("", "namespaces", false),
    create("", "serviceaccounts", true),
    create("", "services", true),
    create("", "configmaps", true),
    create("", "secrets", true),
    create("apps", "deployments", true),
    create("policy", "poddisruptionbudgets", true),
    create("networking.k8s.io", "networkpolicies", true),
    create("rbac.authorization.k8s.io", "roles", true),
    create("rbac.authorization.k8s.io", "rolebindings", true),
    create("rbac.authorization.k8s.io", "clusterroles", false),
    create("rbac.authorization.k8s.io", "clusterrolebindings", false),
    create("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    create("admissionregistration.k8s.io", "validatingwebhookconfigurations", false),
    create("admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    create("admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Kinds of the chart, from its templates.
    fn kinds(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(kinds(&path));
            } else {
                let text = fs::read_to_string(path).unwrap();
                found.extend(text.lines().filter_map(|line| Some(line.strip_prefix("kind: ")?.to_owned())));
            }
        }
        found
    }

    #[test]
    fn every_kind_of_the_chart_is_asked_about() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/trellis/templates");
        for kind in kinds(&chart) {
            // Made only where its CRD is there, by those who have it.
            if kind != "PrometheusRule" && kind != "GatewayClass" {
                let kind = kind.to_lowercase();
                let plural = kind.strip_suffix('y').map_or(format!("{kind}s"), |stem| format!("{stem}ies"));
                assert!(NEEDED.iter().any(|right| right.resource == plural), "{plural}");
            }
        }
    }
}
