//! The ports on which the node's kubelet calls into a pod. It has no identity, so the proxy must know
//! where to expect it.

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler, PodSpec, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::sidecar::is_ours;
use crate::annotations::Ports;

/// What the kubelet connects to in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// Container and port.
    pub ports: Vec<(String, u16)>,
    /// Container and name of a port that it does not declare: the kubelet cannot resolve it either.
    pub unresolved: Vec<(String, String)>,
}

impl Called {
    pub fn by_kubelet(spec: &PodSpec) -> Self {
        let mut called = Self::default();
        let inits = spec.init_containers.iter().flatten();
        for container in inits.chain(&spec.containers).filter(|container| !is_ours(container)) {
            for port in called_ports(container) {
                match resolve(container, port) {
                    Some(port) => called.ports.push((container.name.clone(), port)),
                    None => called.unresolved.push((container.name.clone(), written(port))),
                }
            }
        }
        called
    }

    pub fn set(&self) -> Ports {
        self.ports.iter().map(|(_, port)| *port).collect()
    }
}

fn called_ports(container: &Container) -> Vec<Port<'_>> {
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let lifecycle = container.lifecycle.as_ref();
    let hooks = lifecycle.into_iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    probes.into_iter().flatten().filter_map(probed).chain(hooks.flatten().filter_map(hooked)).collect()
}

/// gRPC probes know numbers only.
#[derive(Clone, Copy)]
enum Port<'a> {
    Written(&'a IntOrString),
    Number(i32),
}

fn probed(probe: &Probe) -> Option<Port<'_>> {
    let grpc = probe.grpc.as_ref().map(|action| Port::Number(action.port));
    grpc.or_else(|| action(probe.http_get.as_ref(), probe.tcp_socket.as_ref()))
}

fn hooked(hook: &LifecycleHandler) -> Option<Port<'_>> {
    action(hook.http_get.as_ref(), hook.tcp_socket.as_ref())
}

/// With a host of its own the call goes there and not into the pod.
fn action<'a>(http: Option<&'a HTTPGetAction>, tcp: Option<&'a TCPSocketAction>) -> Option<Port<'a>> {
    let is_here = |host: &Option<String>| host.as_deref().is_none_or(str::is_empty);
    let http = http.filter(|action| is_here(&action.host)).map(|action| &action.port);
    let tcp = tcp.filter(|action| is_here(&action.host)).map(|action| &action.port);
    http.or(tcp).map(Port::Written)
}

fn resolve(container: &Container, port: Port<'_>) -> Option<u16> {
    let number = match port {
        Port::Number(number) => number,
        Port::Written(IntOrString::Int(number)) => *number,
        Port::Written(IntOrString::String(name)) => {
            let declared = container.ports.iter().flatten();
            let by_name = declared.clone().find(|port| port.name.as_deref() == Some(name));
            by_name.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn written(port: Port<'_>) -> String {
    match port {
        Port::Number(number) => number.to_string(),
        Port::Written(IntOrString::Int(number)) => number.to_string(),
        Port::Written(IntOrString::String(name)) => name.clone(),
    }
}
