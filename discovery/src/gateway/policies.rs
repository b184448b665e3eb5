//! BackendTLSPolicies: how applications that want TLS are spoken to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use trellis_api::{
    gateway::BackendTlsPolicy,
    proto::discovery::{self as proto, subject_alt_name},
};

use super::{
    listener::Problem,
    route::created,
    vault::{Drawer, Kind, Vault},
};
use crate::{index::Index, name::Name, service::Service};

#[derive(Debug, Default)]
pub struct Policies {
    policies: HashMap<Name, Policy>,
    by_target: Index<Name>,
    /// What holds on the ports of those Services that are targets.
    held: HashMap<Name, BTreeMap<u16, Arc<proto::BackendTls>>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub created: i64,
    pub generation: i64,
    pub targets: Box<[Target]>,
    hostname: String,
    names: Vec<proto::SubjectAltName>,
    authorities: Authorities,
    /// Why it cannot be obeyed, whatever is there.
    invalid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub service: Name,
    /// The name of a port; all, where there is none.
    pub section: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Authorities {
    /// Those that the machine trusts.
    System,
    Referred(Box<[AuthorityRef]>),
}

/// Group, kind, and the name of a ConfigMap.
type AuthorityRef = (Box<str>, Box<str>, Name);

/// What became of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub accepted: Result<(), Problem>,
    pub resolved: Result<(), Problem>,
}

impl Policy {
    pub fn of(policy: &BackendTlsPolicy) -> Self {
        let (name, spec) = (Name::of(&policy.metadata), &policy.spec);
        let targets =
            spec.target_refs.iter().filter(|target| target.group.is_empty() && target.kind == "Service");
        let validation = &spec.validation;
        let mut invalid = None;
        let names = validation.subject_alt_names.iter().flatten().filter_map(|alternative| {
            let name = match (alternative.r#type.as_str(), &alternative.hostname, &alternative.uri) {
                ("Hostname", Some(hostname), _) => subject_alt_name::Name::Hostname(hostname.clone()),
                ("URI", _, Some(uri)) => subject_alt_name::Name::Uri(uri.clone()),
                (other, ..) => {
                    invalid = Some(format!(
                        "validation.subjectAltNames: type {other} is not known, or its value is not there; use \
                         Hostname with hostname, or URI with uri"
                    ));
                    return None;
                }
            };
            Some(proto::SubjectAltName { name: Some(name) })
        });
        let names = names.collect();
        let references = validation.ca_certificate_refs.iter().flatten();
        let references: Box<[_]> = references
            .map(|one| (one.group.as_str().into(), one.kind.as_str().into(), name.beside(&one.name)))
            .collect();
        let authorities = match (references.is_empty(), validation.well_known_ca_certificates.as_deref()) {
            (true, Some("System")) => Authorities::System,
            (true, other) => {
                let other = other.unwrap_or("nothing");
                invalid = Some(format!(
                    "validation.wellKnownCACertificates: {other} is not known; use System, or caCertificateRefs"
                ));
                Authorities::Referred(references)
            }
            (false, _) => Authorities::Referred(references),
        };
        Self {
            created: created(&policy.metadata),
            generation: policy.metadata.generation.unwrap_or_default(),
            targets: targets
                .map(|target| Target {
                    service: name.beside(&target.name),
                    section: target.section_name.as_deref().map(Into::into),
                })
                .collect(),
            hostname: validation.hostname.clone(),
            names,
            authorities,
            invalid,
        }
    }

    fn authorities(&self, vault: &Vault) -> (Vec<String>, Verdict) {
        let mut verdict = Verdict { accepted: Ok(()), resolved: Ok(()) };
        if let Some(invalid) = &self.invalid {
            verdict.accepted = Err(Problem::new("Invalid", invalid.clone()));
        }
        let Authorities::Referred(references) = &self.authorities else { return (Vec::new(), verdict) };
        let mut found = Vec::new();
        for (group, kind, name) in references {
            let authority = match (&**group, &**kind) {
                ("", "ConfigMap") => vault.authorities(name).map_err(|why| {
                    Problem::new(
                        "InvalidCACertificateRef",
                        format!("validation.caCertificateRefs: {}", why.0),
                    )
                }),
                (group, kind) => Err(Problem::new(
                    "InvalidKind",
                    format!(
                        "validation.caCertificateRefs: kind {kind:?} of group {group:?} holds no authority; use a \
                         ConfigMap"
                    ),
                )),
            };
            match authority {
                Ok(authority) => found.push(authority.clone()),
                Err(problem) => verdict.resolved = verdict.resolved.and(Err(problem)),
            }
        }
        if found.is_empty() && verdict.accepted.is_ok() {
            let message = "validation: no authority can be had, so no certificate verifies";
            verdict.accepted = Err(Problem::new("NoValidCACertificate", message));
        }
        (found, verdict)
    }
}

impl Policies {
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.policies.keys()
    }

    pub fn get(&self, name: &Name) -> Option<&Policy> {
        self.policies.get(name)
    }

    /// Puts a policy in its place, and adds the Services of which something else may hold.
    pub fn put(&mut self, name: &Name, new: Option<Policy>, stale: &mut BTreeSet<Name>) {
        let old = self.policies.remove(name);
        if old != new {
            for target in old.iter().flat_map(|policy| &policy.targets) {
                self.by_target.remove(&target.service, name);
                stale.insert(target.service.clone());
            }
            for target in new.iter().flat_map(|policy| &policy.targets) {
                self.by_target.insert(target.service.clone(), name);
                stale.insert(target.service.clone());
            }
        }
        if let Some(new) = new {
            self.policies.insert(name.clone(), new);
        }
    }

    /// Policies of a Service.
    pub fn targeting(&self, service: &Name) -> &[Name] {
        self.by_target.get(service)
    }

    /// Services that policies of this namespace are about.
    pub fn targets_in(&self, namespace: &str) -> impl Iterator<Item = &Name> {
        let policies = self.policies.iter().filter(move |(name, _)| *name.namespace == *namespace);
        policies.flat_map(|(_, policy)| policy.targets.iter().map(|target| &target.service))
    }

    pub fn wanted(&self) -> impl Iterator<Item = Drawer> {
        self.policies.values().flat_map(|policy| {
            match &policy.authorities {
                Authorities::System => [].iter(),
                Authorities::Referred(references) => references.iter(),
            }
            .map(|(.., name)| (Kind::ConfigMap, name.namespace.clone()))
        })
    }

    /// Works out anew how a Service is spoken to, and says whether it is in another way.
    pub fn renew(&mut self, name: &Name, services: &HashMap<Name, Service>, vault: &Vault) -> bool {
        let ports = services.get(name).map_or_else(BTreeMap::new, |service| {
            let ports = service.ports.iter();
            ports
                .filter_map(|port| Some((port.number, Arc::new(self.of_port(name, &port.name, vault)?))))
                .collect()
        });
        let same = self.held.get(name).map_or(ports.is_empty(), |before| *before == ports);
        match ports.is_empty() {
            true => drop(self.held.remove(name)),
            false => drop(self.held.insert(name.clone(), ports)),
        }
        !same
    }

    pub fn held(&self, service: &Name, port: u16) -> Option<&Arc<proto::BackendTls>> {
        self.held.get(service)?.get(&port)
    }

    /// What became of a policy: it counts for a target unless an older one does.
    pub fn verdict(&self, name: &Name, policy: &Policy, vault: &Vault) -> Verdict {
        let (_, mut verdict) = policy.authorities(vault);
        let loses = policy.targets.iter().find_map(|target| {
            let winner = self.winner(&target.service, target.section.as_deref())?;
            (winner != name).then_some((target, winner))
        });
        if let Some((target, winner)) = loses {
            let message = format!("targetRefs: {winner} is older and has Service {}", target.service);
            verdict.accepted = Err(Problem::new("Conflicted", message));
        }
        verdict
    }

    /// One that names the port comes before one that does not.
    fn of_port(&self, service: &Name, port: &str, vault: &Vault) -> Option<proto::BackendTls> {
        let winner = self.winner(service, Some(port)).or_else(|| self.winner(service, None))?;
        let policy = self.policies.get(winner)?;
        let (authorities, verdict) = policy.authorities(vault);
        let invalid = match verdict.resolved.and(verdict.accepted) {
            // Those that could be had will do.
            Err(problem) if authorities.is_empty() => {
                format!("BackendTLSPolicy {winner}: {}", problem.message)
            }
            _ => match &policy.invalid {
                Some(invalid) => format!("BackendTLSPolicy {winner}: {invalid}"),
                None => String::new(),
            },
        };
        Some(proto::BackendTls {
            hostname: policy.hostname.clone(),
            authorities,
            names: policy.names.clone(),
            invalid,
        })
    }

    /// Of those that target exactly this, the oldest.
    fn winner(&self, service: &Name, section: Option<&str>) -> Option<&Name> {
        let names = self.by_target.get(service).iter();
        let targeting = names.filter_map(|name| {
            let policy = self.policies.get(name)?;
            let mut targets = policy.targets.iter();
            targets
                .any(|target| target.service == *service && target.section.as_deref() == section)
                .then_some((policy.created, name))
        });
        targeting.min().map(|(_, name)| name)
    }
}
