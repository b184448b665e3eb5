//! Namespaces in which certificates have to resist a quantum computer: what becomes of a Secret with a
//! certificate, and of an Ingress or a Gateway that names one, given what was read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use trellis_api::{
    crypto,
    enforcement::{
        CERTIFICATE_ITEM, CERTIFICATES_ROLE, ENFORCE, Enforcement, Items, Named, Route, UnknownEnforcement,
    },
    names::INJECTOR,
};
use trellis_pki::resistance::{Chain, ChainError};

use crate::{
    certificates::Unread,
    review::{Cause, Request},
    verdict::{self, Verdict},
};

/// Secrets that one object may name: they are read while somebody waits.
pub const MOST_SECRETS: usize = 64;

/// A Secret that an object names, by namespace and name.
pub type Key = (String, String);
/// What was read of them.
pub type Read = BTreeMap<Key, Result<Items, Unread>>;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Secret,
    Route(Route),
}

impl Subject {
    pub fn of(request: &Request) -> Option<Self> {
        let resource = &request.resource;
        match (resource.group.as_str(), resource.resource.as_str()) {
            ("", "secrets") => Some(Self::Secret),
            (group, plural) => Route::of(group, plural).map(Self::Route),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::Route(route) => route.kind(),
        }
    }
}

/// A label that nobody can obey closes the namespace: whoever wrote it wanted something enforced.
pub fn unknown(request: &Request, subject: Subject, error: &UnknownEnforcement) -> Verdict {
    let namespace = &request.namespace;
    let message =
        format!("{error}; correct it with: kubectl label namespace {namespace} {ENFORCE}=deny --overwrite");
    let cause = Cause { field: "metadata.namespace".to_owned(), message };
    verdict::invalid(request, subject.kind(), "unknown_enforcement", &[cause])
}

/// The Secrets that an object names and that are to be looked at: what is served already is not broken.
pub fn added(request: &Request, route: Route, enforcement: Enforcement) -> Vec<Named> {
    let known = route.named(&request.old_object, &request.namespace);
    let now = route.named(&request.object, &request.namespace);
    let is_new = |one: &Named| match enforcement {
        // Those of one place stand in for one another: if one goes, the others are another matter.
        Enforcement::Hybrid => {
            let set = together(&now, &one.place);
            !known.iter().any(|before| together(&known, &before.place) == set)
        }
        Enforcement::Warn | Enforcement::Deny => !known.iter().any(|before| key(before) == key(one)),
    };
    now.iter().filter(|one| is_new(one)).cloned().collect()
}

fn together(named: &[Named], place: &str) -> BTreeSet<Key> {
    named.iter().filter(|one| one.place == place).map(key).collect()
}

pub fn key(named: &Named) -> Key {
    (named.namespace.clone(), named.name.clone())
}

/// Too many to be read while somebody waits.
pub fn too_many(request: &Request, route: Route, found: usize) -> Verdict {
    let message = format!(
        "names {found} Secrets, and the certificates of no more than {MOST_SECRETS} are looked at: split it"
    );
    let cause = Cause { field: "spec".to_owned(), message };
    verdict::invalid(request, route.kind(), "too_many_secrets", &[cause])
}

pub fn judge_secret(request: &Request, enforcement: Enforcement) -> Verdict {
    let items = |object: &Value| object["data"].get(CERTIFICATE_ITEM).cloned();
    let Some(item) = items(&request.object) else { return verdict::accepted(request, &[]) };
    if request.operation == "UPDATE" && Some(&item) == items(&request.old_object).as_ref() {
        return verdict::accepted(request, &[]);
    }
    let found = match Items::deserialize(&request.object["data"]) {
        Ok(items) => weakness(&items, enforcement),
        Err(error) => Some(Weakness { what: error.to_string(), names: String::new() }),
    };
    let Some(found) = found else { return verdict::accepted(request, &[]) };
    let field = format!("data[{CERTIFICATE_ITEM}]");
    // It is where it is served that a pair is asked for: this one may be half of it.
    if enforcement == Enforcement::Hybrid {
        let warning = format!(
            "{field}: {}; here it may be served only beside one that resists, for the same names",
            found.what
        );
        return verdict::accepted(request, &[warning]);
    }
    let name = request.object["metadata"]["name"].as_str().unwrap_or(&request.name);
    let remedy = remedy(name, &found.names, enforcement);
    answer(request, Subject::Secret, enforcement, &[Finding { field, what: found.what, remedy }])
}

pub fn judge_route(
    request: &Request,
    route: Route,
    named: &[Named],
    read: &Read,
    enforcement: Enforcement,
    system: &str,
) -> Verdict {
    let mut findings = Vec::new();
    for one in named {
        let (namespace, name) = (&one.namespace, &one.name);
        let own = *namespace == request.namespace;
        let whose = format!("Secret {namespace}/{name}");
        let items = match read.get(&key(one)) {
            Some(Ok(items)) => items,
            // When it comes, it is looked at.
            Some(Err(Unread::Missing)) if own => continue,
            Some(Err(error)) => {
                let remedy = match error {
                    // It may come to be where nobody looks.
                    Unread::Missing => "it is not there yet: make it before".to_owned(),
                    Unread::Forbidden => allow(namespace, system),
                    Unread::Failed(_) => "try again".to_owned(),
                };
                findings.push(Finding {
                    field: one.field.clone(),
                    what: format!("{whose}: {error}"),
                    remedy,
                });
                continue;
            }
            None => continue,
        };
        let Some(found) = weakness(items, enforcement) else { continue };
        let beside = named.iter().filter(|other| other.place == one.place).filter_map(|other| {
            let Some(Ok(items)) = read.get(&key(other)) else { return None };
            items.0.get(CERTIFICATE_ITEM)
        });
        if enforcement == Enforcement::Hybrid && paired(items, beside) {
            continue;
        }
        // Whose certificate another namespace has is not told either.
        let what =
            if own { found.what } else { "its certificate does not resist a quantum computer".to_owned() };
        let names = if own { found.names } else { String::new() };
        findings.push(Finding {
            field: one.field.clone(),
            what: format!("{whose}: {what}"),
            remedy: remedy(name, &names, enforcement),
        });
    }
    answer(request, Subject::Route(route), enforcement, &findings)
}

struct Weakness {
    what: String,
    /// That it speaks for, with commas between them.
    names: String,
}

struct Finding {
    field: String,
    what: String,
    remedy: String,
}

/// What of a Secret's certificate does not resist. With a pair in the same Secret, nothing.
fn weakness(items: &Items, enforcement: Enforcement) -> Option<Weakness> {
    let pem = items.0.get(CERTIFICATE_ITEM)?;
    let chain = match Chain::read(pem) {
        Ok(chain) => chain,
        // Not filled yet: nobody can serve it.
        Err(ChainError::Empty) => return None,
        Err(error) => return Some(Weakness { what: error.to_string(), names: String::new() }),
    };
    let weak = chain.weaknesses();
    if weak.is_empty() || enforcement == Enforcement::Hybrid && paired(items, []) {
        return None;
    }
    let names: Vec<String> = chain.names().into_iter().take(8).collect();
    Some(Weakness { what: weak.join("; "), names: names.join(",") })
}

/// Whether a certificate that resists stands beside it, in the same Secret or among the others.
fn paired<'a>(items: &'a Items, beside: impl IntoIterator<Item = &'a Vec<u8>>) -> bool {
    let others = items.0.values().chain(beside).map(Vec::as_slice);
    items.0.get(CERTIFICATE_ITEM).is_some_and(|pem| Chain::has_stand_in(pem, others))
}

fn allow(namespace: &str, system: &str) -> String {
    format!(
        "allow it with: kubectl create rolebinding {CERTIFICATES_ROLE} -n {namespace} \
         --clusterrole={CERTIFICATES_ROLE} --serviceaccount={system}:{INJECTOR}"
    )
}

fn remedy(name: &str, names: &str, enforcement: Enforcement) -> String {
    let domain = if names.is_empty() { "its names" } else { names };
    let made = format!(
        "have it made by a QuantumCertificate ({}/{}) with secretName: {name}, domain: {domain}, algorithm: ML-DSA-65",
        crypto::GROUP,
        crypto::VERSION
    );
    match enforcement {
        Enforcement::Hybrid => format!("{made} beside it, and name both"),
        Enforcement::Warn | Enforcement::Deny => made,
    }
}

fn answer(request: &Request, subject: Subject, enforcement: Enforcement, findings: &[Finding]) -> Verdict {
    if findings.is_empty() {
        return verdict::accepted(request, &[]);
    }
    if enforcement == Enforcement::Warn {
        // Apart, since what is too long is cut.
        let said = findings.iter().flat_map(|Finding { field, what, remedy }| {
            [format!("{field}: {what}"), format!("{field}: {remedy}")]
        });
        return verdict::accepted(request, &said.collect::<Vec<_>>());
    }
    let causes = findings.iter().map(|Finding { field, what, remedy }| Cause {
        field: field.clone(),
        message: format!("{what}; {remedy} (the namespace says {ENFORCE}: {enforcement})"),
    });
    verdict::invalid(request, subject.kind(), "certificate", &causes.collect::<Vec<_>>())
}
