//! Changes reach those that asked about them, at once, and nobody else.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::json;
use trellis_api::source::Change;
use trellis_discovery::{
    event::Event,
    hub::{Hub, Session},
    outbox::MAX_SUBSCRIPTIONS,
    subject::Subject,
};

use crate::world::{WORLD, applied, deleted, destination, manifests, object, resets, told, viewer};

fn hub() -> Arc<Hub> {
    let hub = Arc::new(Hub::default());
    hub.apply(resets(&manifests(WORLD)));
    hub
}

/// What the session is told now, as `DESTINATION -> ANSWER`; nothing where nothing waits.
fn told_now(session: &Session) -> Option<String> {
    let (subject, answer) = session.next().now_or_never()?;
    let Subject::Destination(at) = subject else { panic!("{subject:?} was not asked about") };
    Some(format!("{at} -> {}", told(&answer, at)))
}

fn subscribed(hub: &Arc<Hub>, destinations: &[&str]) -> Session {
    let session = hub.join(viewer("shop", "web"));
    for at in destinations {
        session.subscribe(destination(at)).unwrap();
        assert!(told_now(&session).unwrap().starts_with(&destination(at).to_string()));
    }
    session
}

#[test]
fn a_service_changes_when_its_endpoints_or_their_pods_do() {
    let hub = hub();
    let session = subscribed(&hub, &["10.96.0.10 80"]);
    let web_1 = "10.244.2.5 8080 shop/web-1/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web";
    let web_0 = "10.244.1.5 8080 shop/web-0/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web";
    let prefix = "10.96.0.10:80 -> service shop/web";

    let mut slice = object("EndpointSlice", "web-v4");
    slice["endpoints"][1]["conditions"]["ready"] = json!(true);
    hub.apply([applied(&slice)]);
    assert_eq!(told_now(&session).unwrap(), format!("{prefix} [{web_0}, {web_1}]"));

    // The pod goes before its slice says so.
    hub.apply([deleted(&object("Pod", "web-0"))]);
    assert_eq!(told_now(&session).unwrap(), format!("{prefix} [{web_1}]"));

    // And comes back without a proxy.
    let mut pod = object("Pod", "web-0");
    pod["metadata"]["annotations"] = json!({});
    hub.apply([applied(&pod)]);
    let plain = "10.244.1.5 8080 shop/web-0/web NOT_INJECTED";
    assert_eq!(told_now(&session).unwrap(), format!("{prefix} [{plain}, {web_1}]"));

    // Which is then restarted with one.
    hub.apply([applied(&object("Pod", "web-0"))]);
    assert_eq!(told_now(&session).unwrap(), format!("{prefix} [{web_0}, {web_1}]"));

    hub.apply([deleted(&object("Service", "web"))]);
    assert_eq!(told_now(&session).unwrap(), "10.96.0.10:80 -> unknown");
    hub.apply([applied(&object("Service", "web"))]);
    assert_eq!(told_now(&session).unwrap(), format!("{prefix} [{web_0}, {web_1}]"));
}

#[test]
fn a_pod_changes_when_it_is_injected_gone_or_its_address_given_on() {
    let hub = hub();
    let session = subscribed(&hub, &["10.244.2.9 5432", "10.244.2.9 0"]);
    let mut pod = object("Pod", "db-0");
    pod["metadata"]["annotations"] = json!({"trellis.dev/injected": "0.1.0"});
    hub.apply([applied(&pod)]);
    let mut both = [told_now(&session).unwrap(), told_now(&session).unwrap()];
    both.sort();
    let tunnel = "shop/db-0/default tunnel 15008 spiffe://cluster.local/ns/shop/sa/default";
    assert_eq!(
        both,
        [
            format!("10.244.2.9:0 -> workload 10.244.2.9 0 {tunnel}"),
            format!("10.244.2.9:5432 -> workload 10.244.2.9 5432 {tunnel}")
        ]
    );

    session.unsubscribe(destination("10.244.2.9 0"));
    pod["status"]["phase"] = json!("Succeeded");
    hub.apply([applied(&pod)]);
    assert_eq!(told_now(&session).unwrap(), "10.244.2.9:5432 -> unknown");

    let mut heir = object("Pod", "old-0");
    heir["status"]["podIP"] = json!("10.244.2.9");
    hub.apply([applied(&heir)]);
    assert_eq!(
        told_now(&session).unwrap(),
        "10.244.2.9:5432 -> workload 10.244.2.9 5432 legacy/old-0/old NOT_INJECTED"
    );
    assert_eq!(told_now(&session), None);
}

#[test]
fn what_changes_no_answer_is_not_sent_and_what_was_not_asked_for_neither() {
    let hub = hub();
    let session = subscribed(&hub, &["10.96.0.10 80", "10.244.1.5 8080"]);
    let other = subscribed(&hub, &["10.96.0.30 9100"]);

    let mut pod = object("Pod", "web-0");
    pod["metadata"]["labels"] = json!({"team": "a"});
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let mut slice = object("EndpointSlice", "web-v4");
    slice["endpoints"][1]["conditions"]["serving"] = json!(true);
    hub.apply([applied(&pod), applied(&slice)]);
    // A source that comes back says everything again.
    hub.apply(resets(&manifests(WORLD)));
    assert_eq!(told_now(&session), None);

    hub.apply([deleted(&object("Pod", "agent-a"))]);
    assert_eq!(told_now(&session), None);
    assert!(told_now(&other).is_some());
}

#[test]
fn a_reset_takes_away_what_is_not_in_it() {
    let hub = hub();
    let session = subscribed(&hub, &["10.244.1.5 8080", "10.96.0.10 80"]);
    hub.apply([Event::Pods(Change::Reset(Vec::new()))]);
    let mut both = [told_now(&session).unwrap(), told_now(&session).unwrap()];
    both.sort();
    assert_eq!(both, ["10.244.1.5:8080 -> unknown", "10.96.0.10:80 -> service shop/web []"]);
}

#[test]
fn one_who_does_not_read_is_told_the_newest_and_only_that() {
    let hub = hub();
    let session = subscribed(&hub, &["10.244.2.9 5432"]);
    let mut pod = object("Pod", "db-0");
    for account in 0..1_000 {
        pod["spec"]["serviceAccountName"] = json!(format!("a{account}"));
        hub.apply([applied(&pod)]);
    }
    assert!(told_now(&session).unwrap().contains("shop/db-0/a999"));
    assert_eq!(told_now(&session), None);
}

#[test]
fn asking_again_is_answered_again() {
    let hub = hub();
    let session = subscribed(&hub, &["10.244.1.5 8080"]);
    session.subscribe(destination("10.244.1.5 8080")).unwrap();
    assert!(told_now(&session).is_some());
    assert_eq!(hub.figures().subscriptions, 1);
}

#[test]
fn one_who_leaves_leaves_nothing_behind() {
    let hub = hub();
    let first = subscribed(&hub, &["10.96.0.10 80", "10.244.1.5 8080"]);
    let second = subscribed(&hub, &["10.96.0.10 80"]);
    assert_eq!((hub.figures().sessions, hub.figures().subscriptions), (2, 3));
    first.unsubscribe(destination("10.244.1.5 8080"));
    first.unsubscribe(destination("10.244.1.5 8080"));
    assert_eq!(hub.figures().subscriptions, 2);
    drop(first);
    assert_eq!((hub.figures().sessions, hub.figures().subscriptions), (1, 1));
    hub.apply([deleted(&object("Service", "web"))]);
    assert!(told_now(&second).is_some());
    drop(second);
    assert_eq!((hub.figures().sessions, hub.figures().subscriptions), (0, 0));
}

#[test]
fn a_session_has_a_bounded_number_of_subscriptions() {
    let hub = hub();
    let session = hub.join(viewer("shop", "web"));
    for port in 1..=MAX_SUBSCRIPTIONS {
        session.subscribe(destination(&format!("10.244.1.5 {port}"))).unwrap();
    }
    assert!(session.subscribe(destination("10.244.1.5 20000")).is_err());
    assert_eq!(hub.figures().subscriptions, MAX_SUBSCRIPTIONS);
    // Another proxy is not concerned.
    subscribed(&hub, &["10.244.1.5 20000"]);
}

#[tokio::test]
async fn one_who_waits_is_woken_by_the_change() {
    let hub = hub();
    let session = subscribed(&hub, &["10.244.2.9 5432"]);
    let waiting = session.next();
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    hub.apply([deleted(&object("Pod", "db-0"))]);
    // There at the first look after the change: no timer stands in between.
    let (at, answer) = waiting.now_or_never().unwrap();
    assert_eq!(told(&answer, at), "unknown");
}

#[test]
fn nothing_is_known_until_every_kind_was_seen_whole() {
    let hub = Arc::new(Hub::default());
    let mut missing = Event::KINDS.to_vec();
    assert_eq!(hub.missing(), missing);
    for whole in resets(&manifests(WORLD)) {
        hub.apply([applied(&object("Service", "web"))]);
        assert_eq!(hub.missing(), missing, "one object is not the whole");
        missing.retain(|kind| *kind != whole.kind());
        hub.apply([whole]);
        assert_eq!(hub.missing(), missing);
    }
    assert!(missing.is_empty());
}
