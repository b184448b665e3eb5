//! What a proxy shows: metrics and evidence to whoever may scrape it, and to its own pod what it knows
//! and two things to change.

use std::{collections::BTreeMap, sync::Arc};

use ::http::StatusCode;
use http_body_util::BodyExt;
use trellis_api::{access, evidence};
use trellis_channel::identity::Rotator;
use trellis_pki::{clock::rfc3339, tls::MeshTls};
use trellis_telemetry::{
    Registry,
    http::{self, Response, Routes},
    log::Reload,
};

use crate::{
    account::{Audience, TapError, Wants},
    diag::Knowledge,
    ledger::Ledger,
    workload::Rotate,
};

/// `/metrics` and `/evidence`.
pub fn public(registry: &Registry, ledger: &Arc<Ledger>, tls: &Arc<MeshTls>) -> Routes {
    let (ledger, tls) = (ledger.clone(), tls.clone());
    http::metrics_routes(registry).get("/evidence", move || Response::json(&ledger.evidence(leaves(&tls))))
}

/// What only the pod itself may ask for.
pub fn local(
    rotator: Rotator,
    application: Rotate,
    reload: Reload,
    knowledge: Knowledge,
    audience: &Arc<Audience>,
) -> Routes {
    let taps = audience.taps.clone();
    let (directory, routed) = (knowledge.directory.clone(), knowledge.directory.clone());
    let knowledge = Arc::new(knowledge);
    let knows = knowledge.clone();
    let debug = reload.clone();
    Routes::new()
        .get("/routes", move || {
            let routes = routed.routes();
            let described: BTreeMap<_, _> =
                routes.iter().map(|(subject, routes)| (subject, routes.describe())).collect();
            Response::json(&described)
        })
        .get("/diag", move || Response::json(&knows.describe()))
        .ask("/explain", move |query| {
            let knowledge = knowledge.clone();
            async move {
                match knowledge.explain(&query).await {
                    Ok(explanation) => Response::json(&explanation),
                    Err(error) => Response::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                }
            }
        })
        .follow("/tap", access::CONTENT_TYPE, move |query| {
            let wants = Wants::read(&query);
            wants.and_then(|wants| taps.watch(wants)).map(BodyExt::boxed_unsync).map_err(|error| {
                let status = match error {
                    TapError::Full => StatusCode::TOO_MANY_REQUESTS,
                    TapError::Unknown(_) | TapError::Rate(_) => StatusCode::BAD_REQUEST,
                };
                Response::text(status, format!("{error}\n"))
            })
        })
        .get("/destinations", move || Response::json(&directory.describe()))
        .post("/identity/rotate", move || {
            let rotator = rotator.clone();
            application.now();
            tokio::spawn(async move {
                match rotator.rotate_now().await {
                    Ok(rotated) => {
                        tracing::info!(serial = rotated.serial_after, "identity rotated on request");
                    }
                    Err(error) => tracing::warn!(%error, "identity was not rotated"),
                }
            });
            Response::text(StatusCode::ACCEPTED, "a new certificate is being asked for; /evidence shows it\n")
        })
        .post("/log/debug", move || set(&debug, "debug"))
        .post("/log/info", move || set(&reload, "info"))
}

fn set(reload: &Reload, filter: &str) -> Response {
    match reload.set(filter) {
        Ok(()) => Response::text(StatusCode::OK, format!("logging at {filter}\n")),
        Err(error) => Response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// The certificate in use, and the one beside it.
pub fn leaves(tls: &MeshTls) -> [Option<evidence::Leaf>; 2] {
    [tls.current(), tls.companion()].map(|leaf| {
        leaf.map(|leaf| evidence::Leaf {
            identity: leaf.identity.to_string(),
            serial: leaf.serial.clone(),
            algorithm: leaf.algorithm.name().to_owned(),
            not_before: rfc3339(leaf.not_before),
            not_after: rfc3339(leaf.not_after),
        })
    })
}
