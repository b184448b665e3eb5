//! The CA: what a certificate costs beside the signature in it, how it serves a whole cluster that starts
//! at once, and how long a change of trust is on its way to the last of many.

mod caller;
mod leaves;

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, future::join_all, stream};
use tokio::time;
use trellis_api::{
    names::DEFAULT_TRUST_DOMAIN,
    trust::{Issuing, KeyAlgorithm, TrustDomainSpec},
};
use trellis_local::{Environment, Mesh, Options, Role, Workload};
use trellis_pki::{bundle::Bundle, clock::SystemClock, policy::Policy, tls::MeshTls};

use self::caller::{Asked, Caller, Told};
use crate::{
    clock,
    cores::{self, Cores},
    figure::{Figure, Report, Target, quantile},
    plan::Plan,
    rounds::Rounds,
    usage::{forget_peak, peak, resident},
};

const NAMESPACE: &str = "bench";
/// Seconds until the last of a crowd has its certificate.
const CROWD: f64 = 60.0;
/// Megabytes that the CA may grow by meanwhile, however large the crowd is: what those take who are in work
/// at once, and what the allocator keeps.
const GROWTH: f64 = 50.0;
/// The crowd is measured against one of this fraction, too.
const PARTS: usize = 5;
/// Kilobytes of the CA for one open stream of trust.
const STREAM: f64 = 80.0;
/// Streams that are being opened at the same time.
const OPENING: usize = 8;
/// Seconds until the last follower has heard.
const HEARD: f64 = 5.0;
/// What was announced is known, and what was being done ends, in this time.
const SETTLE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("The certificate authority: ML-DSA-65 leaves under an ML-DSA-65 anchor")?;
    leaves::measure(cores, plan, report).await?;
    let options = Options {
        binaries: binaries.to_owned(),
        root_algorithm: "ml-dsa-65".to_owned(),
        signatures: "require".to_owned(),
        trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
        federated: false,
        environment: Environment::new(),
        leaf_algorithms: "ml-dsa-65".to_owned(),
        log: "warn".to_owned(),
    };
    let mesh = Mesh::start(options).await?;
    let measured = crowd(&mesh, cores, plan, report).await;
    measured.with_context(|| format!("the mesh said:\n{}", mesh.logs()))?;
    mesh.stop().await;
    Ok(())
}

async fn crowd(mesh: &Mesh, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    let ca = mesh.ca_process().context("there is no CA")?;
    cores::pin(ca, cores.mesh)?;
    let workloads: Vec<Workload> = (0..plan.crowd).map(|number| workload(mesh, number)).collect();
    mesh.announce_all(NAMESPACE, &workloads)?;
    let tls = MeshTls::new(Policy::default(), DEFAULT_TRUST_DOMAIN, Arc::new(SystemClock));
    let pem = std::fs::read_to_string(mesh.bundle()).context("the bundle")?;
    tls.trust(Bundle::from_pem(DEFAULT_TRUST_DOMAIN, &pem)?)?;
    let tls = Arc::new(tls);
    let callers = workloads
        .into_iter()
        .map(|workload| Caller::new(mesh, workload, tls.clone()))
        .collect::<Result<Vec<_>>>()?;
    time::sleep(SETTLE).await;
    // One after another, so that nothing is left of them in the memory that is measured.
    let mut first = Vec::new();
    for caller in callers.iter().take(plan.followers) {
        first.push(caller.ask().await.with_context(|| format!("{}, alone", caller.name()))?);
    }
    let mut streams = follow(ca, &callers, first, report).await?;

    let before = resident(ca)?;
    let part = all_at_once(ca, &callers[..callers.len() / PARTS]).await?.peak;
    let Served { peak: whole, mut after } = all_at_once(ca, &callers).await?;
    let name = format!("the last of {} that start at once", callers.len());
    report
        .add(Figure::alone(&name, "s", &one(quantile(&mut after, 1.0))).target(Target::OursAtMost(CROWD)))?;
    for (name, of) in [("of them all, p50", 0.5), ("of them all, p99", 0.99)] {
        report.add(Figure::alone(name, "s", &one(quantile(&mut after, of))))?;
    }
    let wire: u64 = callers.iter().map(Caller::last_bytes).sum();
    let each = wire as f64 / callers.len() as f64;
    report.add(Figure::alone("on the wire for each, handshake and all", "B", &one(each)))?;
    let grown = |peak: u64| megabytes(peak.saturating_sub(before));
    let against = Rounds::from(vec![(megabytes(whole), megabytes(before))]);
    report.add(Figure::compare("memory of the CA then, and before", "MB", &against))?;
    let name = format!("growth with {} at once", callers.len() / PARTS);
    report.add(Figure::alone(&name, "MB", &one(grown(part))))?;
    let name = format!("growth with {} at once", callers.len());
    report.add(Figure::alone(&name, "MB", &one(grown(whole))).target(Target::OursAtMost(GROWTH)))?;
    hear(mesh, &mut streams, report).await
}

/// A crowd that has its certificates.
struct Served {
    /// The most memory that the CA had meanwhile, in bytes.
    peak: u64,
    /// When each had it, in seconds.
    after: Vec<f64>,
}

/// Lets all of them ask at the same moment.
async fn all_at_once(ca: u32, callers: &[Caller]) -> Result<Served> {
    forget_peak(ca)?;
    let began = clock::now();
    let asked = join_all(callers.iter().map(|caller| async {
        let asked = caller.ask().await;
        (asked, clock::now().saturating_sub(began).as_secs_f64())
    }))
    .await;
    let mut after = Vec::new();
    for (caller, (asked, at)) in callers.iter().zip(asked) {
        asked.with_context(|| format!("{} was not served", caller.name()))?;
        after.push(at);
    }
    Ok(Served { peak: peak(ca)?, after })
}

/// Opens streams of trust, as proxies do, and weighs them.
async fn follow(ca: u32, callers: &[Caller], asked: Vec<Asked>, report: &mut Report) -> Result<Vec<Told>> {
    time::sleep(SETTLE).await;
    let before = resident(ca)?;
    let opening = callers.iter().zip(asked).map(|(caller, asked)| caller.follow(asked));
    let mut streams = Vec::new();
    // A few at a time: what is weighed is what stays, not the opening of many.
    for stream in stream::iter(opening).buffered(OPENING).collect::<Vec<_>>().await {
        streams.push(stream?);
    }
    time::sleep(SETTLE).await;
    let each = resident(ca)?.saturating_sub(before) as f64 / 1e3 / streams.len() as f64;
    let figure = Figure::alone("memory of the CA for each open stream", "kB", &one(each));
    report.add(figure.target(Target::OursAtMost(STREAM)))?;
    Ok(streams)
}

/// Adds an anchor, and waits for the last to hear of it.
async fn hear(mesh: &Mesh, streams: &mut [Told], report: &mut Report) -> Result<()> {
    let anchors = streams.iter().map(Told::anchors).max().unwrap_or_default();
    ensure!(anchors == 1, "trust changes already: {anchors} anchors");
    let began = clock::now();
    mesh.wish(&TrustDomainSpec::of(Issuing::own(KeyAlgorithm::MlDsa65, 2)))?;
    let heard = join_all(streams.iter_mut().map(|stream| async {
        stream.hears_of_more_than(anchors).await?;
        Ok(clock::now().saturating_sub(began).as_secs_f64())
    }));
    let heard: Result<Vec<f64>> =
        time::timeout(PATIENCE, heard).await.context("a follower never heard")?.into_iter().collect();
    let last = heard?.into_iter().fold(0.0, f64::max);
    let name = format!("a new anchor with the last of {} streams", streams.len());
    report.add(Figure::alone(&name, "s", &one(last)).target(Target::OursAtMost(HEARD)))
}

fn one(value: f64) -> Rounds<f64> {
    Rounds::from(vec![value])
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Each has an address of its own, as pods do: the CA bounds what one may have open.
fn workload(mesh: &Mesh, number: u32) -> Workload {
    let [net, part, ..] = mesh.network().address(Role::Pod, 1).octets();
    let octet = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
    let address = Ipv4Addr::new(net, part, 16 + octet(number / 250), 1 + octet(number % 250));
    let name = format!("w-{number}");
    Workload {
        namespace: NAMESPACE.to_owned(),
        uid: format!("{name}-uid"),
        service_account: name.clone(),
        name,
        pod: address,
        application: address,
        services: Vec::new(),
        meshed: true,
    }
}
