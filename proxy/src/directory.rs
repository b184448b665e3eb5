//! What this proxy knows about those it talks to: answers of discovery, kept for as long as they are in
//! use. A destination is asked for when the first connection wants it; what nobody wanted for a while is
//! forgotten and unsubscribed. When discovery is away, what is known stays known.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
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

use crate::route::Routes;

pub use answer::{Answer, Endpoint, Reach};
pub use application::{ApplicationTls, Same};

mod answer;
mod application;

/// How long a connection waits for the first answer about its destination.
const PATIENCE: Duration = Duration::from_secs(5);
/// Destinations that one proxy remembers; beyond it new ones are refused rather than old ones lost.
const DESTINATIONS: usize = 10_000;
/// Strangers whose names are remembered or asked for at one time. They come from outside and must not
/// push out what the application needs.
const NAMES: usize = 1_000;
/// Of which this many may wait for discovery.
const ASKING: usize = 256;

/// Why a destination has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("discovery did not answer")]
    Unavailable,
    #[error("this proxy already knows {DESTINATIONS} destinations")]
    Full,
}

/// What discovery is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An address that somebody connects to. Port 0 asks who owns the address.
    Address(SocketAddr),
    Backend(Backend),
    /// What the gateway of this name serves, which this proxy is.
    Gateway(GatewayName),
    /// What connections of the pod of this name must be, which is ours.
    Pod(PodName),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A port of a Service, as routes name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub port: u16,
}

/// What the discovery stream shall do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Subscribe(Subject),
    Unsubscribe(Subject),
}

/// The answer about one subject, as it changes. What somebody follows is not forgotten.
#[derive(Clone)]
pub struct Followed(Coming);

/// Where an answer is, or will be.
type Coming = watch::Receiver<Option<Arc<Answer>>>;

#[derive(Clone)]
pub struct Directory {
    known: Arc<Mutex<HashMap<Subject, Entry>>>,
    wishes: mpsc::UnboundedSender<Wish>,
    /// How many of what is known are names. Changed only while `known` is locked.
    names: Arc<AtomicUsize>,
    /// Look-ups of names that wait for their answer.
    asking: Arc<Semaphore>,
    /// Where we are, once that is known.
    zone: Arc<OnceLock<Box<str>>>,
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
        (Self { known: Arc::default(), wishes, names: Arc::default(), asking, zone: Arc::default() }, wished)
    }

    /// The answer about `subject`, at once when it is known.
    pub async fn resolve(&self, subject: &Subject) -> Result<Arc<Answer>, NoAnswer> {
        let mut receiver = match self.look_up(subject)? {
            Ok(answer) => return Ok(answer),
            Err(receiver) => receiver,
        };
        answered(&mut receiver).await
    }

    /// The same for somebody who wants to hear of changes.
    pub async fn follow(&self, subject: &Subject) -> Result<Followed, NoAnswer> {
        let mut receiver = match self.look_up(subject)? {
            Ok(_) => {
                let known = self.known.lock();
                known.get(subject).map(|entry| entry.answer.subscribe()).ok_or(NoAnswer::Unavailable)?
            }
            Err(receiver) => receiver,
        };
        answered(&mut receiver).await?;
        Ok(Followed(receiver))
    }

    /// The answer if it is known, or else where it will come.
    fn look_up(&self, subject: &Subject) -> Result<Result<Arc<Answer>, Coming>, NoAnswer> {
        let mut known = self.known.lock();
        if let Some(entry) = known.get_mut(subject) {
            entry.used = Instant::now();
            return Ok(match &*entry.answer.borrow() {
                Some(answer) => Ok(answer.clone()),
                None => Err(entry.answer.subscribe()),
            });
        }
        if self.is_full(&known, subject) {
            return Err(NoAnswer::Full);
        }
        let (sender, receiver) = watch::channel(None);
        known.insert(subject.clone(), Entry { answer: sender, used: Instant::now() });
        self.names.fetch_add(usize::from(subject.is_name()), Relaxed);
        // Fails only when the proxy is shutting down, and then nobody answers.
        let _ = self.wishes.send(Wish::Subscribe(subject.clone()));
        Ok(Err(receiver))
    }

    fn is_full(&self, known: &HashMap<Subject, Entry>, subject: &Subject) -> bool {
        let names = self.names.load(Relaxed);
        match subject.is_name() {
            true => names >= NAMES,
            false => known.len() - names >= DESTINATIONS,
        }
    }

    /// Learns in which zone we are, by our own address. What was learned before does not know it.
    pub async fn locate(&self, own: IpAddr) {
        if let Ok(answer) = self.resolve(&SocketAddr::new(own, 0).into()).await
            && let Answer::Workload(endpoint) = &*answer
        {
            // A pod does not move.
            let _ = self.zone.set(endpoint.zone.clone());
        }
    }

    /// Who owns `ip`, for the record: a name that nothing proves.
    pub async fn name(&self, ip: IpAddr) -> String {
        let Ok(_turn) = self.asking.try_acquire() else { return "unverified:unknown".to_owned() };
        match self.resolve(&SocketAddr::new(ip, 0).into()).await.as_deref() {
            Ok(Answer::Workload(endpoint)) => format!("unverified:{}", endpoint.workload),
            _ => "unverified:unknown".to_owned(),
        }
    }

    /// Everything that a new stream must subscribe to.
    pub fn subjects(&self) -> Vec<Subject> {
        self.known.lock().keys().cloned().collect()
    }

    /// Takes in what discovery said. An answer to what nobody wants any more is dropped.
    pub fn learn(&self, subject: &Subject, answer: wire::resolve_response::Answer) {
        let known = self.known.lock();
        let Some(entry) = known.get(subject) else { return };
        let before = entry.answer.borrow().clone();
        let answer =
            Answer::read(answer, before.as_deref(), self.zone.get().map(|zone| &**zone), Instant::now());
        entry.answer.send_replace(Some(Arc::new(answer)));
    }

    /// Forgets what was not used for `idle`.
    pub fn sweep(&self, idle: Duration) {
        self.forget(idle, |_| true);
    }

    /// The same while nobody answers: what is known could not be learned again, and stays however seldom it is
    /// used.
    pub fn sweep_unanswered(&self, idle: Duration) {
        self.forget(idle, |entry| entry.answer.borrow().is_none());
    }

    fn forget(&self, idle: Duration, may_go: impl Fn(&Entry) -> bool) {
        let now = Instant::now();
        self.known.lock().retain(|subject, entry| {
            let used = now.duration_since(entry.used) < idle || entry.answer.receiver_count() > 0;
            let keep = used || !may_go(entry);
            if !keep {
                self.names.fetch_sub(usize::from(subject.is_name()), Relaxed);
                let _ = self.wishes.send(Wish::Unsubscribe(subject.clone()));
            }
            keep
        });
    }

    /// Everything that is known, for a person to read.
    pub fn describe(&self) -> BTreeMap<String, Vec<String>> {
        let known = self.known.lock();
        let described = known.iter().map(|(subject, entry)| {
            let answer = entry.answer.borrow();
            let endpoints = match answer.as_deref() {
                None => vec!["not answered yet".to_owned()],
                Some(Answer::Unknown) => vec!["outside the mesh".to_owned()],
                Some(Answer::Policy(policy)) => vec![format!("{policy:?}")],
                Some(known) => known.endpoints().iter().map(Endpoint::to_string).collect(),
            };
            (subject.to_string(), endpoints)
        });
        described.collect()
    }

    /// Every subject, and the answer where there is one.
    pub fn known(&self) -> Vec<(Subject, Option<Arc<Answer>>)> {
        let known = self.known.lock();
        known.iter().map(|(subject, entry)| (subject.clone(), entry.answer.borrow().clone())).collect()
    }

    /// What is known of routes, by what they are for.
    pub fn routes(&self) -> BTreeMap<String, Arc<Routes>> {
        let known = self.known.lock();
        let of = |(subject, entry): (&Subject, &Entry)| match entry.answer.borrow().as_deref() {
            Some(Answer::Service(service)) => {
                service.routes.iter().map(|routes| (subject.to_string(), routes.clone())).collect()
            }
            Some(Answer::Gateway(serving)) => serving
                .listeners()
                .map(|listener| (format!("{subject}, listener {}", listener.name), listener.routes.clone()))
                .collect(),
            _ => Vec::new(),
        };
        known.iter().flat_map(of).collect()
    }

    /// How many destinations are remembered.
    pub fn size(&self) -> usize {
        self.known.lock().len()
    }
}

async fn answered(answer: &mut Coming) -> Result<Arc<Answer>, NoAnswer> {
    match time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await {
        Ok(Ok(answer)) => answer.clone().ok_or(NoAnswer::Unavailable),
        _ => Err(NoAnswer::Unavailable),
    }
}

impl Followed {
    /// The answer of this moment. There is always one: who follows has seen the first.
    pub fn now(&self) -> Arc<Answer> {
        self.0.borrow().clone().unwrap_or_else(|| Arc::new(Answer::Unknown))
    }

    /// Waits for another one; false where there will be none.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

// === impl Subject ===

impl Subject {
    /// Who owns an address, which is asked for the record only.
    fn is_name(&self) -> bool {
        matches!(self, Self::Address(address) if address.port() == 0)
    }
}

impl From<SocketAddr> for Subject {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Backend(backend) => backend.fmt(f),
            Self::Gateway(gateway) => write!(f, "gateway {gateway}"),
            Self::Pod(PodName { namespace, name }) => write!(f, "pod {namespace}/{name}"),
        }
    }
}

impl Backend {
    pub fn read(backend: &wire::Backend) -> Option<Self> {
        let port = u16::try_from(backend.port).ok()?;
        Some(Self { namespace: backend.namespace.as_str().into(), name: backend.name.as_str().into(), port })
    }
}

impl From<&Backend> for wire::Backend {
    fn from(backend: &Backend) -> Self {
        let Backend { namespace, name, port } = backend;
        Self { namespace: namespace.to_string(), name: name.to_string(), port: (*port).into() }
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
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
        let subject = Subject::from(to);
        let asked = futures::future::join_all((0..10).map(|_| directory.resolve(&subject)));
        let answer = async {
            assert_eq!(wishes.recv().await, Some(Wish::Subscribe(to.into())));
            directory.learn(&subject, pod("10.0.0.1", IDENTITY));
        };
        let (answers, ()) = tokio::join!(asked, answer);
        assert!(answers.iter().all(|answer| matches!(answer.as_deref(), Ok(Answer::Workload(_)))));
        assert!(wishes.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_discovery_a_new_destination_fails_and_a_known_one_goes_on() {
        let (directory, _wishes) = Directory::new();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let subject = Subject::from(to);
        assert_eq!(directory.resolve(&subject).await.unwrap_err(), NoAnswer::Unavailable);
        directory.learn(&subject, pod("10.0.0.1", IDENTITY));
        assert!(directory.resolve(&subject).await.is_ok());
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
        let subject = Subject::from(to);
        assert!(futures::poll!(std::pin::pin!(directory.resolve(&subject))).is_pending());
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
        let subject = Subject::from(to);
        let _ = directory.resolve(&subject).await;
        directory.sweep(Duration::from_secs(60));
        assert_eq!(directory.size(), 1);
        time::advance(Duration::from_secs(60)).await;
        directory.sweep(Duration::from_secs(60));
        assert_eq!(directory.size(), 0);
        assert_eq!(wishes.recv().await, Some(Wish::Subscribe(to.into())));
        assert_eq!(wishes.recv().await, Some(Wish::Unsubscribe(to.into())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_not_forgotten_while_nobody_answers() {
        let (directory, _wishes) = Directory::new();
        let subject = Subject::from("10.0.0.1:80".parse::<SocketAddr>().unwrap());
        let never = Subject::from("10.0.0.2:80".parse::<SocketAddr>().unwrap());
        for subject in [&subject, &never] {
            assert!(directory.resolve(subject).await.is_err());
        }
        directory.learn(&subject, pod("10.0.0.1", IDENTITY));
        time::advance(Duration::from_secs(3_600)).await;
        directory.sweep_unanswered(Duration::from_secs(60));
        assert!(directory.resolve(&subject).await.is_ok());
        assert_eq!(directory.size(), 1);
    }

    #[tokio::test]
    async fn a_pod_with_an_identity_we_cannot_read_is_never_reached_in_plaintext() {
        let (directory, _wishes) = Directory::new();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let subject = Subject::from(to);
        let asked = directory.resolve(&subject);
        tokio::pin!(asked);
        assert!(futures::poll!(&mut asked).is_pending());
        directory.learn(&subject, pod("10.0.0.1", "not-a-spiffe-id"));
        assert!(asked.await.unwrap().endpoints().is_empty());
    }

    #[tokio::test]
    async fn an_endpoint_that_stays_keeps_what_is_known_of_it() {
        let read = |identity, before: Option<&Answer>| {
            Answer::read(pod("10.0.0.1", identity), before, None, Instant::now())
        };
        let before = read(IDENTITY, None);
        let _busy = crate::balance::Busy::new(&before.endpoints()[0].fitness);
        assert_eq!(read(IDENTITY, Some(&before)).endpoints()[0].fitness.open(), 1);
        // Another workload at the same address begins anew.
        let other = read("spiffe://cluster.local/ns/shop/sa/other", Some(&before));
        assert_eq!(other.endpoints()[0].fitness.open(), 0);
    }

    fn service(zones: &[&[&str]]) -> wire::resolve_response::Answer {
        let endpoint = |(index, zones): (usize, &&[&str])| wire::Endpoint {
            address: format!("10.0.0.{}", index + 1),
            port: 80,
            reach: Some(wire::endpoint::Reach::Plaintext(wire::Plaintext::default())),
            for_zones: zones.iter().map(|&zone| zone.to_owned()).collect(),
            ..Default::default()
        };
        wire::resolve_response::Answer::Service(wire::Service {
            endpoints: zones.iter().enumerate().map(endpoint).collect(),
            ..Default::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_of_our_own_zone_go_first_while_one_of_them_is_fit() {
        let now = Instant::now();
        let picks = |answer: &Answer| {
            let picked = (0..100).filter_map(|_| answer.pick(&[], Instant::now(), &mut rand::rng()));
            let addresses = picked.map(|index| answer.endpoints()[index].address.ip().to_string());
            addresses.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let zones: [&[&str]; 3] = [&["b"], &["a"], &["b", "a"]];
        let read = |zone| Answer::read(service(&zones), None, zone, now);
        let answer = read(Some("a"));
        assert_eq!(picks(&answer), ["10.0.0.2", "10.0.0.3"]);
        for one in &answer.endpoints()[..2] {
            (0..5).for_each(|_| _ = one.fitness.failed(now));
        }
        // Most of all are left alone now, so that nobody is.
        assert_eq!(picks(&answer), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        for zone in [None, Some("c")] {
            assert_eq!(picks(&read(zone)).len(), 3, "{zone:?}");
        }
        let some_say_nothing = Answer::read(service(&[&["a"], &[]]), None, Some("a"), now);
        assert_eq!(picks(&some_say_nothing).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_follows_is_not_forgotten() {
        let (directory, _wishes) = Directory::new();
        let subject = Subject::from("10.0.0.1:80".parse::<SocketAddr>().unwrap());
        let asked = directory.follow(&subject);
        tokio::pin!(asked);
        assert!(futures::poll!(&mut asked).is_pending());
        directory.learn(&subject, pod("10.0.0.1", IDENTITY));
        let followed = asked.await.unwrap();
        time::advance(Duration::from_secs(120)).await;
        directory.sweep(Duration::from_secs(60));
        directory.learn(&subject, wire::resolve_response::Answer::Unknown(wire::Unknown {}));
        assert!(matches!(*followed.now(), Answer::Unknown));
    }
}
