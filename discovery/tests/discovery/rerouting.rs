//! What makes routes, backends and zones say something else, and to whom.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::{Value, json};
use trellis_api::proto::discovery as proto;
use trellis_discovery::{
    answer::Answer,
    hub::{Hub, Session},
    subject::Subject,
};

use crate::{
    routes::{SHOP, TO_V2, backend, front, names, route, service},
    world::{applied, deleted, manifests, resets, viewer},
};

fn hub(more: &str) -> Arc<Hub> {
    let hub = Arc::new(Hub::default());
    let mut objects = manifests(SHOP);
    objects.extend(manifests(more));
    hub.apply(resets(&objects));
    hub
}

fn subscribed(hub: &Arc<Hub>, namespace: &str, subject: &Subject) -> Session {
    let session = hub.join(viewer(namespace, "client"));
    session.subscribe(subject.clone()).unwrap();
    assert!(next(&session).is_some());
    session
}

fn next(session: &Session) -> Option<proto::Service> {
    let (subject, answer) = session.next().now_or_never()?;
    Some(service(answer.to_proto(&subject, session.viewer()).answer))
}

fn object(kind: &str, name: &str) -> Value {
    let mut all = manifests(SHOP).into_iter();
    all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap()
}

#[test]
fn a_route_that_changes_is_told_to_those_for_whom_it_holds() {
    let hub = hub("");
    let (own, other) = (subscribed(&hub, "client", &front()), subscribed(&hub, "elsewhere", &front()));
    let backend = subscribed(&hub, "client", &backend("shop", "web", 80));
    let consumer = &manifests(&route("client", "consumer", "", TO_V2))[0];
    hub.apply([applied(consumer)]);
    assert_eq!(names(&next(&own).unwrap()), ["http client/consumer"]);
    assert!(next(&other).is_none(), "it does not hold there");
    let producer = &manifests(&route("shop", "producer", "", TO_V2))[0];
    hub.apply([applied(producer)]);
    assert_eq!(names(&next(&other).unwrap()), ["http shop/producer"]);
    assert!(next(&own).is_none(), "its own is used instead");
    hub.apply([deleted(consumer)]);
    assert_eq!(names(&next(&own).unwrap()), ["http shop/producer"]);
    assert!(next(&other).is_none());
    // What says nothing new, such as a status, is not sent.
    let mut same = producer.clone();
    same["status"] = json!({"parents": []});
    hub.apply([applied(&same)]);
    assert!(next(&own).is_none() && next(&other).is_none() && next(&backend).is_none());
}

#[test]
fn a_route_is_judged_anew_when_a_service_that_it_leads_to_comes_or_goes() {
    let hub = hub(&route("shop", "web", "", "{backendRefs: [{name: late, port: 80}]}"));
    let session = subscribed(&hub, "shop", &front());
    let invalid =
        |service: proto::Service| service.routes.unwrap().http[0].rules[0].backends[0].invalid.clone();
    let mut late = object("Service", "web");
    late["metadata"]["name"] = json!("late");
    late["spec"]["clusterIPs"] = json!(["10.96.1.99"]);
    late["spec"]["ports"][0]["port"] = json!(81);
    hub.apply([applied(&late)]);
    assert_eq!(invalid(next(&session).unwrap()), "backendRef shop/late: has no TCP port 80");
    late["spec"]["ports"][0]["port"] = json!(80);
    hub.apply([applied(&late)]);
    assert_eq!(invalid(next(&session).unwrap()), "");
    hub.apply([deleted(&late)]);
    assert_eq!(invalid(next(&session).unwrap()), "backendRef shop/late: no such Service");
    // The parent itself comes and goes with its routes.
    hub.apply([deleted(&object("Service", "web"))]);
    let (_, answer) = session.next().now_or_never().unwrap();
    assert_eq!(*answer, Answer::Unknown);
    hub.apply([applied(&object("Service", "web"))]);
    assert_eq!(names(&next(&session).unwrap()), ["http shop/web"]);
}

#[test]
fn backends_and_zones_are_told_as_they_change() {
    let hub = hub("");
    let session = subscribed(&hub, "shop", &backend("shop", "headless", 80));
    let mut node = object("Node", "a");
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("south");
    hub.apply([applied(&node)]);
    assert_eq!(next(&session).unwrap().endpoints[0].zone, "south");
    hub.apply([deleted(&object("Pod", "web-0"))]);
    assert_eq!(next(&session).unwrap().endpoints.len(), 0);
    session.unsubscribe(backend("shop", "headless", 80));
    hub.apply([applied(&object("Pod", "web-0"))]);
    assert!(next(&session).is_none());
    assert_eq!(hub.figures().subscriptions, 0);
}

#[test]
fn a_pod_that_changes_leaves_routes_as_they_are() {
    let hub = hub(&route("shop", "web", "", TO_V2));
    let session = subscribed(&hub, "shop", &front());
    let held = |session: &Session| {
        let (_, answer) = session.next().now_or_never().unwrap();
        match &*answer {
            Answer::Service(service) => service.routes.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    session.subscribe(front()).unwrap();
    let before = held(&session);
    hub.apply([deleted(&object("Pod", "web-0"))]);
    assert!(Arc::ptr_eq(&before, &held(&session)), "they were made again");
}
