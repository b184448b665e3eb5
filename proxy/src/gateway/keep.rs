//! Keeps the ports of a gateway as discovery says: opens what is new, closes what is gone, and tells those that
//! stay what they serve now. What cannot be opened is tried again, and holds up nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tracing::{info, warn};
use trellis_api::names::gateway_port;
use trellis_telemetry::{Family as Metric, Gauge, Registry, health::Health};

use super::{
    listener::{Family, Layout, Serving},
    port::{Edge, Opening, Port},
    proof::Proof,
};
use crate::{
    directory::{Answer, Directory, Subject},
    listen,
    worker::Delivery,
};

/// Holds once discovery has said what to serve and all of it was open. It is not lost again: a port that
/// cannot be opened later is no reason to turn the clients of the others away.
pub const CONDITION: &str = "gateway";

/// A port that was just closed may take a moment to be free.
const AGAIN: Duration = Duration::from_millis(200);
/// One that another process has takes longer.
const AGAIN_MOST: Duration = Duration::from_secs(10);

pub struct Keeper {
    pub directory: Directory,
    pub subject: Subject,
    pub edge: Arc<Edge>,
    pub proof: Arc<Mutex<Proof>>,
    pub address: IpAddr,
    pub workers: Vec<mpsc::UnboundedSender<Delivery>>,
    pub secured: mpsc::UnboundedSender<Opening>,
    pub health: Health,
    pub metrics: Metrics,
}

pub struct Metrics {
    open: Gauge,
    troubles: Metric<Gauge>,
    begins: Metric<Gauge>,
    ends: Metric<Gauge>,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            open: registry.gauge("trellis_gateway_ports_open", "Ports of this gateway that are open.").with(&[]),
            troubles: registry
                .gauge(
                    "trellis_gateway_troubles",
                    "Parts of this gateway that cannot be served, by listener, and by Secret where it is a certificate.",
                )
                .open_labels(&["listener", "certificate"]),
            begins: registry
                .gauge(
                    "trellis_gateway_certificate_begin_timestamp_seconds",
                    "When the certificates of this gateway began, by Secret.",
                )
                .open_labels(&["certificate"]),
            ends: registry
                .gauge(
                    "trellis_gateway_certificate_end_timestamp_seconds",
                    "When the certificates of this gateway end, by Secret.",
                )
                .open_labels(&["certificate"]),
        }
    }

    fn show(&self, serving: &Serving) {
        self.troubles.replace(serving.troubles.iter().map(|trouble| {
            let certificate = trouble.certificate.as_deref().unwrap_or_default();
            (vec![("listener", &*trouble.listener), ("certificate", certificate)], 1.0)
        }));
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // Several listeners may show the same one.
        let lives: BTreeMap<&str, (f64, f64)> = serving
            .listeners()
            .filter_map(|listener| listener.front.as_ref()?.as_ref().ok())
            .flat_map(|front| front.certificates())
            .chain(match &serving.proof {
                Proof::With(certificate) => Some(certificate),
                Proof::Needless | Proof::Missing => None,
            })
            .map(|one| (&*one.source, (seconds(one.not_before), seconds(one.not_after))))
            .collect();
        let of = |source| vec![("certificate", source)];
        self.begins.replace(lives.iter().map(|(source, (begin, _))| (of(*source), *begin)));
        self.ends.replace(lives.iter().map(|(source, (_, end))| (of(*source), *end)));
    }
}

/// Ports that are open.
type Open = BTreeMap<u16, (Family, watch::Sender<Arc<Layout>>)>;

impl Keeper {
    /// Never ends by itself.
    pub async fn keep(self) {
        let mut followed = loop {
            match self.directory.follow(&self.subject).await {
                Ok(followed) => break followed,
                Err(error) => warn!(gateway = %self.edge.gateway, %error, "what to serve is not known yet"),
            }
        };
        let (mut open, mut again) = (Open::new(), AGAIN);
        loop {
            let failed = self.serve(&followed.now(), &mut open);
            let retry = async {
                match failed {
                    true => time::sleep(again).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = followed.changed() => {
                    if !changed {
                        return;
                    }
                    again = AGAIN;
                }
                () = retry => again = (again * 2).min(AGAIN_MOST),
            }
        }
    }

    /// Makes what is open what is wanted; says whether something could not be opened.
    fn serve(&self, answer: &Answer, open: &mut Open) -> bool {
        let none = BTreeMap::new();
        let wanted = match answer {
            Answer::Gateway(serving) => {
                self.metrics.show(serving);
                *self.proof.lock() = serving.proof.clone();
                &serving.ports
            }
            // There is none, or it is not this one: what was served is not to be served any more.
            _ => &none,
        };
        open.retain(|number, (family, _)| {
            let stays = wanted.get(number).is_some_and(|layout| layout.family == *family);
            if !stays {
                info!(port = number, "port closed");
            }
            stays
        });
        let mut failed = BTreeSet::new();
        for (number, layout) in wanted {
            if let Some((_, serves)) = open.get(number) {
                serves.send_if_modified(|serves| {
                    let other = !Arc::ptr_eq(serves, layout);
                    *serves = layout.clone();
                    other
                });
                continue;
            }
            match self.open(*number, layout) {
                Ok(serves) => {
                    open.insert(*number, (layout.family, serves));
                }
                Err(error) => {
                    warn!(port = number, %error, "port not opened");
                    failed.insert(format!("{number} ({error})"));
                }
            }
        }
        self.metrics.open.set(open.len() as f64);
        match (answer, failed.is_empty()) {
            (Answer::Gateway(_), true) => self.health.set(CONDITION, Ok(())),
            _ if self.health.unmet().iter().all(|(name, _)| *name != CONDITION) => {}
            (Answer::Gateway(_), false) => {
                let ports = failed.iter().cloned().collect::<Vec<_>>().join(", ");
                self.health.set(CONDITION, Err(format!("ports could not be opened: {ports}")));
            }
            _ => self.health.set(
                CONDITION,
                Err(format!("discovery knows no gateway {} that is served by this pod", self.edge.gateway)),
            ),
        }
        !failed.is_empty()
    }

    fn open(
        &self,
        number: u16,
        layout: &Arc<Layout>,
    ) -> Result<watch::Sender<Arc<Layout>>, listen::BindError> {
        let address = SocketAddr::new(self.address, gateway_port(number));
        let (serves, port) = Port::new(number, layout.clone(), self.edge.clone());
        let opening = |socket| Opening { port: port.clone(), socket };
        // A thread that is gone ends the proxy.
        match layout.family {
            Family::Tls => {
                for socket in listen::bind("a gateway's listener", address, 1)? {
                    let _ = self.secured.send(opening(socket));
                }
            }
            Family::Http | Family::Bytes => {
                let sockets = listen::bind("a gateway's listener", address, self.workers.len())?;
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    let _ = worker.send(Delivery::Opening(opening(socket)));
                }
            }
        }
        info!(port = number, %address, "port open");
        Ok(serves)
    }
}
