//! Hears from the CA what to trust, for as long as the process lives, and tells it what is really held.
//! What is heard is applied by whoever owns the identity; this only carries it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};
use trellis_api::proto::ca::{Holding, Trusted, trust_client::TrustClient};
use trellis_telemetry::{Gauge, Registry};

use crate::client::{Address, Dialer};

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// All anchors and denials that there can be.
const MAX_MESSAGE: usize = 1 << 20;

/// What was heard last.
pub type Heard = Option<Arc<Trusted>>;

/// Follows the trust of the domain at one CA.
pub struct Follower {
    address: Address,
    dialer: Dialer,
    connected: Gauge,
}

impl Follower {
    /// `dialer` presents the identity that the CA knows this process by.
    pub fn new(address: Address, dialer: Dialer, registry: &Registry) -> Self {
        let connected = registry
            .gauge("trellis_trust_connected", "Whether the CA is heard: 1 while the stream of trust is open.")
            .with(&[]);
        connected.set(0.0);
        Self { address, dialer, connected }
    }

    /// Goes on for ever; `jitter` in `0..1` keeps a mesh that lost its CA from coming back in step.
    pub async fn run(self, heard: watch::Sender<Heard>, holding: watch::Receiver<Holding>, jitter: f64) {
        let mut delay = FIRST_DELAY;
        loop {
            let mut spoke = false;
            let reason = match self.once(&heard, &holding, &mut spoke).await {
                Ok(()) => "it ended".to_owned(),
                Err(status) => format!("{:?}: {}", status.code(), status.message()),
            };
            self.connected.set(0.0);
            if spoke {
                delay = FIRST_DELAY;
            }
            tracing::debug!(address = %self.address, reason, "the stream of trust ended; opening it again");
            sleep(delay.mul_f64(0.5 + 0.5 * jitter)).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    async fn once(
        &self,
        heard: &watch::Sender<Heard>,
        holding: &watch::Receiver<Holding>,
        spoke: &mut bool,
    ) -> Result<(), tonic::Status> {
        let mut client =
            TrustClient::new(self.dialer.channel(&self.address)).max_decoding_message_size(MAX_MESSAGE);
        // A stream rests on the certificate that it was opened with, so another one wants another stream.
        let mut own = holding.clone();
        let anchor = own.borrow_and_update().leaf_anchor.clone();
        // What is said ends with this call: a stream that is only dropped would go on saying it for ever.
        let (_speaking, silence) = oneshot::channel::<Infallible>();
        let says = told(holding.clone()).take_until(silence);
        let mut told = client.follow(says).await?.into_inner();
        loop {
            tokio::select! {
                message = told.message() => match message? {
                    Some(trusted) => {
                        *spoke = true;
                        self.connected.set(1.0);
                        heard.send_replace(Some(Arc::new(trusted)));
                    }
                    None => return Ok(()),
                },
                moved = own.wait_for(|holding| holding.leaf_anchor != anchor) => {
                    drop(moved);
                    return Ok(());
                }
            }
        }
    }
}

/// What is held, at once and whenever it changes.
fn told(mut holding: watch::Receiver<Holding>) -> impl Stream<Item = Holding> {
    holding.mark_changed();
    stream::unfold(holding, |mut holding| async move {
        holding.changed().await.ok()?;
        let told = holding.borrow_and_update().clone();
        Some((told, holding))
    })
}
