//! `trellis demo`: the mesh on this machine, as plain processes on loopback, with real traffic and the
//! evidence of what each connection negotiated. Needs neither a cluster nor root.

mod app;
mod load;
mod page;
mod promises;
mod shop;
mod strangers;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};
use trellis_api::evidence::{API_VERSION, Adoption, Evidence, Leaf, Requests, Rotation, merge};
use trellis_local::Running;
use trellis_pki::clock::{Clock, SystemClock, rfc3339};

pub use app::AppArgs;
use load::Load;
use shop::Shop;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Do one bounded run, judge it, and exit: non-zero if anything promised did not happen.
    #[arg(long)]
    once: bool,
    /// Print the evidence document as JSON instead of words.
    #[arg(long, requires = "once")]
    json: bool,
    /// Where the page is served.
    #[arg(long, default_value = "127.0.0.1:15080")]
    page: SocketAddr,
    /// Where trellis-ca, trellis-discovery and trellis-proxy are; beside this program unless given.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

/// Requests before and after each change of certificates, in a bounded run.
const PART: u64 = 1_000;
/// How often the running demo swaps a certificate.
const SWAP_EVERY: Duration = Duration::from_secs(20);
/// How long a new certificate may take.
const SWAP_PATIENCE: Duration = Duration::from_secs(15);
/// How long the running demo shows the mesh as it was before ML-DSA.
const MIGRATE_AFTER: Duration = Duration::from_secs(10);
const MIGRATION_PATIENCE: Duration = Duration::from_secs(60);
const PART_PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let binaries = match &args.binaries {
        Some(binaries) => binaries.clone(),
        None => {
            let own = std::env::current_exe().context("where this program is")?;
            own.parent().map(Into::into).context("this program is in no folder")?
        }
    };
    // Caught from here on, so that everything started below is stopped below.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let demo = async {
        let shop = Shop::open(binaries).await?;
        let demo = Demo { clock: Arc::new(SystemClock), from: SystemClock.now(), shop };
        let result = if args.once { demo.once(args.json).await } else { demo.stay(args.page).await };
        demo.shop.close().await;
        result
    };
    tokio::select! {
        result = demo => result,
        // Dropping the demo ends every process that it started.
        _ = interrupt.recv() => say("\nstopped\n"),
        _ = terminate.recv() => say("stopped\n"),
    }
}

pub async fn app(args: AppArgs) -> anyhow::Result<()> {
    app::run(args).await
}

struct Demo {
    clock: Arc<dyn Clock>,
    from: std::time::SystemTime,
    shop: Shop,
}

impl Demo {
    /// Runs a fixed amount of everything and judges what the proxies saw.
    async fn once(&self, json: bool) -> anyhow::Result<()> {
        strangers::visit(&self.shop).await?;
        let load = Load::start(self.shop.entry());
        load.reached(PART, PART_PATIENCE).await?;
        let mut rotations = self.migrate(&load).await?;
        let migrated = self.evidence(load.requests(), rotations.clone()).await?;
        load.reached(load.sent() + PART, PART_PATIENCE).await?;
        rotations.push(self.swap(&self.shop.web, &load).await?);
        load.reached(load.sent() + PART, PART_PATIENCE).await?;
        let requests = load.stop().await;
        strangers::visit(&self.shop).await?;
        let evidence = self.evidence(requests, rotations).await?;
        let promises = promises::judge(&migrated, &evidence, &self.shop);
        if json {
            say(&format!("{}\n", serde_json::to_string_pretty(&evidence)?))?;
        }
        let mut broken = 0;
        for promise in &promises {
            let word = if promise.kept { "ok    " } else { "BROKEN" };
            let line = format!("{word} {}: {}\n", promise.name, promise.found);
            broken += usize::from(!promise.kept);
            // The document alone goes to standard output.
            if json { io::stderr().write_all(line.as_bytes())? } else { say(&line)? }
        }
        anyhow::ensure!(broken == 0, "{broken} of {} promises were not kept", promises.len());
        Ok(())
    }

    /// Runs until it is stopped.
    async fn stay(&self, page: SocketAddr) -> anyhow::Result<()> {
        let load = Load::start(self.shop.entry());
        let page = page::Page::open(page)?;
        say(&format!("the mesh runs; open http://{} and press Ctrl-C here to stop\n", page.address()))?;
        let mut rotations = Vec::new();
        let mut migration = Some(Box::pin(time::sleep(MIGRATE_AFTER)));
        let mut tick = time::interval(Duration::from_secs(1));
        let mut swap = time::interval_at(time::Instant::now() + SWAP_EVERY, SWAP_EVERY);
        strangers::visit(&self.shop).await?;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = due(&mut migration) => {
                    migration = None;
                    rotations.extend(self.migrate(&load).await?);
                }
                _ = swap.tick() => {
                    rotations.push(self.swap(&self.shop.web, &load).await?);
                    strangers::visit(&self.shop).await?;
                }
            }
            page.show(&self.evidence(load.requests(), rotations.clone()).await?)?;
        }
    }

    /// Moves the whole mesh from ECDSA to ML-DSA while traffic flows; says what became of each certificate.
    async fn migrate(&self, load: &Load) -> anyhow::Result<Vec<Rotation>> {
        let failed = load.requests().failed;
        let mut before = Vec::new();
        for proxy in self.shop.modern() {
            before.push(leaf(proxy).await?);
        }
        self.shop.migrate()?;
        let phases = time::timeout(MIGRATION_PATIENCE, async {
            loop {
                if let Some(phases) = self.shop.migrated().await? {
                    return anyhow::Ok(phases);
                }
                time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .with_context(|| format!("the mesh has not moved to ML-DSA within {MIGRATION_PATIENCE:?}"))??;
        let mut rotations = Vec::new();
        for (proxy, before) in self.shop.modern().into_iter().zip(before) {
            rotations.push(rotation(before, leaf(proxy).await?, load.requests().failed - failed));
        }
        let words: Vec<_> = phases.iter().map(|one| format!("{} {} s", one.phase, one.seconds)).collect();
        io::stderr().write_all(format!("moved from ECDSA to ML-DSA: {}\n", words.join(", ")).as_bytes())?;
        Ok(rotations)
    }

    /// Has a proxy swap its certificate while traffic flows.
    async fn swap(&self, proxy: &Running, load: &Load) -> anyhow::Result<Rotation> {
        let failed = load.requests().failed;
        let before = leaf(proxy).await?;
        proxy.rotate().await?;
        let after = time::timeout(SWAP_PATIENCE, async {
            loop {
                let now = leaf(proxy).await?;
                if now.serial != before.serial {
                    return anyhow::Ok(now);
                }
                time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .with_context(|| format!("no new certificate for {} within {SWAP_PATIENCE:?}", before.identity))??;
        Ok(rotation(before, after, load.requests().failed - failed))
    }

    async fn evidence(&self, requests: Requests, rotations: Vec<Rotation>) -> anyhow::Result<Evidence> {
        let mut proxies = Vec::new();
        for proxy in self.shop.proxies() {
            proxies.push(proxy.evidence().await?);
        }
        let mut connections = merge(&proxies);
        connections.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
        Ok(Evidence {
            api_version: API_VERSION.to_owned(),
            from: rfc3339(self.from),
            to: rfc3339(self.clock.now()),
            adoption: Adoption::of(&connections),
            connections,
            requests,
            rotations,
        })
    }
}

async fn leaf(proxy: &Running) -> anyhow::Result<Leaf> {
    proxy.evidence().await?.leaf.context("a proxy that serves has a certificate")
}

fn rotation(before: Leaf, after: Leaf, failed_requests: u64) -> Rotation {
    Rotation {
        identity: after.identity,
        serial_before: before.serial,
        serial_after: after.serial,
        algorithm_before: before.algorithm,
        algorithm_after: after.algorithm,
        failed_requests,
    }
}

/// Resolves when what is due is due; never if nothing is.
async fn due(at: &mut Option<std::pin::Pin<Box<time::Sleep>>>) {
    match at {
        Some(at) => at.await,
        None => std::future::pending().await,
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
