//! The injector's promises at its border: which pods are injected, what they look like then, and that
//! doing it again changes nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trellis_api::{
    injection::{
        Admission, Decision, Ladder, Namespace, Outcome, Refusal, Settings, Skip, admit, decide, patch,
    },
    names,
};

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn namespace(labels: Value) -> Namespace {
    Namespace {
        name: "shop".into(),
        labels: serde_json::from_value(labels).unwrap(),
        annotations: BTreeMap::new(),
    }
}

fn enabled() -> Namespace {
    namespace(json!({ names::INJECT: "enabled" }))
}

fn plain() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web"}]}})
}

/// The plain pod with another one laid over it.
fn with(over: Value) -> Pod {
    let mut value = plain();
    json_patch::merge(&mut value, &over);
    pod(value)
}

fn admitted(pod: &Pod, namespace: &Namespace) -> Admission {
    admit(pod, namespace, &Settings::default()).unwrap()
}

fn outcome(pod: &Pod, namespace: &Namespace) -> String {
    match decide(pod, namespace, &Settings::default()) {
        Decision::Inject(_) => "inject".into(),
        Decision::Skip(skip) => skip.as_str().into(),
        Decision::Refuse(refusal) => format!("refuse {}", refusal.as_str()),
    }
}

fn refusal(pod: &Pod) -> String {
    match decide(pod, &enabled(), &Settings::default()) {
        Decision::Refuse(refusal) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_namespace_and_the_pod_decide_together() {
    let rows = [
        // the namespace's label, the pod's label, the pod's annotation, the outcome
        (None, None, None, "not_asked"),
        (None, None, Some("enabled"), "inject"),
        (None, Some("enabled"), None, "inject"),
        (None, Some("enabled"), Some("enabled"), "inject"),
        (None, None, Some("disabled"), "pod_opted_out"),
        (None, Some("disabled"), None, "pod_opted_out"),
        (None, Some("enabled"), Some("disabled"), "refuse undecided"),
        (None, Some("disabled"), Some("enabled"), "refuse undecided"),
        (None, None, Some("yes"), "refuse bad_annotation"),
        (None, Some("yes"), None, "refuse bad_label"),
        (Some("enabled"), None, None, "inject"),
        (Some("enabled"), None, Some("enabled"), "inject"),
        (Some("enabled"), None, Some("disabled"), "pod_opted_out"),
        (Some("enabled"), Some("disabled"), None, "pod_opted_out"),
        (Some("enabled"), None, Some("false"), "refuse bad_annotation"),
        (Some("enabled"), Some(""), None, "refuse bad_label"),
        (Some("disabled"), None, None, "namespace_opted_out"),
        (Some("disabled"), None, Some("enabled"), "inject"),
        (Some("disabled"), Some("enabled"), None, "inject"),
        (Some("disabled"), None, Some("disabled"), "pod_opted_out"),
        (Some("true"), None, None, "refuse bad_label"),
        (Some("true"), None, Some("enabled"), "inject"),
        (Some("true"), Some("disabled"), None, "pod_opted_out"),
    ];
    let switch = |value: Option<&str>| match value {
        Some(value) => json!({ names::INJECT: value }),
        None => json!({}),
    };
    for (of_namespace, label, annotation, expected) in rows {
        let pod = with(json!({"metadata": {"labels": switch(label), "annotations": switch(annotation)}}));
        assert_eq!(
            outcome(&pod, &namespace(switch(of_namespace))),
            expected,
            "namespace {of_namespace:?}, label {label:?}, annotation {annotation:?}"
        );
    }
}

#[test]
fn system_namespaces_are_left_alone_whatever_anybody_says() {
    let pod = with(json!({"metadata": {
        "labels": {names::INJECT: "enabled"}, "annotations": {"trellis.dev/typo": "x"},
    }}));
    for name in ["kube-system", "kube-public", "kube-node-lease", "trellis-system"] {
        let namespace = Namespace { name: name.into(), ..enabled() };
        assert_eq!(outcome(&pod, &namespace), "system_namespace", "{name}");
        assert_eq!(admitted(&pod, &namespace).pod, pod);
    }
    let settings = Settings { namespace: "mesh".into(), ..Settings::default() };
    let own = Namespace { name: "mesh".into(), ..enabled() };
    assert_eq!(decide(&with(json!({})), &own, &settings), Decision::Skip(Skip::SystemNamespace));
}

#[test]
fn what_cannot_be_captured_is_admitted_and_says_why_it_is_not_meshed() {
    for (over, reason) in [
        (json!({"spec": {"hostNetwork": true}}), "host_network"),
        (json!({"spec": {"os": {"name": "windows"}}}), "windows"),
        (json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}), "windows"),
    ] {
        let pod = with(over);
        assert_eq!(outcome(&pod, &namespace(json!({}))), "not_asked");
        let admission = admitted(&pod, &enabled());
        assert!(matches!(admission.outcome, Outcome::Skipped(skip) if skip.as_str() == reason));
        assert!(admission.warnings[0].starts_with("trellis: not injected: "), "{:?}", admission.warnings);
        assert_eq!(admission.pod.metadata.annotations.unwrap()[names::NOT_INJECTED], reason);
        assert_eq!(admission.pod.spec, pod.spec);
    }
    assert_eq!(outcome(&with(json!({"spec": {"hostNetwork": false}})), &enabled()), "inject");
    assert_eq!(outcome(&with(json!({"spec": {"os": {"name": "linux"}}})), &enabled()), "inject");
}

#[test]
fn a_mirror_pod_is_never_changed() {
    let pod = with(json!({"metadata": {"annotations": {
        "kubernetes.io/config.mirror": "abc", names::INJECTED: "0.0.1",
    }}}));
    let admission = admitted(&pod, &enabled());
    assert_eq!(admission.outcome, Outcome::Skipped(Skip::MirrorPod));
    assert_eq!(admission.pod, pod);
    assert_eq!(admission.warnings.len(), 1);
    assert_eq!(admitted(&pod, &namespace(json!({}))).pod, pod);
}

#[test]
fn a_pod_that_would_pass_by_the_proxy_is_refused() {
    let own = json!([{"name": "a"}, {"name": "web", "securityContext": {"runAsUser": 1337}}]);
    for over in [
        json!({"spec": {"securityContext": {"runAsUser": 1337}}}),
        json!({"spec": {"containers": own}}),
        json!({"spec": {"initContainers": own}}),
    ] {
        let message = refusal(&with(over));
        assert!(message.starts_with("container `web` runs as user 1337"), "{message}");
    }
    let elsewhere = json!([{"name": "web", "securityContext": {"runAsUser": 1000}}]);
    let pod = with(json!({"spec": {"securityContext": {"runAsUser": 1337}, "containers": elsewhere}}));
    assert_eq!(outcome(&pod, &enabled()), "inject");
}

#[test]
fn a_pod_that_wants_a_port_of_the_proxy_is_refused() {
    let listens = |port: Value| with(json!({"spec": {"containers": [{"name": "web", "ports": [port]}]}}));
    for port in [15000, 15001, 15006, 15008, 15020, 15021] {
        let message = refusal(&listens(json!({"containerPort": port})));
        assert!(message.contains(&format!("`web` uses port {port}, ")), "{message}");
    }
    assert_eq!(outcome(&listens(json!({"containerPort": 15002})), &enabled()), "inject");
    assert_eq!(outcome(&listens(json!({"containerPort": 15008, "protocol": "UDP"})), &enabled()), "inject");
    let probed = json!({"name": "web", "livenessProbe": {"tcpSocket": {"port": 15021}}});
    assert!(refusal(&with(json!({"spec": {"containers": [probed]}}))).contains("15021"));
}

#[test]
fn a_name_that_the_injector_gives_is_the_injectors() {
    for (over, part) in [
        (
            json!({"spec": {"containers": [{"name": "trellis-proxy"}]}}),
            "container of its own called `trellis-proxy`",
        ),
        (json!({"spec": {"containers": [{"name": "trellis-capture"}]}}), "called `trellis-capture`"),
        (json!({"spec": {"volumes": [{"name": "trellis-identity"}]}}), "volume of its own called"),
        (json!({"spec": {"volumes": [{"name": "trellis-no-api-token"}]}}), "called `trellis-no-api-token`"),
        (
            json!({"spec": {"initContainers": [{"name": "trellis-proxy"}]}}),
            "`trellis-proxy` but not `trellis-capture`",
        ),
        (json!({"spec": {"initContainers": [{"name": "trellis-capture"}]}}), "`trellis-capture` but not"),
    ] {
        let message = refusal(&with(over));
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn bad_annotations_are_refused_and_name_who_wrote_them() {
    let annotated = |name: &str, value: &str| with(json!({"metadata": {"annotations": {name: value}}}));
    for (name, value, part) in [
        ("trellis.dev/skip-inbound-port", "80", "did you mean `trellis.dev/skip-inbound-ports`?"),
        (
            "trellis.dev/proxy-memory-limit",
            "16Mi",
            "limit of memory is below its request (request 32Mi, limit 16Mi)",
        ),
        ("trellis.dev/proxy-cpu-limit", "1m", "limit of cpu is below its request"),
        ("trellis.dev/drain-seconds", "30", "grace period of 30 seconds"),
        ("trellis.dev/leaf-algorithm", "rsa", "`trellis.dev/leaf-algorithm: rsa` of the pod"),
    ] {
        let message = refusal(&annotated(name, value));
        assert!(message.contains(part), "{message}");
    }
    let mut namespace = enabled();
    namespace.annotations.insert("trellis.dev/drain-seconds".into(), "soon".into());
    let refusal = admit(&with(json!({})), &namespace, &Settings::default()).unwrap_err();
    assert!(refusal.to_string().contains("`trellis.dev/drain-seconds: soon` of the namespace"), "{refusal}");
}

#[test]
fn a_pod_that_opted_out_is_not_held_up_by_a_typo() {
    let pod = with(json!({"metadata": {"annotations": {
        names::INJECT: "disabled", "trellis.dev/typo": "x",
    }}}));
    assert_eq!(outcome(&pod, &enabled()), "pod_opted_out");
}

#[test]
fn a_pod_without_a_spec_is_refused() {
    assert_eq!(admit(&pod(json!({})), &enabled(), &Settings::default()), Err(Refusal::NoSpec));
}

fn shop() -> (Pod, Namespace) {
    let pod = serde_saphyr::from_str(include_str!("injection/pod.yaml")).unwrap();
    let mut namespace = enabled();
    namespace.annotations.insert("trellis.dev/skip-outbound-ports".into(), "5432".into());
    namespace.annotations.insert("trellis.dev/proxy-log-level".into(), "warn".into());
    namespace.annotations.insert("example.com/team".into(), "blue".into());
    (pod, namespace)
}

#[test]
fn an_injected_pod_looks_like_this() {
    let (pod, namespace) = shop();
    let admission = admitted(&pod, &namespace);
    assert_eq!(admission.outcome, Outcome::Injected);
    assert_eq!(admission.warnings, Vec::<String>::new());
    let golden = include_str!("injection/injected.yaml").replace("VERSION", env!("CARGO_PKG_VERSION"));
    let golden: Value = serde_saphyr::from_str(&golden).unwrap();
    let is = serde_json::to_value(&admission.pod).unwrap();
    assert_eq!(is, golden, "it is now:\n{}", serde_saphyr::to_string(&is).unwrap());
}

#[test]
fn injecting_twice_is_injecting_once() {
    let (pod, namespace) = shop();
    let once = admitted(&pod, &namespace).pod;
    let twice = admitted(&once, &namespace);
    assert_eq!(twice.outcome, Outcome::Skipped(Skip::AlreadyInjected));
    assert_eq!(serde_json::to_string(&twice.pod).unwrap(), serde_json::to_string(&once).unwrap());
    assert_eq!(patch(&once, &twice.pod).unwrap().0, []);
    // Not even by an injector of another mind.
    let settings = Settings { version: "9.9.9".into(), ..Settings::default() };
    assert_eq!(admit(&once, &namespace, &settings).unwrap().pod, once);
}

#[test]
fn the_patch_adds_and_never_touches_what_is_there() {
    let (pod, namespace) = shop();
    let after = admitted(&pod, &namespace).pod;
    let patch = patch(&pod, &after).unwrap();
    // The API server knows a field that this code does not.
    let mut raw = serde_json::to_value(&pod).unwrap();
    raw["spec"]["containers"][0]["tomorrow"] = json!({"kept": true});
    json_patch::patch(&mut raw, &patch).unwrap();
    assert_eq!(raw["spec"]["containers"][0]["tomorrow"], json!({"kept": true}));
    assert_eq!(serde_json::from_value::<Pod>(raw).unwrap(), after);
    for operation in serde_json::to_value(&patch).unwrap().as_array().unwrap() {
        assert_eq!(operation["op"], "add", "{operation}");
    }
}

fn environment(pod: &Pod) -> BTreeMap<String, String> {
    let inits = pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap();
    let proxy = inits.iter().find(|container| container.name == "trellis-proxy").unwrap();
    let all = proxy.env.iter().flatten();
    all.map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default())).collect()
}

#[test]
fn what_other_webhooks_add_later_is_taken_into_account() {
    let once = admitted(&with(json!({})), &enabled()).pod;
    assert_eq!(environment(&once)["TRELLIS_PROBE_PORTS"], "");

    let mut later = once.clone();
    let spec = later.spec.as_mut().unwrap();
    let agent = json!({"name": "agent", "readinessProbe": {"httpGet": {"port": 9999}}});
    spec.containers.push(serde_json::from_value(agent).unwrap());
    let early = serde_json::from_value(json!({"name": "early"})).unwrap();
    spec.init_containers.as_mut().unwrap().insert(0, early);
    let again = admitted(&later, &enabled());
    assert_eq!(environment(&again.pod)["TRELLIS_PROBE_PORTS"], "9999");
    assert!(again.warnings[0].contains("init container `early` starts before `trellis-capture`"));
    let operations = serde_json::to_value(patch(&later, &again.pod).unwrap()).unwrap();
    assert_eq!(operations.as_array().unwrap().len(), 1, "{operations}");

    let mut bypass = once;
    let user = json!({"name": "agent", "securityContext": {"runAsUser": 1337}});
    bypass.spec.as_mut().unwrap().containers.push(serde_json::from_value(user).unwrap());
    assert_eq!(outcome(&bypass, &enabled()), "refuse proxy_user");
}

#[test]
fn a_copy_of_an_injected_pod_without_its_annotations_is_recognised() {
    let once = admitted(&with(json!({})), &enabled()).pod;
    let mut copy = once.clone();
    copy.metadata.annotations = None;
    let again = admitted(&copy, &enabled());
    assert_eq!(again.outcome, Outcome::Skipped(Skip::AlreadyInjected));
    assert_eq!(again.pod, once);
}

#[test]
fn a_claim_to_be_injected_does_not_outlive_the_proxy() {
    let claims = json!({names::INJECTED: "0.1.0", names::NOT_INJECTED: "host_network"});
    let copied = |over: Value| {
        let mut pod = with(over);
        let claims: BTreeMap<String, String> = serde_json::from_value(claims.clone()).unwrap();
        pod.metadata.annotations.get_or_insert_default().extend(claims);
        pod
    };
    let annotations = |admission: Admission| admission.pod.metadata.annotations.unwrap();

    let injected = annotations(admitted(&copied(json!({})), &enabled()));
    assert_eq!(injected.get(names::INJECTED).unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(!injected.contains_key(names::NOT_INJECTED));
    let host = annotations(admitted(&copied(json!({"spec": {"hostNetwork": true}})), &enabled()));
    assert!(!host.contains_key(names::INJECTED));
    let out = copied(json!({"metadata": {"annotations": {names::INJECT: "disabled"}}}));
    assert!(!annotations(admitted(&out, &enabled())).contains_key(names::INJECTED));
}

#[test]
fn the_kubelets_calls_are_known_to_the_proxy() {
    let pod = with(json!({"spec": {
        "initContainers": [{
            "name": "sidecar", "restartPolicy": "Always",
            "startupProbe": {"tcpSocket": {"port": 7001}},
        }],
        "containers": [
            {
                "name": "web",
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 8081}],
                "readinessProbe": {"httpGet": {"port": "http"}},
                "livenessProbe": {"httpGet": {"port": "admin"}},
                "startupProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"postStart": {"httpGet": {"port": 8082}}, "preStop": {"tcpSocket": {"port": "8083"}}},
            },
            {"name": "grpc", "livenessProbe": {"grpc": {"port": 9090}}},
            {"name": "away", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 4000}}},
            {"name": "lost", "livenessProbe": {"httpGet": {"port": "http"}}},
        ],
    }}));
    let admission = admitted(&pod, &enabled());
    assert_eq!(environment(&admission.pod)["TRELLIS_PROBE_PORTS"], "7001,8080-8083,9090");
    assert_eq!(admission.warnings.len(), 1);
    assert!(admission.warnings[0].contains("container `lost` is probed on port `http`"));
}

#[test]
fn draining_ends_before_the_grace_period_does() {
    for (grace, expected) in [(None, "25"), (Some(60), "55"), (Some(5), "1"), (Some(0), "1"), (Some(6), "1")]
    {
        let pod = with(json!({"spec": {"terminationGracePeriodSeconds": grace}}));
        assert_eq!(environment(&admitted(&pod, &enabled()).pod)["TRELLIS_DRAIN_SECONDS"], expected);
    }
    let pod = with(json!({"metadata": {"annotations": {"trellis.dev/drain-seconds": "29"}}}));
    assert_eq!(environment(&admitted(&pod, &enabled()).pod)["TRELLIS_DRAIN_SECONDS"], "29");
}

#[test]
fn settings_and_annotations_reach_the_containers() {
    let settings: Settings = serde_json::from_value(json!({
        "version": "1.2.3",
        "images": {"proxy": "registry.example/proxy:1", "capture": "registry.example/capture:1", "pullPolicy": "Never"},
        "namespace": "mesh",
        "trustDomain": "example.org",
        "caAddress": "10.0.0.1:15012",
        "discoveryAddress": "[fd00::1]:15013",
        "leafAlgorithm": "ml-dsa-87",
        "keyExchange": "prefer",
        "signatures": "prefer",
        "plaintext": "strict",
        "opaquePorts": "1-5",
        "log": "error",
        "logFormat": "json",
        "otlpEndpoint": "http://collector:4317",
        "proxy": {"requests": {"cpu": "1m"}, "limits": {"memory": "1Gi"}},
        "capture": {"limits": {"memory": "9Mi"}},
    }))
    .unwrap();
    let pod = with(json!({"metadata": {"annotations": {
        "trellis.dev/skip-inbound-ports": "22,20",
        "trellis.dev/proxy-cpu-limit": "3",
        "trellis.dev/proxy-memory-request": "5Mi",
    }}}));
    let after = admit(&pod, &enabled(), &settings).unwrap().pod;
    assert_eq!(after.metadata.annotations.as_ref().unwrap()[names::INJECTED], "1.2.3");
    let variables = environment(&after);
    for (name, value) in [
        ("TRELLIS_TRUST_DOMAIN", "example.org"),
        ("TRELLIS_SYSTEM_NAMESPACE", "mesh"),
        ("TRELLIS_CA_ADDRESS", "10.0.0.1:15012"),
        ("TRELLIS_DISCOVERY_ADDRESS", "[fd00::1]:15013"),
        ("TRELLIS_LEAF_ALGORITHM", "ml-dsa-87"),
        ("TRELLIS_KEY_EXCHANGE", "prefer"),
        ("TRELLIS_SIGNATURES", "prefer"),
        ("TRELLIS_PLAINTEXT", "strict"),
        ("TRELLIS_OPAQUE_PORTS", "1-5"),
        ("TRELLIS_LOG", "error"),
        ("TRELLIS_LOG_FORMAT", "json"),
        ("TRELLIS_OTLP_ENDPOINT", "http://collector:4317"),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
    let inits = serde_json::to_value(after.spec.unwrap().init_containers).unwrap();
    assert_eq!(inits[0]["image"], "registry.example/capture:1");
    assert_eq!(inits[0]["args"], json!(["capture", "--skip-inbound-ports", "20,22"]));
    assert_eq!(inits[0]["resources"], json!({"limits": {"memory": "9Mi"}}));
    assert_eq!(inits[1]["image"], "registry.example/proxy:1");
    assert_eq!(inits[1]["imagePullPolicy"], "Never");
    assert_eq!(
        inits[1]["resources"],
        json!({"requests": {"cpu": "1m", "memory": "5Mi"}, "limits": {"cpu": "3", "memory": "1Gi"}})
    );
}

#[test]
fn pod_security_that_will_refuse_the_pod_is_announced() {
    for (level, expected) in [("restricted", 1), ("baseline", 1), ("privileged", 0)] {
        let namespace = namespace(json!({
            names::INJECT: "enabled", "pod-security.kubernetes.io/enforce": level,
        }));
        let warnings = admitted(&with(json!({})), &namespace).warnings;
        assert_eq!(warnings.len(), expected, "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(level) && warning.contains("NET_ADMIN")));
    }
}

#[test]
fn every_way_to_stay_outside_has_a_name_and_an_explanation_of_its_own() {
    let names: std::collections::BTreeSet<_> = Skip::ALL.iter().map(|skip| skip.as_str()).collect();
    let explanations: std::collections::BTreeSet<_> =
        Skip::ALL.iter().map(|skip| skip.explanation()).collect();
    assert_eq!((names.len(), explanations.len()), (Skip::ALL.len(), Skip::ALL.len()));
}

/// What a proxy is told of its certificates: the pod's word, or its namespace's, or, from the first two
/// columns being empty, the mesh's, which it hears from the CA at any time.
#[test]
fn the_pod_goes_before_its_namespace_and_both_before_the_mesh() {
    const LEAF: &str = "trellis.dev/leaf-algorithm";
    const DUAL: &str = "trellis.dev/dual-identity";
    type Said<'a> = &'a [(&'a str, &'a str)];
    let rows: [(Said<'_>, Said<'_>, [Option<&str>; 3]); 9] = [
        // pod, namespace: algorithm, whether it is the workload's own, and dual
        (&[], &[], [Some("ml-dsa-65"), Some("false"), None]),
        (&[], &[(LEAF, "ml-dsa-87")], [Some("ml-dsa-87"), Some("true"), None]),
        (&[(LEAF, "ml-dsa-44")], &[(LEAF, "ml-dsa-87")], [Some("ml-dsa-44"), Some("true"), None]),
        (&[], &[(DUAL, "enabled")], [Some("ml-dsa-65"), Some("false"), Some("enabled")]),
        (&[(DUAL, "disabled")], &[(DUAL, "enabled")], [Some("ml-dsa-65"), Some("false"), Some("disabled")]),
        (&[(DUAL, "enabled")], &[(DUAL, "disabled")], [Some("ml-dsa-65"), Some("false"), Some("enabled")]),
        (&[(DUAL, "enabled")], &[], [Some("ml-dsa-65"), Some("false"), Some("enabled")]),
        // Each of the two is inherited by itself.
        (
            &[(LEAF, "ml-dsa-44")],
            &[(DUAL, "enabled"), (LEAF, "ml-dsa-87")],
            [Some("ml-dsa-44"), Some("true"), Some("enabled")],
        ),
        (
            &[(DUAL, "disabled")],
            &[(DUAL, "enabled"), (LEAF, "ml-dsa-87")],
            [Some("ml-dsa-87"), Some("true"), Some("disabled")],
        ),
    ];
    for (of_pod, of_namespace, expected) in rows {
        let map = |said: Said<'_>| -> BTreeMap<String, String> {
            said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let pod = with(json!({"metadata": {"annotations": map(of_pod)}}));
        let namespace = Namespace { annotations: map(of_namespace), ..enabled() };
        let after = admitted(&pod, &namespace).pod;
        let inits = after.spec.unwrap().init_containers.unwrap();
        let proxy = inits.into_iter().find(|container| container.name == names::PROXY_CONTAINER).unwrap();
        let told = ["TRELLIS_LEAF_ALGORITHM", "TRELLIS_LEAF_PINNED", "TRELLIS_DUAL_IDENTITY"].map(|name| {
            let variable = proxy.env.iter().flatten().find(|variable| variable.name == name);
            variable.and_then(|variable| variable.value.clone())
        });
        assert_eq!(told.each_ref().map(Option::as_deref), expected, "{of_pod:?} in {of_namespace:?}");
        // What the CA goes by stands on the pod itself.
        let annotations = after.metadata.annotations.unwrap();
        assert_eq!(annotations.get(DUAL).map(String::as_str), expected[2], "{of_pod:?} in {of_namespace:?}");
    }
}

#[test]
fn a_second_identity_that_cannot_be_is_refused_or_said_to_have_no_effect() {
    let both = json!({"trellis.dev/dual-identity": "enabled", "trellis.dev/leaf-algorithm": "ecdsa-p256"});
    let message = refusal(&with(json!({"metadata": {"annotations": both}})));
    assert!(
        message.contains("`trellis.dev/dual-identity: enabled`") && message.contains("remove"),
        "{message}"
    );
    let dual = with(json!({"metadata": {"annotations": {"trellis.dev/dual-identity": "enabled"}}}));
    let warnings = admitted(&dual, &enabled()).warnings;
    assert!(warnings.iter().any(|one| one.contains("`signatures` is `require`")), "{warnings:?}");
    let open = Settings { signatures: Ladder::Prefer, ..Settings::default() };
    assert_eq!(admit(&dual, &enabled(), &open).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn the_application_is_led_to_the_workload_api_only_where_that_is_asked_for() {
    let pod = |choice: Option<&str>| {
        with(json!({
            "metadata": {"annotations": {"trellis.dev/workload-api": choice}},
            "spec": {
                "initContainers": [{"name": "early"}],
                "containers": [
                    {"name": "web"},
                    {"name": "own", "env": [{"name": names::SPIFFE_ENDPOINT_SOCKET, "value": "unix:///own"}]},
                ],
            },
        }))
    };
    let plain = serde_json::to_string(&admitted(&pod(None), &enabled()).pod).unwrap();
    assert!(!plain.contains("workload-api"), "{plain}");
    let off = admitted(&pod(Some("disabled")), &enabled()).pod;
    assert!(!environment(&off).contains_key("TRELLIS_WORKLOAD_API_SOCKET"));

    let once = admitted(&pod(Some("ecdsa-p256")), &enabled()).pod;
    let proxy = environment(&once);
    let socket = "/var/run/secrets/trellis.dev/workload-api/socket";
    assert_eq!(proxy["TRELLIS_WORKLOAD_API_SOCKET"], socket);
    assert_eq!(proxy["TRELLIS_WORKLOAD_API_ALGORITHM"], "ecdsa-p256");
    let spec = serde_json::to_value(once.spec.as_ref().unwrap()).unwrap();
    let volume = json!({"name": "trellis-workload-api", "emptyDir": {"medium": "Memory"}});
    assert!(spec["volumes"].as_array().unwrap().contains(&volume));
    let all = |kind: &str| spec[kind].as_array().unwrap().clone();
    for container in all("initContainers").iter().chain(&all("containers")) {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let found = mounts.iter().find(|mount| mount["name"] == "trellis-workload-api");
        let says = container["env"].as_array().cloned().unwrap_or_default();
        let leads = says.iter().find(|variable| variable["name"] == names::SPIFFE_ENDPOINT_SOCKET);
        match container["name"].as_str().unwrap() {
            names::CAPTURE_CONTAINER => assert_eq!((found, leads), (None, None)),
            names::PROXY_CONTAINER => assert_eq!((&found.unwrap()["readOnly"], leads), (&Value::Null, None)),
            name => {
                assert_eq!(found.unwrap()["readOnly"], true, "{name}");
                assert_eq!(found.unwrap()["mountPath"], "/var/run/secrets/trellis.dev/workload-api");
                let expected = if name == "own" { "unix:///own".into() } else { format!("unix://{socket}") };
                assert_eq!(leads.unwrap()["value"], expected, "{name}");
            }
        }
    }

    let whatever = admitted(&pod(Some("enabled")), &enabled()).pod;
    assert!(!environment(&whatever).contains_key("TRELLIS_WORKLOAD_API_ALGORITHM"), "the mesh decides");

    assert_eq!(admitted(&once, &enabled()).pod, once, "again changes nothing");
    let mut later = once;
    later.spec.as_mut().unwrap().containers.push(serde_json::from_value(json!({"name": "late"})).unwrap());
    let late = admitted(&later, &enabled()).pod.spec.unwrap().containers.pop().unwrap();
    assert_eq!(late.volume_mounts.unwrap()[0].name, "trellis-workload-api");
    assert_eq!(late.env.unwrap()[0].value.as_deref(), Some(format!("unix://{socket}").as_str()));

    let taken = with(json!({"spec": {"volumes": [{"name": "trellis-workload-api"}]}}));
    assert!(refusal(&taken).contains("volume of its own called `trellis-workload-api`"));
}
