//! What the leading replica writes to the Kubernetes API, against one that fits into a test.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on says where

use std::{sync::Arc, time::Duration};

use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use trellis_api::source::{Change, Watched};
use trellis_discovery::{
    controller::{Blueprint, Controller},
    event::Event,
    hub::Hub,
};
use trellis_election::Role;
use trellis_fake_api::FakeApi;
use trellis_pki::clock::SystemClock;

const POLICY: &str = "/apis/policy.trellis.dev/v1/namespaces/shop/pqpolicies/first";
const CLASS: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/trellis";
const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/edge/gateways/main";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/edge/deployments/main-trellis";
const PARTS: [&str; 4] = [
    "/api/v1/namespaces/edge/serviceaccounts/main-trellis",
    DEPLOYMENT,
    "/api/v1/namespaces/edge/services/main-trellis",
    "/apis/policy/v1/namespaces/edge/poddisruptionbudgets/main-trellis",
];

struct Running {
    api: FakeApi,
    hub: Arc<Hub>,
    roles: watch::Sender<Role>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn read<K: DeserializeOwned>(object: &Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object.clone()).unwrap())
}

impl Running {
    /// A replica that stands by, in a cluster with one gateway.
    fn start() -> Self {
        let api = FakeApi::new();
        api.put(
            CLASS,
            json!({"metadata": {"name": "trellis"}, "spec": {"controllerName": "trellis.dev/gateway"}}),
        );
        let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
        api.put(
            GATEWAY,
            json!({
                "metadata": {"name": "main", "namespace": "edge", "uid": "u1"},
                "spec": {"gatewayClassName": "trellis", "listeners": [listener]}
            }),
        );
        api.put(
            POLICY,
            json!({
                "metadata": {"name": "first", "namespace": "shop", "generation": 2},
                "spec": {"keyexchange": "Prefer"}
            }),
        );
        let hub = Arc::new(Hub::default());
        fn none<K: Watched>() -> Change<K> {
            Change::Reset(Vec::new())
        }
        hub.apply([
            Event::Services(none()),
            Event::Slices(none()),
            Event::Pods(none()),
            Event::Nodes(none()),
            Event::Namespaces(none()),
            Event::HttpRoutes(none()),
            Event::GrpcRoutes(none()),
            Event::TcpRoutes(none()),
            Event::TlsRoutes(none()),
            Event::Grants(none()),
            Event::ListenerSets(none()),
            Event::Policies(none()),
            Event::PqPolicies(Change::Reset(vec![read(&api.get(POLICY).unwrap())])),
            Event::Classes(Change::Reset(vec![read(&api.get(CLASS).unwrap())])),
            Event::Gateways(Change::Reset(vec![read(&api.get(GATEWAY).unwrap())])),
        ]);
        let roles = watch::Sender::new(Role::Follower { leader: None });
        let controller = Controller {
            client: api.client(),
            hub: hub.clone(),
            clock: Arc::new(SystemClock),
            roles: roles.subscribe(),
            blueprint: Some(Blueprint { settings: Default::default(), replicas: 2 }),
        };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(controller.run(stopped));
        Self { api, hub, roles, stop, task }
    }

    /// What the watch would say.
    fn show(&self) {
        self.hub.apply([
            Event::Classes(Change::Applied(read(&self.api.get(CLASS).unwrap()))),
            Event::Gateways(Change::Applied(read(&self.api.get(GATEWAY).unwrap()))),
            Event::PqPolicies(Change::Applied(read(&self.api.get(POLICY).unwrap()))),
        ]);
    }

    fn status(&self, path: &str) -> Option<Value> {
        self.api.get(path).map(|object| object["status"].clone()).filter(|status| !status.is_null())
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// Lets everything happen that is going to. Time is not the machine's.
async fn pass() {
    sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes_and_only_what_is_not_there() {
    let running = Running::start();
    pass().await;
    assert_eq!(running.api.writes(), 0, "a follower writes nothing");
    running.roles.send_replace(Role::Leader { term: 0 });
    pass().await;
    for part in PARTS {
        assert!(running.api.get(part).is_some(), "{part} was not made");
    }
    let class = running.status(CLASS).unwrap();
    assert_eq!(class["conditions"][0]["type"], "Accepted");
    let gateway = running.status(GATEWAY).unwrap();
    assert_eq!(gateway["conditions"][1]["reason"], "AddressNotAssigned");
    let policy = running.status(POLICY).unwrap();
    assert_eq!(
        (&policy["conditions"][0]["status"], &policy["conditions"][0]["reason"]),
        (&json!("False"), &json!("UnknownField"))
    );
    assert_eq!(policy["conditions"][0]["observedGeneration"], 2);
    assert_eq!(policy["workloads"]["selected"], 0);
    let writes = running.api.writes();
    running.show();
    pass().await;
    assert_eq!(running.api.writes(), writes, "all is as it shall be");
    // Somebody else writes at the same time: what was seen last is not written over.
    let mut changed = running.api.get(GATEWAY).unwrap();
    changed["status"]["conditions"] = json!([]);
    running.api.put(GATEWAY, changed);
    running.hub.suspect_statuses();
    running.show();
    pass().await;
    assert_eq!(running.status(GATEWAY).unwrap()["conditions"][1]["reason"], "AddressNotAssigned");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_made_is_said_and_tried_again() {
    let running = Running::start();
    running.api.forbid(DEPLOYMENT, true);
    running.roles.send_replace(Role::Leader { term: 0 });
    pass().await;
    let gateway = running.status(GATEWAY).unwrap();
    assert_eq!(gateway["conditions"][1]["reason"], "NoResources");
    assert!(gateway["conditions"][1]["message"].as_str().unwrap().starts_with("its parts cannot be made: "));
    running.api.forbid(DEPLOYMENT, false);
    running.show();
    sleep(Duration::from_secs(60)).await;
    assert!(running.api.get(DEPLOYMENT).is_some());
    assert_eq!(running.status(GATEWAY).unwrap()["conditions"][1]["reason"], "AddressNotAssigned");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_takes_away_comes_again() {
    let running = Running::start();
    running.roles.send_replace(Role::Leader { term: 0 });
    pass().await;
    running.show();
    assert!(running.api.remove(DEPLOYMENT));
    sleep(Duration::from_secs(400)).await;
    assert!(running.api.get(DEPLOYMENT).is_some());
    running.end().await;
}
