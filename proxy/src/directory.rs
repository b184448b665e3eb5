//! What this proxy knows about those it talks to: answers of discovery, kept for as long as they are in
//! use. A destination is asked for when the first connection wants it; what nobody wanted for a while is
//! forgotten and unsubscribed. When discovery is away, what is known stays known.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{self, Instant},
};
use trellis_api::proto::discovery as wire;
use trellis_pki::spiffe::SpiffeId;

use crate::balance::Loaded;

/// How long a connection waits for the first answer about its destination.
const PATIENCE: Duration = Duration::from_secs(5);
/// Destinations that one proxy remembers; beyond it new ones are refused rather than old ones lost.
const DESTINATIONS: usize = 10_000;
/// Strangers whose names are remembered or asked for at one time. They come from outside and must not
/// push out what the application needs.
const NAMES: usize = 1_000;
/// Of which this many may wait for discovery.
const ASKING: usize = 256;

/// What discovery says about a destination.
#[derive(Debug)]
pub enum Answer {
    Service {
        endpoints: Vec<Endpoint>,
    },
    Workload(Endpoint),
    /// Outside of what the mesh knows.
    Unknown,
}

#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// `namespace/serviceaccount`: who runs there, as far as discovery knows.
    pub workload: String,
    pub reach: Reach,
    /// Connections of ours.
    pub open: Arc<AtomicUsize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    Tunnel { identity: SpiffeId, address: SocketAddr },
    Plaintext { reason: &'static str },
}

/// Why a destination has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("discovery did not answer")]
    Unavailable,
    #[error("this proxy already knows {DESTINATIONS} destinations")]
    Full,
}

/// What the discovery stream shall do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Subscribe(SocketAddr),
    Unsubscribe(SocketAddr),
}

#[derive(Clone)]
pub struct Directory {
    known: Arc<Mutex<HashMap<SocketAddr, Entry>>>,
    wishes: mpsc::UnboundedSender<Wish>,
    /// How many of what is known are names. Changed only while `known` is locked.
    names: Arc<AtomicUsize>,
    /// Look-ups of names that wait for their answer.
    asking: Arc<Semaphore>,
}

struct Entry {
    answer: watch::Sender<Option<Arc<Answer>>>,
    used: Instant,
}

impl Directory {
    /// The wishes are for whoever keeps the stream to discovery.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Wish>) {
        let (wishes, wished) = mpsc::unbounded_channel();
        let asking = Arc::new(Semaphore::new(ASKING));
        (Self { known: Arc::default(), wishes, names: Arc::default(), asking }, wished)
    }

    /// The answer about `destination`, at once when it is known.
    pub async fn resolve(&self, destination: SocketAddr) -> Result<Arc<Answer>, NoAnswer> {
        let mut answer = {
            let mut known = self.known.lock();
            let full = self.is_full(&known, destination);
            match known.get_mut(&destination) {
                Some(entry) => {
                    entry.used = Instant::now();
                    if let Some(answer) = &*entry.answer.borrow() {
                        return Ok(answer.clone());
                    }
                    entry.answer.subscribe()
                }
                None if full => return Err(NoAnswer::Full),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    known.insert(destination, Entry { answer: sender, used: Instant::now() });
                    self.names.fetch_add(usize::from(destination.port() == 0), Relaxed);
                    // Fails only when the proxy is shutting down, and then nobody answers.
                    let _ = self.wishes.send(Wish::Subscribe(destination));
                    receiver
                }
            }
        };
        match time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().ok_or(NoAnswer::Unavailable),
            _ => Err(NoAnswer::Unavailable),
        }
    }

    fn is_full(&self, known: &HashMap<SocketAddr, Entry>, destination: SocketAddr) -> bool {
        let names = self.names.load(Relaxed);
        match destination.port() {
            0 => names >= NAMES,
            _ => known.len() - names >= DESTINATIONS,
        }
    }

    /// Who owns `ip`, for the record: a name that nothing proves.
    pub async fn name(&self, ip: IpAddr) -> String {
        let Ok(_turn) = self.asking.try_acquire() else { return "unverified:unknown".to_owned() };
        match self.resolve(SocketAddr::new(ip, 0)).await.as_deref() {
            Ok(Answer::Workload(endpoint)) => format!("unverified:{}", endpoint.workload),
            _ => "unverified:unknown".to_owned(),
        }
    }

    /// Everything that a new stream must subscribe to.
    pub fn destinations(&self) -> Vec<SocketAddr> {
        self.known.lock().keys().copied().collect()
    }

    /// Takes in what discovery said. An answer to what nobody wants any more is dropped.
    pub fn learn(&self, destination: SocketAddr, answer: wire::resolve_response::Answer) {
        let known = self.known.lock();
        let Some(entry) = known.get(&destination) else { return };
        let before = entry.answer.borrow().clone();
        let answer = Answer::read(answer, before.as_deref());
        entry.answer.send_replace(Some(Arc::new(answer)));
    }

    /// Forgets what was not used for `idle`.
    pub fn sweep(&self, idle: Duration) {
        let now = Instant::now();
        self.known.lock().retain(|destination, entry| {
            let keep = now.duration_since(entry.used) < idle || entry.answer.receiver_count() > 0;
            if !keep {
                self.names.fetch_sub(usize::from(destination.port() == 0), Relaxed);
                let _ = self.wishes.send(Wish::Unsubscribe(*destination));
            }
            keep
        });
    }

    /// Everything that is known, for a person to read.
    pub fn describe(&self) -> BTreeMap<String, Vec<String>> {
        let known = self.known.lock();
        let described = known.iter().map(|(destination, entry)| {
            let answer = entry.answer.borrow();
            let endpoints = match answer.as_deref() {
                None => vec!["not answered yet".to_owned()],
                Some(Answer::Unknown) => vec!["outside the mesh".to_owned()],
                Some(known) => known.endpoints().iter().map(Endpoint::to_string).collect(),
            };
            (destination.to_string(), endpoints)
        });
        described.collect()
    }

    /// How many destinations are remembered.
    pub fn size(&self) -> usize {
        self.known.lock().len()
    }
}

// === impl Answer ===

impl Answer {
    /// Endpoints that stay keep their load.
    fn read(answer: wire::resolve_response::Answer, before: Option<&Self>) -> Self {
        use wire::resolve_response::Answer as Wire;
        match answer {
            Wire::Service(service) => Self::Service {
                endpoints: service
                    .endpoints
                    .into_iter()
                    .filter_map(|endpoint| Endpoint::read(endpoint, before))
                    .collect(),
            },
            Wire::Workload(workload) => match workload.endpoint.and_then(|e| Endpoint::read(e, before)) {
                Some(endpoint) => Self::Workload(endpoint),
                // A pod that cannot be understood is not a stranger: it gets no connection at all.
                None => Self::Service { endpoints: Vec::new() },
            },
            // What a gateway serves is no answer about an address.
            Wire::Serving(_) => Self::Service { endpoints: Vec::new() },
            Wire::Unknown(_) => Self::Unknown,
        }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Service { endpoints } => endpoints,
            Self::Workload(endpoint) => std::slice::from_ref(endpoint),
            Self::Unknown => &[],
        }
    }
}

impl Endpoint {
    /// `None` for what this version cannot reach safely: no address, no reach, or a malformed identity.
    fn read(endpoint: wire::Endpoint, before: Option<&Answer>) -> Option<Self> {
        use wire::endpoint::Reach as Wire;
        let ip: IpAddr = endpoint.address.parse().ok()?;
        let address = SocketAddr::new(ip, u16::try_from(endpoint.port).ok()?);
        let reach = match endpoint.reach? {
            Wire::Tunnel(tunnel) => Reach::Tunnel {
                identity: tunnel.identity.parse().ok()?,
                address: SocketAddr::new(ip, u16::try_from(tunnel.port).ok()?),
            },
            Wire::Plaintext(plaintext) => Reach::Plaintext { reason: reason(plaintext.reason()) },
        };
        let open = before
            .into_iter()
            .flat_map(Answer::endpoints)
            .find(|known| known.address == address)
            .map_or_else(Arc::default, |known| known.open.clone());
        let workload = format!("{}/{}", endpoint.namespace, endpoint.service_account);
        Some(Self { address, workload, reach, open })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, workload, reach, open } = self;
        let open = open.load(Relaxed);
        match reach {
            Reach::Tunnel { identity, address: tunnel } => {
                write!(f, "{address} {identity} through {tunnel}, {open} open")
            }
            Reach::Plaintext { reason } => {
                write!(f, "{address} {workload} in plaintext ({reason}), {open} open")
            }
        }
    }
}

impl Loaded for Endpoint {
    fn load(&self) -> usize {
        self.open.load(Relaxed)
    }
}

fn reason(reason: wire::plaintext::Reason) -> &'static str {
    use wire::plaintext::Reason;
    match reason {
        Reason::NotInjected => "not_injected",
        Reason::HostNetwork => "host_network",
        Reason::PortSkipped => "port_skipped",
        Reason::NoPod => "no_pod",
        Reason::Unspecified => "unspecified",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(address: &str, identity: &str) -> wire::resolve_response::Answer {
        wire::resolve_response::Answer::Workload(wire::Workload {
            endpoint: Some(wire::Endpoint {
                address: address.into(),
                port: 80,
                namespace: "shop".into(),
                pod: "web-0".into(),
                service_account: "web".into(),
                reach: Some(wire::endpoint::Reach::Tunnel(wire::Tunnel {
                    identity: identity.into(),
                    port: 15008,
                })),
                ..Default::default()
            }),
        })
    }

    const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/web";

    #[tokio::test(start_paused = true)]
    async fn many_connections_ask_once_and_all_get_the_answer() {
        let (directory, mut wishes) = Directory::new();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let asked = futures::future::join_all((0..10).map(|_| directory.resolve(to)));
        let answer = async {
            assert_eq!(wishes.recv().await, Some(Wish::Subscribe(to)));
            directory.learn(to, pod("10.0.0.1", IDENTITY));
        };
        let (answers, ()) = tokio::join!(asked, answer);
        assert!(answers.iter().all(|answer| matches!(answer.as_deref(), Ok(Answer::Workload(_)))));
        assert!(wishes.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_discovery_a_new_destination_fails_and_a_known_one_goes_on() {
        let (directory, _wishes) = Directory::new();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        assert_eq!(directory.resolve(to).await.unwrap_err(), NoAnswer::Unavailable);
        directory.learn(to, pod("10.0.0.1", IDENTITY));
        assert!(directory.resolve(to).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_push_out_what_the_application_needs() {
        let (directory, mut wishes) = Directory::new();
        let strangers = (0..2 * NAMES as u32).map(|last| IpAddr::from((0x0b00_0000 + last).to_be_bytes()));
        for stranger in strangers {
            let name = directory.name(stranger);
            assert!(futures::poll!(std::pin::pin!(name)).is_pending() || directory.size() >= NAMES);
        }
        assert_eq!(directory.size(), NAMES);
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        assert!(futures::poll!(std::pin::pin!(directory.resolve(to))).is_pending());
        // And what strangers cost is given back.
        time::advance(Duration::from_secs(60)).await;
        directory.sweep(Duration::from_secs(60));
        assert_eq!((directory.size(), directory.names.load(Relaxed)), (0, 0));
        assert!(wishes.recv().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_is_forgotten_and_unsubscribed() {
        let (directory, mut wishes) = Directory::new();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let _ = directory.resolve(to).await;
        directory.sweep(Duration::from_secs(60));
        assert_eq!(directory.size(), 1);
        time::advance(Duration::from_secs(60)).await;
        directory.sweep(Duration::from_secs(60));
        assert_eq!(directory.size(), 0);
        assert_eq!(wishes.recv().await, Some(Wish::Subscribe(to)));
        assert_eq!(wishes.recv().await, Some(Wish::Unsubscribe(to)));
    }

    #[tokio::test]
    async fn a_pod_with_an_identity_we_cannot_read_is_never_reached_in_plaintext() {
        let (directory, _wishes) = Directory::new();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let asked = directory.resolve(to);
        tokio::pin!(asked);
        assert!(futures::poll!(&mut asked).is_pending());
        directory.learn(to, pod("10.0.0.1", "not-a-spiffe-id"));
        assert!(asked.await.unwrap().endpoints().is_empty());
    }

    #[tokio::test]
    async fn an_endpoint_that_stays_keeps_its_load() {
        let before = Answer::read(pod("10.0.0.1", IDENTITY), None);
        before.endpoints()[0].open.store(5, Relaxed);
        let after = Answer::read(pod("10.0.0.1", IDENTITY), Some(&before));
        assert_eq!(after.endpoints()[0].load(), 5);
    }
}
