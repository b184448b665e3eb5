//! What a chain forbids. A certificate that may not issue our leaves is refused here, and not by the
//! first outsider who follows the chain.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension};

use super::{SignedError, Terms};

pub(super) fn check(chain: &[X509Certificate<'_>], terms: &Terms<'_>) -> Result<(), SignedError> {
    for (index, certificate) in chain.iter().enumerate() {
        let number = index + 1;
        let forbids = |what: String| Err(SignedError::Forbids { number, what });
        let malformed = |_| SignedError::Malformed(number);
        let basic = certificate.basic_constraints().map_err(malformed)?;
        let usage = certificate.key_usage().map_err(malformed)?;
        let is_ca = basic.as_ref().is_some_and(|basic| basic.value.ca);
        if !is_ca || !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return forbids(
                "basicConstraints and keyUsage make it no CA: it must be CA:TRUE with keyCertSign".to_owned(),
            );
        }
        // Below certificate 1 are leaves, below certificate 2 one CA, and so on.
        let needed = u32::try_from(index).unwrap_or(u32::MAX);
        match basic.and_then(|basic| basic.value.path_len_constraint) {
            Some(allowed) if allowed < needed => {
                return forbids(format!(
                    "its path length is {allowed}, and {needed} CAs are below it: have a CA sign that may have \
                     CAs below it"
                ));
            }
            _ => {}
        }
        if let Some(usage) = certificate.extended_key_usage().map_err(malformed)?
            && !(usage.value.any || usage.value.server_auth && usage.value.client_auth)
        {
            return forbids(
                "its extended key usage does not allow serverAuth and clientAuth, which our leaves have: leave it out"
                    .to_owned(),
            );
        }
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::NameConstraints(constraints) => {
                    if let Some(what) = forbidden(constraints, terms) {
                        return forbids(what);
                    }
                }
                ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
                    if extension.critical =>
                {
                    return forbids(format!(
                        "it has the critical extension {}, which Trellis does not know: have it signed without",
                        extension.oid
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Which name constraint our leaves would break. They carry the trust domain as URI, names of Services with
/// and without their domain, and a subject that their issuer does not decide.
fn forbidden(constraints: &NameConstraints<'_>, terms: &Terms<'_>) -> Option<String> {
    const REMEDY: &str = "have it signed without name constraints";
    let permitted = constraints.permitted_subtrees.iter().flatten();
    for subtree in permitted {
        let what = match &subtree.base {
            GeneralName::DNSName("") => continue,
            GeneralName::DNSName(name) => format!("permits only DNS names below {name:?}"),
            // Ours and other people's verifiers do not judge URI names alike, so none is relied on.
            GeneralName::URI(uri) => format!("permits only URIs of {uri:?}"),
            GeneralName::DirectoryName(name) => format!("permits only subjects below {name}"),
            _ => continue,
        };
        return Some(format!("its name constraints {what}, and leaves carry others: {REMEDY}"));
    }
    for subtree in constraints.excluded_subtrees.iter().flatten() {
        let what = match &subtree.base {
            GeneralName::DNSName(name) if touches(name, terms.service_domain) => {
                format!("exclude DNS names below {name:?}")
            }
            GeneralName::URI(uri) => format!("exclude URIs of {uri:?}"),
            GeneralName::DirectoryName(name) => format!("exclude subjects below {name}"),
            _ => continue,
        };
        return Some(format!("its name constraints {what}, which leaves may carry: {REMEDY}"));
    }
    None
}

/// A name without a dot may be that of a Service.
fn touches(excluded: &str, services: &str) -> bool {
    let excluded = excluded.trim_start_matches('.');
    !excluded.contains('.') || services.ends_with(excluded) || excluded.ends_with(services)
}
