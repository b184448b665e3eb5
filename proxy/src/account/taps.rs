//! Taps: people who watch what happens now. Each has a short queue of its own and hears how much did not
//! fit, so that whoever watches slowly delays nobody; and there are few places.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use trellis_api::access::{Entry, line};
use trellis_telemetry::http::Query;

/// Who may watch at one time.
pub const PLACES: usize = 8;
/// What waits for one of them.
const QUEUE: usize = 512;
/// In one second, where nobody asked for less.
const RATE: u32 = 1_000;

#[derive(Default)]
pub struct Taps {
    /// Looked at for every request.
    count: AtomicUsize,
    all: Mutex<Vec<Arc<Tap>>>,
}

struct Tap {
    wants: Wants,
    queue: mpsc::Sender<Arc<Entry>>,
    lost: AtomicU64,
    /// The second that runs, and what was handed on in it.
    second: Mutex<(Instant, u32)>,
}

/// What somebody wants to see. Whatever is left out does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub from: Option<String>,
    pub to: Option<String>,
    /// The beginning of a path.
    pub path: Option<String>,
    pub method: Option<String>,
    pub failed: bool,
    /// In one second.
    pub rate: u32,
}

/// Entries as they come, a line each.
pub struct Watching {
    taps: Arc<Taps>,
    tap: Arc<Tap>,
    entries: mpsc::Receiver<Arc<Entry>>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    #[error("{PLACES} are watching this proxy already; end one of them first")]
    Full,
    #[error("`{0}` is no filter; there are from, to, path, method, failed and rate")]
    Unknown(String),
    #[error("rate={0:?} is no number of entries in a second; write one from 1 to {RATE}")]
    Rate(String),
}

impl Taps {
    pub fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// One more who watches, until that is dropped.
    pub fn watch(self: &Arc<Self>, wants: Wants) -> Result<Watching, TapError> {
        let mut all = self.all.lock();
        if all.len() >= PLACES {
            return Err(TapError::Full);
        }
        let (queue, entries) = mpsc::channel(QUEUE);
        let second = Mutex::new((Instant::now(), 0));
        let tap = Arc::new(Tap { wants, queue, lost: AtomicU64::new(0), second });
        all.push(tap.clone());
        self.count.store(all.len(), Relaxed);
        Ok(Watching { taps: self.clone(), tap, entries })
    }

    pub fn offer(&self, entry: &Arc<Entry>) {
        if !self.any() {
            return;
        }
        for tap in &*self.all.lock() {
            if tap.wants.include(entry) && !tap.offer(entry, Instant::now()) {
                tap.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Tap {
    fn offer(&self, entry: &Arc<Entry>, now: Instant) -> bool {
        let mut second = self.second.lock();
        if now.duration_since(second.0) >= Duration::from_secs(1) {
            *second = (now, 0);
        }
        if second.1 >= self.wants.rate || self.queue.try_send(entry.clone()).is_err() {
            return false;
        }
        second.1 += 1;
        true
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut all = self.taps.all.lock();
        all.retain(|tap| !Arc::ptr_eq(tap, &self.tap));
        self.taps.count.store(all.len(), Relaxed);
    }
}

impl Body for Watching {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(entry) = ready!(self.entries.poll_recv(cx)) else { return Poll::Ready(None) };
        let mut lines = String::new();
        let lost = self.tap.lost.swap(0, Relaxed);
        if lost > 0 {
            lines.push_str(&format!("{{\"lost\":{lost}}}\n"));
        }
        if let Ok(line) = line(&*entry) {
            lines.push_str(&line);
            lines.push('\n');
        }
        Poll::Ready(Some(Ok(Frame::data(lines.into()))))
    }
}

impl Wants {
    pub fn read(query: &Query) -> Result<Self, TapError> {
        let mut wants = Self { rate: RATE, ..Self::default() };
        for (name, value) in query.pairs() {
            match name {
                "from" => wants.from = Some(value.to_owned()),
                "to" => wants.to = Some(value.to_owned()),
                "path" => wants.path = Some(value.to_owned()),
                "method" => wants.method = Some(value.to_owned()),
                "failed" => wants.failed = true,
                "rate" => match value.parse() {
                    Ok(rate @ 1..=RATE) => wants.rate = rate,
                    _ => return Err(TapError::Rate(value.to_owned())),
                },
                other => return Err(TapError::Unknown(other.to_owned())),
            }
        }
        Ok(wants)
    }

    fn include(&self, entry: &Entry) -> bool {
        let begins = |wanted: &str| entry.path.as_deref().is_some_and(|path| path.starts_with(wanted));
        let is_method =
            |wanted: &str| entry.method.as_deref().is_some_and(|one| one.eq_ignore_ascii_case(wanted));
        (!self.failed || entry.failed())
            && self.from.as_deref().is_none_or(|from| is_party(&entry.source, from))
            && self.to.as_deref().is_none_or(|to| is_towards(entry, to))
            && self.path.as_deref().is_none_or(begins)
            && self.method.as_deref().is_none_or(is_method)
    }
}

/// A Service with or without its port, whoever is there, or the host that was asked for.
fn is_towards(entry: &Entry, to: &str) -> bool {
    let service = entry.service.as_deref().unwrap_or_default();
    let without_port = service.rsplit_once(':').map_or(service, |(service, _)| service);
    [service, without_port].contains(&to)
        || is_party(&entry.destination, to)
        || entry.authority.as_deref().is_some_and(|authority| authority.eq_ignore_ascii_case(to))
}

/// A name as it stands there, or `namespace/serviceaccount` of an identity.
fn is_party(name: &str, wanted: &str) -> bool {
    let short = name.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/"));
    let unproven = name.split_once(':').filter(|_| !name.contains("://")).map(|(_, rest)| rest);
    name == wanted
        || short.is_some_and(|(namespace, account)| wanted.split_once('/') == Some((namespace, account)))
        || unproven == Some(wanted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::poll;
    use http_body_util::BodyExt;
    use trellis_api::access::{Direction, Kind};
    use trellis_pki::clock::SystemClock;

    use super::*;
    use crate::account::Audience;

    fn entry(path: &str) -> Arc<Entry> {
        let audience = Audience::new("shop/web-0".into(), Arc::new(SystemClock), None);
        let entry = audience.entry(Kind::Request, Direction::Outbound, std::time::UNIX_EPOCH);
        Arc::new(Entry {
            source: "spiffe://cluster.local/ns/shop/sa/web".into(),
            destination: "spiffe://cluster.local/ns/shop/sa/catalog".into(),
            service: Some("shop/catalog:80".into()),
            authority: Some("Catalog.shop".into()),
            method: Some("GET".into()),
            path: Some(path.to_owned()),
            status: Some(200),
            ..entry
        })
    }

    fn wants(query: &str) -> Result<Wants, TapError> {
        Wants::read(&Query::parse(query))
    }

    #[test]
    fn what_is_shown_is_what_was_asked_for() {
        for (query, included) in [
            ("", true),
            ("to=shop/catalog", true),
            ("to=shop%2Fcatalog:80", true),
            ("to=shop/catalog:81", false),
            ("to=catalog.shop", true),
            ("to=spiffe://cluster.local/ns/shop/sa/catalog", true),
            ("from=shop/web&path=/cart", true),
            ("from=shop/other", false),
            ("path=/other", false),
            ("method=get", true),
            ("method=POST", false),
            ("failed=true", false),
        ] {
            assert_eq!(wants(query).unwrap().include(&entry("/cart/1")), included, "{query}");
        }
        assert_eq!(wants("form=a").unwrap_err(), TapError::Unknown("form".into()));
        for rate in ["0", "many", "1001"] {
            assert_eq!(wants(&format!("rate={rate}")).unwrap_err(), TapError::Rate(rate.into()));
        }
    }

    async fn lines(watching: &mut Watching) -> Vec<String> {
        let all = async {
            let mut text = String::new();
            while let Poll::Ready(Some(Ok(frame))) = poll!(watching.frame()) {
                text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
            }
            text.lines().map(str::to_owned).collect()
        };
        tokio::task::unconstrained(all).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_slowly_is_told_how_much_was_lost() {
        let taps = Arc::new(Taps::default());
        let mut watching = taps.watch(wants("").unwrap()).unwrap();
        for _ in 0..QUEUE + 3 {
            taps.offer(&entry("/a"));
        }
        let said = lines(&mut watching).await;
        assert_eq!((said.len(), &*said[0]), (QUEUE + 1, "{\"lost\":3}"));
        taps.offer(&entry("/a"));
        assert_eq!(lines(&mut watching).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_shown_in_a_second_than_was_asked_for() {
        let taps = Arc::new(Taps::default());
        let mut watching = taps.watch(wants("rate=2").unwrap()).unwrap();
        (0..5).for_each(|_| taps.offer(&entry("/a")));
        assert_eq!(lines(&mut watching).await.len(), 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        (0..2).for_each(|_| taps.offer(&entry("/a")));
        assert_eq!(lines(&mut watching).await.len(), 2);
    }

    #[tokio::test]
    async fn places_are_few_and_given_back() {
        let taps = Arc::new(Taps::default());
        assert!(!taps.any());
        let mut all: Vec<_> = (0..PLACES).map(|_| taps.watch(wants("").unwrap()).unwrap()).collect();
        assert_eq!(taps.watch(wants("").unwrap()).err(), Some(TapError::Full));
        all.pop();
        assert!(taps.watch(wants("").unwrap()).is_ok());
        all.clear();
        assert!(!taps.any(), "nothing is put together for nobody");
    }
}
