//! QuantumCertificate: a key and a certificate over it, in a Secret that servers can mount.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CERTIFICATE_ALGORITHMS, Keeping, Kind, Output, Problem, RecreatePolicy, Reference, Spec, Standing,
    algorithms, duration, lifecycle, reference,
    rule::{ONE_NAME, Rule, rules},
};

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
    /// How long it lives; 365 where neither this nor duration is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36_500))]
    pub days: Option<i64>,
    /// The same as a number and s, m, h or d, for shorter lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,6}[smhd]$"))]
    pub duration: Option<String>,
    /// How long before its end it is renewed; a third of its life where it is left out.
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
    /// A second certificate for the same names, with a classical key, for peers that cannot verify the first.
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
}

impl Spec for CertificateSpec {
    const KIND: Kind = Kind::Certificate;
    type Status = CertificateStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = algorithms::check(Some(&self.algorithm), &CERTIFICATE_ALGORITHMS);
        if let Some(days) = self.days.filter(|days| !(1..=36_500).contains(days)) {
            problems.push(Problem::new("spec.days", days, "use a number from 1 to 36500"));
        }
        for (field, given) in [("spec.duration", &self.duration), ("spec.renewBefore", &self.renew_before)] {
            if let Some(given) =
                given.as_deref().filter(|given| duration(given).is_none_or(|time| time.is_zero()))
            {
                problems.push(Problem::new(field, given, "use a number and s, m, h or d, such as 30d"));
            }
        }
        if let (Some(days), Some(length)) = (self.days, &self.duration) {
            let remedy =
                format!("spec.days ({days}) says how long the certificate lives as well: remove one of them");
            problems.push(Problem::new("spec.duration", length, remedy));
        }
        if let Some(issuer) = &self.issuer_ref {
            let named = issuer.name.as_deref().is_some_and(|name| !name.is_empty());
            if named == (issuer.kind == IssuerKind::MeshCA) {
                let remedy = "a QuantumCertificate is named by name; the CA of the mesh has none";
                problems.push(Problem::new(
                    "spec.issuerRef.name",
                    issuer.name.as_deref().unwrap_or(""),
                    remedy,
                ));
            }
            if issuer.kind == IssuerKind::MeshCA && self.is_ca() {
                let remedy = "the CA of the mesh issues no other CAs: name a QuantumCertificate";
                problems.push(Problem::new("spec.issuerRef", "MeshCA", remedy));
            }
            if let Some(name) = issuer.name.as_deref().filter(|name| !name.is_empty()) {
                let to = Reference { name: name.to_owned(), namespace: issuer.namespace.clone() };
                problems.extend(to.check("spec.issuerRef"));
            }
        }
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Keeping::check));
        problems.extend(lifecycle::check_version(self.version));
        problems.extend(reference::check_names(&self.dns_names, &self.ip_addresses));
        problems
    }
}
