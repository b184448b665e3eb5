//! `trellis inject`: what the admission webhook would make of the pods in some manifests, offline.

mod documents;
mod workloads;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use trellis_api::{
    injection::{Namespace, Settings},
    names,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Documents that need no change come out byte for byte; those that do lose their comments."
)]
pub struct Inject {
    /// A file of manifests, YAML or JSON, or - for standard input. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Injection settings, as the injector reads them; without it, those of a default installation.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The namespace of what names none.
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Labels of every namespace. What no manifest and no label here switches counts as enabled.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = pair)]
    namespace_labels: Vec<(String, String)>,
    /// An annotation of every namespace. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    namespace_annotations: Vec<(String, String)>,
}

/// What was made of the input.
#[derive(Debug, Default)]
struct Outcome {
    manifests: String,
    /// What was and what was not injected, one line each.
    messages: Vec<String>,
    /// What must not run as it is.
    refused: Vec<String>,
}

impl Inject {
    /// Prints all manifests, or none if one of them would be refused.
    pub async fn run(self) -> Result<ExitCode> {
        let settings = self.settings()?;
        let mut texts = Vec::new();
        for file in &self.files {
            texts.push((file.as_str(), read(file)?));
        }
        let outcome = self.inject(&texts, &settings)?;
        let mut err = io::stderr().lock();
        for message in outcome.messages.iter().chain(&outcome.refused) {
            writeln!(err, "{message}")?;
        }
        if !outcome.refused.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        io::stdout().lock().write_all(outcome.manifests.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }

    fn settings(&self) -> Result<Settings> {
        let Some(path) = &self.config else { return Ok(Settings::default()) };
        let text = fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
        let settings: Settings = documents::parse(&text, 0)
            .and_then(|value| Ok(serde_json::from_value(value)?))
            .with_context(|| format!("--config {}", path.display()))?;
        settings.validate().with_context(|| format!("--config {}", path.display()))?;
        Ok(settings)
    }

    fn inject(&self, texts: &[(&str, String)], settings: &Settings) -> Result<Outcome> {
        let mut documents = Vec::new();
        for (file, text) in texts {
            for document in documents::split(text) {
                let value = document.value().with_context(|| format!("cannot read {file}"))?;
                documents.push((*file, document, value));
            }
        }
        let known = self.namespaces(documents.iter().map(|(_, _, value)| value));
        let of_name = |name: &str| known.get(name).cloned().unwrap_or_else(|| self.assumed(name));
        let mut outcome = Outcome::default();
        for (file, document, mut value) in documents {
            let mut changed = false;
            for workload in workloads::find(&value, &self.namespace) {
                let namespace = of_name(&workload.namespace);
                let result = workload.inject(&mut value, &namespace, settings);
                let result = result.with_context(|| format!("{file}: {workload}"))?;
                match result {
                    Ok(done) => {
                        changed |= done.changed;
                        outcome.messages.extend(done.messages);
                    }
                    Err(refusal) => outcome.refused.push(format!("{workload}: refused: {refusal}")),
                }
            }
            if changed {
                document.write_changed(&value, &mut outcome.manifests)?;
            } else {
                document.write(&mut outcome.manifests);
            }
        }
        Ok(outcome)
    }

    /// The namespaces among the manifests themselves.
    fn namespaces<'a>(&self, objects: impl Iterator<Item = &'a Value>) -> BTreeMap<String, Namespace> {
        let items = objects.flat_map(workloads::objects);
        let namespaces = items.filter(|object| object["kind"] == "Namespace" && object["apiVersion"] == "v1");
        namespaces
            .filter_map(|object| {
                let metadata = object.get("metadata")?;
                let name = metadata.get("name")?.as_str()?.to_owned();
                let texts = |field: &str| {
                    metadata.get(field).cloned().and_then(|map| serde_json::from_value(map).ok())
                };
                let labels = texts("labels").unwrap_or_default();
                let annotations = texts("annotations").unwrap_or_default();
                Some((name.clone(), self.assume(Namespace { name, labels, annotations })))
            })
            .collect()
    }

    fn assumed(&self, name: &str) -> Namespace {
        self.assume(Namespace { name: name.to_owned(), ..Namespace::default() })
    }

    fn assume(&self, mut namespace: Namespace) -> Namespace {
        namespace.labels.extend(self.namespace_labels.iter().cloned());
        namespace.annotations.extend(self.namespace_annotations.iter().cloned());
        namespace.labels.entry(names::INJECT.to_owned()).or_insert_with(|| names::ENABLED.to_owned());
        namespace
    }
}

fn read(file: &str) -> Result<String> {
    if file == "-" {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        inject: Inject,
    }

    fn inject(manifests: &str, flags: &[&str]) -> Outcome {
        let line = Line::try_parse_from(["inject", "-f", "-"].iter().chain(flags)).unwrap();
        line.inject.inject(&[("-", manifests.to_owned())], &Settings::default()).unwrap()
    }

    fn values(manifests: &str) -> Vec<Value> {
        let all = documents::split(manifests).into_iter().map(|document| document.value().unwrap());
        all.filter(|value| !value.is_null()).collect()
    }

    /// The names of the init containers at the place, none if it was not injected.
    fn inits(value: &Value, place: &str) -> Vec<String> {
        let inits = value.pointer(&format!("{place}/spec/initContainers")).and_then(Value::as_array);
        inits.into_iter().flatten().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    const BOTH: [&str; 2] = ["trellis-capture", "trellis-proxy"];

    #[test]
    fn every_kind_that_holds_a_pod_is_injected() {
        let pod = "spec: {containers: [{name: web, image: web}]}";
        for (api, kind, place, spec) in [
            ("v1", "Pod", "", pod.to_owned()),
            ("v1", "ReplicationController", "/spec/template", format!("spec: {{template: {{{pod}}}}}")),
            ("v1", "PodTemplate", "/template", format!("template: {{{pod}}}")),
            ("apps/v1", "Deployment", "/spec/template", format!("spec: {{template: {{{pod}}}}}")),
            ("apps/v1", "StatefulSet", "/spec/template", format!("spec: {{template: {{{pod}}}}}")),
            ("apps/v1", "DaemonSet", "/spec/template", format!("spec: {{template: {{{pod}}}}}")),
            ("apps/v1", "ReplicaSet", "/spec/template", format!("spec: {{template: {{{pod}}}}}")),
            ("batch/v1", "Job", "/spec/template", format!("spec: {{template: {{{pod}}}}}")),
            (
                "batch/v1",
                "CronJob",
                "/spec/jobTemplate/spec/template",
                format!("spec: {{jobTemplate: {{spec: {{template: {{{pod}}}}}}}}}"),
            ),
        ] {
            let manifest = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: web}}\n{spec}\n");
            let outcome = inject(&manifest, &[]);
            let values = values(&outcome.manifests);
            assert_eq!(inits(&values[0], place), BOTH, "{kind}");
            let annotations = values[0].pointer(&format!("{place}/metadata/annotations")).unwrap();
            assert_eq!(annotations["trellis.dev/injected"], env!("CARGO_PKG_VERSION"));
            assert_eq!(outcome.messages, [format!("{}/web in default: injected", kind.to_lowercase())]);

            let list = format!(
                "apiVersion: v1\nkind: List\nitems:\n- {}\n- {{apiVersion: v1, kind: Secret, metadata: {{name: s}}}}\n",
                manifest.trim_end().replace('\n', "\n  ")
            );
            let values = self::values(&inject(&list, &[]).manifests);
            assert_eq!(inits(&values[0]["items"][0], place), BOTH, "{kind} in a List");
            assert_eq!(values[0]["items"][1]["kind"], "Secret");

            // Injected manifests are left byte for byte as they are.
            assert_eq!(inject(&outcome.manifests, &[]).manifests, outcome.manifests, "{kind}");
        }
    }

    #[test]
    fn the_result_is_what_the_webhook_makes_of_the_same_pod() {
        let manifest = include_str!("../../api/tests/injection/pod.yaml");
        let annotations = ["--namespace-annotations=trellis.dev/skip-outbound-ports=5432"];
        let more = ["--namespace-annotations=trellis.dev/proxy-log-level=warn"];
        let outcome = inject(manifest, &[annotations, more].concat());
        let expected = include_str!("../../api/tests/injection/injected.yaml");
        let expected = expected.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(values(&outcome.manifests), values(&expected));
    }

    const MIXED: &str = "\
# A shop, in several documents.
apiVersion: v1
kind: Service # kept
metadata: {name:   web}
---
# the application
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {spec: {containers: [{name: web, image: web}]}}}
--- # settings
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data:
  file: |
    apiVersion: v1
    kind: Pod
    ---- no separator
...
---
apiVersion: example.com/v1
kind: Deployment
spec: {template: {spec: {containers: [{name: not-ours}]}}}
---
";

    #[test]
    fn what_is_not_injected_stays_as_it_was_written_and_where_it_was() {
        let outcome = inject(MIXED, &[]);
        let (service, rest) = outcome.manifests.split_once("---\n").unwrap();
        assert_eq!(service, MIXED.split_once("---\n").unwrap().0);
        let settings = MIXED.find("--- # settings").unwrap();
        assert!(rest.ends_with(&MIXED[settings..]), "{rest}");
        let values = values(&outcome.manifests);
        let kinds: Vec<&str> = values.iter().map(|value| value["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Service", "Deployment", "ConfigMap", "Deployment"]);
        assert_eq!(inits(&values[1], "/spec/template"), BOTH);
        assert_eq!(outcome.messages, ["deployment/web in shop: injected"]);
    }

    #[test]
    fn nothing_to_inject_is_nothing_changed() {
        for manifests in
            ["", "---\n", "# only a comment\n", "null\n", "apiVersion: v1\nkind: List\nitems: []"]
        {
            assert_eq!(inject(manifests, &[]).manifests, manifests);
        }
    }

    #[test]
    fn numbers_and_texts_remain_what_kubernetes_would_read() {
        let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a: 'yes', b: \"1\", c: '0644', d: 'null', e: '1e3', f: '~', g: ''}}
spec:
  containers:
  - {name: web, args: ['on', 'true', '0x1f', '1_000', '2020-01-01', '1:30', '- x', 'a: b', '# c', \"multi\\nline\\n\"]}
  volumes:
  - {name: v, secret: {secretName: s, defaultMode: 0644}}
";
        let before = values(manifest).remove(0);
        assert_eq!(before["spec"]["volumes"][0]["secret"]["defaultMode"], 420);
        let text = inject(manifest, &[]).manifests;
        let after = values(&text).remove(0);
        assert_eq!(after["spec"]["containers"], before["spec"]["containers"]);
        assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
        assert_eq!(after["spec"]["volumes"][0], before["spec"]["volumes"][0]);
        // A reader of YAML 1.1, as Kubernetes is, must not take these for anything else.
        for quoted in ["\"yes\"", "\"on\"", "\"1\"", "\"0644\""] {
            assert!(text.contains(quoted) || text.contains(&quoted.replace('"', "'")), "{quoted} in {text}");
        }
    }

    #[test]
    fn fields_of_a_newer_kubernetes_are_kept() {
        let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {tomorrow: {a: 1}, containers: [{name: web, image: web, tomorrow: [2]}]}
";
        let after = values(&inject(manifest, &[]).manifests).remove(0);
        assert_eq!(after["spec"]["tomorrow"]["a"], 1);
        assert_eq!(after["spec"]["containers"][0]["tomorrow"][0], 2);
    }

    #[test]
    fn namespaces_decide_as_they_do_in_a_cluster() {
        let pod = |namespace: &str| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: {namespace}}}\nspec: {{containers: [{{name: web}}]}}\n"
            )
        };
        let namespace = |name: &str, more: &str| {
            format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{more}}}\n")
        };
        let disabled = ", labels: {trellis.dev/inject: disabled}";
        let drains = ", annotations: {trellis.dev/drain-seconds: \"7\"}";
        let manifests =
            [pod("out"), namespace("out", disabled), namespace("in", drains), pod("in"), pod("kube-system")]
                .concat();
        let outcome = inject(&manifests, &[]);
        assert_eq!(
            outcome.messages,
            [
                "pod/web in out: not injected: the namespace is labelled trellis.dev/inject: disabled",
                "pod/web in in: injected",
                "pod/web in kube-system: not injected: nothing is injected in this namespace",
            ]
        );
        let values = values(&outcome.manifests);
        assert_eq!(values[3]["metadata"]["annotations"]["trellis.dev/drain-seconds"], "7");

        let flagged = inject(&pod("shop"), &["--namespace-labels=a=b,trellis.dev/inject=disabled"]);
        assert!(flagged.messages[0].contains("not injected"), "{:?}", flagged.messages);
        let named = inject("{apiVersion: v1, kind: Pod, spec: {containers: []}}", &["-n", "kube-public"]);
        assert_eq!(
            named.messages,
            ["pod/(unnamed) in kube-public: not injected: nothing is injected in this namespace"]
        );
    }

    #[test]
    fn what_would_be_refused_is_refused_and_what_would_warn_warns() {
        let pod = |more: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: web}}], {more}}}\n"
            )
        };
        let outcome = inject(&pod("securityContext: {runAsUser: 1337}"), &[]);
        assert!(
            outcome.refused[0].starts_with("pod/web in default: refused: container `web` runs as user 1337")
        );
        let outcome = inject(&pod("hostNetwork: true"), &[]);
        assert!(outcome.messages[0].contains("not injected: the pod uses its node's network"));
        let annotations = &values(&outcome.manifests)[0]["metadata"]["annotations"];
        assert_eq!(annotations["trellis.dev/not-injected"], "host_network");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        let line = Line::try_parse_from(["inject", "-f", "x.yaml"]).unwrap();
        let error = |manifests: &str| {
            let error = line.inject.inject(&[("x.yaml", manifests.to_owned())], &Settings::default());
            format!("{:#}", error.unwrap_err())
        };
        let broken = error("apiVersion: v1\n---\nkind: Pod\nmetadata: [\n");
        assert!(broken.contains("cannot read x.yaml") && broken.contains("line 4"), "{broken}");
        let odd = error("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: 5}}");
        assert!(odd.contains("x.yaml: pod/web in default") && odd.contains("expected"), "{odd}");
    }

    #[test]
    fn settings_come_from_a_file_where_one_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.yaml");
        let flag = format!("--config={}", path.display());
        let settings = || Line::try_parse_from(["inject", "-f=-", &flag]).unwrap().inject.settings();
        assert!(format!("{:#}", settings().unwrap_err()).contains("settings.yaml"));
        fs::write(&path, "images: {proxy: example.com/proxy:1}\n").unwrap();
        assert_eq!(settings().unwrap().images.proxy, "example.com/proxy:1");
        fs::write(&path, "caAddress: x\n").unwrap();
        assert!(format!("{:#}", settings().unwrap_err()).contains("`caAddress: x`"));
        fs::write(&path, "imgaes: {}\n").unwrap();
        assert!(format!("{:#}", settings().unwrap_err()).contains("unknown field `imgaes`"));
    }
}
