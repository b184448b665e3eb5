//! Connections of clients whose bytes are nobody's business: each goes to one endpoint, as TCP and TLS routes
//! say.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time;
use tracing::debug;
use trellis_api::evidence::Class;

use super::{
    CLIENT,
    arrival::{Came, end, refused},
    listener::{Kind, Listener},
    port::Port,
};
use crate::{directory::Answer, ledger::Direction, reach, relay::End, sealed::Side, worker::Worker};

pub async fn carry(
    worker: &Arc<Worker>,
    port: &Port,
    listener: &Listener,
    name: Option<&str>,
    came: Came,
    mut side: Side,
    first: Bytes,
) {
    let answer = match backend(worker, listener, name).await {
        Ok(answer) => answer,
        Err(reason) => {
            debug!(client = %came.client, listener = %listener.name, reason, "connection refused");
            refused(worker, reason);
            return side.abort();
        }
    };
    let class = came.row.class;
    let _open = came.row.opened();
    // TLS that goes through is the client's.
    let tls = answer.tls().filter(|_| listener.kind != Kind::Passthrough);
    let Some(reached) = reach::endpoint(worker, came.client, &answer, tls).await else {
        return side.abort();
    };
    drop(answer);
    let client = Some((came.client, &*came.row));
    let carried = reached.carry(worker, end(side, came.flow, first), came.client, client);
    // Those of a listener that is gone have as long as those of a proxy that drains.
    let over = async {
        port.gone(listener, class).await;
        time::sleep(worker.shared.rules.removal_grace).await;
    };
    tokio::select! {
        () = carried => {}
        () = over => {
            if class == Class::Plaintext && port.now().denies_plaintext() {
                worker.shared.demands.plaintext_ended(Direction::Inbound, CLIENT);
            }
            debug!(client = %came.client, listener = %listener.name, "the listener is gone, and its connection");
        }
    }
}

/// Who gets the next connection.
async fn backend(
    worker: &Worker,
    listener: &Listener,
    name: Option<&str>,
) -> Result<Arc<Answer>, &'static str> {
    let routes = &listener.routes;
    let route = match listener.kind {
        Kind::Passthrough => routes.tls(name),
        Kind::Tls if routes.has_tls() => routes.tls(name),
        Kind::Tls | Kind::Tcp => routes.tcp(),
        Kind::Http | Kind::Https => None,
    };
    reach::routed(worker, route).await
}
