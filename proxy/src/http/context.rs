//! What the requests of one connection have in common.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderValue, Version, header, request::Parts};

use super::{Failure, answer::speaks_grpc, pace::Pace, serve::Limits, stall::Stalls};
use crate::{
    directory::{Answer, Followed},
    gateway::Entrance,
    ledger::Row,
    requests::Request as Seen,
    route::{Routes, Slashes, Target, filter::Entry},
    trace::Word,
    worker::{Opened, Worker},
};

/// What the requests of one connection have in common.
pub struct Context {
    pub worker: Arc<Worker>,
    pub front: Front,
    pub address: SocketAddr,
    pub pace: Pace,
}

/// Where the client came to.
pub enum Front {
    /// What discovery says of where the client connected to, as it changes.
    Destination(Followed),
    /// A listener of a gateway.
    Listener(Entrance),
}

/// Where a request is led.
pub enum Way {
    /// To whom the client connected.
    Direct(Arc<Answer>),
    Routed(Arc<Routes>),
}

impl Context {
    pub fn new(worker: &Arc<Worker>, front: Front, address: SocketAddr) -> Arc<Self> {
        let pace = match &front {
            Front::Destination(_) => Pace::default(),
            Front::Listener(entrance) => Pace::new(entrance.port.edge.stall),
        };
        Arc::new(Self { worker: worker.clone(), front, address, pace })
    }

    /// How long a client may be waited for in the middle of a request, where it must come to the point.
    pub fn stalls(&self, headers: &http::HeaderMap) -> Option<Stalls> {
        match &self.front {
            Front::Destination(_) => None,
            Front::Listener(entrance) => Some(Stalls::new(entrance.port.edge.stall, headers)),
        }
    }

    /// Where requests come in, as redirects need to know.
    pub fn entry(&self) -> Entry {
        match &self.front {
            Front::Destination(_) => Entry { tls: false, port: self.address.port() },
            Front::Listener(entrance) => Entry { tls: entrance.tls(), port: entrance.port.number },
        }
    }

    pub fn slashes(&self) -> Slashes {
        match &self.front {
            Front::Destination(_) => Slashes::Data,
            Front::Listener(_) => Slashes::Separators,
        }
    }

    pub fn limits(&self) -> &'static Limits {
        match &self.front {
            Front::Destination(_) => &Limits::MESH,
            Front::Listener(_) => &Limits::EDGE,
        }
    }

    /// Whose word about traces a request's is.
    pub fn word(&self) -> Word {
        match &self.front {
            Front::Destination(_) => Word::Application,
            Front::Listener(_) => Word::Stranger,
        }
    }

    /// Who asks, where that is somebody else than our own application.
    pub fn client(&self) -> Option<(SocketAddr, Arc<Row>)> {
        match &self.front {
            Front::Destination(_) => None,
            Front::Listener(entrance) => Some((entrance.client, entrance.row.clone())),
        }
    }

    /// Held for as long as a request is under way.
    pub fn enter(&self) -> impl Send + use<> {
        // Who is not made to come to the point is not counted either.
        let pace = self.limits().timed().then(|| self.pace.enter());
        let held: (Opened, _) = (self.worker.open.enter(), pace);
        held
    }

    /// Resolves when the connection is to take no further request.
    pub async fn ends(&self) {
        let mut stage = self.worker.shared.stage.clone();
        let gone = async {
            match &self.front {
                Front::Destination(_) => std::future::pending().await,
                Front::Listener(entrance) => entrance.gone().await,
            }
        };
        tokio::select! {
            // Without a sender the process is ending anyway.
            _ = stage.wait_for(|stage| stage.draining) => {}
            () = gone => {}
        }
    }

    /// Makes a request whole: HTTP/1.0 need not say whom it is for, and is then for whom it came to; and a
    /// gateway says where it came from.
    pub fn complete(&self, parts: &mut Parts) -> Result<(), Failure> {
        if parts.version <= Version::HTTP_10
            && !parts.headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&self.address.to_string())
        {
            parts.headers.insert(header::HOST, host);
        }
        match &self.front {
            Front::Destination(_) => Ok(()),
            Front::Listener(entrance) => entrance.mark(parts),
        }
    }

    /// In which version an application is spoken to that does not say: as its client speaks, who knows it.
    /// A client of a gateway does not, and speaks whatever gateways do; only gRPC is always HTTP/2.
    pub fn spoken(&self, version: Version, headers: &http::HeaderMap) -> Version {
        match &self.front {
            Front::Destination(_) => version,
            Front::Listener(_) if speaks_grpc(headers) => Version::HTTP_2,
            Front::Listener(_) => Version::HTTP_11,
        }
    }

    /// What leads a request to `target`.
    pub fn way(&self, target: &Target, seen: &mut Seen) -> Result<Way, Failure> {
        match &self.front {
            Front::Destination(followed) => {
                let answer = followed.now();
                seen.towards(&answer);
                let routes = match &*answer {
                    Answer::Service(service) => service.routes.clone().filter(|routes| routes.has_http()),
                    Answer::Workload(_) | Answer::Gateway(_) | Answer::Policy(_) | Answer::Unknown => None,
                };
                Ok(routes.map_or(Way::Direct(answer), Way::Routed))
            }
            Front::Listener(entrance) => entrance.routes(target.host()).map(Way::Routed),
        }
    }

    /// Whether the Service that a request is led to is where its client wanted to go.
    pub fn is_gateway(&self) -> bool {
        matches!(self.front, Front::Listener(_))
    }
}
