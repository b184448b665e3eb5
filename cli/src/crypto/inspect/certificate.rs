//! What a certificate says.

use std::net::{Ipv4Addr, Ipv6Addr};

use trellis_crypto::{Algorithm, Fingerprint, PublicKey};
use trellis_pki::{clock::rfc3339, lives, x509_pem};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use super::Found;

pub(super) fn of_der(der: &[u8]) -> Option<Found> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(())?;
    let info = certificate.public_key();
    let mut found = Found::new("certificate")
        .fact("subject", or_empty(certificate.subject().to_string()))
        .fact("issuer", or_empty(certificate.issuer().to_string()))
        .fact("serial", certificate.raw_serial_as_string())
        .fact("key", key_algorithm(info))
        .fact("signed with", name(&certificate.signature_algorithm));
    for (begin, end) in lives(x509_pem("CERTIFICATE", der).as_bytes()) {
        found = found.fact("not before", rfc3339(begin)).fact("not after", rfc3339(end));
    }
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for one in &names.value.general_names {
            found = found.fact("name", alternative(one));
        }
    }
    let ca = certificate.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca);
    found = found
        .fact("issues certificates", if ca { "yes" } else { "no" })
        .fact("fingerprint", Fingerprint::of_public(der))
        .fact("key fingerprint", Fingerprint::of_public(info.raw));
    Some(found.public(x509_pem("PUBLIC KEY", info.raw)))
}

fn or_empty(name: String) -> String {
    if name.is_empty() { "(empty)".to_owned() } else { name }
}

fn alternative(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS {name}"),
        GeneralName::URI(name) => format!("URI {name}"),
        GeneralName::RFC822Name(name) => format!("email {name}"),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => format!("IP {}", Ipv4Addr::from(four)),
            (_, Ok(sixteen)) => format!("IP {}", Ipv6Addr::from(sixteen)),
            _ => format!("IP of {} bytes", bytes.len()),
        },
        other => format!("{other:?}"),
    }
}

fn key_algorithm(info: &SubjectPublicKeyInfo<'_>) -> String {
    match PublicKey::from_der(info.raw) {
        Ok(key) => key.algorithm().to_string(),
        Err(_) => name(&info.algorithm),
    }
}

fn name(identifier: &AlgorithmIdentifier<'_>) -> String {
    if let Some(algorithm) = Algorithm::of_identifier(identifier.algorithm.as_bytes()) {
        return algorithm.to_string();
    }
    let oid = identifier.algorithm.to_id_string();
    let family = match oid.as_str() {
        oid if oid.starts_with("1.2.840.113549.1.1.") => "RSA, which a quantum computer breaks",
        "1.2.840.10045.2.1" => "elliptic curve, which a quantum computer breaks",
        oid if oid.starts_with("1.2.840.10045.4.") => "ECDSA, which a quantum computer breaks",
        "1.3.101.112" | "1.3.101.113" => "EdDSA, which a quantum computer breaks",
        _ => "unknown",
    };
    format!("{family} ({oid})")
}
