use std::time::UNIX_EPOCH;

use tokio::sync::watch;
use trellis_pki::clock::ManualClock;

use super::*;
use trellis_fake_api::FakeApi;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events/";

fn begin(api: &FakeApi) -> (Events, Registry, watch::Sender<bool>) {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
    let registry = Registry::new();
    let (events, writer) = Events::new(api.client(), "ca-0", clock, &registry);
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(writer.run(shutdown));
    (events, registry, stop)
}

#[tokio::test(start_paused = true)]
async fn what_is_said_again_is_counted_in_the_event_that_is_there() {
    let api = FakeApi::new();
    let (events, _registry, _stop) = begin(&api);
    let pod = About::pod("shop", "orders-1", "uid-1");
    for _ in 0..3 {
        events.say(&pod, Tone::Warning, "RequestDenied", "Decide", "no");
    }
    events.say(&pod, Tone::Warning, "RequestDenied", "Decide", "no, for another reason");
    api.until("both", |api| api.under(EVENTS).len() == 2).await;
    let written = api.under(EVENTS);
    let first = written.iter().find(|event| event["note"] == "no").unwrap();
    assert_eq!(first["series"]["count"], 3);
    assert_eq!(first["regarding"]["uid"], "uid-1");
    assert_eq!(first["type"], "Warning");
    assert_eq!(first["reportingInstance"], "ca-0");
    assert_eq!(first["eventTime"], "2027-01-15T08:00:00.000000Z");
}

#[tokio::test(start_paused = true)]
async fn one_object_does_not_talk_all_the_time() {
    let api = FakeApi::new();
    let (events, registry, _stop) = begin(&api);
    let pod = About::pod("shop", "orders-1", "uid-1");
    for number in 0..100 {
        events.say(&pod, Tone::Normal, "Test", "Test", &format!("{number}"));
    }
    let lost = "trellis_ca_events_lost_total{reason=\"rate_limited\"} 90";
    assert!(registry.prometheus().contains(lost), "{}", registry.prometheus());
    api.until("ten", |api| api.under(EVENTS).len() == 10).await;
    let other = About::pod("shop", "orders-2", "uid-2");
    events.say(&other, Tone::Normal, "Test", "Test", "others may");
    api.until("another", |api| api.under(EVENTS).len() == 11).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_trust_domain_bears_its_uid() {
    let api = FakeApi::new();
    let path = "/apis/policy.trellis.dev/v1/namespaces/trellis-system/trustdomains/mesh";
    api.put(
        path,
        serde_json::json!({
            "metadata": { "name": "mesh", "namespace": "trellis-system", "uid": "uid-of-mesh" },
            "spec": { "issuing": { "algorithm": "ml-dsa-65", "generation": 1 } },
        }),
    );
    let (events, _registry, _stop) = begin(&api);
    events.say(&About::trust_domain("trellis-system"), Tone::Normal, "RotationBegan", "Rotate", "it began");
    let there = "/apis/events.k8s.io/v1/namespaces/trellis-system/events/";
    api.until("written", |api| !api.under(there).is_empty()).await;
    assert_eq!(api.under(there)[0]["regarding"]["uid"], "uid-of-mesh");
}
