//! From the world to the application: tunnels of peers that proved who they are, and, unless the pod
//! is strict, connections of those that did not.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, watch},
    time::Instant,
};
use tracing::debug;
use trellis_api::evidence::{Class, KUBELET_PROBE};
use trellis_telemetry::otlp::spans::{self, Span, Value};

use crate::{
    account,
    handshake::Secured,
    ledger::{Direction, Flow, Row},
    original, quota,
    relay::{End, Tunnelled},
    roster,
    seldom::Seldom,
    standing::{POLICY, fallen},
    trace::Open,
    tunnel::{self, Asked, Target},
    worker::{self, BROKE, Shared, Tally, Worker},
};

/// A tunnel on which its client has opened nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(600);

/// How long a retired tunnel may still take streams that its client sent before it knew.
const GRACE: Duration = Duration::from_secs(5);

/// What the streams of one tunnel have in common.
struct Session {
    peer: String,
    remote: SocketAddr,
    row: Arc<Row>,
    flow: Arc<Flow>,
    quota: quota::Tunnel,
    streams: AtomicUsize,
    /// A stream came or went.
    changed: Notify,
    /// The tunnel is to end soon.
    falling: watch::Sender<bool>,
}

/// Serves the streams of one tunnel until it ends.
pub async fn tunnel(worker: Arc<Worker>, secured: Secured) {
    // A draining worker waits until every tunnel has said goodbye.
    let _open = worker.open.enter();
    let shared = &worker.shared;
    let posture = secured.posture.clone();
    let _rests = shared.resting.enter(&posture);
    let row = shared.ledger.tunnel(Direction::Inbound, &posture);
    let peer = posture.peer.as_ref().map_or_else(|| "unverified:unknown".into(), ToString::to_string);
    let Some(quota) = shared.quota.tunnel(&peer) else {
        debug!(remote = %secured.remote, peer, "one tunnel too many");
        return shared.ledger.refused(
            Direction::Inbound,
            peer,
            row.class,
            "too_many_tunnels_of_this_identity",
        );
    };
    let session = Arc::new(Session {
        peer,
        remote: secured.remote,
        quota,
        flow: shared.ledger.flow(Direction::Inbound, row.class),
        row,
        streams: AtomicUsize::new(0),
        changed: Notify::new(),
        falling: watch::Sender::new(false),
    });
    let counted = session.clone();
    let _enrolled = shared.roster.enrol(roster::Tunnel {
        direction: Direction::Inbound,
        address: secured.remote,
        row: session.row.clone(),
        since: shared.clock.now(),
        expires: secured.expires,
        streams: Box::new(move || counted.streams.load(Relaxed)),
    });
    let (remote, epoch) = (secured.remote, secured.epoch);
    // A peer's certificate ends, and with it what we may believe about new streams.
    let lifetime = secured.expires.duration_since(shared.clock.now()).unwrap_or_default();
    let mut accepted = match tunnel::accept(secured).await {
        Ok(accepted) => accepted,
        Err(error) => return debug!(%remote, %error, "no HTTP/2 on the tunnel"),
    };
    let mut ending = pin!(ending(shared, epoch, lifetime));
    // Of an anchor that is removed the peer hears as we do, and knows better where its requests end.
    let mut fallen = pin!(fallen(shared, Direction::Inbound, &posture, |reason| {
        if reason == POLICY {
            session.falling.send_replace(true);
        }
    }));
    let mut falls = session.falling.subscribe();
    let (mut retired, mut falling): (Option<Instant>, bool) = (None, false);
    loop {
        let (retires, falls_yet) = (retired.is_some(), falling);
        let event = pin!(async {
            tokio::select! {
                () = &mut ending, if !retires => Event::Ending,
                Ok(_) = falls.wait_for(|falls| *falls), if !falls_yet => Event::Falling,
                () = session.unused(shared, IDLE), if !retires => Event::Ending,
                // A peer that never acknowledges the goodbye is left without it.
                () = session.unused(shared, GRACE), if retires => Event::Over,
                reason = &mut fallen => Event::Fallen(reason),
            }
        });
        let mut event = Seldom::new(event);
        let event = loop {
            let asked = tokio::select! {
                asked = accepted.next() => asked,
                event = &mut event => break event,
            };
            match asked {
                Some(Ok(asked)) => {
                    let late = retired.is_some_and(|since| since.elapsed() > GRACE);
                    admit(&worker, &session, asked, late);
                }
                // A broken connection would answer the same for ever.
                Some(Err(error)) => return debug!(%remote, %error, "tunnel broke"),
                None => return,
            }
        };
        match event {
            Event::Ending => {}
            Event::Falling => {
                falling = true;
                shared.ledger.tunnel_ended(Direction::Inbound, POLICY);
            }
            Event::Fallen(reason) => {
                if !falling {
                    shared.ledger.tunnel_ended(Direction::Inbound, reason);
                }
                return debug!(%remote, peer = session.peer, reason, "tunnel ended");
            }
            Event::Over => return,
        }
        if retired.is_none() {
            retired = Some(Instant::now());
            accepted.retire();
        }
    }
}

/// What befalls a tunnel beside its streams.
enum Event {
    /// It takes no further stream.
    Ending,
    /// It is to end soon.
    Falling,
    /// It ends now, for this reason.
    Fallen(&'static str),
    Over,
}

/// Takes a stream that a peer asks for, if there is a place for it and it does not come too late.
fn admit(worker: &Arc<Worker>, session: &Arc<Session>, asked: Asked, late: bool) {
    let place = match late {
        true => Err("tunnel_retired"),
        false => place(worker, session),
    };
    let place = match place {
        Ok(place) => place,
        Err(reason) => {
            let (peer, class) = (session.peer.clone(), session.row.class);
            worker.shared.ledger.refused(Direction::Inbound, peer, class, reason);
            return asked.refuse(StatusCode::SERVICE_UNAVAILABLE);
        }
    };
    let (worker, session) = (worker.clone(), session.clone());
    session.streams.fetch_add(1, Relaxed);
    session.changed.notify_one();
    let open = worker.open.enter();
    // Apart, so that what leading takes is not kept for as long as the connection lasts.
    let leading = Box::pin(lead(worker.clone(), session.clone(), asked));
    tokio::spawn(async move {
        let _held = (place, open);
        if let Some(led) = leading.await {
            carry(&worker, &session, led).await;
        }
        session.streams.fetch_sub(1, Relaxed);
        session.changed.notify_one();
    });
}

/// A place for one more connection, among those of the peer and among all.
fn place(worker: &Worker, session: &Session) -> Result<(quota::Stream, OwnedSemaphorePermit), &'static str> {
    let own = session.quota.stream().ok_or("too_many_connections_of_this_identity")?;
    let all = worker.inbound.clone().try_acquire_owned().map_err(|_| "too_many_connections")?;
    Ok((own, all))
}

impl Session {
    /// Ends once no stream has lived for `time`.
    async fn unused(&self, shared: &Shared, time: Duration) {
        tunnel::unused(&shared.alarms, &self.streams, &self.changed, time).await;
    }
}

/// Ends when a tunnel must take no further stream: our identity or trust changed since its handshake, the
/// proxy drains, or the peer's certificate has come to its end.
///
/// The stage lags behind a swap, so a tunnel may be newer than it.
async fn ending(shared: &Shared, epoch: u64, lifetime: Duration) {
    let mut stage = shared.stage.clone();
    let changed = stage.wait_for(|stage| stage.draining || stage.epoch > epoch);
    tokio::select! {
        // Without a sender the process is ending anyway.
        _ = changed => {}
        () = shared.alarms.sleep(lifetime) => {}
    }
}

/// A stream that was led to the application.
struct Led {
    near: TcpStream,
    far: Tunnelled,
    target: SocketAddr,
}

async fn carry(worker: &Worker, session: &Session, Led { near, far, target }: Led) {
    let _open = session.row.opened();
    let mut account = worker.shared.ledger.audience().connection(Direction::Inbound, &session.row);
    if let Some(account) = &mut account {
        account.to(target);
        account.at(session.remote);
    }
    let tally = Tally::of(&session.flow, account.as_deref());
    let falling = Some(session.falling.subscribe());
    let carried = worker::carry(worker, Direction::Inbound, target.port(), tally, near, far, falling).await;
    if let Err(error) = carried {
        debug!(peer = session.peer, %target, %error, "connection broke");
        if let Some(account) = &mut account {
            account.broke(BROKE);
        }
    }
}

/// Leads one stream to the application.
async fn lead(worker: Arc<Worker>, session: Arc<Session>, asked: Asked) -> Option<Led> {
    let began = worker.shared.clock.now();
    let tracer = &worker.shared.requests.tracer;
    let open = asked.within.and_then(|context| tracer.within(context, &mut rand::rng()));
    let traced = |failure: Option<&str>| {
        if let Some(open) = open {
            tracer.tell(led(open, &session, (began, worker.shared.clock.now()), failure));
        }
    };
    let refuse = |asked: Asked, status, reason| {
        debug!(peer = session.peer, target = ?asked.target, reason, "stream refused");
        let ledger = &worker.shared.ledger;
        ledger.refused(Direction::Inbound, session.peer.clone(), session.row.class, reason);
        traced(Some(reason));
        asked.refuse(status);
        None
    };
    let target = match asked.target {
        Target::Address(target) => original::canonical(target),
        Target::Invalid(reason) => return refuse(asked, StatusCode::BAD_REQUEST, reason),
    };
    if !worker.shared.rules.admits(target) {
        return refuse(asked, StatusCode::FORBIDDEN, "target_not_this_pod");
    }
    let near = match worker::dial_application(worker.shared.rules.application(target)).await {
        Ok(near) => near,
        Err(_) => return refuse(asked, StatusCode::SERVICE_UNAVAILABLE, "application_unreachable"),
    };
    traced(None);
    match asked.accept() {
        Ok(far) => Some(Led { near, far, target }),
        Err(error) => {
            debug!(peer = session.peer, %error, "peer left before its answer");
            None
        }
    }
}

/// The span of what it took to lead a peer's request to the application. What comes after is bytes, which
/// may be of more than one request.
fn led(
    open: Open,
    session: &Session,
    (began, ended): (SystemTime, SystemTime),
    failure: Option<&str>,
) -> Span {
    let mut attributes = account::posture(&session.row);
    attributes.extend([
        ("trellis.peer", Value::Text(session.peer.clone())),
        ("network.peer.address", Value::Text(session.remote.ip().to_string())),
    ]);
    if let Some(reason) = failure {
        attributes.push(("error.type", Value::Text(reason.to_owned())));
    }
    Span {
        trace: open.context.trace,
        id: open.context.span,
        parent: open.parent,
        link: None,
        name: "trellis.accept".to_owned(),
        kind: spans::Kind::Server,
        began,
        ended,
        attributes,
        failure: failure.map(ToOwned::to_owned),
    }
}

/// Serves a connection of somebody who speaks no TLS to us.
pub async fn plaintext(worker: &Worker, mut far: TcpStream, remote: SocketAddr) {
    let shared = &worker.shared;
    let remote = original::canonical(remote);
    let Ok(target) = original::destination(&far) else { return far.abort() };
    if !shared.rules.admits(target) {
        count_refused(worker, remote.ip(), "target_not_this_pod");
        return far.abort();
    }
    let probe = shared.rules.is_probe(remote.ip(), target.port());
    if shared.demands.is_strict(Direction::Inbound) && !probe {
        count_refused(worker, remote.ip(), "plaintext");
        return far.abort();
    }
    let near = match worker::dial_application(shared.rules.application(target)).await {
        Ok(near) => near,
        Err(error) => {
            debug!(%target, %error, "application unreachable");
            count_refused(worker, remote.ip(), "application_unreachable");
            return far.abort();
        }
    };
    let counted = count(worker, remote.ip(), probe);
    let flow = shared.ledger.flow(Direction::Inbound, Class::Plaintext);
    // The node's probes are no news.
    let mut account = match probe {
        true => None,
        false => shared.ledger.audience().plaintext(remote, target),
    };
    let tally = Tally::of(&flow, account.as_deref());
    let (demands, direction) = (&shared.demands, Direction::Inbound);
    let falling = (!probe).then(|| demands.strict(direction));
    let carried = worker::carry(worker, direction, target.port(), tally, near, far, falling);
    let carried = async {
        // Boxed: what hardly ever comes must not make every connection larger.
        let over = Box::pin(demands.strict_for(direction, shared.rules.removal_grace));
        tokio::select! {
            carried = carried => carried,
            () = over, if !probe => Ok(()),
        }
    };
    // Asking who the peer is must not delay its bytes, nor end with them.
    let (carried, (row, _open)) = tokio::join!(carried, counted);
    if let Some(account) = &mut account {
        account.of(&row);
    }
    if !probe && demands.is_strict(direction) {
        demands.plaintext_ended(direction, &shared.directory.name(remote.ip()).await);
    }
    if let Err(error) = carried {
        debug!(%remote, %target, %error, "connection broke");
        if let Some(account) = &mut account {
            account.broke(BROKE);
        }
    }
}

async fn count(worker: &Worker, from: IpAddr, probe: bool) -> (Arc<Row>, crate::ledger::OpenConnection) {
    let shared = &worker.shared;
    let (peer, reason) = if probe {
        ("unverified:kubelet".to_owned(), KUBELET_PROBE)
    } else {
        (shared.directory.name(from).await, "peer_without_tls")
    };
    let row = shared.ledger.plaintext(Direction::Inbound, peer, reason);
    let open = row.opened();
    (row, open)
}

fn count_refused(worker: &Worker, from: IpAddr, reason: &'static str) {
    let (ledger, directory) = (worker.shared.ledger.clone(), worker.shared.directory.clone());
    tokio::spawn(async move {
        let peer = directory.name(from).await;
        ledger.refused(Direction::Inbound, peer, Class::Plaintext, reason);
    });
}
