//! Applications that do their own TLS: other people's clients of the SPIFFE Workload API, each with the
//! identity of the proxy beside it, and rotations that wait for what they hold.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use libtest_mimic::Trial;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;
use trellis_api::{
    names::{DEFAULT_TRUST_DOMAIN, SPIFFE_ENDPOINT_SOCKET},
    proto::workload::{X509svid, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    trust::{Issuing, KeyAlgorithm, TrustDomainSpec},
};
use trellis_local::{Environment, Mesh, Options, Role, Running};
use trellis_loopback::stage::{Error, NAMESPACE, binaries, workload};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    identity::Identity,
    key::PrivateKey,
};

use crate::trial;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENT: &str = "spiffe://cluster.local/ns/test/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/test/sa/server";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("applications_of_others_talk_mutual_tls_by_the_workload_api", go_to_go),
        trial("what_others_cannot_verify_is_refused_by_them_and_not_by_us", go_and_ml_dsa),
        trial("a_rotation_waits_for_the_certificate_of_the_application", rotation),
    ]
}

/// A mesh with two proxies that offer the workload API.
struct Stage {
    mesh: Mesh,
    client: Running,
    server: Running,
}

impl Stage {
    async fn open(root: &str, application: &str) -> Result<Self, Error> {
        let mut mesh = Mesh::start(Options {
            binaries: binaries()?,
            root_algorithm: root.to_owned(),
            signatures: "prefer".to_owned(),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            federated: false,
            environment: Environment::new(),
            leaf_algorithms: "ml-dsa-65,ecdsa-p256".into(),
            log: "info".into(),
        })
        .await?;
        let mut running = Vec::new();
        for (number, name) in [(1, "server"), (2, "client")] {
            let own = workload(&mesh, number, name, vec![]);
            let flags = [
                "--signatures=prefer".to_owned(),
                format!("--workload-api-socket={}", mesh.path(&format!("{name}.sock")).display()),
                format!("--workload-api-algorithm={application}"),
            ];
            running.push(mesh.join(&own, &[], &[], &flags).await?);
        }
        let (Some(client), Some(server)) = (running.pop(), running.pop()) else {
            return Err("both were started".into());
        };
        Ok(Self { mesh, client, server })
    }

    fn socket(&self, of: &Running) -> PathBuf {
        self.mesh.path(&format!("{}.sock", of.workload.name))
    }

    fn address(&self) -> String {
        format!("{}:8443", self.mesh.network().address(Role::Application, 1))
    }

    fn peer(&self, of: &Running, arguments: &[&str]) -> Result<Peer, Error> {
        Peer::start(&self.mesh.path("peer"), &self.socket(of), arguments)
    }

    /// The program of other people's library, built once for each mesh: its build is cached.
    async fn build_peer(&self) -> Result<(), Error> {
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(self.mesh.path("peer"))
            .arg(".")
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../workload"))
            .output()
            .await?;
        match built.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&built.stderr).into_owned().into()),
        }
    }
}

/// One of its processes.
struct Peer {
    _process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it said that nobody has asked for yet: it does several things at once.
    said: Vec<Value>,
}

impl Peer {
    fn start(program: &Path, socket: &Path, arguments: &[&str]) -> Result<Self, Error> {
        let mut process = Command::new(program)
            .args(arguments)
            .env_clear()
            .env(SPIFFE_ENDPOINT_SOCKET, format!("unix://{}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("its pipes are taken".into());
        };
        Ok(Self { _process: process, input, lines: BufReader::new(output).lines(), said: Vec::new() })
    }

    /// The next thing of this kind that it says.
    async fn says(&mut self, event: &str) -> Result<Value, Error> {
        if let Some(at) = self.said.iter().position(|said| said["event"] == event) {
            return Ok(self.said.remove(at));
        }
        let found = async {
            while let Some(line) = self.lines.next_line().await? {
                let said: Value = serde_json::from_str(&line)?;
                match said["event"].as_str() {
                    Some(found) if found == event => return Ok(said),
                    Some("failed") => return Err(said.to_string().into()),
                    _ => self.said.push(said),
                }
            }
            Err::<Value, Error>("it has ended".into())
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| Err(format!("it never said {event}").into()))
    }

    async fn call(&mut self) -> Result<Value, Error> {
        self.input.write_all(b"\n").await?;
        self.says("called").await
    }
}

async fn go_to_go() -> Result<(), Error> {
    let stage = Stage::open("ecdsa-p256", "ecdsa-p256").await?;
    stage.build_peer().await?;
    let address = stage.address();
    let mut server = stage.peer(&stage.server, &["serve", &address, CLIENT])?;
    let first = server.says("update").await?;
    assert_eq!((first["id"].as_str(), first["key"].as_str()), (Some(SERVER), Some("ECDSA")));
    server.says("listening").await?;
    let mut client = stage.peer(&stage.client, &["call", &address, SERVER])?;
    let own = client.says("update").await?;
    assert_eq!(own["id"], CLIENT);
    let called = client.call().await?;
    assert_eq!((called["kept"].as_str(), called["fresh"].as_str()), (Some(CLIENT), Some(CLIENT)), "{called}");
    // It is another certificate than that of the proxy, of another key.
    let proxy = stage.client.evidence().await?.leaf.ok_or("the proxy has a certificate")?;
    assert_ne!(own["serial"].as_str(), Some(proxy.serial.trim_start_matches('0')));
    assert_eq!(proxy.algorithm, "ML-DSA-65");

    // Another certificate arrives on the stream that is open, and what is connected stays.
    stage.client.rotate().await?;
    stage.server.rotate().await?;
    while client.says("update").await?["serial"] == own["serial"] {}
    while server.says("update").await?["serial"] == first["serial"] {}
    let called = client.call().await?;
    assert_eq!((called["kept"].as_str(), called["fresh"].as_str()), (Some(CLIENT), Some(CLIENT)), "{called}");

    // Whoever is not expected is not let in, by the identity that the mesh gave it.
    let mut stranger = stage.peer(&stage.server, &["call", &address, SERVER])?;
    let called = stranger.call().await?;
    assert!(called["error"].as_str().is_some_and(|error| !error.is_empty()), "{called}");
    Ok(())
}

/// What Go's TLS makes of ML-DSA today. When this fails because Go has learnt it, rejoice.
async fn go_and_ml_dsa() -> Result<(), Error> {
    let stage = Stage::open("ml-dsa-65", "ml-dsa-65").await?;
    stage.build_peer().await?;
    let mut watching = stage.peer(&stage.client, &["watch"])?;
    let refused = watching.says("refused").await?;
    let error = refused["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("private key") && error.contains("unknown algorithm"), "{error}");
    drop(watching);
    drop(stage);

    // A certificate of ECDSA below an anchor of ML-DSA can be held, but not verified by the peer.
    let stage = Stage::open("ml-dsa-65", "ecdsa-p256").await?;
    stage.build_peer().await?;
    let address = stage.address();
    let mut server = stage.peer(&stage.server, &["serve", &address, CLIENT])?;
    assert_eq!(server.says("update").await?["key"], "ECDSA");
    server.says("listening").await?;
    let mut client = stage.peer(&stage.client, &["call", &address, SERVER])?;
    let called = client.call().await?;
    let error = called["error"].as_str().unwrap_or_default();
    assert!(error.contains("x509"), "{called}");
    Ok(())
}

async fn rotation() -> Result<(), Error> {
    let stage = Stage::open("ml-dsa-65", "ml-dsa-65").await?;
    let uri = format!("unix://{}", stage.socket(&stage.client).display());
    let mut client = SpiffeWorkloadApiClient::new(Endpoint::try_from(uri)?.connect().await?);
    let mut request = tonic::Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse()?);
    let mut stream = client.fetch_x509svid(request).await?.into_inner();
    let mut messages = async || -> Result<X509svid, Error> {
        let message = timeout(PATIENCE, stream.message()).await??.ok_or("the stream has ended")?;
        message.svids.into_iter().next().ok_or_else(|| "there is no certificate in it".into())
    };
    let first = messages().await?;
    let (anchor, _) = check(&first)?;

    let issuing = Issuing::own(KeyAlgorithm::MlDsa65, 2);
    stage.mesh.wish(&TrustDomainSpec::of(issuing))?;
    // Both anchors, then a certificate of the new one, then that anchor alone.
    let mut both = false;
    let last = loop {
        let svid = messages().await?;
        let (rests_on, anchors) = check(&svid)?;
        both |= anchors == 2;
        if anchors == 1 {
            assert_ne!(rests_on, anchor, "the old anchor went before the application's certificate did");
            break svid;
        }
    };
    assert!(both && last.x509_svid_key != first.x509_svid_key);
    let settled = async {
        while stage.mesh.trust().await?.phase != "Settled" {
            sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, Error>(())
    };
    timeout(PATIENCE, settled).await??;
    Ok(())
}

/// The anchor that a certificate rests on, and how many come with it; everything must fit together.
fn check(svid: &X509svid) -> Result<(String, usize), Error> {
    let anchors = der_documents(&svid.bundle)?;
    let count = anchors.len();
    let bundle = Bundle::from_der(DEFAULT_TRUST_DOMAIN, anchors)?;
    let key = PrivateKey::from_pkcs8(&svid.x509_svid_key)?;
    let leaf = svid.x509_svid.clone();
    let identity = Identity::new(key, leaf, &bundle, Algorithm::MlDsa65, SystemClock.now())?;
    assert_eq!(
        identity.leaf().identity.to_string(),
        format!("spiffe://{DEFAULT_TRUST_DOMAIN}/ns/{NAMESPACE}/sa/client")
    );
    Ok((identity.anchor().to_string(), count))
}

/// Certificates of between 256 and 65,535 bytes that stand one behind the other.
fn der_documents(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut documents = Vec::new();
    while let [0x30, 0x82, high, low, ..] = *bytes {
        let (document, rest) = bytes.split_at(4 + usize::from(u16::from_be_bytes([high, low])));
        documents.push(document.to_vec());
        bytes = rest;
    }
    if bytes.is_empty() { Ok(documents) } else { Err("the bundle ends with something else".into()) }
}
