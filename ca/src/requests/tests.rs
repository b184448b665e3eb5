use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType, SigningKey};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use trellis_api::{names::SIGNER, trust::KeyAlgorithm};
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, ManualClock},
    csr,
    key::PrivateKey,
    leaf::Leaf,
    x509_pem,
};
use trellis_telemetry::Registry;

use super::*;
use crate::{
    attest::{Attestor, TokenReviewer},
    audit::Audit,
    events::Events,
    issue::{Issuing, Terms},
    trust::{
        Authority, Keys, Making, Store,
        store::{Folder, Read},
    },
    view::View,
};
use trellis_election::Role;
use trellis_fake_api::FakeApi;

const HOUR: Duration = Duration::from_secs(60 * 60);
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A CA that answers requests in an API server that fits into a test.
struct Bed {
    api: FakeApi,
    view: View,
    authority: Authority,
    registry: Registry,
    role: watch::Sender<Role>,
    clock: Arc<ManualClock>,
    store: (Store, Making),
    _stop: watch::Sender<bool>,
    _tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        Self::with(&["v1", "v1beta1"], 24 * HOUR).await
    }

    /// With PodCertificateRequests in these versions.
    async fn with(versions: &[&str], validity: Duration) -> Self {
        let api = FakeApi::new();
        serve(&api, versions);
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        let store = Store::Folder(Folder::new(folder.path().join("root")));
        let keys = Keys::default();
        let making = Making {
            trust_domain: "cluster.local".to_owned(),
            validity: 3650 * 24 * HOUR,
            keys: keys.clone(),
        };
        let read: Read = store.open(&making, KeyAlgorithm::MlDsa65, clock.now()).await.unwrap();
        let authority = Authority::new("cluster.local", keys, read).unwrap();
        let registry = Registry::new();
        let view = View::knowing(vec![pod("orders-1", "Running"), pod("done-1", "Succeeded")]);
        let terms = Terms {
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            algorithms: vec![Algorithm::MlDsa65],
            request_algorithms: vec![Algorithm::MlDsa65, Algorithm::EcdsaP256],
            validity,
        };
        let attestor = Attestor::TokenReview(TokenReviewer::new(api.client()));
        let audit = Audit::unwritten(clock.clone(), &registry);
        let issuing = Arc::new(Issuing::new(
            authority.clone(),
            attestor,
            view.clone(),
            terms,
            audit,
            clock.clone(),
            &registry,
        ));
        let (role, roles) = watch::channel(Role::Leader { term: 0 });
        let (stop, shutdown) = watch::channel(false);
        let (events, writer) = Events::new(api.client(), "ca-0", clock.clone(), &registry);
        let outcomes = Outcomes::new(&registry);
        let signing =
            SigningRequests { issuing: issuing.clone(), events: events.clone(), outcomes: outcomes.clone() };
        let pods = PodRequests { issuing, events, outcomes };
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run(shutdown.clone()));
        tasks.spawn(Desk::new(api.client(), signing, roles.clone()).run(shutdown.clone()));
        tasks.spawn(Desk::new(api.client(), pods, roles).run(shutdown));
        let store = (store, making);
        Self {
            api,
            view,
            authority,
            registry,
            role,
            clock,
            store,
            _stop: stop,
            _tasks: tasks,
            _folder: folder,
        }
    }

    /// Waits until the object at `path` has been answered, and shows its status.
    async fn answer(&self, path: &str) -> Value {
        for _ in 0..2_000 {
            sleep(Duration::from_millis(500)).await;
            let status = self.api.get(path).map(|object| object["status"].clone()).unwrap_or_default();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let refused = conditions.iter().any(|one| one["type"] == "Denied" || one["type"] == "Failed");
            if refused || !status["certificate"].is_null() || !status["certificateChain"].is_null() {
                return status;
            }
        }
        panic!("never answered: {:?}", self.api.get(path));
    }
}

/// What a cluster says of its APIs.
fn serve(api: &FakeApi, versions: &[&str]) {
    for version in ["v1", "v1beta1"] {
        let mut resources = Vec::new();
        let resource = |plural: &str, kind: &str| json!({ "name": plural, "kind": kind, "namespaced": true, "singularName": "", "verbs": [] });
        if version == "v1" {
            resources.push(resource("certificatesigningrequests", "CertificateSigningRequest"));
        }
        if versions.contains(&version) {
            resources.push(resource("podcertificaterequests", "PodCertificateRequest"));
        }
        let group_version = format!("certificates.k8s.io/{version}");
        let list =
            json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": resources });
        api.put(&format!("/apis/{group_version}"), list);
    }
}

fn pod(name: &str, phase: &str) -> Arc<k8s_openapi::api::core::v1::Pod> {
    let pod = json!({
        "metadata": { "namespace": "shop", "name": name, "uid": format!("uid-of-{name}") },
        "spec": { "serviceAccountName": "orders", "containers": [] },
        "status": { "phase": phase },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn base64(bytes: &[u8]) -> Value {
    serde_json::to_value(ByteString(bytes.to_vec())).unwrap()
}

fn pem(der: &[u8]) -> Value {
    base64(x509_pem("CERTIFICATE REQUEST", der).as_bytes())
}

fn ecdsa() -> PrivateKey {
    PrivateKey::generate(Algorithm::EcdsaP256).unwrap()
}

/// What the API server keeps of a request that a pod made with its own token.
fn signing_request(name: &str, der: &[u8]) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": name, "uid": format!("uid-of-{name}") },
        "spec": {
            "request": pem(der),
            "signerName": SIGNER,
            "username": "system:serviceaccount:shop:orders",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["orders-1"],
                "authentication.kubernetes.io/pod-uid": ["uid-of-orders-1"],
            },
            "usages": ["digital signature", "client auth"],
            "expirationSeconds": 3600,
        },
    })
}

fn leaf(pem: &str) -> Leaf {
    let blocks = pem::parse_many(pem).unwrap();
    assert_eq!(blocks.len(), 1, "the leaf alone");
    Leaf::parse(blocks[0].contents()).unwrap()
}

fn certificate(status: &Value) -> Leaf {
    let bytes: ByteString = serde_json::from_value(status["certificate"].clone()).unwrap();
    leaf(std::str::from_utf8(&bytes.0).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_asks_for_itself_is_approved_and_signed() {
    let bed = Bed::new().await;
    let path = format!("{CSRS}/a");
    bed.api.put(&path, signing_request("a", &csr::make(&ecdsa()).unwrap()));
    let status = bed.answer(&path).await;
    assert_eq!(status["conditions"][0]["type"], "Approved");
    let leaf = certificate(&status);
    assert_eq!(leaf.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/orders");
    assert_eq!((leaf.algorithm, leaf.issuer_algorithm), (Algorithm::EcdsaP256, Algorithm::MlDsa65));
    assert_eq!((leaf.client, leaf.server), (true, false), "no more than was asked for");
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap(), HOUR);
    assert_eq!(bed.api.written(), [format!("{path}/approval"), format!("{path}/status")]);
    let metrics = bed.registry.prometheus();
    for expected in [
        "trellis_ca_issued_by_api_total{api=\"certificate_signing_request\",class=\"classical\",\
         key=\"ECDSA-P256\",signature=\"ML-DSA-65\"} 1",
        "trellis_ca_requests_total{api=\"certificate_signing_request\",outcome=\"issued\"} 1",
    ] {
        assert!(metrics.contains(expected), "{metrics}");
    }
    sleep(HOUR).await;
    assert_eq!(bed.api.writes(), 2, "what is answered is left alone");
}

#[tokio::test(start_paused = true)]
async fn what_anybody_else_would_not_get_is_denied_with_field_value_and_remedy() {
    let bed = Bed::new().await;
    let with = |pointer: &str, value: Value| {
        let mut request = signing_request("x", &csr::make(&ecdsa()).unwrap());
        *request.pointer_mut(pointer).unwrap() = value;
        request
    };
    let key = ecdsa();
    let mut forged = csr::make(&key).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let mut foreign = CertificateParams::default();
    foreign.distinguished_name = DistinguishedName::new();
    let other = "spiffe://cluster.local/ns/shop/sa/payments";
    foreign.subject_alt_names = vec![SanType::URI(other.try_into().unwrap())];
    let foreign = foreign.serialize_request(&key).unwrap().der().to_vec();
    let ml_dsa_44 = csr::make(&PrivateKey::generate(Algorithm::MlDsa44).unwrap()).unwrap();
    let table = [
        (
            with("/spec/username", json!("admin")),
            "NotBoundToPod",
            "spec.username is \"admin\"; ask from a pod",
        ),
        (with("/spec/extra", json!({})), "NotBoundToPod", "spec.extra names no pod"),
        (
            with("/spec/extra/authentication.kubernetes.io~1pod-uid", json!(["another"])),
            "PodReplaced",
            "uid \"another\"",
        ),
        (
            with("/spec/extra/authentication.kubernetes.io~1pod-name", json!(["nobody"])),
            "PodAbsent",
            "shop/nobody does not exist",
        ),
        (
            with("/spec/username", json!("system:serviceaccount:shop:payments")),
            "ServiceAccountMismatch",
            "\"payments\"",
        ),
        (with("/spec/usages", json!(["cert sign"])), "KeyUsage", "spec.usages holds \"cert sign\""),
        (with("/spec/usages", json!(["digital signature"])), "KeyUsage", "add client auth"),
        (
            with("/spec/expirationSeconds", json!(30 * 86_400)),
            "Validity",
            "spec.expirationSeconds is 2592000",
        ),
        (with("/spec/request", base64(b"junk")), "MalformedCsr", "spec.request (4 bytes)"),
        (with("/spec/request", pem(&forged)), "BadSelfSignature", "spec.request: the signing request's own"),
        (with("/spec/request", pem(&foreign)), "ForeignName", other),
        (with("/spec/request", pem(&ml_dsa_44)), "KeyType", "ML-DSA-65, ECDSA-P256"),
    ];
    for (index, (mut request, reason, said)) in table.into_iter().enumerate() {
        let name = format!("x{index}");
        request["metadata"] = json!({ "name": name, "uid": name });
        let path = format!("{CSRS}/{name}");
        bed.api.put(&path, request);
        let status = bed.answer(&path).await;
        let condition = &status["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["reason"]),
            (&json!("Denied"), &json!(reason)),
            "{status}"
        );
        assert!(condition["message"].as_str().unwrap().contains(said), "{condition}");
        assert!(status["certificate"].is_null());
        let events = "/apis/events.k8s.io/v1/namespaces/default/events/";
        let told = |api: &FakeApi| api.under(events).iter().any(|event| event["regarding"]["uid"] == name);
        bed.api.until("told", told).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_by_somebody_else_changes_no_rule() {
    let bed = Bed::new().await;
    let approved = json!({ "conditions": [{ "type": "Approved", "status": "True" }] });
    let mut good = signing_request("good", &csr::make(&ecdsa()).unwrap());
    good["status"] = approved.clone();
    let mut bad = signing_request("bad", &csr::make(&ecdsa()).unwrap());
    bad["spec"]["username"] = json!("admin");
    bad["status"] = approved;
    let (good_path, bad_path) = (format!("{CSRS}/good"), format!("{CSRS}/bad"));
    bed.api.put(&good_path, good);
    certificate(&bed.answer(&good_path).await);
    assert_eq!(bed.api.written(), [format!("{good_path}/status")], "an approval is not repeated");
    bed.api.put(&bad_path, bad);
    let status = bed.answer(&bad_path).await;
    assert!(status["certificate"].is_null());
    assert_eq!(status["conditions"][1]["type"], "Failed", "{status}");
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_answers_and_only_its_own_signer() {
    let bed = Bed::new().await;
    bed.role.send_replace(Role::Follower { leader: None });
    let path = format!("{CSRS}/a");
    bed.api.put(&path, signing_request("a", &csr::make(&ecdsa()).unwrap()));
    let mut other = signing_request("other", &csr::make(&ecdsa()).unwrap());
    other["spec"]["signerName"] = json!("kubernetes.io/kubelet-serving");
    bed.api.put(&format!("{CSRS}/other"), other);
    sleep(HOUR).await;
    assert_eq!(bed.api.writes(), 0);
    bed.role.send_replace(Role::Leader { term: 1 });
    bed.answer(&path).await;
    sleep(HOUR).await;
    assert!(bed.api.written().iter().all(|written| written.starts_with(&path)), "{:?}", bed.api.written());
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_by_the_operator_gets_nothing_this_way_either() {
    let bed = Bed::new().await;
    let current = bed.authority.current();
    let mut state = current.state().clone();
    state.denied = vec!["identity=spiffe://cluster.local/ns/shop/sa/orders".to_owned()];
    state.revision += 1;
    let vault = current.vault.with(state);
    let version = bed.store.0.write(&vault, Some(&current.version)).await.unwrap().unwrap();
    bed.authority.take(Read { vault, version }).unwrap();
    let path = format!("{CSRS}/a");
    bed.api.put(&path, signing_request("a", &csr::make(&ecdsa()).unwrap()));
    assert_eq!(bed.answer(&path).await["conditions"][0]["reason"], "Denied");
    let path = pods_path("v1", "a");
    bed.api.put(&path, pod_request("a", "v1", &ecdsa(), &json!({})));
    assert_eq!(bed.answer(&path).await["conditions"][0]["type"], "Denied");
}

fn pods_path(version: &str, name: &str) -> String {
    format!("/apis/certificates.k8s.io/{version}/namespaces/shop/podcertificaterequests/{name}")
}

/// As a kubelet asks with a key of its own, by PKCS#10.
fn pod_request(name: &str, version: &str, key: &PrivateKey, more: &Value) -> Value {
    let mut spec = json!({
        "signerName": SIGNER, "podName": "orders-1", "podUID": "uid-of-orders-1",
        "serviceAccountName": "orders", "serviceAccountUID": "1", "nodeName": "node", "nodeUID": "2",
        "maxExpirationSeconds": 86_400,
        "stubPKCS10Request": base64(&csr::make(key).unwrap()),
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": format!("certificates.k8s.io/{version}"), "kind": "PodCertificateRequest",
        "metadata": { "namespace": "shop", "name": name, "uid": format!("uid-of-{name}") },
        "spec": spec,
    })
}

fn time(value: &Value) -> SystemTime {
    let time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time =
        serde_json::from_value(value.clone()).unwrap();
    time.0.into()
}

#[tokio::test(start_paused = true)]
async fn a_pods_key_is_certified_with_its_times_at_once() {
    for (version, more) in [("v1", json!({})), ("v1beta1", json!({ "maxExpirationSeconds": 7_200 }))] {
        let bed = Bed::with(&[version], 24 * HOUR).await;
        let path = pods_path(version, "a");
        bed.api.put(&path, pod_request("a", version, &ecdsa(), &more));
        let status = bed.answer(&path).await;
        let leaf = leaf(status["certificateChain"].as_str().unwrap());
        assert_eq!(leaf.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/orders");
        assert!(leaf.client && leaf.server);
        assert_eq!(
            (time(&status["notBefore"]), time(&status["notAfter"])),
            (leaf.not_before, leaf.not_after)
        );
        // Kubernetes takes none that began more than five minutes ago, by its own clock.
        let began = UNIX_EPOCH + Duration::from_secs(1_800_000_000 - 150);
        assert_eq!(leaf.not_before, began);
        let life = leaf.not_after.duration_since(leaf.not_before).unwrap();
        assert_eq!(life, if version == "v1" { 24 * HOUR } else { 2 * HOUR });
        let refresh = time(&status["beginRefreshAt"]);
        assert!(refresh >= leaf.not_before + life / 24 * 20 && refresh < leaf.not_after, "{status}");
        let [condition] = status["conditions"].as_array().unwrap().as_slice() else { panic!("{status}") };
        assert_eq!(condition["type"], "Issued");
        assert!(condition["message"].as_str().unwrap().contains("ECDSA-P256"), "{condition}");
        assert_eq!(bed.api.writes(), 1, "all of it in one write");
        let class =
            "api=\"pod_certificate_request\",class=\"classical\",key=\"ECDSA-P256\",signature=\"ML-DSA-65\"";
        assert!(bed.registry.prometheus().contains(class));
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_kubelets_proof_and_a_newer_ones_ml_dsa_key_are_taken() {
    let bed = Bed::new().await;
    let key = ecdsa();
    let proof = |message: &str| {
        json!({
            "stubPKCS10Request": "",
            "pkixPublicKey": base64(&key.subject_public_key_info()),
            "proofOfPossession": base64(&key.sign(message.as_bytes()).unwrap()),
        })
    };
    let path = pods_path("v1", "old");
    bed.api.put(&path, pod_request("old", "v1", &key, &proof("uid-of-orders-1")));
    let status = bed.answer(&path).await;
    assert_eq!(leaf(status["certificateChain"].as_str().unwrap()).key, key.public_key().fingerprint());
    let path = pods_path("v1", "stolen");
    bed.api.put(&path, pod_request("stolen", "v1", &key, &proof("uid-of-another")));
    let status = bed.answer(&path).await;
    assert_eq!(status["conditions"][0]["reason"], "BadSelfSignature", "{status}");

    let path = pods_path("v1", "new");
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    bed.api.put(&path, pod_request("new", "v1", &key, &json!({})));
    let status = bed.answer(&path).await;
    assert!(leaf(status["certificateChain"].as_str().unwrap()).is_post_quantum());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_certified_is_denied_in_the_words_of_kubernetes() {
    let bed = Bed::new().await;
    let ml_dsa_87 = PrivateKey::generate(Algorithm::MlDsa87).unwrap();
    let table = [
        (
            "a",
            pod_request("a", "v1", &ml_dsa_87, &json!({})),
            "UnsupportedKeyType",
            "set keyType to ECDSAP256",
        ),
        (
            "b",
            pod_request("b", "v1", &ecdsa(), &json!({ "unverifiedUserAnnotations": { "x.test/y": "z" } })),
            "InvalidUnverifiedUserAnnotations",
            "\"x.test/y\"",
        ),
        (
            "c",
            pod_request("c", "v1", &ecdsa(), &json!({ "serviceAccountName": "payments" })),
            "ServiceAccountMismatch",
            "payments",
        ),
        (
            "d",
            pod_request("d", "v1", &ecdsa(), &json!({ "podName": "done-1", "podUID": "uid-of-done-1" })),
            "PodFinished",
            "done-1",
        ),
    ];
    for (name, request, reason, said) in table {
        let path = pods_path("v1", name);
        bed.api.put(&path, request);
        let status = bed.answer(&path).await;
        let [condition] = status["conditions"].as_array().unwrap().as_slice() else { panic!("{status}") };
        assert_eq!(
            (&condition["type"], &condition["reason"]),
            (&json!("Denied"), &json!(reason)),
            "{status}"
        );
        assert!(condition["message"].as_str().unwrap().contains(said), "{condition}");
    }
    let events = "/apis/events.k8s.io/v1/namespaces/shop/events/";
    let of_pod = |api: &FakeApi| api.under(events).iter().any(|event| event["regarding"]["kind"] == "Pod");
    bed.api.until("the pod's events tell of it", of_pod).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_ca_does_not_know_yet_is_waited_for() {
    let bed = Bed::new().await;
    let path = pods_path("v1", "a");
    let early = json!({ "podName": "new-1", "podUID": "uid-of-new-1" });
    bed.api.put(&path, pod_request("a", "v1", &ecdsa(), &early));
    sleep(UNKNOWN / 4).await;
    assert_eq!(bed.api.writes(), 0, "a denial would be the pod's end");
    bed.view.learn(pod("new-1", "Pending"));
    assert!(!bed.answer(&path).await["certificateChain"].is_null());
}

#[tokio::test(start_paused = true)]
async fn where_certificates_are_too_short_for_kubernetes_a_request_fails_in_the_end() {
    let bed = Bed::with(&["v1"], HOUR / 2).await;
    let path = pods_path("v1", "a");
    bed.api.put(&path, pod_request("a", "v1", &ecdsa(), &json!({})));
    let status = bed.answer(&path).await;
    let condition = &status["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Failed"), &json!("CannotIssue")));
    assert!(condition["message"].as_str().unwrap().contains("raise ca.leafValidity"), "{condition}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_learns_the_kind_later_is_served_from_then_on() {
    let bed = Bed::with(&[], 24 * HOUR).await;
    let path = pods_path("v1beta1", "a");
    bed.api.put(&path, pod_request("a", "v1beta1", &ecdsa(), &json!({})));
    sleep(HOUR).await;
    assert_eq!(bed.api.writes(), 0);
    serve(&bed.api, &["v1beta1"]);
    bed.answer(&path).await;
    assert!(bed.clock.now() > UNIX_EPOCH);
}
