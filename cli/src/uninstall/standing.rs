//! Who still stands on the mesh: injected pods that run.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use thiserror::Error;
use trellis_api::names;

const PAGE: u32 = 500;

/// How many injected pods run in each namespace.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct Standing(BTreeMap<String, usize>);

/// Fails where injected pods run.
pub async fn nothing_may(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut counts = BTreeMap::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = pods.list(&params).await.context("cannot list the pods of the cluster")?;
        count(&page.items, &mut counts);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    if counts.is_empty() { Ok(()) } else { Err(Standing(counts).into()) }
}

fn count(pods: &[Pod], counts: &mut BTreeMap<String, usize>) {
    for pod in pods.iter().filter(|pod| is_injected(pod) && !is_over(pod)) {
        *counts.entry(pod.namespace().unwrap_or_default()).or_default() += 1;
    }
}

fn is_injected(pod: &Pod) -> bool {
    pod.annotations().contains_key(names::INJECTED)
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl fmt::Display for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "injected pods are still running, and would lose their certificates within a day:")?;
        for (namespace, pods) in &self.0 {
            writeln!(out, "  {namespace}: {pods}")?;
        }
        write!(
            out,
            "take each namespace out of the mesh first:\n  \
             kubectl label namespace NAMESPACE {label}-\n  \
             kubectl rollout restart deployment,statefulset,daemonset --namespace NAMESPACE\n\
             or say --force",
            label = names::INJECT
        )
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use kube::api::ObjectMeta;

    use super::*;

    fn pod(namespace: &str, injected: bool, phase: &str) -> Pod {
        let annotations = injected.then(|| [(names::INJECTED.to_owned(), "0.1.0".to_owned())].into());
        Pod {
            metadata: ObjectMeta { namespace: Some(namespace.into()), annotations, ..ObjectMeta::default() },
            status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
            ..Pod::default()
        }
    }

    #[test]
    fn pods_that_are_over_or_were_never_injected_stand_on_nothing() {
        let mut counts = BTreeMap::new();
        count(
            &[
                pod("shop", true, "Running"),
                pod("shop", true, "Pending"),
                pod("shop", true, "Succeeded"),
                pod("batch", true, "Failed"),
                pod("plain", false, "Running"),
            ],
            &mut counts,
        );
        assert_eq!(counts, BTreeMap::from([("shop".to_owned(), 2)]));
        let message = Standing(counts).to_string();
        assert!(message.contains("  shop: 2\n") && message.contains("--force"), "{message}");
    }
}
