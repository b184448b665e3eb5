//! The election on a Lease of the Kubernetes API, which lets one of several writers through.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use trellis_telemetry::{
    Gauge,
    shutdown::{Shutdown, requested},
};

use super::{
    Role,
    election::{Bid, DURATION, Election, PERIOD, Shown},
};

/// An answer that takes longer is worth nothing: the next period begins.
const ANSWER: Duration = Duration::from_secs(4);

/// One replica that would lead.
pub struct Candidate {
    api: Api<Lease>,
    /// The Lease's name.
    lease: &'static str,
    own: String,
    election: Election,
    role: watch::Sender<Role>,
    gauge: Gauge,
}

impl Candidate {
    /// `own` is the name of this replica's pod. The gauge shows 1 on the replica that leads.
    pub fn new(client: Client, namespace: &str, lease: &'static str, own: &str, gauge: Gauge) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            lease,
            own: own.to_owned(),
            election: Election::new(own),
            role: watch::Sender::new(Role::Follower { leader: None }),
            gauge,
        }
    }

    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// Takes part until the process stops, and then makes way.
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        loop {
            match timeout(ANSWER, self.take_part()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot take part in the election of a leader"),
                Err(_) => tracing::warn!("the API server does not answer about the election of a leader"),
            }
            self.reflect();
            tokio::select! {
                () = &mut stop => break,
                () = sleep(PERIOD) => {}
            }
        }
        if self.election.leads(Instant::now()).is_some() {
            self.election.resign();
            self.reflect();
            if let Ok(Err(error)) = timeout(ANSWER, self.release()).await {
                tracing::warn!(%error, "could not make way for another leader; it will wait {DURATION:?}");
            }
        }
    }

    async fn take_part(&mut self) -> Result<(), kube::Error> {
        let found = self.api.get_opt(self.lease).await?;
        let now = Instant::now();
        let Bid::Write { transitions } = self.election.shown(found.as_ref().map(shown), now) else {
            return Ok(());
        };
        let asked = Instant::now();
        match self.write(found, &self.own, transitions).await {
            Ok(written) => {
                self.election.won(shown(&written), asked);
                Ok(())
            }
            // Somebody was faster; the next look shows who.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let found = self.api.get_opt(self.lease).await?;
        match found.as_ref().map(shown) {
            Some(seen) if seen.holder == self.own => {
                self.write(found, "", seen.transitions).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    async fn write(
        &self,
        found: Option<Lease>,
        holder: &str,
        transitions: u64,
    ) -> Result<Lease, kube::Error> {
        let params = PostParams { field_manager: Some(self.lease.to_owned()), ..PostParams::default() };
        let before = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let kept = before.holder_identity.as_deref() == Some(holder);
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: i32::try_from(transitions).ok(),
            acquire_time: before.acquire_time.filter(|_| kept).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        match found {
            Some(lease) => {
                let lease = Lease { spec: Some(spec), ..lease };
                self.api.replace(self.lease, &params, &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.lease.to_owned()), ..ObjectMeta::default() };
                self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await
            }
        }
    }

    fn reflect(&self) {
        let role = match self.election.leads(Instant::now()) {
            Some(term) => Role::Leader { term },
            None => {
                let leader = self.election.leader().filter(|leader| *leader != self.own);
                Role::Follower { leader: leader.map(ToOwned::to_owned) }
            }
        };
        self.gauge.set(f64::from(u8::from(matches!(role, Role::Leader { .. }))));
        self.role.send_if_modified(|before| {
            let changed = *before != role;
            if changed {
                tracing::info!(?role, "the role of this replica changed");
                *before = role;
            }
            changed
        });
    }
}

fn shown(lease: &Lease) -> Shown {
    let spec = lease.spec.clone().unwrap_or_default();
    Shown {
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec.lease_transitions.and_then(|count| u64::try_from(count).ok()).unwrap_or_default(),
        renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use trellis_fake_api::FakeApi;
    use trellis_telemetry::Registry;

    struct Replica {
        role: watch::Receiver<Role>,
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    fn replica(api: &FakeApi, name: &str) -> Replica {
        let gauge = Registry::new().gauge("leader", "").with(&[]);
        let candidate = Candidate::new(api.client(), "trellis-system", "trellis-ca", name, gauge);
        let (stop, shutdown) = watch::channel(false);
        Replica { role: candidate.role(), stop, task: tokio::spawn(candidate.run(shutdown)) }
    }

    fn leads(replica: &Replica) -> bool {
        // Who is dead leads nobody, whatever it said last.
        !replica.task.is_finished() && matches!(*replica.role.borrow(), Role::Leader { .. })
    }

    /// Lets time pass, in which never two lead; says when the first of `replicas` led.
    async fn pass(seconds: u64, replicas: &[Replica]) -> Option<Duration> {
        let began = Instant::now();
        let mut led = None;
        while began.elapsed() < Duration::from_secs(seconds) {
            sleep(Duration::from_millis(100)).await;
            let leaders = replicas.iter().filter(|replica| leads(replica)).count();
            assert!(leaders <= 1, "{leaders} lead at once");
            if leaders == 1 {
                led.get_or_insert(began.elapsed());
            }
        }
        led
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_when_it_dies_another_does_in_time() {
        let api = FakeApi::new();
        let mut replicas = vec![replica(&api, "a"), replica(&api, "b"), replica(&api, "c")];
        assert!(pass(60, &replicas).await.unwrap() < Duration::from_secs(1));
        let first = replicas.iter().position(leads).unwrap();
        let dead = replicas.remove(first);
        dead.task.abort();
        let led = pass(60, &replicas).await.unwrap();
        assert!(led <= DURATION + 2 * PERIOD, "nobody led for {led:?}");
        let second = replicas.iter().find(|replica| leads(replica)).unwrap();
        assert_eq!(*second.role.borrow(), Role::Leader { term: 1 });
        let other = replicas.iter().find(|replica| !leads(replica)).unwrap();
        assert!(matches!(&*other.role.borrow(), Role::Follower { leader: Some(_) }));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_makes_way_at_once() {
        let api = FakeApi::new();
        let mut replicas = vec![replica(&api, "a"), replica(&api, "b")];
        pass(10, &replicas).await;
        let first = replicas.iter().position(leads).unwrap();
        let leaving = replicas.remove(first);
        leaving.stop.send_replace(true);
        leaving.task.await.unwrap();
        let led = pass(10, &replicas).await.unwrap();
        assert!(led <= 2 * PERIOD, "nobody led for {led:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_may_not_write_any_more_steps_down_before_another_takes_over() {
        let api = FakeApi::new();
        let replicas = vec![replica(&api, "a")];
        assert!(pass(10, &replicas).await.is_some());
        api.forbid("/apis/coordination.k8s.io/v1/namespaces/trellis-system/leases/trellis-ca", true);
        pass(12, &replicas).await;
        assert!(!replicas.iter().any(leads));
        api.forbid("/apis/coordination.k8s.io/v1/namespaces/trellis-system/leases/trellis-ca", false);
        assert!(pass(10, &replicas).await.is_some(), "it leads again when it can");
    }
}
