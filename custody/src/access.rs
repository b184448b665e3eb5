//! Who may refer to what: grants across namespaces, and ServiceAccounts that a key is for.

use trellis_api::{crypto::Kind, gateway::ReferenceGrant};

use crate::{
    id::{Group, Id},
    sources::{Obstacle, Source},
};

/// What a reference leads to, as grants name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> Target<'a> {
    pub fn object(id: &'a Id) -> Self {
        Self { group: id.group.as_str(), kind: id.kind.as_str(), namespace: &id.namespace, name: &id.name }
    }
}

/// Whether a grant of the target's namespace lets objects of a kind and namespace refer to it.
pub(crate) fn grants(grant: &ReferenceGrant, from: (Group, Kind, &str), to: &Target<'_>) -> bool {
    let (group, kind, namespace) = from;
    let spec = &grant.spec;
    let from = spec
        .from
        .iter()
        .any(|one| one.group == group.as_str() && one.kind == kind.as_str() && one.namespace == namespace);
    let to = spec.to.iter().any(|one| {
        let named = one.name.as_deref().filter(|name| !name.is_empty()).is_none_or(|name| name == to.name);
        one.group == to.group && one.kind == to.kind && named
    });
    from && to
}

/// What a grant has to say, for who is to make it.
pub(crate) fn wanted(from: (Group, Kind, &str), to: &Target<'_>) -> String {
    let (group, kind, namespace) = from;
    format!(
        "in namespace {} from {{group: {}, kind: {}, namespace: {namespace}}} to {{group: \"{}\", kind: {}}}",
        to.namespace,
        group.as_str(),
        kind.as_str(),
        to.group,
        to.kind
    )
}

/// Whether a key is for the ServiceAccount that an operation of `namespace` names.
pub(crate) fn may_use(
    field: &'static str,
    pair: &Source,
    namespace: &str,
    account: Option<&str>,
) -> Result<(), Obstacle> {
    let allowed: Vec<&str> = match pair.spec["allowedServiceAccounts"].as_array() {
        Some(all) => all.iter().filter_map(|one| one.as_str()).collect(),
        None => Vec::new(),
    };
    if allowed.is_empty() {
        return Ok(());
    }
    let account = account.filter(|account| !account.is_empty());
    let is = |one: &&str| match one.split_once('/') {
        Some((of, name)) => of == namespace && Some(name) == account,
        None => *pair.id.namespace == *namespace && Some(*one) == account,
    };
    if allowed.iter().any(is) {
        return Ok(());
    }
    let account = account.map(|account| format!("{namespace}/{account}"));
    Err(Obstacle::Denied { field, what: pair.id.to_string(), account })
}
