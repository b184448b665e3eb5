//! What the state of a large cluster costs, as a figure to read: run with `--nocapture`. A process of its
//! own, so that nothing else is measured.
#![allow(clippy::unwrap_used)] // a test that cannot go on says where

use std::{fs, sync::Arc};

use futures::FutureExt;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};
use trellis_api::source::Change;
use trellis_discovery::{answer::Answer, destination::Destination, event::Event, hub::Hub, viewer::Viewer};
use trellis_pki::spiffe::SpiffeId;

const SERVICES: usize = 1_000;
const PODS_EACH: usize = 10;

#[test]
fn a_thousand_services_with_ten_pods_each() {
    let hub = Arc::new(Hub::default());
    let before = resident();
    // One by one, so that what is measured is what stays and not what passes through.
    for number in 0..SERVICES {
        hub.apply([Event::Services(applied(service(number))), Event::Slices(applied(slice(number)))]);
        hub.apply((0..PODS_EACH).map(|replica| Event::Pods(applied(pod(number, replica)))));
    }
    let known = resident();
    let proxy = SpiffeId::new("cluster.local", "team-1", "web").unwrap();
    let session = hub.join(Viewer::new(proxy, &"cluster.local".into()));
    for number in 0..SERVICES {
        session.subscribe(Destination::new(cluster_ip(number).parse().unwrap(), 80)).unwrap();
    }
    let watched = resident();
    let pods = SERVICES * PODS_EACH;
    println!("state of {SERVICES} services and {pods} pods: {} kB", (known - before) / 1024);
    println!("the answers about all of them, kept once for every proxy: {} kB", (watched - known) / 1024);

    let (_, answer) = session.next().now_or_never().unwrap();
    assert!(matches!(&*answer, Answer::Service(service) if service.endpoints.len() == PODS_EACH));
}

fn applied<K: DeserializeOwned>(object: Value) -> Change<K> {
    Change::Applied(Arc::new(serde_json::from_value(object).unwrap()))
}

fn service(number: usize) -> Value {
    json!({
        "metadata": {"namespace": namespace(number), "name": format!("service-{number}")},
        "spec": {"clusterIPs": [cluster_ip(number)], "ports": [{"name": "http", "port": 80}]}
    })
}

fn slice(number: usize) -> Value {
    let endpoint = |replica| {
        json!({
            "addresses": [pod_ip(number, replica)],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": pod_name(number, replica)}
        })
    };
    json!({
        "metadata": {
            "namespace": namespace(number),
            "name": format!("service-{number}-x7k2p"),
            "labels": {"kubernetes.io/service-name": format!("service-{number}")}
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": (0..PODS_EACH).map(endpoint).collect::<Vec<_>>()
    })
}

fn pod(number: usize, replica: usize) -> Value {
    json!({
        "metadata": {
            "namespace": namespace(number),
            "name": pod_name(number, replica),
            "annotations": {"trellis.dev/injected": "0.1.0"}
        },
        "spec": {"serviceAccountName": format!("service-{number}"), "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": pod_ip(number, replica)}]}
    })
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % 50)
}

fn cluster_ip(number: usize) -> String {
    format!("10.96.{}.{}", number / 250, number % 250)
}

fn pod_ip(number: usize, replica: usize) -> String {
    let pod = number * PODS_EACH + replica;
    format!("10.244.{}.{}", pod / 250, pod % 250)
}

fn pod_name(number: usize, replica: usize) -> String {
    format!("service-{number}-5d9c7b6f4-{replica:05}")
}

/// Bytes that the process has in memory.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
