//! Cryptographic resources, kept by a real CA for an API server that fits into a test: how long objects take
//! that come at once, and what those cost that rest.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{self, Instant},
};
use trellis_api::names::{DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE};
use trellis_fake_api::FakeApi;
use trellis_local::{Environment, Mesh, Options};

use crate::{
    clock,
    cores::{self, Cores},
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::{self, Round, Rounds},
    usage::{Watch, resident},
};

const RANDOM: &str = "QuantumRandomNumber";
const KEM: &str = "QuantumKEMKeyPair";
const ENCAPSULATE: &str = "QuantumEncapsulateSecret";
const DECAPSULATE: &str = "QuantumDecapsulateSecret";
const DERIVED: &str = "QuantumDerivedKey";
const SIGNATURE: &str = "QuantumSignatureKeyPair";
/// Of each of the six kinds that come at once; of two of them half as many, which makes a hundred.
const AT_ONCE: usize = 20;
/// Kilobytes of the CA for one object that rests, with its Secret.
const RESTING: f64 = 16.0;
const PATIENCE: Duration = Duration::from_secs(300);
/// What was being done ends in this time.
const SETTLE: Duration = Duration::from_secs(3);

struct Bench {
    api: FakeApi,
    mesh: Mesh,
    server: JoinHandle<std::io::Result<()>>,
    _folder: TempDir,
}

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("Cryptographic resources, kept by the CA")?;
    let mut bench = Bench::open(binaries, cores).await?;
    let measured = bench.all(cores, plan, report).await;
    measured.with_context(|| format!("the mesh said:\n{}", bench.mesh.logs()))?;
    bench.mesh.stop().await;
    bench.server.abort();
    Ok(())
}

impl Bench {
    async fn open(binaries: &Path, cores: Cores) -> Result<Self> {
        let (api, folder) = (FakeApi::new(), tempfile::tempdir()?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let kubeconfig = folder.path().join("kubeconfig");
        fs::write(&kubeconfig, config(&format!("http://{}", listener.local_addr()?)).to_string())?;
        let server = tokio::spawn(api.clone().serve(listener));
        let environment = [
            ("KUBECONFIG", kubeconfig.display().to_string()),
            ("TRELLIS_CRYPTO_GROUPS", "crypto.trellis.dev".to_owned()),
            ("TRELLIS_POD_NAME", "ca".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let mesh = Mesh::start(Options {
            binaries: binaries.to_owned(),
            root_algorithm: "ml-dsa-65".to_owned(),
            signatures: "require".to_owned(),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            federated: false,
            environment: Environment::from([("ca".to_owned(), environment)]),
            leaf_algorithms: "ml-dsa-65".to_owned(),
            log: "warn".to_owned(),
        })
        .await?;
        let bench = Self { api, mesh, server, _folder: folder };
        cores::pin(bench.ca()?, cores.mesh)?;
        Ok(bench)
    }

    fn ca(&self) -> Result<u32> {
        self.mesh.ca_process().context("there is no CA")
    }

    async fn all(&mut self, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
        time::sleep(SETTLE).await;
        let empty = resident(self.ca()?)?;
        let bench = &*self;
        let ca = bench.ca()?;
        let mut number = 0;
        let rounds = rounds::quiet(plan.rounds, || {
            number += 1;
            async move {
                let watch = Watch::begin(cores, &[ca], &[std::process::id()])?;
                let at_once = bench.at_once(&format!("together-{number}")).await?;
                let one_by_one = bench.one_by_one(&format!("alone-{number}")).await?;
                let foreign = watch.end()?.foreign;
                Ok(Round { value: (at_once.as_secs_f64() * 1e3, one_by_one.as_secs_f64() * 1e3), foreign })
            }
        })
        .await?;
        let name = "100 objects at once, beside one by one";
        report.add(Figure::compare(name, "ms", &rounds).target(Target::RatioAtMost(1.0)))?;

        let (count, length) = plan.resting;
        self.crowd(count).await?;
        // A CA that begins now knows nothing but what stands in the API.
        self.mesh.without_ca(async |_| ()).await?;
        cores::pin(self.ca()?, cores.mesh)?;
        self.rest().await?;
        let (written, asked) = (self.written().len(), self.api.requests());
        time::sleep(length).await;
        let minutes = length.as_secs_f64() / 60.0;
        let meanwhile = self.written().split_off(written);
        if let Some(first) = meanwhile.first() {
            report.section(&format!("While nothing changed, {first} was written"))?;
        }
        let writes = meanwhile.len() as f64 / minutes;
        let requests = (self.api.requests() - asked) as f64 / minutes;
        let grown = resident(self.ca()?)?.saturating_sub(empty) as f64 / 1e3 / self.objects() as f64;
        let one = |value| Rounds::from(vec![value]);
        let name = format!("{count} objects at rest: writes");
        report.add(Figure::alone(&name, "a minute", &one(writes)).target(Target::OursAtMost(0.0)))?;
        report.add(Figure::alone("all requests of the CA meanwhile", "a minute", &one(requests)))?;
        let name = "memory of the CA for each of them";
        report.add(Figure::alone(name, "kB", &one(grown)).target(Target::OursAtMost(RESTING)))
    }

    /// A hundred of six kinds, most of which wait for others.
    async fn at_once(&self, name: &str) -> Result<Duration> {
        let objects = hundred(name);
        let began = clock::now();
        for (kind, name, spec) in &objects {
            self.create(kind, name, spec.clone());
        }
        self.reached(&objects).await?;
        Ok(clock::now().saturating_sub(began))
    }

    async fn one_by_one(&self, name: &str) -> Result<Duration> {
        let began = clock::now();
        for object in hundred(name) {
            self.create(object.0, &object.1, object.2.clone());
            self.reached(&[object]).await?;
        }
        Ok(clock::now().saturating_sub(began))
    }

    async fn crowd(&self, count: u32) -> Result<()> {
        let mut objects = Vec::new();
        for number in 0..count {
            let name = format!("rests-{number}");
            objects.push(match number % 4 {
                0 => (KEM, name, json!({ "algorithm": "ML-KEM-768" })),
                1 => {
                    let pair = format!("rests-{}", number - 1);
                    (
                        ENCAPSULATE,
                        name,
                        json!({ "publicKeyRef": { "name": pair }, "algorithm": "ML-KEM-768" }),
                    )
                }
                2 => {
                    let from = format!("rests-{}", number - 1);
                    (DERIVED, name, json!({ "sharedSecretRef": { "name": from }, "keyType": "AES-256" }))
                }
                _ => (RANDOM, name, json!({})),
            });
        }
        for (kind, name, spec) in &objects {
            self.create(kind, name, spec.clone());
        }
        self.reached(&objects).await
    }

    /// Waits until nothing is asked any more but what keeps the lead.
    async fn rest(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let before = self.api.requests();
            time::sleep(SETTLE).await;
            // The Lease is renewed every few seconds.
            if self.api.requests() - before <= 3 {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "the CA does not come to rest");
        }
    }

    fn create(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "crypto.trellis.dev/v1", "kind": kind,
            "metadata": { "name": name, "namespace": "bench" }, "spec": spec,
        });
        self.api.create(&path(kind, name), object);
    }

    async fn reached(&self, objects: &[(&str, String, Value)]) -> Result<()> {
        let mut left: Vec<String> = objects.iter().map(|(kind, name, _)| path(kind, name)).collect();
        let deadline = Instant::now() + PATIENCE;
        while let Some(next) = left.pop() {
            let ready =
                |api: &FakeApi| api.get(&next).is_some_and(|object| object["status"]["status"] == "Success");
            let happens = self.api.happens(deadline.saturating_duration_since(Instant::now()), ready).await;
            ensure!(happens, "{next} is {}", self.api.get(&next).unwrap_or_default()["status"]);
        }
        Ok(())
    }

    /// Writes to objects, or to what is kept for them.
    fn written(&self) -> Vec<String> {
        let all = self.api.written().into_iter();
        all.filter(|path| path.contains("/namespaces/bench/")).collect()
    }

    fn objects(&self) -> usize {
        self.api.under("/apis/crypto.trellis.dev/v1/namespaces/bench/").len()
    }
}

fn hundred(name: &str) -> Vec<(&'static str, String, Value)> {
    let mut all = Vec::new();
    for number in 0..AT_ONCE {
        let named = |what: &str| format!("{name}-{what}-{number}");
        let pair = json!({ "name": named("pair") });
        all.push((KEM, named("pair"), json!({ "algorithm": "ML-KEM-768" })));
        all.push((ENCAPSULATE, named("there"), json!({ "publicKeyRef": pair, "algorithm": "ML-KEM-768" })));
        all.push((
            DECAPSULATE,
            named("back"),
            json!({ "privateKeyRef": pair, "ciphertextRef": { "name": named("there") }, "algorithm": "ML-KEM-768" }),
        ));
        let from = json!({ "name": named("back") });
        all.push((DERIVED, named("key"), json!({ "sharedSecretRef": from, "keyType": "AES-256" })));
        if number % 2 == 0 {
            all.push((SIGNATURE, named("signs"), json!({ "algorithm": "ML-DSA-65" })));
            all.push((RANDOM, named("number"), json!({})));
        }
    }
    all
}

fn path(kind: &str, name: &str) -> String {
    let plural = format!("{}s", kind.to_ascii_lowercase());
    format!("/apis/crypto.trellis.dev/v1/namespaces/bench/{plural}/{name}")
}

/// A way to an API server that asks nobody who they are.
fn config(server: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{ "name": "bench", "cluster": { "server": server } }],
        "users": [{ "name": "bench", "user": {} }],
        "contexts": [{ "name": "bench", "context": {
            "cluster": "bench", "user": "bench", "namespace": SYSTEM_NAMESPACE } }],
    })
}
