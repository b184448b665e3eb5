//! What must hold of any world and any order of changes: being told changes one by one is the same as
//! looking at the whole, and a namespace never gets at what is another's.

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use trellis_discovery::{
    answer::{Answer, Who},
    destination::Destination,
    hub::Hub,
    name::Name,
    state::State,
    subject::{Backend, Subject},
};

use crate::world::{applied, deleted, resets, state, viewer};

const NAMESPACES: [&str; 2] = ["a", "b"];
const NAMES: [&str; 3] = ["x", "y", "z"];
/// Few, so that pods, Services and hand-written endpoints collide all the time.
const ADDRESSES: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "10.0.0.4", "10.0.0.5"];
const NOW: &str = "2026-03-01T00:00:00Z";
const PORTS: [u16; 3] = [0, 80, 8080];

type World = BTreeMap<(String, String, String), Value>;

#[derive(Clone, Debug)]
struct Step {
    object: Value,
    delete: bool,
}

fn address() -> impl Strategy<Value = &'static str> {
    select(ADDRESSES.as_slice())
}

fn service() -> impl Strategy<Value = Value> {
    let identity = select([None, Some("spiffe://b.example/ns/x/sa/y"), Some("nobody")].as_slice());
    (vec(address(), 0..3), vec(address(), 0..2), any::<bool>(), 0..3i64, identity).prop_map(
        |(cluster, external, early, age, identity)| {
            json!({
                "kind": "Service",
                "metadata": {
                    "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1),
                    "annotations": identity.map(|identity| json!({"trellis.dev/identity": identity}))
                },
                "spec": {
                    "clusterIPs": cluster, "externalIPs": external, "publishNotReadyAddresses": early,
                    "ports": [{"name": "http", "port": 80}]
                }
            })
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let conditions = (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>());
    let target = option::of((select(NAMESPACES.as_slice()), select(NAMES.as_slice())));
    let endpoint = (address(), conditions, target).prop_map(|(address, (ready, serving, terminating), target)| {
        json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "targetRef": target.map(|(namespace, name)| json!({"kind": "Pod", "namespace": namespace, "name": name}))
        })
    });
    (select(NAMES.as_slice()), vec(endpoint, 0..4), select(["http", "other"].as_slice())).prop_map(
        |(service, endpoints, port)| {
            json!({
                "kind": "EndpointSlice",
                "metadata": {"labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4",
                "ports": [{"name": port, "port": 8080}],
                "endpoints": endpoints
            })
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let phase = select(["Running", "Running", "Pending", "Succeeded", "Failed"].as_slice());
    let skip = option::of(Just("8080"));
    (vec(address(), 0..3), phase, any::<(bool, bool, bool)>(), skip, 0..3i64).prop_map(
        |(addresses, phase, (injected, host, leaving), skip, age)| {
            let mut annotations = serde_json::Map::new();
            if injected {
                annotations.insert("trellis.dev/injected".into(), "0.1.0".into());
            }
            if let Some(skip) = skip {
                annotations.insert("trellis.dev/skip-inbound-ports".into(), skip.into());
            }
            json!({
                "kind": "Pod",
                "metadata": {
                    "annotations": annotations,
                    "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1),
                    "deletionTimestamp": leaving.then_some("2026-02-01T00:00:00Z")
                },
                "spec": {"hostNetwork": host, "serviceAccountName": "sa", "nodeName": "x", "containers": []},
                "status": {"phase": phase, "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}
            })
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    option::of(select(["north", "south"].as_slice())).prop_map(
        |zone| json!({"kind": "Node", "metadata": {"labels": zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}))}}),
    )
}

fn reference() -> impl Strategy<Value = (&'static str, &'static str, Option<u16>)> {
    (select(NAMESPACES.as_slice()), select(NAMES.as_slice()), select([None, Some(80)].as_slice()))
}

fn route() -> impl Strategy<Value = Value> {
    let parent = (reference(), select(["Service", "Gateway", "ListenerSet"].as_slice()));
    let kind = select(["HTTPRoute", "GRPCRoute", "TCPRoute"].as_slice());
    (kind, vec(parent, 0..3), reference(), 0..3i64).prop_map(|(kind, parents, backend, age)| {
        let parents = parents.iter().map(|((namespace, name, port), kind)| {
            let group = if *kind == "Service" { "" } else { "gateway.networking.k8s.io" };
            json!({"group": group, "kind": kind, "namespace": namespace, "name": name, "port": port})
        });
        let (namespace, name, port) = backend;
        json!({
            "kind": kind,
            "metadata": {"creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1)},
            "spec": {
                "parentRefs": parents.collect::<Vec<_>>(),
                "rules": [{"backendRefs": [{"namespace": namespace, "name": name, "port": port}]}]
            }
        })
    })
}

fn listeners() -> impl Strategy<Value = Vec<Value>> {
    let listener = (
        select(["HTTP", "TCP", "UDP"].as_slice()),
        select([80, 81].as_slice()),
        select(["Same", "All", "Selector"].as_slice()),
    );
    vec(listener, 1..3).prop_map(|all| {
        let listener = |(at, (protocol, port, from)): (usize, &(&str, u16, &str))| {
            let selector = json!({"matchLabels": {"team": "one"}});
            json!({
                "name": format!("l{at}"), "protocol": protocol, "port": port,
                "allowedRoutes": {"namespaces": {"from": from, "selector": selector}}
            })
        };
        all.iter().enumerate().map(listener).collect()
    })
}

fn gateway() -> impl Strategy<Value = Value> {
    let class = select(["trellis", "trellis", "other"].as_slice());
    (listeners(), class, select(["None", "Same", "All"].as_slice())).prop_map(|(listeners, class, from)| {
        json!({
            "kind": "Gateway",
            "metadata": {},
            "spec": {
                "gatewayClassName": class, "listeners": listeners,
                "allowedListeners": {"namespaces": {"from": from}}
            }
        })
    })
}

fn listener_set() -> impl Strategy<Value = Value> {
    (listeners(), reference()).prop_map(|(listeners, (namespace, name, _))| {
        let parent = json!({"namespace": namespace, "name": name});
        json!({"kind": "ListenerSet", "metadata": {}, "spec": {"parentRef": parent, "listeners": listeners}})
    })
}

fn grant() -> impl Strategy<Value = Value> {
    (select(NAMESPACES.as_slice()), option::of(select(NAMES.as_slice()))).prop_map(|(from, name)| {
        let from = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from});
        let to = json!({"group": "", "kind": "Service", "name": name});
        json!({"kind": "ReferenceGrant", "metadata": {}, "spec": {"from": [from], "to": [to]}})
    })
}

fn policy() -> impl Strategy<Value = Value> {
    (select(NAMES.as_slice()), option::of(Just("http"))).prop_map(|(name, section)| {
        let target = json!({"group": "", "kind": "Service", "name": name, "sectionName": section});
        let validation = json!({"hostname": "a.org", "wellKnownCACertificates": "System"});
        let spec = json!({"targetRefs": [target], "validation": validation});
        json!({"kind": "BackendTLSPolicy", "metadata": {}, "spec": spec})
    })
}

/// Of the whole cluster, so each is told by its name alone.
fn unscoped() -> impl Strategy<Value = Value> {
    let class = select(["trellis.dev/gateway", "example.com/gateway"].as_slice()).prop_map(
        |controller| json!({"kind": "GatewayClass", "metadata": {"name": "trellis"}, "spec": {"controllerName": controller}}),
    );
    let namespace = (select(NAMESPACES.as_slice()), option::of(Just("one"))).prop_map(|(name, team)| {
        let labels = team.map(|team| json!({ "team": team }));
        json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    });
    prop_oneof![class, namespace]
}

fn step() -> impl Strategy<Value = Step> {
    let object = prop_oneof![
        service(),
        slice(),
        pod(),
        node(),
        route(),
        gateway(),
        listener_set(),
        grant(),
        policy(),
        unscoped()
    ];
    let named = (object, select(NAMESPACES.as_slice()), select(NAMES.as_slice()));
    (named, prop::bool::weighted(0.25)).prop_map(|((mut object, namespace, name), delete)| {
        // What is in no namespace is told apart by its name.
        let scoped = !matches!(object["kind"].as_str(), Some("Node" | "GatewayClass" | "Namespace"));
        object["metadata"]["namespace"] = if scoped { namespace } else { NAMESPACES[0] }.into();
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = name.into();
        }
        Step { object, delete }
    })
}

fn key(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

fn subjects() -> impl Iterator<Item = Subject> {
    let addresses = ADDRESSES.iter().flat_map(|address| {
        PORTS.map(|port| Subject::Destination(Destination::new(address.parse().unwrap(), port)))
    });
    let backends = NAMESPACES.iter().flat_map(|namespace| {
        NAMES.map(|name| Subject::Backend(Backend { service: Name::new(namespace, name), port: 80 }))
    });
    let gateways = NAMESPACES
        .iter()
        .flat_map(|namespace| NAMES.map(|name| Subject::Gateway(Name::new(namespace, name))));
    addresses.chain(backends).chain(gateways)
}

/// A fresh look at the whole.
fn whole(world: &World) -> State {
    state(&world.values().cloned().collect::<Vec<_>>())
}

fn check_borders(world: &World, answer: &Answer) -> Result<(), TestCaseError> {
    let (name, endpoints) = match answer {
        Answer::Service(service) => (Some(&service.name), service.endpoints.iter().collect::<Vec<_>>()),
        Answer::Workload(endpoint) => (None, vec![endpoint]),
        Answer::Unknown | Answer::Gateway(..) | Answer::Policy(..) => return Ok(()),
    };
    for endpoint in endpoints {
        if let Some(name) = name {
            prop_assert_eq!(&endpoint.namespace, &name.namespace, "an endpoint of another namespace");
        }
        match &endpoint.who {
            Who::Nobody => prop_assert!(name.is_some(), "a workload that is nobody"),
            Who::Elsewhere(_) | Who::Unreadable => {
                let name = name.ok_or_else(|| TestCaseError::fail("a pod that is elsewhere"))?;
                let service = ("Service".to_owned(), name.namespace.to_string(), name.name.to_string());
                let said = &world[&service]["metadata"]["annotations"]["trellis.dev/identity"];
                let identity = said.as_str().and_then(|text| text.parse().ok());
                prop_assert_eq!(identity.map_or(Who::Unreadable, Who::Elsewhere), endpoint.who.clone());
            }
            Who::Pod { pod, plaintext, .. } => {
                let known = ("Pod".to_owned(), endpoint.namespace.to_string(), pod.to_string());
                let Some(pod) = world.get(&known) else {
                    return Err(TestCaseError::fail(format!("{known:?} does not exist")));
                };
                let address = endpoint.address.to_string();
                let has = pod["status"]["podIPs"].as_array().unwrap().iter().any(|ip| ip["ip"] == *address);
                prop_assert!(has, "{pod} does not have {address}");
                if plaintext.is_none() {
                    prop_assert!(pod["metadata"]["annotations"]["trellis.dev/injected"].is_string());
                    prop_assert_ne!(&pod["spec"]["hostNetwork"], &json!(true));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn being_told_changes_is_the_same_as_seeing_the_whole(steps in vec(step(), 1..40)) {
        let hub = Arc::new(Hub::default());
        hub.apply(resets(&[]));
        // One of each namespace, since routes say different things to them; each is a gateway, too.
        let proxies = NAMESPACES.map(|namespace| (hub.join(viewer(namespace, "x-trellis")), BTreeMap::new()));
        let mut proxies = Vec::from(proxies);
        for (session, _) in &proxies {
            subjects().for_each(|subject| session.subscribe(subject).unwrap());
        }
        let mut world = World::new();
        for Step { object, delete } in steps {
            if delete {
                world.remove(&key(&object));
                hub.apply([deleted(&object)]);
            } else {
                world.insert(key(&object), object.clone());
                hub.apply([applied(&object)]);
            }
            let mut whole = whole(&world);
            let statuses: BTreeMap<_, _> = whole.board().wanted(NOW).into_iter().collect();
            prop_assert_eq!(hub.statuses(NOW), statuses, "statuses after {}", object);
            for (session, view) in &mut proxies {
                while let Some((subject, answer)) = session.next().now_or_never() {
                    let told = answer.to_proto(&subject, session.viewer());
                    prop_assert_ne!(view.insert(subject.clone(), told.clone()), Some(told), "{:?} again", subject);
                    check_borders(&world, &answer)?;
                }
                for subject in subjects() {
                    let expected = whole.lookup(&subject).to_proto(&subject, session.viewer());
                    prop_assert_eq!(&view[&subject], &expected, "{:?} after {}", subject, object);
                }
            }
        }
        // A source that starts over with the same world changes nothing.
        hub.apply(resets(&world.values().cloned().collect::<Vec<_>>()));
        for (session, _) in &proxies {
            prop_assert!(session.next().now_or_never().is_none());
        }
    }
}
