//! The demo's page: one document, one script, and the evidence as it is at the moment.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use tokio::sync::watch;
use trellis_api::evidence::Evidence;
use trellis_telemetry::http::{Response, Routes, bind, serve};

const DOCUMENT: &str = include_str!("page.html");

pub struct Page {
    address: SocketAddr,
    evidence: Arc<ArcSwap<Bytes>>,
    /// The server ends when this is dropped.
    _serving: watch::Sender<bool>,
}

impl Page {
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = bind(address)?;
        let address = listener.local_addr()?;
        let evidence = Arc::new(ArcSwap::from_pointee(Bytes::from_static(b"null")));
        let current = evidence.clone();
        let routes = Routes::new().get("/", || Response::html(DOCUMENT)).get("/evidence.json", move || {
            Response::new(StatusCode::OK, "application/json", Bytes::clone(&current.load()))
        });
        let (serving, stop) = watch::channel(false);
        tokio::spawn(serve(listener, routes, stop));
        Ok(Self { address, evidence, _serving: serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn show(&self, evidence: &Evidence) -> anyhow::Result<()> {
        self.evidence.store(Arc::new(serde_json::to_vec(evidence)?.into()));
        Ok(())
    }
}
