//! Two CAs with trust domains of their own: one serves its bundle, the other follows it, whatever happens to
//! the endpoint.

use std::{fs, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    issue::Issuer,
    jwks,
    key::PrivateKey,
    policy::Policy,
    spiffe::SpiffeId,
    tls::MeshTls,
};

use crate::support::{Ca, World, until};

const B: &str = "b.example";
const ANY: &str = "127.0.0.1:0";

/// Flags of a CA of trust domain B that serves its bundle at `bundle`.
fn serving(world: &World, bundle: &str) -> Vec<String> {
    let flags = [
        format!("--trust-domain={B}"),
        format!("--bundle-listen={bundle}"),
        "--bundle-refresh-hint=1s".to_owned(),
    ];
    world.args().into_iter().chain(flags).collect()
}

/// Flags of a CA that fetches as often as it is told to.
fn following(world: &World) -> Vec<String> {
    let trail = format!("--audit=file:{}", world.path("audit.log").display());
    world.args().into_iter().chain(["--federation-fetch-interval=1s".to_owned(), trail]).collect()
}

fn pem(world: &World) -> String {
    fs::read_to_string(world.path("bundle.pem")).unwrap()
}

fn server() -> SpiffeId {
    SpiffeId::new(B, "trellis-system", "trellis-ca").unwrap()
}

/// An entry for B, with its endpoint and the bundle to begin with.
fn entry(endpoint: &str, bootstrap: &str) -> Value {
    json!({
        "trustDomain": B, "endpoint": format!("https://{endpoint}/"), "profile": "spiffe",
        "serverIdentity": server().to_string(), "bootstrap": bootstrap,
    })
}

fn wish(federation: Value) -> Value {
    json!({ "issuing": { "algorithm": "ml-dsa-65" }, "federation": federation })
}

fn of_b(status: &Value) -> &Value {
    let all = status["federation"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["trustDomain"] == B).unwrap_or(&Value::Null)
}

fn condition(status: &Value) -> &Value {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] == "Federated").unwrap_or(&Value::Null)
}

/// What the endpoint answers to somebody who has `bundle` and no certificate.
async fn get(bundle: Bundle, endpoint: &str, request: &str) -> String {
    let tls = MeshTls::new(Policy::default(), B, Arc::new(SystemClock)).with_alpn(&[b"http/1.1"]);
    tls.trust(bundle).unwrap();
    let connecting = tls.connect(vec![server()], false).unwrap();
    let tcp = tokio::net::TcpStream::connect(endpoint).await.unwrap();
    let mut stream =
        TlsConnector::from(connecting.config).connect(connecting.server_name, tcp).await.unwrap();
    let posture = connecting.recorder.posture(stream.get_ref().1).unwrap();
    assert_eq!(posture.group, "X25519MLKEM768");
    assert_eq!(posture.peer, Some(server()));
    let request = format!("{request} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

async fn endpoint(ca: &Ca) -> String {
    let said = ca.record("serving the bundle to other trust domains").await;
    said["address"].as_str().unwrap().to_owned()
}

fn bundle(world: &World) -> Bundle {
    Bundle::from_pem(B, &pem(world)).unwrap()
}

#[tokio::test]
async fn the_bundle_is_served_in_spiffes_format_to_whoever_asks() {
    let world = World::new();
    let ca = Ca::with(&serving(&world, ANY)).await;
    let endpoint = endpoint(&ca).await;
    let answer = get(bundle(&world), &endpoint, "GET /").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    let document = jwks::read(B, body.as_bytes()).unwrap();
    assert_eq!(document.bundle.fingerprint(), bundle(&world).fingerprint());
    assert_eq!((document.sequence, document.refresh_hint), (Some(1), Some(Duration::from_secs(1))));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["keys"][0]["kty"], "AKP");
    assert_eq!(body["keys"][0]["use"], "x509-svid");
    for (request, status) in [("GET /other", "404"), ("POST /", "405")] {
        let answer = get(bundle(&world), &endpoint, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let metrics = ca.metrics().await;
    assert!(metrics.contains("trellis_ca_bundle_requests_total{code=\"200\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_bundle_is_followed_and_stays_while_its_endpoint_is_away() {
    let (ours, theirs) = (World::new(), World::new());
    let b = Ca::with(&serving(&theirs, ANY)).await;
    let address = endpoint(&b).await;
    let a = Ca::with(&following(&ours)).await;
    ours.trust_domain(wish(json!([entry(&address, &pem(&theirs))])));
    let status = until(&a, "fetched", |status| !of_b(status)["lastSuccess"].is_null()).await;
    assert_eq!((&of_b(&status)["sequence"], &condition(&status)["status"]), (&json!(1), &json!("True")));
    let first = bundle(&theirs).anchors()[0].fingerprint().to_string();
    assert_eq!(of_b(&status)["anchors"], json!([first]));

    // B rotates: its new anchor is known here before B issues from it.
    theirs.trust_domain(json!({ "issuing": { "algorithm": "ml-dsa-65", "generation": 2 } }));
    let status =
        until(&a, "both", |status| of_b(status)["anchors"].as_array().is_some_and(|a| a.len() == 2)).await;
    assert_eq!(of_b(&status)["sequence"], 2);
    let phase = b.trust().await;
    assert_eq!(phase["rotation"]["waitingFor"][0]["pod"], "other trust domains", "{phase}");
    let status = until(&a, "the new one only", |status| {
        of_b(status)["anchors"].as_array().is_some_and(|a| a.len() == 1 && a[0] != json!(first))
    })
    .await;
    let sequence = of_b(&status)["sequence"].as_u64().unwrap();
    let anchors = of_b(&status)["anchors"].clone();

    // Neither domain makes the other count on for ever.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(of_b(&a.trust().await)["sequence"], sequence);

    // Published are our own anchors only.
    assert_eq!(ours.bundle().anchors().len(), 1);

    // B is away: what is known stays, also over a restart of ours.
    assert!(b.stop().await.success());
    let status = until(&a, "the failure is said", |status| condition(status)["reason"] == "NotFetched").await;
    assert!(condition(&status)["message"].as_str().unwrap().contains(&address), "{status}");
    assert_eq!(of_b(&status)["anchors"], anchors);
    a.kill().await;
    let a = Ca::with(&following(&ours)).await;
    let status = until(&a, "the failure is said again", |status| !of_b(status)["error"].is_null()).await;
    assert_eq!((&of_b(&status)["anchors"], &of_b(&status)["sequence"]), (&anchors, &json!(sequence)));
    let metrics = a.metrics().await;
    let failed = "trellis_ca_federation_fetches_total{result=\"unreachable\",trust_domain=\"b.example\"}";
    assert!(metrics.contains(failed), "{metrics}");

    // And it is over when the operator says so.
    ours.trust_domain(wish(json!([])));
    until(&a, "gone", |status| of_b(status).is_null()).await;
}

/// An endpoint that shows whatever it is told to, by an identity of B.
struct Puppet {
    address: String,
    document: tokio::sync::watch::Sender<String>,
    root: Issuer,
}

impl Puppet {
    async fn start() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (now, year) = (clock.now(), Duration::from_secs(365 * 86_400));
        let root = Issuer::new_root(B, PrivateKey::generate(Algorithm::MlDsa65).unwrap(), now, year).unwrap();
        let own = Bundle::new(B, vec![root.anchor().clone()]).unwrap();
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let leaf = root
            .issue(&trellis_pki::issue::LeafRequest {
                public_key: key.public_key(),
                identity: &server(),
                dns_names: &[],
                now,
                validity: Duration::from_secs(86_400),
            })
            .unwrap();
        let identity =
            trellis_pki::identity::Identity::new(key, leaf.der, &own, Algorithm::MlDsa65, now).unwrap();
        let tls = MeshTls::new(Policy::default(), B, clock).with_alpn(&[b"http/1.1"]);
        tls.install(identity, own).unwrap();
        let tcp = tokio::net::TcpListener::bind(ANY).await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let (document, shown) = tokio::sync::watch::channel(String::new());
        tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let config = tls.accept(trellis_pki::tls::ClientAuth::None).unwrap().config;
                let shown = shown.borrow().clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await else {
                        return;
                    };
                    let _ = stream.read(&mut [0; 1024]).await;
                    let length = shown.len();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{shown}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, document, root }
    }

    fn bundle(&self) -> Bundle {
        Bundle::new(B, vec![self.root.anchor().clone()]).unwrap()
    }

    fn shows(&self, document: String) {
        self.document.send_replace(document);
    }
}

#[tokio::test]
async fn what_must_not_take_the_place_of_a_good_bundle_is_refused() {
    let world = World::new();
    let puppet = Puppet::start().await;
    let show = |bundle: &Bundle, sequence| jwks::write(bundle, sequence, Duration::from_secs(1));
    puppet.shows(show(&puppet.bundle(), 7));
    let a = Ca::with(&following(&world)).await;
    world.trust_domain(wish(json!([entry(&puppet.address, &puppet.bundle().to_pem())])));
    until(&a, "fetched", |status| of_b(status)["sequence"] == 7).await;
    let good = json!([puppet.root.anchor().fingerprint().to_string()]);

    let mut without: Value = serde_json::from_str(&show(&puppet.bundle(), 8)).unwrap();
    without.as_object_mut().unwrap().remove("spiffe_sequence");
    let mut leaf: Value = serde_json::from_str(&show(&puppet.bundle(), 8)).unwrap();
    leaf["keys"][0]["x5c"] = json!(["AAAA"]);
    for (document, words) in [
        (show(&puppet.bundle(), 6), "spiffe_sequence is 6, and 7 is in use"),
        (without.to_string(), "spiffe_sequence is missing, and 7 is in use"),
        (json!({ "keys": [] }).to_string(), "none of its 0 X.509 keys can be used"),
        (leaf.to_string(), "keys[0]: the certificate in x5c is refused"),
        (show(&world.bundle(), 8), "is for trust domain \"cluster.local\""),
        ("x".repeat(300_000), "larger than"),
    ] {
        puppet.shows(document);
        let said = |status: &Value| of_b(status)["error"].as_str().is_some_and(|error| error.contains(words));
        let status = until(&a, words, said).await;
        assert_eq!((&of_b(&status)["anchors"], &of_b(&status)["sequence"]), (&good, &json!(7)), "{words}");
        // The same again is no step back.
        puppet.shows(show(&puppet.bundle(), 7));
        until(&a, "well", |status| of_b(status)["error"].is_null()).await;
    }
    puppet.shows(show(&puppet.bundle(), 8));
    until(&a, "well again", |status| of_b(status)["sequence"] == 8 && of_b(status)["error"].is_null()).await;

    // An entry that is wrong is named, and takes nothing away.
    let mut wrong = entry(&puppet.address, &puppet.bundle().to_pem());
    wrong["endpoint"] = json!("http://b.example/");
    world.trust_domain(wish(json!([wrong])));
    let status = until(&a, "named", |status| condition(status)["reason"] == "Unusable").await;
    assert!(condition(&status)["message"].as_str().unwrap().contains("federation[0].endpoint"), "{status}");
    assert_eq!(of_b(&status)["anchors"], good);

    // Each change of a foreign bundle is in the trail.
    assert!(a.stop().await.success());
    let trail = fs::read_to_string(world.path("audit.log")).unwrap();
    assert!(
        trail.contains("\"step\":\"Federate\"") && trail.contains("\"trustDomain\":\"b.example\""),
        "{trail}"
    );
}

#[tokio::test]
async fn whoever_is_not_the_endpoint_is_not_believed() {
    let world = World::new();
    let (puppet, impostor) = (Puppet::start().await, Puppet::start().await);
    for one in [&puppet, &impostor] {
        one.shows(jwks::write(&one.bundle(), 3, Duration::from_secs(1)));
    }
    let a = Ca::with(&following(&world)).await;
    // The name is right, and the key is not of the bundle that we began with.
    world.trust_domain(wish(json!([entry(&impostor.address, &puppet.bundle().to_pem())])));
    let status = until(&a, "refused", |status| !of_b(status)["error"].is_null()).await;
    assert!(of_b(&status)["error"].as_str().unwrap().contains("unknown_issuer"), "{status}");
    assert_eq!(of_b(&status)["anchors"], json!([puppet.root.anchor().fingerprint().to_string()]));
    // The key is right, and the name is not.
    let mut other = entry(&puppet.address, &puppet.bundle().to_pem());
    other["serverIdentity"] = json!("spiffe://b.example/ns/trellis-system/sa/other");
    world.trust_domain(wish(json!([other])));
    let wrong = |status: &Value| of_b(status)["error"].as_str().is_some_and(|e| e.contains("wrong_identity"));
    until(&a, "refused as well", wrong).await;
}

#[tokio::test]
async fn an_endpoint_of_the_web_is_believed_by_its_name_and_an_authority_that_was_given() {
    let (ours, theirs) = (World::new(), World::new());
    let now = SystemClock.now();
    let made = |name: &str| {
        trellis_pki::serving::serving_certificate(&[name.to_owned()], now, Duration::from_secs(86_400))
            .unwrap()
    };
    let (right, wrong) = (made("localhost"), made("elsewhere.example"));
    let show = |certificate: &trellis_pki::serving::ServingCertificate| {
        fs::write(theirs.path("tls.crt"), &certificate.certificate_pem).unwrap();
        fs::write(theirs.path("tls.key"), certificate.key_pem.as_bytes()).unwrap();
    };
    let more = [
        format!("--trust-domain={B}"),
        "--bundle-web-listen=127.0.0.1:0".to_owned(),
        format!("--bundle-web-certificate={}", theirs.path("").display()),
        "--bundle-refresh-hint=1s".to_owned(),
    ];
    let b = Ca::with(&theirs.args().into_iter().chain(more).collect::<Vec<_>>()).await;
    let address: std::net::SocketAddr = endpoint(&b).await.parse().unwrap();
    fs::write(ours.path("roots.pem"), format!("{}{}", right.ca_pem, wrong.ca_pem)).unwrap();
    let mut args = following(&ours);
    args.push(format!("--federation-web-roots={}", ours.path("roots.pem").display()));
    let a = Ca::with(&args).await;
    let port = address.port();
    let entry =
        json!({ "trustDomain": B, "endpoint": format!("https://localhost:{port}/"), "profile": "web" });
    ours.trust_domain(wish(json!([entry])));
    // There is nothing to show yet, then something of another name, and then what is right: all without a
    // restart.
    let failed = |words: &'static str| {
        move |status: &Value| of_b(status)["error"].as_str().is_some_and(|error| error.contains(words))
    };
    until(&a, "nothing is shown", failed("TLS with localhost")).await;
    show(&wrong);
    let status = until(&a, "it has another name", failed("not valid for name")).await;
    assert_eq!(of_b(&status)["anchors"], json!([]));
    show(&right);
    let status = until(&a, "fetched", |status| of_b(status)["sequence"] == 1).await;
    assert_eq!(of_b(&status)["anchors"], json!([bundle(&theirs).anchors()[0].fingerprint().to_string()]));
}
