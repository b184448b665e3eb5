//! Pods: what is done to them, and what the listener does with those who ask.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{ByteString, api::core::v1::Pod};
use rustls::{NamedGroup, ProtocolVersion};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use trellis_injector::serve;

use crate::running::*;

/// As an API server asks, with fields that nobody here reads.
fn create(namespace: &str, pod: &Value) -> Value {
    json!({
        "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": namespace,
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []},
        "object": pod,
        "oldObject": null,
        "dryRun": false,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    })
}

fn pod() -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"generateName": "web-", "creationTimestamp": null, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web", "tomorrow": "unknown", "resources": {}}]},
        "status": {},
    })
}

fn patched(review: &Value, pod: &Value) -> Value {
    assert_eq!(review["response"]["patchType"], "JSONPatch");
    let ByteString(patch) = serde_json::from_value(review["response"]["patch"].clone()).unwrap();
    let mut pod = pod.clone();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[tokio::test]
async fn a_pod_of_a_labelled_namespace_is_injected_over_post_quantum_tls() {
    let injector = Injector::start().await;
    let stream = injector.connect("h2").await;
    let (_, connection) = stream.get_ref();
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));

    let request = review(create("shop", &pod())).to_string();
    let (status, body) = post(stream, "/mutate?timeout=10s", request.into()).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "0df28fbd-5f5f-11e8-bc74-36e6bb280816");
    assert_eq!(answer["response"]["allowed"], true);

    let after = patched(&answer, &pod());
    assert_eq!(after["spec"]["containers"], pod()["spec"]["containers"], "what was there is as it was");
    let inits = after["spec"]["initContainers"].as_array().unwrap();
    let names: Vec<&str> = inits.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["trellis-capture", "trellis-proxy"]);
    serde_json::from_value::<Pod>(after.clone()).unwrap();

    // Asked again, as after another webhook, it changes nothing.
    let again = injector.review(create("shop", &after)).await;
    assert_eq!(again["response"]["allowed"], true);
    assert_eq!(again["response"].get("patch"), None);

    assert_eq!(injector.count(ADMISSIONS, &[("result", "injected"), ("reason", "")]), 1);
    assert_eq!(injector.count(ADMISSIONS, &[("result", "skipped"), ("reason", "already_injected")]), 1);
    let hybrid = [("class", "hybrid"), ("group", "X25519MLKEM768"), ("local_signature", "ECDSA-P256")];
    assert_eq!(injector.count(HANDSHAKES, &hybrid), 2);
    let metrics = injector.registry.prometheus();
    assert!(metrics.contains("trellis_injector_certificate_expiry_timestamp_seconds 1"), "{metrics}");
}

#[tokio::test]
async fn a_pod_that_cannot_be_meshed_is_let_in_with_a_warning() {
    let injector = Injector::start().await;
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    let answer = injector.review(create("shop", &pod)).await;
    assert_eq!(answer["response"]["allowed"], true);
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("hostNetwork"), "{warning}");
    assert_eq!(
        patched(&answer, &pod)["metadata"]["annotations"],
        json!({"trellis.dev/not-injected": "host_network"})
    );
}

#[tokio::test]
async fn a_pod_that_must_not_run_is_refused_with_a_remedy() {
    let injector = Injector::start().await;
    let mut user = pod();
    user["spec"]["securityContext"] = json!({"runAsUser": 1337});
    let mut typo = pod();
    typo["metadata"]["annotations"] = json!({"trellis.dev/skip-inbound-prots": "80"});
    for (namespace, pod, code, part) in [
        ("shop", user, 422, "give it another `runAsUser`"),
        ("shop", typo, 422, "did you mean `trellis.dev/skip-inbound-ports`?"),
        ("nowhere", self::pod(), 503, "namespace nowhere is not known; try again"),
        ("shop", json!({"spec": {"containers": 5}}), 422, "the pod cannot be read"),
        ("shop", json!({"metadata": {}}), 422, "the pod has no spec"),
    ] {
        let answer = injector.review(create(namespace, &pod)).await;
        let response = &answer["response"];
        assert_eq!((&response["allowed"], response.get("patch")), (&json!(false), None));
        assert_eq!(response["status"]["code"], code);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("trellis: ") && message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn a_namespace_decides_as_it_is_now() {
    let injector = Injector::start().await;
    let answer = injector.review(create("quiet", &pod())).await;
    assert_eq!((&answer["response"]["allowed"], answer["response"].get("patch")), (&json!(true), None));
    let mut asks = pod();
    asks["metadata"]["labels"] = json!({"trellis.dev/inject": "enabled"});
    let answer = injector.review(create("quiet", &asks)).await;
    assert!(patched(&answer, &asks)["spec"]["initContainers"].is_array());
}

#[tokio::test]
async fn other_questions_pass() {
    let injector = Injector::start().await;
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("subResource", json!("ephemeralcontainers")),
        ("resource", json!({"group": "apps", "version": "v1", "resource": "deployments"})),
    ] {
        let mut request = create("shop", &pod());
        request[field] = value;
        let answer = injector.review(request).await;
        assert_eq!((&answer["response"]["allowed"], answer["response"].get("patch")), (&json!(true), None));
        assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("CREATE of pods"));
    }
}

#[tokio::test]
async fn what_is_no_question_is_an_error_of_http() {
    let injector = Injector::start().await;
    for protocol in ["h2", "http/1.1"] {
        let large = vec![b' '; 3 * 1024 * 1024 + 1];
        for (method, path, media, body, expected) in [
            (Method::GET, "/mutate", "application/json", Bytes::new(), StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, "/", "application/json", Bytes::new(), StatusCode::NOT_FOUND),
            (Method::POST, "/mutate", "text/plain", Bytes::new(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (Method::POST, "/mutate", "application/json", "{".into(), StatusCode::BAD_REQUEST),
            (Method::POST, "/mutate", "application/json", "{}".into(), StatusCode::BAD_REQUEST),
            (
                Method::POST,
                "/mutate",
                "application/json; charset=utf-8",
                "{}".into(),
                StatusCode::BAD_REQUEST,
            ),
            (Method::POST, "/mutate", "application/json", large.into(), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let request = Request::builder()
                .method(method.clone())
                .uri(format!("https://{NAME}{path}"))
                .header(CONTENT_TYPE, media)
                .body(Full::new(body))
                .unwrap();
            let (status, body) = send(injector.connect(protocol).await, request).await;
            assert_eq!(status, expected, "{protocol} {method} {path}: {body}");
        }
    }
    assert_eq!(injector.count(ADMISSIONS, &[("result", "failed"), ("reason", "malformed")]), 8);
}

#[tokio::test]
async fn who_speaks_no_tls_is_counted_and_hinders_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let injector = Injector::start().await;
    let mut plain = TcpStream::connect(injector.address).await.unwrap();
    plain.write_all(b"GET /mutate HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // The counter moves before the connection is closed.
    assert_eq!(injector.count(HANDSHAKES, &[("result", "refused"), ("reason", "not_tls")]), 1);
    assert_eq!(injector.review(create("shop", &pod())).await["response"]["allowed"], true);
}

#[tokio::test]
async fn one_caller_cannot_take_every_connection() {
    let injector = Injector::start().await;
    let mut held = Vec::new();
    for _ in 0..LIMITS.per_source {
        held.push(injector.connect("h2").await);
    }
    use tokio::io::AsyncReadExt;
    let mut refused = TcpStream::connect(injector.address).await.unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap_or_default(), 0, "closed before a byte");
    assert_eq!(injector.count(HANDSHAKES, &[("result", "refused"), ("reason", "crowded_out")]), 1);
    let (status, _) =
        post(held.pop().unwrap(), "/mutate", review(create("shop", &pod())).to_string().into()).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn asked_to_stop_it_is_not_ready_and_finishes_what_it_has() {
    let mut injector = Injector::start().await;
    let stream = TokioIo::new(injector.connect("h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), stream)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("https://{NAME}/")).body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::NOT_FOUND);
    assert!(injector.health.is_ready());
    injector.stop.send_replace(true);
    // It is the server that ends the connection, and in order.
    connection.await.unwrap().unwrap();
    assert!(!injector.health.is_ready());
    assert!(injector.health.unmet().iter().any(|(name, _)| *name == serve::CONDITION));
    injector.tasks.shutdown().await;
    assert!(TcpStream::connect(injector.address).await.is_err());
}
