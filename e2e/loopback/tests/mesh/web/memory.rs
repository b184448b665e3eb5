//! What connections cost that do nothing at the moment.

use std::time::Duration;

use futures::future::try_join_all;
use libtest_mimic::Trial;
use tokio::time;
use trellis_loopback::{
    stage::{Error, Stage},
    wire::Wire,
};

use super::{application, client, echo_paths, open, status};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("an_idle_connection_of_http_costs_little_and_is_served_on", idle)]
}

const CONNECTIONS: usize = 2_000;
/// For each connection. With the buffers of a server of HTTP it is about 10.
const KIB: usize = 6;

async fn asked(stage: &Stage) -> Result<Wire, Error> {
    let mut wire = client(stage).await?;
    let (head, _) = wire.ask("GET /idle HTTP/1.1\r\nhost: web\r\n\r\n").await?;
    assert_eq!(head.status(), 200);
    Ok(wire)
}

async fn idle() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, echo_paths);
    // What is made once is made before it is measured.
    drop(try_join_all((0..100).map(|_| asked(&stage))).await?);
    let before = status(stage.client.pid, "VmRSS")?;
    let mut held = Vec::new();
    while held.len() < CONNECTIONS {
        held.extend(try_join_all((0..100).map(|_| asked(&stage))).await?);
        // What is given up is used again by those who come next; the system does not get it back.
        time::sleep(Duration::from_secs(2)).await;
    }
    let now = status(stage.client.pid, "VmRSS")?;
    eprintln!("{CONNECTIONS} connections at rest: {before} KiB before, {now} KiB with them");
    assert!(now < before + CONNECTIONS * KIB, "{} KiB more", now - before);
    // Each is still served, and those that were cut in two as well.
    for (number, wire) in held.iter_mut().enumerate().step_by(97) {
        let path = format!("/{number}");
        wire.say(format!("GET {path} HT")).await?;
        time::sleep(Duration::from_millis(1)).await;
        let (head, body) = wire.ask("TP/1.1\r\nhost: web\r\n\r\n").await?;
        assert_eq!((head.status(), body), (200, path.into_bytes()));
    }
    Ok(())
}
