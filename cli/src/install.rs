//! `trellis install`: installs or upgrades the control plane. Helm does the work with the chart that this
//! binary carries; before it, the namespace is made such that only restricted pods can run there.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use trellis_api::names;

use crate::{chart::Unpacked, helm::HelmPath};

/// Name of the Helm release.
pub const RELEASE: &str = "trellis";

#[derive(Debug, Args)]
pub struct Install {
    /// The namespace of the control plane. It is made if it is not there.
    #[arg(short = 'n', long, default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    /// A file of values for the chart. May be repeated; later ones win.
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// One value for the chart, as path=value. May be repeated.
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Wait until everything is ready.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, as Helm writes it.
    #[arg(long, default_value = "5m", requires = "wait")]
    timeout: String,
    /// Print what would be applied, and touch no cluster.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    helm: HelmPath,
}

impl Install {
    pub async fn run(self) -> Result<ExitCode> {
        let helm = self.helm.clone().find().await?;
        let chart = Unpacked::new().context("cannot unpack the chart into a temporary folder")?;
        if !self.dry_run {
            let client = trellis_source::kubernetes_client().await?;
            make_namespace(&client, &self.namespace).await?;
        }
        helm.run(self.arguments(chart.path())).await?;
        Ok(ExitCode::SUCCESS)
    }

    /// What Helm is asked to do.
    fn arguments(&self, chart: PathBuf) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            if self.dry_run { vec!["template".into()] } else { vec!["upgrade".into(), "--install".into()] };
        arguments.extend([RELEASE.into(), chart.into(), "--namespace".into(), self.namespace.clone().into()]);
        for file in &self.values {
            arguments.extend(["--values".into(), file.into()]);
        }
        for value in &self.set {
            arguments.extend(["--set".into(), value.into()]);
        }
        if self.wait {
            arguments.extend(["--wait".into(), "--timeout".into(), self.timeout.clone().into()]);
        }
        arguments
    }
}

/// A namespace that is there already keeps its labels: they are its owner's.
pub async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    let labels = [
        (names::MANAGED_BY, names::MANAGER),
        ("pod-security.kubernetes.io/enforce", "restricted"),
        ("pod-security.kubernetes.io/warn", "restricted"),
    ];
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let advice = || format!("namespace {name}: make it yourself, or name another one with --namespace");
    if namespaces.get_opt(name).await.with_context(advice)?.is_some() {
        return Ok(());
    }
    let params = PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
    match namespaces.create(&params, &namespace).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error).with_context(advice),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Install, clap::Error> {
        let command = Install::augment_args(clap::Command::new("install"));
        Install::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    fn arguments(typed: &[&str]) -> Vec<String> {
        let install = parse(typed).unwrap();
        install.arguments("/chart".into()).into_iter().map(|one| one.into_string().unwrap()).collect()
    }

    #[test]
    fn helm_is_asked_for_what_was_typed() {
        assert_eq!(
            arguments(&["install"]),
            ["upgrade", "--install", "trellis", "/chart", "--namespace", "trellis-system"]
        );
        assert_eq!(
            arguments(&[
                "install",
                "-n",
                "mesh",
                "-f",
                "a.yaml",
                "-f",
                "b.yaml",
                "--set",
                "ca.leafValidity=12h",
                "--wait",
                "--timeout",
                "90s",
            ]),
            [
                "upgrade",
                "--install",
                "trellis",
                "/chart",
                "--namespace",
                "mesh",
                "--values",
                "a.yaml",
                "--values",
                "b.yaml",
                "--set",
                "ca.leafValidity=12h",
                "--wait",
                "--timeout",
                "90s",
            ]
        );
        assert_eq!(arguments(&["install", "--dry-run"])[0], "template");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for typed in [&["install", "--dry-run", "--wait"][..], &["install", "--timeout", "1m"]] {
            assert!(parse(typed).is_err(), "{typed:?}");
        }
    }
}
