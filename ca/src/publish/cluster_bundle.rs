//! The trust bundle as a ClusterTrustBundle, where the cluster has that kind: for pods and programs that
//! do their own TLS with members of the mesh, and mount it without knowing of any namespace.

use std::time::Duration;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::sleep};
use trellis_api::names::{CA, CLUSTER_BUNDLE, CLUSTER_BUNDLE_SIGNER, MANAGED_BY, MANAGER};
use trellis_telemetry::{
    Gauge, Registry,
    shutdown::{Shutdown, requested},
};

use trellis_election::Role;

/// How often what somebody changed is put right, and a failure tried again.
const LOOK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);
/// A cluster that does not know the kind may learn it with its next version.
const ABSENT: Duration = Duration::from_secs(600);

/// Publishes for the whole cluster.
pub struct ClusterBundle {
    api: Api<ClusterTrustBundle>,
    /// As it is published elsewhere; only its certificates are taken.
    pem: watch::Receiver<String>,
    roles: watch::Receiver<Role>,
    published: Gauge,
}

impl ClusterBundle {
    pub fn new(
        client: Client,
        pem: watch::Receiver<String>,
        roles: watch::Receiver<Role>,
        registry: &Registry,
    ) -> Self {
        let published = registry
            .gauge(
                "trellis_ca_cluster_bundle",
                "1 while the ClusterTrustBundle is published by this replica.",
            )
            .with(&[]);
        Self { api: Api::all(client), pem, roles, published }
    }

    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        loop {
            let certificates = certificates(&self.pem.borrow_and_update());
            let leads = matches!(*self.roles.borrow_and_update(), Role::Leader { .. });
            let pause = if leads { self.publish(&certificates).await } else { LOOK };
            tokio::select! {
                () = &mut stop => return,
                () = sleep(pause) => {}
                Ok(()) = self.pem.changed() => {}
                Ok(()) = self.roles.changed() => {}
            }
        }
    }

    /// Writes what differs, and says when to look again.
    async fn publish(&self, certificates: &str) -> Duration {
        let result = async {
            let found = self.api.get_opt(CLUSTER_BUNDLE).await?;
            if found.is_some_and(|found| found.spec.trust_bundle == certificates) {
                return Ok(());
            }
            let object = json!({
                "apiVersion": "certificates.k8s.io/v1beta1",
                "kind": "ClusterTrustBundle",
                "metadata": { "name": CLUSTER_BUNDLE, "labels": { MANAGED_BY: MANAGER } },
                "spec": { "signerName": CLUSTER_BUNDLE_SIGNER, "trustBundle": certificates },
            });
            let params = PatchParams::apply(CA).force();
            self.api.patch(CLUSTER_BUNDLE, &params, &Patch::Apply(&object)).await?;
            tracing::info!("published the ClusterTrustBundle {CLUSTER_BUNDLE}");
            Ok(())
        };
        match result.await {
            Ok(()) => {
                self.published.set(1.0);
                LOOK
            }
            // No such kind: the API server does not even know the path.
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                self.published.set(0.0);
                tracing::debug!("this cluster has no ClusterTrustBundles");
                ABSENT
            }
            Err(error) => {
                self.published.set(0.0);
                tracing::warn!(%error, "cannot publish the ClusterTrustBundle; trying again");
                RETRY
            }
        }
    }
}

/// The certificates alone: nothing else may stand in such a bundle.
fn certificates(pem: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    pem.find(BEGIN).and_then(|at| pem.get(at..)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_fake_api::FakeApi;

    const PATH: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles/trellis.dev:mesh:bundle";

    #[tokio::test(start_paused = true)]
    async fn the_certificates_are_published_by_the_leader_and_put_right() {
        let api = FakeApi::new();
        let (pem, receiver) = watch::channel("Trellis trust revision 1\n-----BEGIN X-----\nold".to_owned());
        let (role, roles) = watch::channel(Role::Follower { leader: None });
        let bundle = ClusterBundle::new(api.client(), receiver, roles, &Registry::new());
        let (_stop, shutdown) = watch::channel(false);
        tokio::spawn(bundle.run(shutdown));
        sleep(2 * LOOK).await;
        assert_eq!(api.writes(), 0, "only the leader writes");

        role.send_replace(Role::Leader { term: 0 });
        let holds = |what: &'static str| {
            move |api: &FakeApi| api.get(PATH).is_some_and(|found| found["spec"]["trustBundle"] == what)
        };
        api.until("published", holds("-----BEGIN X-----\nold")).await;
        assert_eq!(api.get(PATH).unwrap()["spec"]["signerName"], "trellis.dev/mesh");
        pem.send_replace("Trellis trust revision 2\n-----BEGIN X-----\nnew".to_owned());
        api.until("the new one", holds("-----BEGIN X-----\nnew")).await;
        let writes = api.writes();
        sleep(10 * LOOK).await;
        assert_eq!(api.writes(), writes, "what is right is not written again");
        api.remove(PATH);
        sleep(2 * LOOK).await;
        assert!(api.get(PATH).is_some(), "what somebody deleted comes back");
    }
}
