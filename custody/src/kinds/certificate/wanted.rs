//! What a spec asks of a certificate, in the types of what issues it.

use serde_json::json;
use trellis_api::crypto::{CertificateSpec, CertificateType, Usage as Asked};
use trellis_pki::certify::{KeyKind, Name, NameError, Role, Subject, UnknownKind, Usage, Usages, Wanted};

use super::digest_of;
use crate::sources::Obstacle;

pub(super) fn of(spec: &CertificateSpec) -> Result<Wanted, Obstacle> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let subject = Subject {
        common_name: spec.called(),
        organization: given(&spec.organization),
        organizational_unit: given(&spec.organizational_unit),
        country: given(&spec.country),
    };
    subject.check().map_err(|error| refused("spec", &error))?;
    let mut names = Vec::new();
    for host in spec.hosts() {
        names.push(Name::dns(&host).map_err(|error| refused("spec.dnsNames", &error))?);
    }
    for address in &spec.ip_addresses {
        let address = address.parse().map_err(|_| Obstacle::Unfit {
            field: "spec.ipAddresses",
            why: format!("{address:?} is no IP address"),
        })?;
        names.push(Name::ip(address));
    }
    for uri in &spec.uris {
        names.push(Name::uri(uri).map_err(|error| refused("spec.uris", &error))?);
    }
    for email in &spec.emails {
        names.push(Name::email(email).map_err(|error| refused("spec.emails", &error))?);
    }
    let path_length = spec.max_path_length.and_then(|length| u8::try_from(length).ok());
    let role = if spec.is_ca() { Role::Ca { path_length } } else { Role::Leaf };
    Ok(Wanted { subject, names, usages: usages(spec), role, life: spec.life() })
}

/// Everything of a spec that is seen in the certificate, so that each change of it asks for another one.
pub(super) fn digest(spec: &CertificateSpec) -> String {
    let shown = json!([
        spec.algorithm,
        spec.hybrid.map(|hybrid| hybrid.algorithm.as_str()),
        [spec.called(), spec.organization.clone(), spec.organizational_unit.clone(), spec.country.clone()],
        [spec.hosts(), spec.ip_addresses.clone(), spec.uris.clone(), spec.emails.clone()],
        spec.is_ca(),
        spec.max_path_length,
        format!("{:?}", usages(spec)),
        spec.life().as_secs(),
    ]);
    digest_of(&shown.to_string())
}

pub(super) fn kind(algorithm: &str) -> Result<KeyKind, Obstacle> {
    algorithm
        .parse()
        .map_err(|error: UnknownKind| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() })
}

/// What is asked for, and for whom that names no purpose, what its type is for.
fn usages(spec: &CertificateSpec) -> Usages {
    let asked: Vec<Usage> = spec.usages.iter().filter_map(|usage| usage_of(*usage)).collect();
    let purpose =
        |usage: &Usage| !matches!(usage, Usage::DigitalSignature | Usage::ContentCommitment | Usage::CrlSign);
    let of_type: &[Usage] = match spec.cert_type {
        _ if spec.is_ca() || asked.iter().any(purpose) => &[],
        Some(CertificateType::Server) => &[Usage::ServerAuth],
        Some(CertificateType::Client) => &[Usage::ClientAuth],
        _ => &[Usage::ServerAuth, Usage::ClientAuth],
    };
    Usages::new(asked.into_iter().chain(of_type.iter().copied()))
}

fn usage_of(asked: Asked) -> Option<Usage> {
    Some(match asked {
        Asked::DigitalSignature => Usage::DigitalSignature,
        Asked::ContentCommitment => Usage::ContentCommitment,
        Asked::CrlSign => Usage::CrlSign,
        Asked::ServerAuth => Usage::ServerAuth,
        Asked::ClientAuth => Usage::ClientAuth,
        Asked::CodeSigning => Usage::CodeSigning,
        Asked::EmailProtection => Usage::EmailProtection,
        Asked::Timestamping => Usage::TimeStamping,
        Asked::OcspSigning => Usage::OcspSigning,
        Asked::Any => Usage::Any,
        // A CA has it anyway, and nobody else.
        Asked::CertSign => return None,
    })
}

fn refused(field: &'static str, error: &NameError) -> Obstacle {
    Obstacle::Unfit { field, why: error.to_string() }
}
