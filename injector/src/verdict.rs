//! The answer to one question, given the namespace: nothing here asks anybody.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use trellis_api::injection::{self, Admission, Namespace, Outcome, Refusal, Settings, Skip};

use crate::review::{Cause, Label, Request, Response};

/// What is answered, how it is counted, and what is announced to those who look at the pod's owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub response: Response,
    pub label: Label,
    pub announcements: Vec<Announcement>,
}

/// An Event to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    pub regarding: ObjectReference,
    pub reason: &'static str,
    pub note: String,
}

/// Decides about the pod of a request.
pub fn judge(request: &Request, pod: &Pod, namespace: &Namespace, settings: &Settings) -> Verdict {
    match injection::admit(pod, namespace, settings) {
        Ok(admission) => admitted(request, pod, admission),
        Err(refusal) => refused(request, pod, &refusal),
    }
}

/// An answer that is not about the pod, but about not being able to judge it. Such a pod is not let in:
/// it would run outside the mesh and nobody would know.
pub fn failed(request: &Request, code: i32, reason: &'static str, message: String) -> Verdict {
    let status = if code == 422 { "Invalid" } else { "ServiceUnavailable" };
    Verdict {
        response: Response::refused(&request.uid, code, status, message),
        label: Label { result: "failed", reason },
        announcements: Vec::new(),
    }
}

/// An object that is let in, with what should be known of it.
pub fn accepted(request: &Request, warnings: &[String]) -> Verdict {
    let result = if warnings.is_empty() { "accepted" } else { "warned" };
    Verdict {
        response: Response::allowed(&request.uid).with_warnings(warnings),
        label: Label { result, reason: "" },
        announcements: Vec::new(),
    }
}

/// An object that is refused for what stands in these fields of it.
pub fn invalid(request: &Request, kind: &str, reason: &'static str, causes: &[Cause]) -> Verdict {
    Verdict {
        response: Response::invalid(request, kind, causes),
        label: Label { result: "refused", reason },
        announcements: Vec::new(),
    }
}

/// For questions that the webhook's configuration should not have let through.
pub fn not_asked(request: &Request, needed: &str) -> Verdict {
    let warning = format!(
        "trellis: the injector was asked about {} {}; its webhook needs no rule but {needed}",
        request.operation, request.resource.resource
    );
    Verdict {
        response: Response::allowed(&request.uid).with_warnings(&[warning]),
        label: Label { result: "skipped", reason: "not_asked" },
        announcements: Vec::new(),
    }
}

fn admitted(request: &Request, before: &Pod, admission: Admission) -> Verdict {
    let Admission { pod, outcome, warnings } = admission;
    let patch = injection::patch(before, &pod).and_then(|patch| match patch.0.is_empty() {
        true => Ok(None),
        false => serde_json::to_vec(&patch).map(Some),
    });
    let mut response = Response::allowed(&request.uid).with_warnings(&warnings);
    match patch {
        Ok(Some(patch)) => response = response.with_patch(patch),
        Ok(None) => {}
        Err(error) => {
            return failed(request, 422, "unpatchable", format!("the pod cannot be changed: {error}"));
        }
    }
    let label = match outcome {
        Outcome::Injected => Label { result: "injected", reason: "" },
        Outcome::Skipped(skip) => Label { result: "skipped", reason: skip.as_str() },
    };
    let reason = match outcome {
        Outcome::Skipped(skip) if skip.was_asked_for() => "NotInjected",
        _ => "Injection",
    };
    let announcements =
        warnings.into_iter().map(|note| announcement(request, before, reason, note)).collect();
    Verdict { response, label, announcements }
}

fn refused(request: &Request, pod: &Pod, refusal: &Refusal) -> Verdict {
    let note = format!("trellis: not admitted: {refusal}");
    Verdict {
        response: Response::refused(&request.uid, 422, "Invalid", refusal.to_string()),
        label: Label { result: "refused", reason: refusal.as_str() },
        announcements: vec![announcement(request, pod, "InjectionRefused", note)],
    }
}

/// Whether a fresh look at the namespace could change the verdict: API servers ask about pods that are
/// to be meshed, so a namespace that says nothing is a namespace that was labelled a moment ago.
pub fn may_be_stale(verdict: &Verdict) -> bool {
    [Skip::NotAsked, Skip::NamespaceOptedOut].iter().any(|skip| skip.as_str() == verdict.label.reason)
}

/// Regarding the pod's controller, which exists and is what people look at; a pod that has none may
/// have no name yet either.
fn announcement(request: &Request, pod: &Pod, reason: &'static str, note: String) -> Announcement {
    let owners = pod.metadata.owner_references.iter().flatten();
    let regarding = match owners.into_iter().find(|owner| owner.controller.unwrap_or(false)) {
        Some(owner) => ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            namespace: Some(request.namespace.clone()),
            ..ObjectReference::default()
        },
        None => {
            let generated = pod.metadata.generate_name.as_deref().unwrap_or("pod");
            // An Event's own name begins with this one and must be a name in its turn.
            let name = pod.metadata.name.as_deref().unwrap_or(generated).trim_end_matches('-');
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(name.to_owned()),
                namespace: Some(request.namespace.clone()),
                ..ObjectReference::default()
            }
        }
    };
    Announcement { regarding, reason, note }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use trellis_api::names;

    use super::*;

    fn request(object: Value) -> Request {
        Request::parse(
            json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "request": {
                    "uid": "u-1", "namespace": "shop", "operation": "CREATE", "object": object,
                    "resource": {"group": "", "version": "v1", "resource": "pods"},
                },
            })
            .to_string()
            .as_bytes(),
        )
        .unwrap()
    }

    fn verdict(object: Value) -> Verdict {
        let request = request(object);
        let labels = [(names::INJECT.to_owned(), "enabled".to_owned())].into();
        let namespace = Namespace { name: "shop".into(), labels, ..Namespace::default() };
        judge(&request, &request.pod().unwrap(), &namespace, &Settings::default())
    }

    fn owned(spec: Value) -> Value {
        json!({
            "metadata": {"generateName": "web-5d-", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "not-this", "uid": "o"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "r", "controller": true},
            ]},
            "spec": spec,
        })
    }

    #[test]
    fn an_injected_pod_is_patched_in_silence() {
        let verdict = verdict(owned(json!({"containers": [{"name": "web"}]})));
        assert_eq!(verdict.label, Label { result: "injected", reason: "" });
        assert!(verdict.response.allowed && verdict.response.patch.is_some());
        assert_eq!(verdict.response.patch_type, Some("JSONPatch"));
        assert_eq!((verdict.announcements, verdict.response.warnings), (vec![], vec![]));
    }

    #[test]
    fn a_pod_that_cannot_be_meshed_is_announced_at_its_controller() {
        let verdict = verdict(owned(json!({"containers": [{"name": "web"}], "hostNetwork": true})));
        assert_eq!(verdict.label, Label { result: "skipped", reason: "host_network" });
        assert!(verdict.response.allowed);
        assert!(verdict.response.warnings[0].contains("hostNetwork"));
        let [announcement] = &verdict.announcements[..] else { panic!("{:?}", verdict.announcements) };
        assert_eq!(announcement.reason, "NotInjected");
        assert_eq!(announcement.regarding.name.as_deref(), Some("web-5d"));
        assert_eq!(announcement.regarding.uid.as_deref(), Some("r"));
        assert_eq!(announcement.regarding.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn a_refused_pod_says_why_and_what_to_do() {
        let verdict = verdict(json!({
            "metadata": {"generateName": "job-", "annotations": {"trellis.dev/opaque-port": "1"}},
            "spec": {"containers": [{"name": "web"}]},
        }));
        assert_eq!(verdict.label, Label { result: "refused", reason: "unknown_annotation" });
        let status = verdict.response.status.unwrap();
        assert!(!verdict.response.allowed && verdict.response.patch.is_none());
        assert_eq!(status.code, Some(422));
        assert!(status.message.unwrap().contains("did you mean `trellis.dev/opaque-ports`?"));
        assert_eq!(verdict.announcements[0].regarding.name.as_deref(), Some("job"));
        assert_eq!(verdict.announcements[0].reason, "InjectionRefused");
    }

    #[test]
    fn a_question_about_anything_else_lets_it_pass_and_says_so() {
        let mut request = request(json!({}));
        assert!(request.is_about_a_new_pod());
        request.operation = "UPDATE".into();
        assert!(!request.is_about_a_new_pod());
        let verdict = not_asked(&request, "CREATE of pods");
        assert!(verdict.response.allowed && verdict.response.warnings[0].contains("UPDATE pods"));
    }
}
