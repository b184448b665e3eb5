//! TLS of a listener: its certificates, which clients it demands, and the key exchange.

use trellis_api::{
    gateway::{FrontendValidation, GatewaySpec, SecretRef},
    names::{self, KEY_EXCHANGE_OPTION},
    proto::discovery::{self as proto, listener_tls::KeyExchange},
};

use super::{
    World,
    grant::From,
    listener::{Entry, Problem},
    vault::Certificate,
};
use crate::name::Name;

/// TLS of a listener, as far as it could be made out.
pub struct Tls {
    pub tls: proto::ListenerTls,
    pub accepted: Result<(), Problem>,
    pub resolved: Result<(), Problem>,
}

pub fn tls(entry: &Entry<'_>, from: From<'_>, spec: &GatewaySpec, gateway: &Name, world: &World<'_>) -> Tls {
    let given = entry.listener.tls.as_ref();
    let key_exchange =
        given.map_or(Ok(KeyExchange::Prefer), |tls| key_exchange(tls.options.iter().flatten()));
    let mut certificates = Vec::new();
    let mut resolved = Ok(());
    for reference in given.iter().flat_map(|tls| tls.certificate_refs.iter().flatten()) {
        match all_of(reference, from, world) {
            Ok(of_secret) => certificates.extend(of_secret),
            Err(problem) => resolved = resolved.and(Err(problem)),
        }
    }
    if certificates.is_empty() && resolved.is_ok() {
        let message = "tls.certificateRefs: names no certificate; add a Secret of type kubernetes.io/tls";
        resolved = Err(Problem::new("InvalidCertificateRef", message));
    }
    let mut accepted = key_exchange.as_ref().map(|_| ()).map_err(Clone::clone);
    let mut clients = None;
    if let Some(validation) = validation(spec, entry.port()) {
        let found = authorities(validation, gateway, world);
        resolved = resolved.and(found.resolved);
        if found.authorities.is_empty() {
            let message =
                "the gateway's tls.frontend: no authority of clients can be had, so none can be let in";
            accepted = accepted.and(Err(Problem::new("NoValidCACertificate", message)));
        }
        let optional = validation.mode.as_deref() == Some("AllowInsecureFallback");
        clients = Some(proto::ClientValidation { authorities: found.authorities, optional });
    }
    let key_exchange = key_exchange.unwrap_or_default().into();
    Tls { tls: proto::ListenerTls { certificates, clients, key_exchange }, accepted, resolved }
}

/// Options of others mean nothing here. One of ours that is misspelt must not mean less than was wanted.
fn key_exchange<'a>(options: impl Iterator<Item = (&'a String, &'a String)>) -> Result<KeyExchange, Problem> {
    let mut found = KeyExchange::Prefer;
    for (key, value) in options.filter(|(key, _)| key.starts_with(names::PREFIX)) {
        let unsupported = |what: String| Err(Problem::new("UnsupportedValue", what));
        found = match (key.as_str(), value.as_str()) {
            (KEY_EXCHANGE_OPTION, "prefer") => KeyExchange::Prefer,
            (KEY_EXCHANGE_OPTION, "require") => KeyExchange::Require,
            (KEY_EXCHANGE_OPTION, "classical") => KeyExchange::Classical,
            (KEY_EXCHANGE_OPTION, value) => {
                return unsupported(format!(
                    "tls.options[{key}]: {value:?} is not known; use prefer, require or classical"
                ));
            }
            (key, _) => {
                return unsupported(format!(
                    "tls.options: {key} is not known; did you mean {KEY_EXCHANGE_OPTION}?"
                ));
            }
        };
    }
    Ok(found)
}

/// The certificate that a field refers to; `reason` is why there is none, where the field permits it.
pub fn certificate(
    given: &SecretRef,
    from: From<'_>,
    world: &World<'_>,
    field: &str,
    reason: &'static str,
) -> Result<proto::Certificate, Problem> {
    let (name, certificate) = look_up(given, from, world, field, reason)?;
    Ok(told(&name, certificate))
}

/// The same with the one beside it, if its Secret has one.
fn all_of(
    given: &SecretRef,
    from: From<'_>,
    world: &World<'_>,
) -> Result<impl Iterator<Item = proto::Certificate>, Problem> {
    let (name, certificate) = look_up(given, from, world, "tls.certificateRefs", "InvalidCertificateRef")?;
    let beside = certificate.beside.as_deref();
    Ok([told(&name, certificate)].into_iter().chain(beside.map(|beside| told(&name, beside))))
}

fn told(name: &Name, certificate: &Certificate) -> proto::Certificate {
    proto::Certificate {
        source: name.to_string(),
        chain_pem: certificate.chain_pem.clone(),
        key_pem: certificate.key_pem.clone(),
    }
}

fn look_up<'a>(
    given: &SecretRef,
    from: From<'_>,
    world: &World<'a>,
    field: &str,
    reason: &'static str,
) -> Result<(Name, &'a Certificate), Problem> {
    let (group, kind) =
        (given.group.as_deref().unwrap_or_default(), given.kind.as_deref().unwrap_or("Secret"));
    if (group, kind) != ("", "Secret") {
        let message = format!("{field}: kind {kind:?} of group {group:?} holds no certificate; use a Secret");
        return Err(Problem::new(reason, message));
    }
    let name = Name::new(given.namespace.as_deref().unwrap_or(from.namespace), &given.name);
    permitted(from, "Secret", &name, world, field)?;
    let found = world.vault.certificate(&name);
    let certificate = found.map_err(|why| Problem::new(reason, format!("{field}: {}", why.0)))?;
    Ok((name, certificate))
}

fn permitted(from: From<'_>, kind: &str, name: &Name, world: &World<'_>, field: &str) -> Result<(), Problem> {
    match world.grants.permit(from, kind, name) {
        true => Ok(()),
        false => Err(Problem::new(
            "RefNotPermitted",
            format!("{field}: no ReferenceGrant of namespace {} allows {kind} {name}", name.namespace),
        )),
    }
}

/// What clients on this port are asked for: what the gateway says of the port, else of all.
pub fn validation(spec: &GatewaySpec, port: u16) -> Option<&FrontendValidation> {
    let frontend = spec.tls.as_ref()?.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().flatten().find(|one| one.port == i32::from(port));
    of_port.map_or(&frontend.default, |one| &one.tls).validation.as_ref()
}

struct Authorities {
    authorities: Vec<String>,
    resolved: Result<(), Problem>,
}

fn authorities(given: &FrontendValidation, gateway: &Name, world: &World<'_>) -> Authorities {
    const FIELD: &str = "the gateway's tls.frontend: caCertificateRefs";
    let mut found = Authorities { authorities: Vec::new(), resolved: Ok(()) };
    let from = From { kind: "Gateway", namespace: &gateway.namespace };
    for reference in &given.ca_certificate_refs {
        let name = Name::new(reference.namespace.as_deref().unwrap_or(&gateway.namespace), &reference.name);
        let authority = if (reference.group.as_str(), reference.kind.as_str()) != ("", "ConfigMap") {
            let (group, kind) = (&reference.group, &reference.kind);
            let message =
                format!("{FIELD}: kind {kind:?} of group {group:?} holds no authority; use a ConfigMap");
            Err(Problem::new("InvalidCACertificateKind", message))
        } else {
            permitted(from, "ConfigMap", &name, world, FIELD).and_then(|()| {
                let invalid = |why: super::vault::Unusable| {
                    Problem::new("InvalidCACertificateRef", format!("{FIELD}: {}", why.0))
                };
                world.vault.authorities(&name).cloned().map_err(invalid)
            })
        };
        match authority {
            Ok(authority) => found.authorities.push(authority),
            Err(problem) => found.resolved = found.resolved.and(Err(problem)),
        }
    }
    found
}
