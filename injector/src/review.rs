//! The wire format in which an API server asks about an object, and in which it is answered:
//! `AdmissionReview` of `admission.k8s.io/v1`.

use k8s_openapi::{
    ByteString,
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroize;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// API servers cut what is longer.
const LONGEST_WARNING: usize = 256;
/// They show no more than 4096 bytes of warnings.
const MOST_WARNINGS: usize = 16;
const LONGEST_MESSAGE: usize = 8 * 1024;
/// As many as are told one by one.
const MOST_CAUSES: usize = 64;

/// A question. Fields that do not matter here are not read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub uid: String,
    pub resource: Resource,
    #[serde(default)]
    pub sub_resource: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub operation: String,
    #[serde(default)]
    pub object: Value,
    /// What it was before, if it was.
    #[serde(default)]
    pub old_object: Value,
    #[serde(default)]
    pub dry_run: bool,
}

/// A field that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub field: String,
    pub message: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Resource {
    #[serde(default)]
    pub group: String,
    pub version: String,
    pub resource: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("the body is not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the body is a {kind} of {api_version}; send an {KIND} of {API_VERSION}")]
    OtherKind { api_version: String, kind: String },
    #[error("the AdmissionReview holds no request")]
    NoRequest,
}

impl Request {
    pub fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        let question: Question = serde_json::from_slice(body)?;
        if question.api_version != API_VERSION || question.kind != KIND {
            let Question { api_version, kind, .. } = question;
            return Err(ReviewError::OtherKind { api_version, kind });
        }
        question.request.ok_or(ReviewError::NoRequest)
    }

    /// Whether this is the question that the webhook is there for.
    pub fn is_about_a_new_pod(&self) -> bool {
        let Resource { group, version, resource } = &self.resource;
        (group.as_str(), version.as_str(), resource.as_str()) == ("", "v1", "pods")
            && self.sub_resource.is_empty()
            && self.operation == "CREATE"
    }

    pub fn pod(&self) -> Result<Pod, serde_json::Error> {
        Pod::deserialize(&self.object)
    }

    /// Whether an object comes to be, or changes: nothing else can be wrong with it.
    pub fn is_about_content(&self) -> bool {
        self.sub_resource.is_empty() && matches!(self.operation.as_str(), "CREATE" | "UPDATE")
    }
}

/// Objects may be Secrets with keys.
impl Drop for Request {
    fn drop(&mut self) {
        [&mut self.object, &mut self.old_object].into_iter().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(all) => all.iter_mut().for_each(wipe),
        Value::Object(all) => all.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// How an admission is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub result: &'static str,
    pub reason: &'static str,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    pub uid: String,
    pub allowed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_type: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: &'a Response,
}

impl Response {
    pub fn allowed(uid: &str) -> Self {
        Self { uid: uid.to_owned(), allowed: true, ..Self::default() }
    }

    /// The code is what the client of the API server sees.
    pub fn refused(uid: &str, code: i32, reason: &str, message: String) -> Self {
        let status = Status {
            code: Some(code),
            message: Some(format!("trellis: {message}")),
            reason: Some(reason.to_owned()),
            status: Some("Failure".to_owned()),
            ..Status::default()
        };
        Self { uid: uid.to_owned(), allowed: false, status: Some(status), ..Self::default() }
    }

    /// As the API server refuses what its own validation finds: with each field and what is wrong there.
    pub fn invalid(request: &Request, kind: &str, causes: &[Cause]) -> Self {
        let all: Vec<String> =
            causes.iter().map(|Cause { field, message }| format!("{field}: {message}")).collect();
        let mut refused =
            Self::refused(&request.uid, 422, "Invalid", shorten(&all.join("; "), LONGEST_MESSAGE));
        let told = causes.iter().take(MOST_CAUSES).map(|Cause { field, message }| StatusCause {
            field: Some(field.clone()),
            message: Some(message.clone()),
            reason: Some("FieldValueInvalid".to_owned()),
        });
        let mut told: Vec<_> = told.collect();
        if let Some(more) = causes.len().checked_sub(MOST_CAUSES).filter(|more| *more > 0) {
            let message = Some(format!("and {more} more"));
            told.push(StatusCause { message, ..StatusCause::default() });
        }
        let details = StatusDetails {
            name: Some(request.name.clone()).filter(|name| !name.is_empty()),
            group: Some(request.resource.group.clone()),
            kind: Some(kind.to_owned()),
            causes: Some(told),
            ..StatusDetails::default()
        };
        if let Some(status) = &mut refused.status {
            status.details = Some(details);
        }
        refused
    }

    #[must_use]
    pub fn with_patch(mut self, patch: Vec<u8>) -> Self {
        self.patch = Some(ByteString(patch));
        self.patch_type = Some("JSONPatch");
        self
    }

    #[must_use]
    pub fn with_warnings(mut self, warnings: &[String]) -> Self {
        let few = warnings.iter().take(MOST_WARNINGS);
        self.warnings = few.map(|warning| shorten(warning, LONGEST_WARNING)).collect();
        if let Some(more) = warnings.len().checked_sub(MOST_WARNINGS).filter(|more| *more > 0) {
            self.warnings.push(format!("trellis: and {more} more"));
        }
        self
    }

    pub fn to_review(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Answer { api_version: API_VERSION, kind: KIND, response: self })
    }
}

/// At most so many bytes, and whole characters.
pub fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let ellipsis = "...";
    let end = text.floor_char_boundary(bytes.saturating_sub(ellipsis.len()));
    format!("{}{ellipsis}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_review_is_refused_with_what_it_should_be() {
        for (body, part) in [
            ("", "not an AdmissionReview"),
            ("[]", "not an AdmissionReview"),
            (
                r#"{"apiVersion": "v1", "kind": "Pod"}"#,
                "is a Pod of v1; send an AdmissionReview of admission",
            ),
            (r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#, "v1beta1"),
            (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#, "no request"),
        ] {
            let error = Request::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn long_texts_end_at_a_whole_character() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("longer", 5), "lo...");
        assert_eq!(shorten("ääää", 6), "ä...");
        assert_eq!(shorten("ä", 1), "...");
    }
}
