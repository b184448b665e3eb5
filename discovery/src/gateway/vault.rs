//! Certificates with their keys and authorities, as Secrets and ConfigMaps hold them, of those namespaces
//! only that something refers to. Whether they are any good is judged once, when they come.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Resource, api::ObjectMeta};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use trellis_api::{
    crypto::{CLASSICAL_CERTIFICATE, CLASSICAL_KEY},
    names,
    source::{Change, Sight},
};

use crate::{change::puts, name::Name};

/// The type of Secrets with a certificate, its key and chain.
pub const TLS_SECRET: &str = "kubernetes.io/tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// A second one for the same names, for clients that cannot verify the first: what a QuantumCertificate with
/// `hybrid` keeps.
const CLASSICAL: (&str, &str) = (CLASSICAL_CERTIFICATE, CLASSICAL_KEY);
const AUTHORITIES: &str = "ca.crt";

/// Of what kind objects are kept of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Secret,
    ConfigMap,
}

/// Objects of one kind in one namespace.
pub type Drawer = (Kind, Arc<str>);

#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    pub chain_pem: String,
    pub key_pem: Vec<u8>,
    /// Of the same Secret, for clients that cannot verify this one.
    pub beside: Option<Box<Self>>,
}

#[derive(Debug, Default)]
pub struct Vault {
    secrets: Shelf<Certificate>,
    config_maps: Shelf<String>,
}

type Shelf<T> = HashMap<Arc<str>, Namespace<T>>;

#[derive(Debug)]
struct Namespace<T> {
    state: State,
    /// What is wrong with it, in the place of what is of no use.
    objects: BTreeMap<Arc<str>, Result<T, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not seen yet.
    Pending,
    Open,
    Forbidden,
}

/// Why something cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub String);

impl Vault {
    pub fn certificate(&self, name: &Name) -> Result<&Certificate, Unusable> {
        look(&self.secrets, Kind::Secret, name)
    }

    /// PEM.
    pub fn authorities(&self, name: &Name) -> Result<&String, Unusable> {
        look(&self.config_maps, Kind::ConfigMap, name)
    }

    pub fn see_secrets(&mut self, namespace: &Arc<str>, sight: Sight<Secret>) -> bool {
        see(&mut self.secrets, namespace, sight, |secret| {
            (secret.type_.as_deref() == Some(TLS_SECRET)).then(|| certificate(secret))
        })
    }

    pub fn see_config_maps(&mut self, namespace: &Arc<str>, sight: Sight<ConfigMap>) -> bool {
        see(&mut self.config_maps, namespace, sight, |map| {
            let text = map.data.as_ref().and_then(|data| data.get(AUTHORITIES));
            Some(match text {
                Some(text) => authorities(text),
                None => Err(format!("has no item {AUTHORITIES} with certificates in PEM")),
            })
        })
    }

    /// Opens drawers that are wanted, to be filled, and closes the others.
    pub fn want(&mut self, wanted: &BTreeSet<Drawer>) {
        fn keep<T>(shelf: &mut Shelf<T>, kind: Kind, wanted: &BTreeSet<Drawer>) {
            shelf.retain(|namespace, _| wanted.contains(&(kind, namespace.clone())));
            for (_, namespace) in wanted.iter().filter(|(of, _)| *of == kind) {
                let empty = || Namespace { state: State::Pending, objects: BTreeMap::new() };
                shelf.entry(namespace.clone()).or_insert_with(empty);
            }
        }
        keep(&mut self.secrets, Kind::Secret, wanted);
        keep(&mut self.config_maps, Kind::ConfigMap, wanted);
    }

    /// Drawers that have not been seen yet.
    pub fn pending(&self) -> bool {
        self.secrets.values().any(|one| one.state == State::Pending)
            || self.config_maps.values().any(|one| one.state == State::Pending)
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

impl std::fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

fn look<'a, T>(shelf: &'a Shelf<T>, kind: Kind, name: &Name) -> Result<&'a T, Unusable> {
    let unusable = |why: String| Unusable(format!("{} {name}: {why}", kind.name()));
    match shelf.get(&name.namespace) {
        None | Some(Namespace { state: State::Pending, .. }) => Err(unusable("has not been read yet".into())),
        Some(Namespace { state: State::Forbidden, .. }) => {
            let (role, namespace) = (names::GATEWAY_CERTIFICATES_ROLE, &name.namespace);
            Err(unusable(format!(
                "may not be read; make a RoleBinding in namespace {namespace} of ClusterRole {role} to \
                 ServiceAccount {}, or add the namespace to the chart's gateway.certificateNamespaces",
                names::DISCOVERY
            )))
        }
        Some(Namespace { objects, .. }) => match objects.get(&name.name) {
            None => Err(unusable(match kind {
                Kind::Secret => format!("there is none of type {TLS_SECRET}"),
                Kind::ConfigMap => "there is none".into(),
            })),
            Some(Err(why)) => Err(unusable(why.clone())),
            Some(Ok(object)) => Ok(object),
        },
    }
}

/// Whether that is something else than before.
fn see<K: Resource, T: PartialEq>(
    shelf: &mut Shelf<T>,
    namespace: &Arc<str>,
    sight: Sight<K>,
    keep: impl Fn(&K) -> Option<Result<T, String>>,
) -> bool {
    // One that is no longer wanted has nothing to say.
    let Some(kept) = shelf.get_mut(namespace) else { return false };
    let state = match &sight {
        Sight::Forbidden => State::Forbidden,
        Sight::Seen(Change::Reset(_)) => State::Open,
        Sight::Seen(_) => kept.state,
    };
    let mut changed = std::mem::replace(&mut kept.state, state) != state;
    let change = match sight {
        Sight::Forbidden => Change::Reset(Vec::new()),
        Sight::Seen(change) => change,
    };
    let name = |meta: &ObjectMeta| -> Arc<str> { meta.name.as_deref().unwrap_or_default().into() };
    let known: Vec<_> = kept.objects.keys().cloned().collect();
    for (name, object) in puts(change, known.iter(), name, keep) {
        changed |= kept.objects.get(&name) != object.as_ref();
        match object {
            Some(object) => drop(kept.objects.insert(name, object)),
            None => drop(kept.objects.remove(&name)),
        }
    }
    changed
}

fn certificate(secret: &Secret) -> Result<Certificate, String> {
    let first = pair(secret, (CERTIFICATE, KEY))?;
    let has = |name: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(name));
    if !has(CLASSICAL.0) && !has(CLASSICAL.1) {
        return Ok(first);
    }
    Ok(Certificate { beside: Some(Box::new(pair(secret, CLASSICAL)?)), ..first })
}

fn pair(secret: &Secret, (certificate, key): (&str, &str)) -> Result<Certificate, String> {
    let item = |name: &str| {
        let item = secret.data.as_ref().and_then(|data| data.get(name)).map(|item| item.0.as_slice());
        item.ok_or_else(|| format!("has no item {name}"))
    };
    let (chain, private) = (item(certificate)?, item(key)?);
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{certificate}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{certificate}: holds no certificate in PEM"));
    }
    let der = PrivateKeyDer::from_pem_slice(private).map_err(|error| format!("{key}: {error}"))?;
    let provider = aws_lc_rs::default_provider();
    let loaded = provider.key_provider.load_private_key(der).map_err(|error| format!("{key}: {error}"))?;
    CertifiedKey::new(certificates, loaded)
        .keys_match()
        .map_err(|error| format!("{key}: is not the key of {certificate}: {error}"))?;
    let chain_pem = String::from_utf8(chain.to_vec()).map_err(|_| format!("{certificate}: is no text"))?;
    Ok(Certificate { chain_pem, key_pem: private.to_vec(), beside: None })
}

fn authorities(pem: &str) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("{AUTHORITIES}: {error}"))?;
        roots.add(certificate).map_err(|error| format!("{AUTHORITIES}: {error}"))?;
    }
    match roots.is_empty() {
        true => Err(format!("{AUTHORITIES}: holds no certificate in PEM")),
        false => Ok(pem.to_owned()),
    }
}
