//! The operator's wish: the one TrustDomain object that counts, followed in the source. Without one,
//! nothing is wished but what is.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use trellis_api::{
    names::CA,
    source::{Change, Source},
    trust::{
        Denial, Issuing, KeyAlgorithm, Leaves, Part, TRUST_DOMAIN, TrustDomain, TrustDomainSpec,
        TrustDomainStatus,
    },
};
use trellis_telemetry::shutdown::{Shutdown, requested};

use super::{authority::Authority, state::TrustState};
use trellis_election::Role;

use crate::federation;

/// What is wished, and as which generation of the object.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    pub spec: TrustDomainSpec,
    pub generation: i64,
}

/// The object, as it changes; `None` while there is none.
pub type Wishes = watch::Receiver<Known>;

/// What the source has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Known {
    /// Nothing yet: no step is taken on a guess.
    #[default]
    NotYet,
    Absent,
    Wish(Arc<Wish>),
}

/// Follows the object for as long as the tasks live.
pub fn follow(source: &impl Source, namespace: &str) -> (Wishes, JoinSet<()>) {
    let (sender, receiver) = watch::channel(Known::NotYet);
    let mut changes = source.watch::<TrustDomain>();
    let namespace = namespace.to_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let counts = |object: &TrustDomain| {
            let ours = object.namespace().is_none_or(|found| found == namespace);
            if !ours || object.name_any() != TRUST_DOMAIN {
                tracing::warn!(
                    namespace = object.namespace(),
                    name = object.name_any(),
                    "this TrustDomain changes nothing: the one that counts is {namespace}/{TRUST_DOMAIN}"
                );
                return false;
            }
            true
        };
        while let Some(change) = changes.next().await {
            let known = match change {
                Change::Reset(objects) => Some(
                    objects.iter().find(|object| counts(object)).map_or(Known::Absent, |object| wish(object)),
                ),
                Change::Applied(object) => counts(&object).then(|| wish(&object)),
                Change::Deleted(object) => counts(&object).then_some(Known::Absent),
            };
            if let Some(known) = known {
                sender.send_if_modified(|before| {
                    let changed = *before != known;
                    *before = known;
                    changed
                });
            }
        }
    });
    (receiver, tasks)
}

fn wish(object: &TrustDomain) -> Known {
    let generation = object.metadata.generation.unwrap_or_default();
    Known::Wish(Arc::new(Wish { spec: object.spec.clone(), generation }))
}

/// Keeps the object there, so that operators find what to change, and shows the status in it.
pub struct Shown {
    api: Api<TrustDomain>,
    authority: Authority,
    status: watch::Receiver<TrustDomainStatus>,
    roles: watch::Receiver<Role>,
}

/// No more than one write in this time.
const PACE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);

impl Shown {
    pub fn new(
        client: Client,
        namespace: &str,
        authority: Authority,
        status: watch::Receiver<TrustDomainStatus>,
        roles: watch::Receiver<Role>,
    ) -> Self {
        Self { api: Api::namespaced(client, namespace), authority, status, roles }
    }

    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        loop {
            let leads = matches!(*self.roles.borrow_and_update(), Role::Leader { .. });
            let status = self.status.borrow_and_update().clone();
            let pause = match leads {
                true if status.revision > 0 => match self.show(&status).await {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::warn!(%error, "cannot write TrustDomain {TRUST_DOMAIN}; trying again");
                        Some(RETRY)
                    }
                },
                _ => None,
            };
            let again = async {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => return,
                () = again => {}
                Ok(()) = self.status.changed() => {}
                Ok(()) = self.roles.changed() => {}
            }
            tokio::select! {
                () = &mut stop => return,
                () = sleep(PACE) => {}
            }
        }
    }

    async fn show(&self, status: &TrustDomainStatus) -> Result<(), kube::Error> {
        let Some(found) = self.api.get_opt(TRUST_DOMAIN).await? else {
            let object = TrustDomain::new(TRUST_DOMAIN, as_it_is(self.authority.current().state()));
            let params = PostParams { field_manager: Some(CA.to_owned()), ..PostParams::default() };
            match self.api.create(&params, &object).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(error),
            }
            return self.patch(status).await;
        };
        match found.status.as_ref() == Some(status) {
            true => Ok(()),
            false => self.patch(status).await,
        }
    }

    async fn patch(&self, status: &TrustDomainStatus) -> Result<(), kube::Error> {
        let object = json!({
            "apiVersion": TrustDomain::api_version(&()),
            "kind": TrustDomain::kind(&()),
            "metadata": { "name": TRUST_DOMAIN },
            "status": status,
        });
        let params = PatchParams::apply(CA).force();
        self.api.patch_status(TRUST_DOMAIN, &params, &Patch::Apply(&object)).await.map(|_| ())
    }
}

/// The wish that changes nothing: what is under way goes on to its end.
pub fn as_it_is(state: &TrustState) -> TrustDomainSpec {
    let kind = |of| state.destined(of).map(|anchor| anchor.kind);
    let issuing = kind(Part::Issuing).unwrap_or(Issuing::own(KeyAlgorithm::MlDsa65, 1));
    TrustDomainSpec {
        companion: kind(Part::Companion),
        leaf: Leaves { algorithm: state.leaf, dual: state.dual },
        denied: state
            .denied
            .iter()
            .map(|what| Denial { what: what.clone(), reason: String::new() })
            .collect(),
        federation: federation::as_it_is(&state.foreign),
        ..TrustDomainSpec::of(issuing)
    }
}
