//! A replica that does not lead passes on to the leader what its members hold, so that the leader sees
//! them all, whichever replica they are connected to.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};
use trellis_api::{
    names::CA_PORT,
    proto::ca::{Holding, Relayed, trust_client::TrustClient},
};
use trellis_channel::client::{Address, Dialer};
use trellis_pki::{spiffe::SpiffeId, tls::MeshTls};
use trellis_telemetry::shutdown::{Shutdown, requested};

use super::members::Members;
use trellis_election::Role;

use crate::view::View;

/// Members that change together travel together.
const GATHER: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);
/// Holdings in one message.
const BATCH: usize = 500;

/// Passes on what this replica is told.
pub struct Replicas {
    pub own_pod: String,
    pub namespace: String,
    pub own: SpiffeId,
    pub tls: Arc<MeshTls>,
    pub members: Members,
    pub view: View,
    pub roles: watch::Receiver<Role>,
}

impl Replicas {
    /// Goes on until the process stops, whoever leads meanwhile.
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        loop {
            let role = self.roles.borrow_and_update().clone();
            let mut roles = self.roles.clone();
            let relaying = async {
                match &role {
                    Role::Leader { .. } | Role::Follower { leader: None } => std::future::pending().await,
                    Role::Follower { leader: Some(leader) } => self.relay_to(leader).await,
                }
            };
            tokio::select! {
                () = &mut stop => return,
                changed = roles.changed() => if changed.is_err() { return },
                () = relaying => {}
            }
        }
    }

    /// Relays for as long as it works, and waits a little after it has not.
    async fn relay_to(&self, leader: &str) {
        let reason = match self.view.pod(&self.namespace, leader).and_then(|pod| pod.address) {
            None => "its pod has no address yet".to_owned(),
            Some(address) => {
                let address = std::net::SocketAddr::new(address, CA_PORT).to_string();
                match address.parse::<Address>() {
                    Ok(address) => match self.relay(&address).await {
                        Ok(()) => "it ended the stream".to_owned(),
                        Err(status) => format!("{:?}: {}", status.code(), status.message()),
                    },
                    Err(error) => error.to_string(),
                }
            }
        };
        tracing::info!(leader, reason, "cannot tell the leader what members hold; trying again");
        sleep(RETRY).await;
    }

    async fn relay(&self, address: &Address) -> Result<(), tonic::Status> {
        let dialer = Dialer::new(self.tls.clone(), self.own.clone(), true);
        let mut client = TrustClient::new(dialer.channel(address));
        // What is said ends with this call: a stream that is only dropped would go on saying it for ever.
        let (_speaking, silence) = oneshot::channel::<Infallible>();
        let told = changes(self.members.clone(), format!("{}/{}", self.namespace, self.own_pod));
        let told = told.take_until(silence);
        let mut acks = client.relay(told).await?.into_inner();
        tracing::info!(%address, "telling the leader what members hold");
        while acks.message().await?.is_some() {}
        Ok(())
    }
}

/// All holdings first, then what changes.
fn changes(members: Members, replica: String) -> impl Stream<Item = Relayed> {
    let mut changed = members.changes();
    changed.mark_changed();
    let sent: BTreeMap<String, Holding> = BTreeMap::new();
    stream::unfold(
        (members, changed, sent, replica),
        |(members, mut changed, mut sent, replica)| async move {
            loop {
                let relayed = members.read(|census| difference(&mut sent, census.own_holdings(), &replica));
                if let Some(relayed) = relayed {
                    return Some((relayed, (members, changed, sent, replica)));
                }
                changed.changed().await.ok()?;
                sleep(GATHER).await;
                changed.borrow_and_update();
            }
        },
    )
}

/// What was not sent yet, at most a batch of it.
fn difference<'a>(
    sent: &mut BTreeMap<String, Holding>,
    held: impl Iterator<Item = &'a Holding>,
    replica: &str,
) -> Option<Relayed> {
    let held: BTreeMap<&str, &Holding> = held.map(|holding| (holding.pod.as_str(), holding)).collect();
    let gone: Vec<String> = sent.keys().filter(|pod| !held.contains_key(pod.as_str())).cloned().collect();
    let new = held.iter().filter(|(pod, holding)| sent.get(**pod) != Some(**holding));
    let holdings: Vec<Holding> = new.take(BATCH).map(|(_, holding)| (*holding).clone()).collect();
    if holdings.is_empty() && gone.is_empty() {
        return None;
    }
    for pod in &gone {
        sent.remove(pod);
    }
    for holding in &holdings {
        sent.insert(holding.pod.clone(), holding.clone());
    }
    Some(Relayed { replica: replica.to_owned(), holdings, gone })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(pod: &str, revision: u64) -> Holding {
        Holding { pod: pod.to_owned(), revision, ..Holding::default() }
    }

    #[test]
    fn only_what_changed_is_passed_on_and_what_is_gone_is_said_once() {
        let mut sent = BTreeMap::new();
        let both = [holding("shop/a", 1), holding("shop/b", 1)];
        let first = difference(&mut sent, both.iter(), "ca").unwrap();
        assert_eq!((first.holdings.len(), first.gone.len()), (2, 0));
        assert_eq!(difference(&mut sent, both.iter(), "ca"), None);
        let later = [holding("shop/b", 2)];
        let second = difference(&mut sent, later.iter(), "ca").unwrap();
        assert_eq!((second.holdings, second.gone), (later.to_vec(), vec!["shop/a".to_owned()]));
        assert_eq!(difference(&mut sent, later.iter(), "ca"), None);
    }

    #[test]
    fn many_members_are_passed_on_in_batches() {
        let many: Vec<_> = (0..1_200).map(|n| holding(&format!("shop/{n:04}"), 1)).collect();
        let mut sent = BTreeMap::new();
        let mut sizes = Vec::new();
        while let Some(relayed) = difference(&mut sent, many.iter(), "ca") {
            sizes.push(relayed.holdings.len());
        }
        assert_eq!(sizes, [500, 500, 200]);
    }
}
