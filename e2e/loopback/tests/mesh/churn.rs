//! Endpoints that come and go, and a cluster that is large: neither is felt by who does not depend on it.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::time;
use trellis_local::get::get;
use trellis_loopback::stage::Error;

use crate::{
    restarts::{Rolling, whole},
    trial,
    web::status,
};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("endpoints_that_flap_fail_no_request", flap),
        trial("ten_thousand_endpoints_cost_nothing_where_nobody_talks_to_them", crowd),
    ]
}

async fn flap() -> Result<(), Error> {
    let mut rolling = Rolling::open().await?;
    let stays = rolling.add(11, "stays").await?;
    let flaps = rolling.add(12, "flaps").await?;
    let mut load = rolling.load().await?;
    rolling.serves(&flaps).await?;
    let mut served = 0;
    for _ in 0..15 {
        rolling.stage.mesh.apart(&rolling.service, &flaps.workload)?;
        load.goes_on(150).await?;
        rolling.stage.mesh.behind(&rolling.service, &flaps.workload)?;
        let before = flaps.served.load(Relaxed);
        load.goes_on(150).await?;
        served += usize::from(flaps.served.load(Relaxed) > before);
    }
    whole(load).await?;
    assert!(served >= 5, "it was heard of {served} times only");
    assert!(stays.served.load(Relaxed) > 0);
    Ok(())
}

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;
const FILES: usize = 50;

/// A part of a large cluster: Services whose endpoints say in which round of changes they are.
fn part(file: usize, round: usize) -> Vec<Value> {
    let mut manifests = vec![json!({"apiVersion": "v1", "kind": "Namespace",
                                    "metadata": {"name": "crowd", "uid": "crowd-uid"}})];
    for number in (file * SERVICES / FILES)..((file + 1) * SERVICES / FILES) {
        let (name, address) =
            (format!("service-{number}"), format!("10.96.{}.{}", number / 250, number % 250 + 1));
        let ports = json!([{"name": "main", "port": 80, "protocol": "TCP"}]);
        manifests.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "crowd", "name": name, "uid": format!("{name}-uid")},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports},
        }));
        let endpoint = |which: usize| {
            let at = number * ENDPOINTS + which;
            json!({"addresses": [format!("10.{}.{}.{}", 100 + round % 100, at / 250, at % 250 + 1)],
                   "conditions": {"ready": true}})
        };
        manifests.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "crowd", "name": format!("{name}-1"), "uid": format!("{name}-slice-uid"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": ports,
            "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
        }));
    }
    manifests
}

async fn crowd() -> Result<(), Error> {
    let mut rolling = Rolling::open().await?;
    let _first = rolling.add(11, "one").await?;
    let mut load = rolling.load().await?;
    load.goes_on(1_000).await?;
    whole(load).await?;
    let (before, knows) = (status(rolling.caller.pid, "VmRSS")?, known(&rolling).await?);
    for file in 0..FILES {
        rolling.stage.mesh.apply(&format!("crowd-{file}"), part(file, 0))?;
    }
    // Discovery has seen them when it has seen what came after them.
    let second = rolling.add(12, "two").await?;
    let mut load = rolling.load().await?;
    rolling.serves(&second).await?;
    for round in 1..=10 {
        for file in 0..FILES / 10 {
            rolling.stage.mesh.apply(&format!("crowd-{file}"), part(file, round))?;
        }
        load.goes_on(100).await?;
    }
    // Meanwhile what the client does talk to changes, and it hears of that.
    let third = rolling.add(13, "three").await?;
    rolling.serves(&third).await?;
    load.goes_on(250).await?;
    whole(load).await?;
    assert_eq!(known(&rolling).await?, knows, "it holds destinations that nobody asked for");
    let within = async {
        while status(rolling.caller.pid, "VmRSS")? > before + before / 10 {
            time::sleep(Duration::from_millis(50)).await;
        }
        Result::<(), Error>::Ok(())
    };
    let within = time::timeout(Duration::from_secs(20), within).await;
    let now = status(rolling.caller.pid, "VmRSS")?;
    within.map_err(|_| format!("{now} KiB, and {before} KiB before"))??;
    eprintln!("{before} KiB before, {now} KiB beside {SERVICES} Services");
    Ok(())
}

/// How many destinations the client's proxy knows.
async fn known(rolling: &Rolling) -> Result<usize, Error> {
    let (_, body) = get(rolling.caller.admin, "/destinations").await?;
    let destinations: Value = serde_json::from_slice(&body)?;
    Ok(destinations.as_object().map_or(0, |all| all.len()))
}
