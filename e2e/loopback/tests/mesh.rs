//! The mesh on loopback: what peers may and may not do, and what traffic must survive.

#[path = "mesh/backup.rs"]
mod backup;
#[path = "mesh/churn.rs"]
mod churn;
#[path = "mesh/clocks.rs"]
mod clocks;
#[path = "mesh/egress.rs"]
mod egress;
#[path = "mesh/federation.rs"]
mod federation;
#[path = "mesh/foreign.rs"]
mod foreign;
#[path = "mesh/hostile.rs"]
mod hostile;
#[path = "mesh/known.rs"]
mod known;
#[path = "mesh/outage.rs"]
mod outage;
#[path = "mesh/policy.rs"]
mod policy;
#[path = "mesh/program.rs"]
mod program;
#[path = "mesh/restarts.rs"]
mod restarts;
#[path = "mesh/routes.rs"]
mod routes;
#[path = "mesh/sealed.rs"]
mod sealed;
#[path = "mesh/seen.rs"]
mod seen;
#[path = "mesh/traces.rs"]
mod traces;
#[path = "mesh/traffic.rs"]
mod traffic;
#[path = "mesh/web.rs"]
mod web;
#[path = "mesh/workload.rs"]
mod workload;

use std::{future::Future, process::ExitCode, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Builder;
use trellis_loopback::stage::Error;

fn main() -> ExitCode {
    // The processes of the mesh are started through this program, so that they die with it.
    if let Err(error) = trellis_local::child::become_child_if_asked() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // Each test runs a mesh of its own: two at a time keep two cores busy.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let trials = [
        backup::trials(),
        hostile::trials(),
        egress::trials(),
        foreign::trials(),
        routes::trials(),
        known::trials(),
        sealed::trials(),
        seen::trials(),
        traces::trials(),
        traffic::trials(),
        web::trials(),
        workload::trials(),
        federation::trials(),
        policy::trials(),
        program::trials(),
        clocks::trials(),
        churn::trials(),
        outage::trials(),
        restarts::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that runs on a runtime of its own.
fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = Result<(), Error>> + 'static,
{
    Trial::test(name, move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failed::from(error.to_string()))?;
        let bounded = async {
            // Far beyond what any of them takes: a test that hangs must still end.
            tokio::time::timeout(Duration::from_secs(120), test())
                .await
                .unwrap_or_else(|_| Err("the test did not end".into()))
        };
        runtime.block_on(bounded).map_err(|error| Failed::from(error.to_string()))
    })
}
