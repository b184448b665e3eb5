//! The application's certificate: one life of it after another, each from the first caller until a while
//! after the last one has left.

use std::{sync::Arc, time::Duration};

use tokio::{pin, sync::watch, time::sleep};
use tonic::Code;
use trellis_api::proto::ca::Holding;
use trellis_channel::identity::{BootstrapError, Handed, IssueError, Lifecycle, Rotator};
use trellis_pki::{
    clock::Clock,
    credential::{Denials, Denied},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{
    Registry,
    shutdown::{Shutdown, requested},
};

use super::{
    Rotate, WorkloadApi,
    callers::Callers,
    offer::{Offer, Offers, Svid, Trust, publish},
};

/// How soon the CA is asked again after it has refused, or was not there, in all attempts.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the certificate has ended.
const GLANCE: Duration = Duration::from_secs(60);

/// What the lives of the application's certificate depend on.
pub struct Leaf {
    pub identity: SpiffeId,
    /// One life.
    pub lifecycle: Box<dyn Fn() -> Lifecycle + Send + Sync>,
    /// The proxy's own side of the mesh, and what it holds.
    pub own: Arc<MeshTls>,
    pub holding: watch::Receiver<Holding>,
    /// Where it is said what the application holds.
    pub beside: watch::Sender<Option<Holding>>,
    pub clock: Arc<dyn Clock>,
    pub registry: Registry,
}

impl WorkloadApi {
    /// Gives callers what `leaf` has, until the process stops.
    pub fn offer(&self, leaf: Leaf, stop: Shutdown) {
        let trust = Anchors {
            identity: leaf.identity.clone(),
            own: leaf.own.clone(),
            holding: leaf.holding.clone(),
            offers: self.offers.clone(),
        };
        let lives = Lives {
            leaf,
            offers: self.offers.clone(),
            callers: self.callers.clone(),
            rotate: self.rotate.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = requested(stop) => {}
                () = trust.run() => {}
                () = lives.run() => {}
            }
        });
    }
}

/// Offers the anchors that the proxy itself believes.
struct Anchors {
    identity: SpiffeId,
    own: Arc<MeshTls>,
    holding: watch::Receiver<Holding>,
    offers: Offers,
}

impl Anchors {
    async fn run(mut self) {
        loop {
            let denied = denied(&self.own.denials(), &self.identity, None);
            publish(
                &self.offers.trust,
                match (denied, self.own.bundle()) {
                    (Some(denied), _) => Offer::Denied(denied),
                    (None, Some(bundle)) => Offer::Ready(Trust::new(bundle)),
                    (None, None) => Offer::Waiting,
                },
            );
            if self.holding.changed().await.is_err() {
                return;
            }
        }
    }
}

struct Lives {
    leaf: Leaf,
    offers: Offers,
    callers: Callers,
    rotate: Rotate,
}

impl Lives {
    async fn run(mut self) {
        loop {
            self.idle().await;
            if let Err(error) = self.life().await {
                tracing::error!(%error, "the application gets no certificate");
                publish(&self.offers.svid, refusal(&error));
                sleep(AGAIN).await;
            }
        }
    }

    /// Until somebody asks who may have one.
    async fn idle(&mut self) {
        loop {
            match denied(&self.leaf.own.denials(), &self.leaf.identity, None) {
                Some(text) => publish(&self.offers.svid, Offer::Denied(text)),
                None => publish(&self.offers.svid, Offer::Waiting),
            }
            let denied = matches!(*self.offers.svid.borrow(), Offer::Denied(_));
            tokio::select! {
                () = self.callers.wanted(), if !denied => return,
                changed = self.leaf.holding.changed() => if changed.is_err() {
                    // The proxy's own identity is no longer cared for: the process is stopping.
                    return std::future::pending().await;
                },
            }
        }
    }

    async fn life(&mut self) -> Result<(), BootstrapError> {
        let lifecycle = (self.leaf.lifecycle)();
        let tls = lifecycle.tls.clone();
        let (handout, mut handed) = watch::channel(None);
        let task = lifecycle.hand_out(handout, &self.leaf.registry).await?;
        let (rotator, mut held) = (task.rotator(), task.holding());
        let (stop, stopped) = watch::channel(false);
        let running = task.run(stopped);
        let callers = self.callers.clone();
        let forsaken = callers.forsaken();
        pin!(running, forsaken);
        loop {
            // The CA hears of it before a caller can use it.
            self.leaf.beside.send_replace(Some(held.borrow_and_update().clone()));
            let current = handed.borrow_and_update().clone();
            publish(&self.offers.svid, self.look(&tls, current));
            tokio::select! {
                () = &mut running => break,
                () = &mut forsaken => break,
                Ok(()) = handed.changed() => {}
                Ok(()) = held.changed() => {}
                Ok(()) = self.leaf.holding.changed() => {}
                () = self.rotate.0.notified() => renew(rotator.clone()),
                () = sleep(GLANCE) => {}
            }
        }
        tracing::info!("no caller wants the application's certificate any more; its key is gone");
        publish(&self.offers.svid, Offer::Waiting);
        self.leaf.beside.send_replace(None);
        stop.send_replace(true);
        running.await;
        Ok(())
    }

    fn look(&self, tls: &MeshTls, handed: Option<Arc<Handed>>) -> Offer<Svid> {
        let (Some(handed), Some(bundle)) = (handed, tls.bundle()) else { return Offer::Waiting };
        // Both hear the same, but not in the same moment.
        let both = [self.leaf.own.denials(), tls.denials()];
        let denied = both.iter().find_map(|denials| denied(denials, &self.leaf.identity, Some(&handed)));
        match denied {
            Some(text) => Offer::Denied(text),
            None if self.leaf.clock.now() > handed.leaf.not_after => Offer::Waiting,
            None => Offer::Ready(Svid { handed, trust: Trust::new(bundle) }),
        }
    }
}

fn renew(rotator: Rotator) {
    tokio::spawn(async move {
        match rotator.rotate_now().await {
            Ok(rotated) => {
                tracing::info!(serial = rotated.serial_after, "the application's certificate was rotated");
            }
            Err(error) => tracing::warn!(%error, "the application's certificate was not rotated"),
        }
    });
}

/// What denies the application, if anything does.
fn denied(denials: &Denials, identity: &SpiffeId, handed: Option<&Arc<Handed>>) -> Option<String> {
    let leaf = handed.map(|handed| &handed.leaf);
    let by_leaf = leaf.map(|leaf| [Denied::Serial(leaf.serial.clone()), Denied::Key(leaf.key.clone())]);
    let all = std::iter::once(Denied::Identity(identity.clone())).chain(by_leaf.into_iter().flatten());
    let found = all.into_iter().find(|denied| denials.contains(denied))?;
    Some(format!("{found} is denied; whoever operates the mesh lifts that with trellis trust allow"))
}

fn refusal(error: &BootstrapError) -> Offer<Svid> {
    match error {
        BootstrapError::GaveUp {
            last: IssueError::Refused { code: Code::PermissionDenied, message, .. },
            ..
        } => Offer::Denied(message.clone()),
        error => Offer::Unavailable(error.to_string()),
    }
}
