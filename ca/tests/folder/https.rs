//! The HTTPS API, as a program without a proxy meets it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use trellis_channel::client::Dialer;
use trellis_pki::{
    algorithm::Algorithm,
    bundle::{Bundle, published_revision},
    clock::SystemClock,
    csr,
    key::PrivateKey,
    leaf::Leaf,
    policy::Policy,
    spiffe::SpiffeId,
    tls::MeshTls,
    x509_pem,
};

use crate::support::{Ca, DOMAIN, World, good_csr};

const CERTIFICATES: &str = "/v1/certificates";
const BUNDLE: &str = "/v1/bundle";

async fn start(world: &World) -> Ca {
    let mut args = world.args();
    args.extend(["--api-listen", "127.0.0.1:0"].map(str::to_owned));
    Ca::with(&args).await
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn send(
    world: &World,
    ca: &Ca,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let tls = MeshTls::new(Policy::default(), DOMAIN, Arc::new(SystemClock)).with_alpn(&[b"http/1.1"]);
    tls.trust(world.bundle()).unwrap();
    let identity = SpiffeId::new(DOMAIN, "trellis-system", "trellis-ca").unwrap();
    let dialer = Dialer::new(Arc::new(tls), identity, false);
    let stream = dialer.dial(&ca.api().await.to_string().parse().unwrap()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "ca");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

async fn post(world: &World, ca: &Ca, token: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    send(world, ca, Method::POST, CERTIFICATES, &headers, &body.to_string()).await
}

fn pem(csr: &[u8]) -> String {
    x509_pem("CERTIFICATE REQUEST", csr)
}

fn leaf(answer: &Value) -> Leaf {
    let block = pem::parse(answer["certificate"].as_str().unwrap()).unwrap();
    Leaf::parse(block.contents()).unwrap()
}

#[tokio::test]
async fn a_program_gets_what_its_pods_proxy_would_get() {
    let world = World::new();
    let ca = start(&world).await;
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let request = json!({
        "csr": pem(&csr::make(&key).unwrap()), "validityHours": 2, "subject": "CN=orders,O=shop",
        "sans": ["spiffe://cluster.local/ns/shop/sa/orders", "orders"], "algorithm": "ml-dsa-65",
        "keyUsage": ["digitalSignature"], "extendedKeyUsage": ["clientAuth"],
    });
    let answer = post(&world, &ca, &world.token(), &request).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let answer = answer.json();
    let leaf = leaf(&answer);
    assert_eq!(leaf.key, key.public_key().fingerprint());
    assert_eq!(answer["identity"], leaf.identity.as_str());
    assert_eq!(answer["serial"], leaf.serial);
    assert_eq!(answer["dnsNames"], json!(leaf.dns_names));
    assert_eq!((leaf.client, leaf.server), (true, false), "the use that was asked for");
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap(), Duration::from_secs(2 * 60 * 60));
    assert!(leaf.is_post_quantum());
    let bundle = Bundle::from_pem(DOMAIN, answer["bundle"].as_str().unwrap()).unwrap();
    assert_eq!(bundle.fingerprint(), world.bundle().fingerprint());

    // The older path, and nothing but what is needed.
    let bearer = format!("Bearer {}", world.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json; charset=utf-8")];
    let body = json!({ "csr": pem(&good_csr()) }).to_string();
    let older = send(&world, &ca, Method::POST, "/api/v1/certificates", &headers, &body).await;
    assert_eq!(older.status, StatusCode::CREATED);

    ca.logged("issued a certificate", "api", "https").await;
    let metrics = ca.metrics().await;
    let issued = "trellis_ca_issued_by_api_total{api=\"https\",class=\"pq\",key=\"ML-DSA-65\",signature=\"ML-DSA-65\"} 2";
    assert!(metrics.contains(issued), "{metrics}");
}

#[tokio::test]
async fn what_is_not_granted_is_refused_by_field_with_value_and_remedy() {
    let world = World::new();
    let ca = start(&world).await;
    let good = pem(&good_csr());
    let with = |field: &str, value: Value| {
        let mut request = json!({ "csr": good });
        request[field] = value;
        request
    };
    let token = world.token();
    let table = [
        (with("csr", json!("junk")), 400, "malformed_csr", json!("csr"), "(4 bytes)"),
        (with("csr", json!(pem(b"junk"))), 400, "malformed_csr", json!("csr"), "PKCS#10"),
        (with("csr", json!(7)), 400, "malformed_request", json!("csr"), "expected a string"),
        (json!({}), 400, "malformed_request", json!("body"), "missing field `csr`"),
        (with("validityHours", json!(0)), 400, "validity", json!("validityHours"), "is 0; ask for 1 to 24"),
        (with("validityHours", json!(25)), 400, "validity", json!("validityHours"), "is 25; ask for 1 to 24"),
        (with("validityHours", json!(1.5)), 400, "malformed_request", json!("validityHours"), "1.5"),
        (with("subject", json!("CN=admin")), 403, "foreign_name", json!("subject"), "CN=orders,O=shop"),
        (with("sans", json!(["orders", "payments"])), 403, "foreign_name", json!("sans"), "\"payments\""),
        (with("sans", json!([7])), 400, "malformed_request", json!("sans"), "sans[0]"),
        (with("algorithm", json!("rsa-2048")), 400, "key_type", json!("algorithm"), "ml-dsa-65"),
        (with("keyUsage", json!(["keyCertSign"])), 400, "key_usage", json!("keyUsage"), "keyCertSign"),
        (with("keyUsage", json!([])), 400, "key_usage", json!("keyUsage"), "digitalSignature"),
        (
            with("extendedKeyUsage", json!(["codeSigning"])),
            400,
            "key_usage",
            json!("extendedKeyUsage"),
            "codeSigning",
        ),
        (with("isCA", json!(true)), 400, "malformed_request", json!(null), "unknown field `isCA`"),
    ];
    for (request, status, reason, field, said) in table {
        let answer = post(&world, &ca, &token, &request).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status.as_u16(), &error["reason"]), (status, &json!(reason)), "{request} {error}");
        assert_eq!(error["field"], field, "{error}");
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
    }
    let ecdsa = csr::make(&PrivateKey::generate(Algorithm::EcdsaP256).unwrap()).unwrap();
    let answer = post(&world, &ca, &token, &json!({ "csr": pem(&ecdsa) })).await;
    assert_eq!(answer.json()["error"]["reason"], "key_type", "ca.leafAlgorithms holds here as well");
    // What never reached a decision is on record all the same.
    let metrics = ca.metrics().await;
    assert!(metrics.contains("trellis_ca_refused_total{reason=\"malformed_request\"} 5"), "{metrics}");
}

#[tokio::test]
async fn without_a_pods_token_there_is_no_certificate() {
    let world = World::new();
    let ca = start(&world).await;
    let body = json!({ "csr": pem(&good_csr()) }).to_string();
    let json = ("content-type", "application/json");
    let answer = send(&world, &ca, Method::POST, CERTIFICATES, &[json], &body).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["field"]),
        (StatusCode::UNAUTHORIZED, &json!("authorization"))
    );
    let mut claims = world.claims("orders-1", "orders");
    claims["aud"] = json!(["https://kubernetes.default.svc"]);
    let answer = post(&world, &ca, &world.key.sign(&claims), &json!({ "csr": pem(&good_csr()) })).await;
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status, &error["reason"]), (StatusCode::UNAUTHORIZED, &json!("wrong_audience")));
    assert_eq!(error["field"], "authorization");
    let absent = world.key.sign(&world.claims("nobody", "orders"));
    let answer = post(&world, &ca, &absent, &json!({ "csr": pem(&good_csr()) })).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["reason"]),
        (StatusCode::FORBIDDEN, &json!("pod_absent"))
    );
}

#[tokio::test]
async fn the_bundle_is_for_everybody_and_sent_once() {
    let world = World::new();
    let ca = start(&world).await;
    for path in [BUNDLE, "/api/v1/ca/certificate"] {
        let answer = send(&world, &ca, Method::GET, path, &[], "").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["content-type"], "application/x-pem-file");
        assert_eq!(answer.headers["cache-control"], "public, max-age=60");
        let text = std::str::from_utf8(&answer.body).unwrap();
        assert_eq!(Bundle::from_pem(DOMAIN, text).unwrap().fingerprint(), world.bundle().fingerprint());
        assert_eq!(published_revision(text), Some(1));
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let again = send(&world, &ca, Method::GET, path, &[("if-none-match", &known)], "").await;
            assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
        }
        let other = send(&world, &ca, Method::GET, path, &[("if-none-match", "\"x\"")], "").await;
        assert_eq!(other.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn what_is_no_request_of_this_api_is_told_so() {
    let world = World::new();
    let ca = start(&world).await;
    let nothing = send(&world, &ca, Method::GET, "/v2/certificates", &[], "").await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    assert!(nothing.json()["error"]["message"].as_str().unwrap().contains(CERTIFICATES));
    let wrong = send(&world, &ca, Method::DELETE, BUNDLE, &[], "").await;
    assert_eq!(
        (wrong.status, &wrong.headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().unwrap())
    );
    let form = send(&world, &ca, Method::POST, CERTIFICATES, &[], "csr=x").await;
    assert_eq!(form.json()["error"]["field"], "content-type");
    let long = json!({ "csr": "x".repeat(65 << 10) }).to_string();
    let json = [("content-type", "application/json")];
    let long = send(&world, &ca, Method::POST, CERTIFICATES, &json, &long).await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST);
    assert!(long.json()["error"]["message"].as_str().unwrap().contains("65536 bytes"), "{:?}", long.body);
}

#[tokio::test]
async fn one_pod_asks_no_more_often_here_than_by_grpc() {
    let world = World::new();
    let ca = start(&world).await;
    let request = json!({ "csr": pem(&good_csr()) });
    let token = world.token();
    for _ in 0..90 {
        let answer = post(&world, &ca, &token, &request).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer.headers["retry-after"], "1");
            assert_eq!(answer.json()["error"]["reason"], "rate_limited");
            let asker = crate::support::Asker::new(&world, &ca);
            let (code, said) = asker.ask_with(&token).await.unwrap_err();
            assert_eq!(code, tonic::Code::ResourceExhausted, "{said}");
            return;
        }
        assert_eq!(answer.status, StatusCode::CREATED);
    }
    panic!("a pod may ask as often as it likes");
}
