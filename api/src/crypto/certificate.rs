//! QuantumCertificate: a key and a certificate over it, in a Secret that servers can mount.

mod check;
mod names;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Keeping, Kind, Output, Problem, RecreatePolicy, Reference, Spec, Standing, algorithms, duration,
    rule::{ONE_NAME, Rule, rules},
};

/// Items of the Secret beside `tls.crt` and `tls.key`: the second certificate of a hybrid, and its key.
pub const CLASSICAL_CERTIFICATE: &str = "tls-classical.crt";
pub const CLASSICAL_KEY: &str = "tls-classical.key";

/// The longest life of what the CA of the mesh issues: its anchors are replaced, and wait for nobody longer.
pub const MESH_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

const ONE_LIFE: Rule = Rule {
    rule: "!has(self.days) || !has(self.duration)",
    message: "days and duration both say how long the certificate lives: remove one of them",
    field: ".duration",
};

const SOMEBODY: Rule = Rule {
    rule: "has(self.domain) && size(self.domain) > 0 || has(self.commonName) && size(self.commonName) > 0 \
           || has(self.dnsNames) && size(self.dnsNames) > 0 \
           || has(self.ipAddresses) && size(self.ipAddresses) > 0 \
           || has(self.uris) && size(self.uris) > 0 || has(self.emails) && size(self.emails) > 0",
    message: "a certificate is somebody's: set domain, commonName, dnsNames, ipAddresses, uris or emails",
    field: ".domain",
};

const ONE_ROLE: Rule = Rule {
    rule: "!has(self.isCA) || !has(self.certType) || self.certType == 'self-signed' \
           || self.isCA == (self.certType == 'ca')",
    message: "isCA and certType contradict each other: remove one of them",
    field: ".isCA",
};

const ONE_ISSUER: Rule = Rule {
    rule: "!has(self.issuerRef) || !has(self.certType) || self.certType != 'self-signed'",
    message: "a certificate that signs itself has no issuer: remove issuerRef, or change certType",
    field: ".issuerRef",
};

const NO_CA_OF_THE_MESH: Rule = Rule {
    rule: "!has(self.issuerRef) || self.issuerRef.kind != 'MeshCA' \
           || !(has(self.isCA) && self.isCA) && !(has(self.certType) && self.certType == 'ca')",
    message: "the CA of the mesh issues no other CAs: name a QuantumCertificate in issuerRef",
    field: ".issuerRef",
};

const ISSUER: Rule = Rule {
    rule: "(self.kind == 'MeshCA') != (has(self.name) && size(self.name) > 0)",
    message: "a QuantumCertificate is named by name; the CA of the mesh has none",
    field: ".name",
};

/// A key and its certificate, in a Secret of type kubernetes.io/tls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([
    ONE_NAME, ONE_LIFE, SOMEBODY, ONE_ROLE, ONE_ISSUER, NO_CA_OF_THE_MESH,
])))]
pub struct CertificateSpec {
    /// Of the key.
    #[serde(default = "default_algorithm")]
    #[schemars(schema_with = "algorithms::certificate")]
    pub algorithm: String,
    /// DNS names, separated by commas; the first is the common name as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub domain: Option<String>,
    /// How long it lives; 365 where neither this nor duration is set. It never outlives its issuer, and one of
    /// the mesh lives for a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36_500))]
    pub days: Option<i64>,
    /// The same as a number and s, m, h or d, for shorter lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,6}[smhd]$"))]
    pub duration: Option<String>,
    /// How long before its end it is renewed: at most three quarters of its life, and a third of it where it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,6}[smhd]$"))]
    pub renew_before: Option<String>,
    /// What it is for. self-signed is a server's and a client's that signs itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_type: Option<CertificateType>,
    /// Whether it may issue others; certType: ca says the same.
    #[serde(default, rename = "isCA", skip_serializing_if = "Option::is_none")]
    pub is_ca: Option<bool>,
    /// Of a CA: how many CAs may stand below it in a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8))]
    pub max_path_length: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub common_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub organization: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub organizational_unit: Option<String>,
    /// Two letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Z]{2}$"))]
    pub country: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub dns_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 45)))]
    pub ip_addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub uris: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 254)))]
    pub emails: Vec<String>,
    /// What certType says where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub usages: Vec<Usage>,
    /// Who signs it; its own key where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<Issuer>,
    /// A second certificate for the same names, with a classical key, for peers that cannot verify the first:
    /// items tls-classical.crt and tls-classical.key. Its issuer needs one as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<Hybrid>,
    #[serde(flatten)]
    pub output: Output,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Keeping>,
    /// Puts this version back into the Secret; the newest where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_000_000_000))]
    pub version: Option<i64>,
    #[serde(default)]
    pub recreate_policy: RecreatePolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateType {
    SelfSigned,
    Ca,
    Server,
    Client,
    /// Of a server and a client.
    Peer,
}

impl CertificateType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SelfSigned => "self-signed",
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }
}

/// What a certificate's key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Usage {
    #[serde(rename = "digital signature")]
    DigitalSignature,
    #[serde(rename = "content commitment")]
    ContentCommitment,
    #[serde(rename = "cert sign")]
    CertSign,
    #[serde(rename = "crl sign")]
    CrlSign,
    #[serde(rename = "server auth")]
    ServerAuth,
    #[serde(rename = "client auth")]
    ClientAuth,
    #[serde(rename = "code signing")]
    CodeSigning,
    #[serde(rename = "email protection")]
    EmailProtection,
    #[serde(rename = "timestamping")]
    Timestamping,
    #[serde(rename = "ocsp signing")]
    OcspSigning,
    #[serde(rename = "any")]
    Any,
}

impl Usage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DigitalSignature => "digital signature",
            Self::ContentCommitment => "content commitment",
            Self::CertSign => "cert sign",
            Self::CrlSign => "crl sign",
            Self::ServerAuth => "server auth",
            Self::ClientAuth => "client auth",
            Self::CodeSigning => "code signing",
            Self::EmailProtection => "email protection",
            Self::Timestamping => "timestamping",
            Self::OcspSigning => "ocsp signing",
            Self::Any => "any",
        }
    }
}

/// Who signs a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules([ISSUER])))]
pub struct Issuer {
    #[serde(default)]
    pub kind: IssuerKind,
    /// Of the QuantumCertificate, which has to be a CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// The object's own when empty. Another namespace has to allow it by a ReferenceGrant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IssuerKind {
    #[default]
    QuantumCertificate,
    /// The CA of the mesh, whose anchors all workloads of it trust.
    MeshCA,
}

impl HybridAlgorithm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::EcdsaP384 => "ECDSA-P384",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hybrid {
    pub algorithm: HybridAlgorithm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HybridAlgorithm {
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    #[serde(rename = "ECDSA-P384")]
    EcdsaP384,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    #[serde(flatten)]
    pub standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_reference: Option<Reference>,
    /// The first characters of SHA-256 over the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub not_before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub not_after: Option<String>,
    /// When the next one takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub renewal_time: Option<String>,
}

fn default_algorithm() -> String {
    "ML-DSA-65".to_owned()
}

impl Default for CertificateSpec {
    fn default() -> Self {
        Self {
            algorithm: default_algorithm(),
            domain: None,
            days: None,
            duration: None,
            renew_before: None,
            cert_type: None,
            is_ca: None,
            max_path_length: None,
            common_name: None,
            organization: None,
            organizational_unit: None,
            country: None,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            usages: Vec::new(),
            issuer_ref: None,
            hybrid: None,
            output: Output::default(),
            rotation: None,
            version: None,
            recreate_policy: RecreatePolicy::default(),
        }
    }
}

impl CertificateSpec {
    /// Whether it may issue others.
    pub fn is_ca(&self) -> bool {
        self.is_ca.unwrap_or(self.cert_type == Some(CertificateType::Ca))
    }

    pub fn is_of_mesh(&self) -> bool {
        self.issuer_ref.as_ref().is_some_and(|issuer| issuer.kind == IssuerKind::MeshCA)
    }

    /// How long it lives, whatever its issuer leaves of that.
    pub fn life(&self) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let days = self.days.and_then(|days| u32::try_from(days).ok()).map(|days| DAY * days);
        let wished = days.or_else(|| self.duration.as_deref().and_then(duration)).unwrap_or(DAY * 365);
        if self.is_of_mesh() { wished.min(MESH_LIFE) } else { wished }
    }

    /// How long before its end it is replaced.
    pub fn renew_before(&self) -> Duration {
        const SHARE: u32 = 3;
        self.renew_before.as_deref().and_then(duration).unwrap_or(self.life() / SHARE)
    }

    /// How long one that was replaced is kept: it ends in that time anyway.
    pub fn grace(&self) -> Duration {
        self.rotation.as_ref().and_then(Keeping::grace).unwrap_or_else(|| self.renew_before())
    }

    /// Names of hosts, those of `domain` first, in lower case and each once.
    pub fn hosts(&self) -> Vec<String> {
        let domains = self.domain.iter().flat_map(|all| all.split(',')).map(str::trim);
        let mut hosts: Vec<String> = Vec::new();
        for host in domains.filter(|one| !one.is_empty()).chain(self.dns_names.iter().map(String::as_str)) {
            let host = host.to_ascii_lowercase();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        // Who gives a server a common name alone wants it found under that name, where verifiers look.
        let named = self.common_name.as_deref().map(str::to_ascii_lowercase);
        let alone = hosts.is_empty()
            && self.ip_addresses.is_empty()
            && self.uris.is_empty()
            && self.emails.is_empty();
        hosts.extend(named.filter(|name| alone && !self.is_ca() && names::is_host(name)));
        hosts
    }

    /// What the subject is called: commonName, or else the first name that fits there.
    pub fn called(&self) -> Option<String> {
        let fits = |name: &String| (1..=names::MAX_ATTRIBUTE).contains(&name.chars().count());
        let given = self.common_name.iter().filter(|name| !name.is_empty()).cloned();
        let addresses = self.ip_addresses.iter().chain(&self.emails).cloned();
        given.chain(self.hosts()).chain(addresses).find(fits)
    }
}

impl Spec for CertificateSpec {
    const KIND: Kind = Kind::Certificate;
    type Status = CertificateStatus;

    fn check(&self) -> Vec<Problem> {
        check::problems(self)
    }
}
