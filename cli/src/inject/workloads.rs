//! The pods that an object holds: itself, its template, or those of a List's items.

use std::fmt;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};
use trellis_api::injection::{self, Namespace, Outcome, Refusal, Settings};

/// Where a pod stands in an object, and what it is called.
#[derive(Debug)]
pub struct Workload {
    pub namespace: String,
    kind: String,
    name: String,
    /// JSON pointer.
    place: String,
}

/// What was done to one pod.
#[derive(Debug)]
pub struct Done {
    pub changed: bool,
    pub messages: Vec<String>,
}

/// The object itself, or the items of a List.
pub fn objects(value: &Value) -> Vec<&Value> {
    placed(value).into_iter().map(|(_, object)| object).collect()
}

/// Every pod of the object. `namespace` is that of what names none.
pub fn find(value: &Value, namespace: &str) -> Vec<Workload> {
    let all = placed(value).into_iter();
    all.filter_map(|(place, object)| {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind")?;
        let within = template(text("/apiVersion")?, kind)?;
        let name = text("/metadata/name").or_else(|| text("/metadata/generateName"));
        Some(Workload {
            namespace: text("/metadata/namespace").unwrap_or(namespace).to_owned(),
            kind: kind.to_lowercase(),
            name: name.unwrap_or("(unnamed)").to_owned(),
            place: format!("{place}{within}"),
        })
    })
    .collect()
}

fn placed(value: &Value) -> Vec<(String, &Value)> {
    let is_list = value["apiVersion"] == "v1" && value["kind"] == "List";
    match value.get("items").and_then(Value::as_array) {
        Some(items) if is_list => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| (format!("/items/{index}"), item)).collect()
        }
        _ => vec![(String::new(), value)],
    }
}

/// Where the kind has its pod.
fn template(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "PodTemplate") => Some("/template"),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

impl Workload {
    /// Changes the pod in its place, and nothing around it.
    pub fn inject(
        &self,
        object: &mut Value,
        namespace: &Namespace,
        settings: &Settings,
    ) -> Result<Result<Done, Refusal>> {
        let raw =
            object.pointer_mut(&self.place).with_context(|| format!("there is nothing at {}", self.place))?;
        if let Some(fields) = raw.as_object_mut() {
            let metadata = fields.entry("metadata").or_insert(Value::Null);
            if metadata.is_null() {
                *metadata = json!({});
            }
        }
        let pod = Pod::deserialize(&*raw).map_err(|error| anyhow!("the pod cannot be read: {error}"))?;
        let admission = match injection::admit(&pod, namespace, settings) {
            Ok(admission) => admission,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let patch = injection::patch(&pod, &admission.pod)?;
        json_patch::patch(raw, &patch)?;
        let said = match admission.outcome {
            Outcome::Injected => "injected".to_owned(),
            Outcome::Skipped(skip) => format!("not injected: {}", skip.explanation()),
        };
        let said_already = |warning: &&String| !warning.ends_with(&said);
        let warnings = admission.warnings.iter().filter(said_already);
        let warnings = warnings.map(|warning| format!("{self}: warning: {warning}"));
        let messages = [format!("{self}: {said}")].into_iter().chain(warnings).collect();
        Ok(Ok(Done { changed: !patch.0.is_empty(), messages }))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} in {}", self.kind, self.name, self.namespace)
    }
}
