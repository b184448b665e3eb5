//! Whether a tunnel still stands. One whose peer is denied ends at once; one that rests on an anchor which
//! is trusted no more, or that policy would not let begin any more, takes no new stream and has until its
//! deadline to finish the open ones.

use std::{io, pin::pin, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use trellis_pki::{credential::Standing, posture::Posture};

use crate::{
    ledger::Direction,
    relay::{End, Relay},
    seldom::Seldom,
    worker::Shared,
};

/// Why a tunnel was ended, as the metric's label.
pub const DENIED: &str = "denied";
pub const ANCHOR_REMOVED: &str = "anchor_removed";
pub const POLICY: &str = "policy";
pub const SILENT: &str = "silent";
const BROKEN: &str = "broken";

/// Why a tunnel that has ended by itself took open connections along, as the metric's label: its other
/// end may have judged by the same trust a moment earlier.
pub fn taken(shared: &Shared, direction: Direction, posture: &Posture) -> &'static str {
    match shared.tls.standing(posture) {
        Standing::Good if !shared.demands.admits(direction, posture) => POLICY,
        Standing::Good => BROKEN,
        Standing::Denied => DENIED,
        Standing::AnchorRemoved => ANCHOR_REMOVED,
    }
}

/// Resolves when the tunnel of `posture` must end now, with the reason. Calls `falls` with it when it is known
/// that it will have to.
pub async fn fallen(
    shared: &Shared,
    direction: Direction,
    posture: &Posture,
    falls: impl Fn(&'static str),
) -> &'static str {
    let (mut stage, mut demands) = (shared.stage.clone(), shared.demands.changes());
    let mut deadline: Option<Instant> = None;
    loop {
        stage.borrow_and_update();
        demands.borrow_and_update();
        let reason = match shared.tls.standing(posture) {
            Standing::Denied => return DENIED,
            Standing::AnchorRemoved => Some(ANCHOR_REMOVED),
            Standing::Good => (!shared.demands.admits(direction, posture)).then_some(POLICY),
        };
        match reason {
            None => deadline = None,
            Some(reason) => {
                deadline.get_or_insert_with(|| Instant::now() + shared.rules.removal_grace);
                falls(reason);
            }
        }
        tokio::select! {
            Ok(()) = demands.changed() => {}
            changed = stage.changed() => if changed.is_err() {
                // The process is ending anyway.
                return std::future::pending().await;
            },
            () = passed(deadline) => return reason.unwrap_or(ANCHOR_REMOVED),
        }
    }
}

/// Between the last byte of an answer and the end of a connection that is being drained.
const QUIET: Duration = Duration::from_millis(2);

/// Carries a connection to its end. Once its tunnel is to fall, it is ended in good order at the first
/// moment in which the server has had the last word: for most protocols that is between two requests,
/// where clients open another connection without noticing. The relay stays with the caller: what is moved
/// into a future is kept twice, for every idle connection.
pub async fn carry<N: End, F: End, M: Fn(bool, &Bytes) + Unpin>(
    relay: &mut Relay<N, F, M>,
    falling: Option<watch::Receiver<bool>>,
    server_is_near: bool,
) -> io::Result<()> {
    let Some(mut falling) = falling else { return relay.await };
    {
        // Without a sender the tunnel is gone, and the relay sees that itself.
        let falls = pin!(falling.wait_for(|falling| *falling));
        tokio::select! {
            done = &mut *relay => return done,
            Ok(_) = Seldom::new(falls) => {}
        }
    }
    loop {
        let before = relay.moves();
        tokio::select! {
            // What has arrived by now counts before the silence does.
            biased;
            done = &mut *relay => return done,
            () = sleep(QUIET) => {}
        }
        if relay.moves() == before && relay.finish_at_rest(server_is_near) {
            return relay.await;
        }
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
