//! Certificate signing requests: PKCS#10 that proves possession of a key and asks for nothing else.
//!
//! Whoever issues takes the public key out of a request and decides every name itself. The names that
//! a foreign request asks for are shown so that an issuer can refuse the request as a whole.

use rcgen::{CertificateParams, DistinguishedName};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

use crate::algorithm::Algorithm;
use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::x509::{self, KeyProblem};

/// An ML-DSA-87 request is 7.4 kB; nothing honest comes near this.
pub const MAX_LEN: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the signing request is {len} bytes: at most {MAX_LEN} are read")]
    TooLarge { len: usize },
    #[error("the signing request is not PKCS#10 DER, version 1, with a well-formed public key")]
    Malformed,
    #[error("{0} bytes follow the signing request: send exactly one request")]
    TrailingBytes(usize),
    #[error("the signing request holds {found}: make a key of one of {allowed}")]
    KeyTypeNotAllowed { found: String, allowed: String },
    #[error("the signing request holds a key of {key} but is signed with {signature}")]
    AlgorithmMismatch { key: &'static str, signature: String },
    #[error("the public key is not a SubjectPublicKeyInfo in DER, well-formed and alone")]
    MalformedKey,
    #[error("the proof of possession does not verify: it must be made with the key that it is for")]
    BadProof,
    #[error("the signing request's own signature does not verify: it must be signed by the key it holds")]
    BadSignature,
}

/// A request for `key`: empty subject, no names, signed by the key itself.
pub fn make(key: &PrivateKey) -> Result<Vec<u8>, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(|_| KeyError::Signing)?;
    Ok(request.der().to_vec())
}

/// The public key of a request whose sender holds the private key, if its algorithm is `allowed`.
pub fn check(der: &[u8], allowed: &[Algorithm]) -> Result<PublicKey, CsrError> {
    if der.len() > MAX_LEN {
        return Err(CsrError::TooLarge { len: der.len() });
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::TrailingBytes(rest.len()));
    }
    let info = &request.certification_request_info;
    if info.version != X509Version::V1 {
        return Err(CsrError::Malformed);
    }
    let not_allowed = |found: String| CsrError::KeyTypeNotAllowed { found, allowed: list(allowed) };
    let key = x509::public_key(&info.subject_pki).map_err(|problem| match problem {
        KeyProblem::Foreign(foreign) => not_allowed(foreign.name),
        KeyProblem::Malformed => CsrError::Malformed,
    })?;
    if !allowed.contains(&key.algorithm) {
        return Err(not_allowed(key.algorithm.name().to_owned()));
    }
    let mismatch = |signature| CsrError::AlgorithmMismatch { key: key.algorithm.name(), signature };
    match x509::signature_algorithm(&request.signature_algorithm) {
        Ok(signature) if signature == key.algorithm => {}
        Ok(signature) => return Err(mismatch(signature.name().to_owned())),
        Err(foreign) => return Err(mismatch(foreign.name)),
    }
    let signature = &*request.signature_value.data;
    // What the signature does not cover, the parser does not read to the letter.
    if x509::signed(info.raw, key.algorithm, signature).as_deref() != Some(der) {
        return Err(CsrError::Malformed);
    }
    if !key.algorithm.verifies(&key.raw, info.raw, signature) {
        return Err(CsrError::BadSignature);
    }
    Ok(key)
}

/// The key in a SubjectPublicKeyInfo, if its holder signed `message` and its algorithm is `allowed`: what
/// is asked for without a signing request.
pub fn check_key(
    der: &[u8],
    message: &[u8],
    proof: &[u8],
    allowed: &[Algorithm],
) -> Result<PublicKey, CsrError> {
    if der.len() > MAX_LEN {
        return Err(CsrError::TooLarge { len: der.len() });
    }
    let not_allowed = |found: String| CsrError::KeyTypeNotAllowed { found, allowed: list(allowed) };
    let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| CsrError::MalformedKey)?;
    if !rest.is_empty() {
        return Err(CsrError::TrailingBytes(rest.len()));
    }
    let key = x509::public_key(&info).map_err(|problem| match problem {
        KeyProblem::Foreign(foreign) => not_allowed(foreign.name),
        KeyProblem::Malformed => CsrError::MalformedKey,
    })?;
    if !allowed.contains(&key.algorithm) {
        return Err(not_allowed(key.algorithm.name().to_owned()));
    }
    if !key.algorithm.verifies(&key.raw, message, proof) {
        return Err(CsrError::BadProof);
    }
    Ok(key)
}

/// Every name that the request asks for, subject and alternative names alike, as plain text. A part
/// that cannot be read appears as `unreadable:...`, which is never anybody's name.
pub fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, request)) = X509CertificationRequest::from_der(der) else {
        return vec!["unreadable:request".to_owned()];
    };
    let info = &request.certification_request_info;
    let mut names: Vec<String> = info
        .subject
        .iter_attributes()
        .map(|attribute| attribute.as_str().map_or_else(|_| "unreadable:subject".to_owned(), str::to_owned))
        .collect();
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(alternative) => {
                    names.extend(alternative.general_names.iter().map(name));
                }
                ParsedExtension::ParseError { .. } => names.push("unreadable:extension".to_owned()),
                _ => {}
            }
        }
    }
    names
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            (*text).to_owned()
        }
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => std::net::IpAddr::from(v4).to_string(),
            (_, Ok(v6)) => std::net::IpAddr::from(v6).to_string(),
            _ => "unreadable:address".to_owned(),
        },
        GeneralName::DirectoryName(name) => name.to_string(),
        GeneralName::RegisteredID(oid) => format!("oid:{oid}"),
        _ => "unreadable:name".to_owned(),
    }
}

fn list(allowed: &[Algorithm]) -> String {
    allowed.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ")
}
