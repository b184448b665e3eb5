//! The socket of the SPIFFE Workload API: a volume in memory that the proxy writes to and every other
//! container of the pod reads from.

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, PodSpec, Volume, VolumeMount};

use super::sidecar::{is_ours, mount, text};
use crate::{annotations::WorkloadApi, names};

/// Gives the proxy the socket, and the application the way to it.
pub(super) fn add(spec: &mut PodSpec, wanted: WorkloadApi) {
    spec.volumes.get_or_insert_default().push(Volume {
        name: names::WORKLOAD_API_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: None }),
        ..Volume::default()
    });
    let inits = spec.init_containers.iter_mut().flatten();
    if let Some(proxy) = inits.into_iter().find(|container| container.name == names::PROXY_CONTAINER) {
        let environment = proxy.env.get_or_insert_default();
        environment.push(text("TRELLIS_WORKLOAD_API_SOCKET", path()));
        if let WorkloadApi::Of(algorithm) = wanted {
            environment.push(text("TRELLIS_WORKLOAD_API_ALGORITHM", algorithm.as_str().to_owned()));
        }
        proxy.volume_mounts.get_or_insert_default().push(VolumeMount {
            read_only: None,
            ..mount(names::WORKLOAD_API_VOLUME, names::WORKLOAD_API_DIR)
        });
    }
    refresh(spec);
}

/// Leads every container of the application to the socket, those included that came later.
pub(super) fn refresh(spec: &mut PodSpec) {
    let there = |volume: &Volume| volume.name == names::WORKLOAD_API_VOLUME;
    if !spec.volumes.iter().flatten().any(there) {
        return;
    }
    let inits = spec.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut spec.containers).filter(|container| !is_ours(container)) {
        lead(container);
    }
}

fn lead(container: &mut Container) {
    let mounts = container.volume_mounts.get_or_insert_default();
    if !mounts.iter().any(|mount| mount.name == names::WORKLOAD_API_VOLUME) {
        mounts.push(mount(names::WORKLOAD_API_VOLUME, names::WORKLOAD_API_DIR));
    }
    let environment = container.env.get_or_insert_default();
    // Whoever says where else to ask means it.
    if !environment.iter().any(|variable| variable.name == names::SPIFFE_ENDPOINT_SOCKET) {
        environment.push(text(names::SPIFFE_ENDPOINT_SOCKET, format!("unix://{}", path())));
    }
}

fn path() -> String {
    format!("{}/{}", names::WORKLOAD_API_DIR, names::WORKLOAD_API_SOCKET)
}
