//! What discovery keeps of a Pod: who it is, where it is, and whether it has a proxy of its own.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1 as k8s;
use trellis_api::{
    annotations::{Ports, SKIP_INBOUND_PORTS},
    names,
};

use crate::{
    answer::Reason,
    service::{addresses, opaque, ports},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub addresses: Box<[IpAddr]>,
    pub service_account: Arc<str>,
    pub sidecar: Sidecar,
    /// Ports that the pod's capture leaves to the application.
    pub skipped: Ports,
    /// Ports whose bytes nobody shall read.
    pub opaque: Ports,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The pod was told to end. It lives until its phase says that it is over.
    pub leaving: bool,
    /// Seconds since 1970; the younger of two pods with one address has it.
    pub created: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sidecar {
    Injected,
    Absent,
    /// The pod's addresses are its node's; nothing can be captured there.
    HostNetwork,
}

impl Pod {
    /// Nothing, where the pod has no address, or none any more: what has ended gives its address back
    /// before its object goes.
    pub fn of(pod: &k8s::Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let all = status.pod_ips.iter().flatten().map(|one| &one.ip).chain(status.pod_ip.iter());
        let addresses = addresses(all);
        if addresses.is_empty() {
            return None;
        }
        let account = spec.service_account_name.as_deref().filter(|account| !account.is_empty());
        Some(Self {
            addresses,
            service_account: account.unwrap_or("default").into(),
            sidecar: sidecar(pod, spec),
            // The injector refuses what is malformed. Where it was not asked, nothing is skipped: a tunnel
            // that fails is seen, plaintext that nobody wanted is not.
            skipped: ports(&pod.metadata, SKIP_INBOUND_PORTS, "no port is skipped"),
            opaque: opaque(&pod.metadata),
            node: spec.node_name.as_deref().map(Into::into),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second()),
        })
    }

    /// Why a port of the pod is not behind its proxy, or nothing where it is. Port 0 means the pod.
    pub fn plaintext(&self, port: u16) -> Option<Reason> {
        match self.sidecar {
            Sidecar::HostNetwork => Some(Reason::HostNetwork),
            Sidecar::Absent => Some(Reason::NotInjected),
            // What the proxy itself shows is never captured: a scraper in the mesh finds it as it is.
            Sidecar::Injected if matches!(port, names::METRICS_PORT | names::READY_PORT) => {
                Some(Reason::PortSkipped)
            }
            Sidecar::Injected if self.skipped.contains(port) => Some(Reason::PortSkipped),
            Sidecar::Injected => None,
        }
    }
}

/// Whether the pod has a proxy.
pub fn sidecar(pod: &k8s::Pod, spec: &k8s::PodSpec) -> Sidecar {
    let notes = pod.metadata.annotations.as_ref();
    if spec.host_network.unwrap_or(false) {
        Sidecar::HostNetwork
    } else if notes.is_some_and(|notes| notes.contains_key(names::INJECTED)) {
        Sidecar::Injected
    } else {
        Sidecar::Absent
    }
}
