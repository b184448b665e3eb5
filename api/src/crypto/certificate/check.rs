//! What is wrong with the spec of a certificate.

use std::{net::IpAddr, time::Duration};

use super::{CertificateSpec, CertificateType, Issuer, IssuerKind, Usage, names};
use crate::crypto::{CERTIFICATE_ALGORITHMS, Keeping, Problem, Reference, algorithms, duration, lifecycle};

/// The shortest life: whatever mounts the Secret has to see each renewal.
const SHORTEST: Duration = Duration::from_secs(10 * 60);
/// A hundred years.
const LONGEST: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);
/// Names of one kind.
const MAX_NAMES: usize = 64;
/// Of a certificate of the mesh, as of its workloads.
const MAX_MESH_NAMES: usize = 32;
/// Versions that a short life may leave behind at the same time.
const MAX_KEPT: u128 = 32;

const ATTRIBUTE: &str = "use 1 to 64 letters, digits, spaces between them and any of . , - _ ( ) ' & : @ * !";

pub(super) fn problems(spec: &CertificateSpec) -> Vec<Problem> {
    let mut problems = algorithms::check(Some(&spec.algorithm), &CERTIFICATE_ALGORITHMS);
    problems.extend(life(spec));
    problems.extend(issuer(spec));
    problems.extend(subject(spec));
    problems.extend(alternative(spec));
    problems.extend(role(spec));
    if spec.is_of_mesh() {
        problems.extend(mesh(spec));
    }
    problems.extend(spec.output.check());
    problems.extend(spec.rotation.iter().flat_map(Keeping::check));
    problems.extend(lifecycle::check_version(spec.version));
    problems
}

fn life(spec: &CertificateSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(days) = spec.days.filter(|days| !(1..=36_500).contains(days)) {
        problems.push(Problem::new("spec.days", days, "use a number from 1 to 36500"));
    }
    for (field, given) in [("spec.duration", &spec.duration), ("spec.renewBefore", &spec.renew_before)] {
        if let Some(given) =
            given.as_deref().filter(|given| duration(given).is_none_or(|time| time.is_zero()))
        {
            problems.push(Problem::new(field, given, "use a number and s, m, h or d, such as 30d"));
        }
    }
    if let (Some(days), Some(length)) = (spec.days, &spec.duration) {
        let remedy =
            format!("spec.days ({days}) says how long the certificate lives as well: remove one of them");
        problems.push(Problem::new("spec.duration", length, remedy));
    }
    if !problems.is_empty() {
        return problems;
    }
    if let Some(given) = &spec.duration
        && !(SHORTEST..=LONGEST).contains(&spec.life())
    {
        problems.push(Problem::new("spec.duration", given, "use 10m to 36500d"));
    }
    let (life, before) = (spec.life(), spec.renew_before());
    if let Some(given) = &spec.renew_before
        && before > life / 4 * 3
    {
        let remedy = format!(
            "is more than three quarters of the {} s that the certificate lives, and hardly any would be left: use \
             less, or let it live longer",
            life.as_secs()
        );
        problems.push(Problem::new("spec.renewBefore", given, remedy));
    }
    // Of the life that is left before renewal, an eighth may lie before the time of issue.
    let every = life.saturating_sub(before).saturating_sub(life / 8);
    let kept = spec.grace().as_millis() / every.as_millis().max(1);
    if let Some(given) = spec.rotation.as_ref().and_then(|rotation| rotation.grace.as_deref())
        && kept > MAX_KEPT
        && problems.is_empty()
    {
        let remedy = format!(
            "would keep {kept} replaced certificates at the same time, and {MAX_KEPT} are the most: shorten it, or \
             let a certificate live longer"
        );
        problems.push(Problem::new("spec.rotation.grace", given, remedy));
    }
    problems
}

fn issuer(spec: &CertificateSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(issuer) = &spec.issuer_ref else { return problems };
    let Issuer { kind, name, namespace } = issuer;
    let name = name.as_deref().unwrap_or_default();
    if name.is_empty() == (*kind == IssuerKind::QuantumCertificate) {
        let remedy = "a QuantumCertificate is named by name; the CA of the mesh has none";
        problems.push(Problem::new("spec.issuerRef.name", name, remedy));
    } else if !name.is_empty() {
        let to = Reference { name: name.to_owned(), namespace: namespace.clone() };
        problems.extend(to.check("spec.issuerRef"));
    }
    if spec.cert_type == Some(CertificateType::SelfSigned) {
        let remedy = "a certificate that signs itself has no issuer: remove spec.issuerRef, or change this";
        problems.push(Problem::new("spec.certType", "self-signed", remedy));
    }
    problems
}

fn subject(spec: &CertificateSpec) -> Vec<Problem> {
    let texts = [
        ("spec.commonName", &spec.common_name),
        ("spec.organization", &spec.organization),
        ("spec.organizationalUnit", &spec.organizational_unit),
    ];
    let mut problems: Vec<Problem> = texts
        .into_iter()
        .filter_map(|(field, text)| text.as_deref().map(|text| (field, text)))
        .filter(|(_, text)| !text.is_empty() && !names::is_attribute(text))
        .map(|(field, text)| Problem::new(field, text, ATTRIBUTE))
        .collect();
    let country = spec.country.as_deref().filter(|country| !country.is_empty());
    let is_country = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if let Some(country) = country.filter(|country| !is_country(country)) {
        problems.push(Problem::new("spec.country", country, "use two capital letters, as ISO 3166 has them"));
    }
    problems
}

fn alternative(spec: &CertificateSpec) -> Vec<Problem> {
    const DNS: &str = "is no DNS name: use labels of letters, digits and '-', others as xn--; a wildcard may stand \
                       for the first label alone, with two below it; addresses go into spec.ipAddresses";
    type Rule = fn(&str) -> bool;
    let domains: Vec<String> =
        spec.domain.iter().flat_map(|all| all.split(',')).map(|one| one.trim().to_owned()).collect();
    let mut problems = Vec::new();
    for domain in domains.iter().filter(|one| !one.is_empty() || domains.len() > 1) {
        if !names::is_dns(domain) {
            problems.push(Problem::new("spec.domain", domain, DNS));
        }
    }
    let is_address: Rule = |text| text.parse::<IpAddr>().is_ok();
    let lists: [(&str, &[String], Rule, &str); 4] = [
        ("spec.dnsNames", &spec.dns_names, names::is_dns, DNS),
        ("spec.ipAddresses", &spec.ip_addresses, is_address, "is no IP address; ranges cannot be certified"),
        (
            "spec.uris",
            &spec.uris,
            names::is_uri,
            "is no URI of the characters of RFC 3986, such as https://a.example/b",
        ),
        ("spec.emails", &spec.emails, names::is_email, "is no email address, such as ops@a.example"),
    ];
    for (field, list, holds, remedy) in lists {
        let wrong = list.iter().enumerate().filter(|(_, text)| !holds(text));
        problems.extend(wrong.map(|(at, text)| Problem::new(format!("{field}[{at}]"), text, remedy)));
        if list.len() > MAX_NAMES {
            problems.push(Problem::new(
                field,
                list.len(),
                format!("are too many names: at most {MAX_NAMES}"),
            ));
        }
    }
    let nobody = spec.hosts().is_empty()
        && spec.common_name.as_deref().is_none_or(str::is_empty)
        && spec.ip_addresses.is_empty()
        && spec.uris.is_empty()
        && spec.emails.is_empty();
    if nobody {
        let remedy =
            "a certificate is somebody's: set domain, commonName, dnsNames, ipAddresses, uris or emails";
        problems.push(Problem::new("spec.domain", "", remedy));
    } else if spec.called().is_none() && (spec.is_ca() || spec.issuer_ref.is_none()) {
        let remedy =
            "a certificate that issues, or signs itself, has a name of at most 64 characters: set one";
        problems.push(Problem::new("spec.commonName", "", remedy));
    }
    problems
}

fn role(spec: &CertificateSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let contradicts = spec.is_ca.is_some_and(|is_ca| match spec.cert_type {
        None | Some(CertificateType::SelfSigned) => false,
        Some(type_) => is_ca != (type_ == CertificateType::Ca),
    });
    if contradicts {
        let remedy = "isCA and certType contradict each other: remove one of them";
        problems.push(Problem::new("spec.isCA", spec.is_ca(), remedy));
    }
    if let Some(length) = spec.max_path_length {
        if !spec.is_ca() {
            let remedy = "is a limit for CAs, and this is none: remove it, or set certType: ca";
            problems.push(Problem::new("spec.maxPathLength", length, remedy));
        } else if !(0..=8).contains(&length) {
            problems.push(Problem::new("spec.maxPathLength", length, "use a number from 0 to 8"));
        }
    }
    if let Some(at) = spec.usages.iter().position(|usage| matches!(usage, Usage::CertSign | Usage::CrlSign))
        && !spec.is_ca()
    {
        let remedy = "only a CA signs certificates and lists of them: remove it, or set certType: ca";
        problems.push(Problem::new(format!("spec.usages[{at}]"), spec.usages[at].as_str(), remedy));
    }
    if spec.hybrid.is_some() && spec.algorithm.starts_with("ECDSA") {
        let remedy = "stands beside an ML-DSA certificate, and spec.algorithm is classical already: remove it, or \
                      use ML-DSA-65 there";
        problems.push(Problem::new("spec.hybrid", &spec.algorithm, remedy));
    }
    problems
}

/// The CA of the mesh says of hosts that they are servers, and of nobody anything else.
fn mesh(spec: &CertificateSpec) -> Vec<Problem> {
    const HOSTS: &str = "the CA of the mesh certifies names of Services, in spec.dnsNames, and no others: remove it, \
                         or name a QuantumCertificate in spec.issuerRef";
    let mut problems = Vec::new();
    if spec.is_ca() {
        let remedy = "the CA of the mesh issues no other CAs: name a QuantumCertificate in spec.issuerRef";
        problems.push(Problem::new("spec.issuerRef", "MeshCA", remedy));
    }
    let texts = [
        ("spec.commonName", &spec.common_name),
        ("spec.organization", &spec.organization),
        ("spec.organizationalUnit", &spec.organizational_unit),
        ("spec.country", &spec.country),
    ];
    for (field, text) in texts {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            problems.push(Problem::new(field, text, HOSTS));
        }
    }
    for (field, list) in
        [("spec.ipAddresses", &spec.ip_addresses), ("spec.uris", &spec.uris), ("spec.emails", &spec.emails)]
    {
        if let Some(first) = list.first() {
            problems.push(Problem::new(field, first, HOSTS));
        }
    }
    let hosts = spec.hosts().len();
    if hosts > MAX_MESH_NAMES {
        let remedy = format!("are too many names for a certificate of the mesh: at most {MAX_MESH_NAMES}");
        problems.push(Problem::new("spec.dnsNames", hosts, remedy));
    }
    if !matches!(
        spec.cert_type,
        None | Some(CertificateType::Server | CertificateType::SelfSigned | CertificateType::Ca)
    ) {
        let remedy =
            "the CA of the mesh certifies servers: use server; a client has its identity as a workload";
        problems.push(Problem::new(
            "spec.certType",
            spec.cert_type.map_or("", CertificateType::as_str),
            remedy,
        ));
    }
    let foreign = |usage: &Usage| !matches!(usage, Usage::DigitalSignature | Usage::ServerAuth);
    if let Some(at) = spec.usages.iter().position(foreign) {
        let remedy = "the CA of the mesh certifies servers: leave usages out";
        problems.push(Problem::new(format!("spec.usages[{at}]"), spec.usages[at].as_str(), remedy));
    }
    if spec.algorithm == "ECDSA-P384" {
        let remedy = "is none of the mesh: use ML-DSA-44, ML-DSA-65, ML-DSA-87 or ECDSA-P256";
        problems.push(Problem::new("spec.algorithm", &spec.algorithm, remedy));
    }
    problems
}
