//! in-toto Statement, version 1.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::{AttestationError, ImageReference, canonical, resource};
use crate::fingerprint::Fingerprint;
use crate::hex;

const TYPE: &str = "https://in-toto.io/Statement/v1";
/// More subjects than this are nobody's.
const MAX_SUBJECTS: usize = 1024;

/// What a signature is for. One that is for another does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Image,
    File,
    Resource,
}

/// Who says what about which.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub subjects: Vec<Subject>,
    pub predicate_type: String,
    pub predicate: Value,
}

/// Something, by its digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Informative: what counts is the digest.
    pub name: Option<String>,
    /// Lower case digits, by the name of the hash.
    pub digests: BTreeMap<String, String>,
}

impl Purpose {
    pub const ALL: [Self; 3] = [Self::Image, Self::File, Self::Resource];

    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::Image => "https://sigstore.dev/cosign/sign/v1",
            Self::File => "https://trellis.dev/attestation/file/v1",
            Self::Resource => "https://trellis.dev/attestation/resource/v1",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "an image",
            Self::File => "a file",
            Self::Resource => "a Kubernetes resource",
        })
    }
}

impl Statement {
    pub fn of_image(image: &ImageReference) -> Self {
        Self::of(Purpose::Image, image.name(), "sha256", image.digest().to_owned())
    }

    /// `name` is what the file is called, without folders.
    pub fn of_file(name: &str, sha512: &[u8; 64]) -> Self {
        Self::of(Purpose::File, name, "sha512", hex::encode(sha512))
    }

    /// Of a manifest or of what the API server gives. A Secret is refused: its digest would tell too much.
    pub fn of_resource(resource: &Value) -> Result<Self, AttestationError> {
        let name = resource::name(resource)?;
        let digest = Fingerprint::of_public(&canonical(resource)?).to_string();
        Ok(Self::of(Purpose::Resource, &name, "sha256", digest))
    }

    fn of(purpose: Purpose, name: &str, hash: &str, digest: String) -> Self {
        let digests = BTreeMap::from([(hash.to_owned(), digest)]);
        let subjects = vec![Subject { name: Some(name.to_owned()), digests }];
        Self { subjects, predicate_type: purpose.predicate_type().to_owned(), predicate: json!({}) }
    }

    /// What the statement is for, if it is one of those known here.
    pub fn purpose(&self) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.predicate_type() == self.predicate_type)
    }

    /// Whether this is about what `wanted` is about: a signature of the same kind, with a digest that is the same.
    /// The statement's own predicate is not looked at.
    pub fn covers(&self, wanted: &Self) -> Result<(), AttestationError> {
        if self.predicate_type != wanted.predicate_type {
            let found =
                self.purpose().map_or_else(|| short(&self.predicate_type), |purpose| purpose.to_string());
            let wanted = wanted.purpose().unwrap_or(Purpose::File);
            return Err(AttestationError::Purpose { found, wanted });
        }
        let same = |subject: &&Subject| {
            let digests = &subject.digests;
            self.subjects.iter().any(|own| {
                digests.iter().all(|(hash, digest)| own.digests.get(hash) == Some(digest))
                    && !digests.is_empty()
            })
        };
        match wanted.subjects.iter().find(|subject| !same(subject)) {
            None if !wanted.subjects.is_empty() => Ok(()),
            _ => Err(AttestationError::Subject {
                found: described(&self.subjects),
                wanted: described(&wanted.subjects),
            }),
        }
    }

    /// JSON, the same for the same statement.
    pub fn encode(&self) -> Vec<u8> {
        let subjects: Vec<Value> = self
            .subjects
            .iter()
            .map(|subject| match &subject.name {
                Some(name) => json!({"name": name, "digest": subject.digests}),
                None => json!({"digest": subject.digests}),
            })
            .collect();
        let statement = json!({
            "_type": TYPE,
            "subject": subjects,
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        });
        statement.to_string().into_bytes()
    }

    pub fn decode(payload: &[u8]) -> Result<Self, AttestationError> {
        let problem = AttestationError::Statement;
        let value: Value = serde_json::from_slice(payload).map_err(|_| problem("it is not JSON"))?;
        if value["_type"].as_str() != Some(TYPE) {
            return Err(problem("its _type is not https://in-toto.io/Statement/v1"));
        }
        let predicate_type =
            value["predicateType"].as_str().ok_or(problem("it has no predicateType"))?.to_owned();
        let subjects = value["subject"].as_array().ok_or(problem("it has no subject"))?;
        if subjects.len() > MAX_SUBJECTS {
            return Err(problem("it has more subjects than there can be"));
        }
        let subjects = subjects.iter().map(Subject::decode).collect::<Option<Vec<_>>>();
        let subjects = subjects.ok_or(problem("one of its subjects has no digest"))?;
        Ok(Self { subjects, predicate_type, predicate: value["predicate"].clone() })
    }
}

impl Subject {
    fn decode(value: &Value) -> Option<Self> {
        let name = value["name"].as_str().map(str::to_owned);
        let digests = value["digest"].as_object()?;
        let digests = digests
            .iter()
            .map(|(hash, digest)| Some((hash.clone(), digest.as_str()?.to_owned())))
            .collect::<Option<_>>()?;
        Some(Self { name, digests })
    }
}

fn described(subjects: &[Subject]) -> String {
    let one = |subject: &Subject| {
        let digest =
            subject.digests.iter().map(|(hash, digest)| format!("{hash}:{digest}")).collect::<Vec<_>>();
        match &subject.name {
            Some(name) => format!("{}@{}", short(name), short(&digest.join(","))),
            None => short(&digest.join(",")),
        }
    };
    let shown: Vec<_> = subjects.iter().take(3).map(one).collect();
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
