//! How many instructions each proxy runs for a request, as valgrind counts them: the same on a loud machine
//! as on a quiet one, so that a change that costs a few percent is seen. One connection asks one request
//! after another, so that neither chance nor time decides what is done together.

use std::{collections::BTreeMap, env, fs, path::Path, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time;
use trellis_local::Wrap;

use crate::{
    bed::{Bed, Route, Setup},
    cores::Cores,
    figure::{Figure, Report, Target},
    load::Load,
    plan::Plan,
    rounds::Rounds,
};

/// What was counted when it was last looked at: by language, then by the proxy's side. To accept what is
/// counted now, write it there.
const REFERENCE: &str = include_str!("../instructions.json");
/// How much of it there may be.
const TARGET: Target = Target::RatioAtMost(1.05);
/// Until what the load set off is over.
const SETTLE: Duration = Duration::from_millis(500);

type Reference = BTreeMap<String, BTreeMap<String, f64>>;

/// Leaves what callgrind wrote in `profile`, if that is given.
pub async fn measure(
    binaries: &Path,
    profile: Option<&Path>,
    cores: Cores,
    plan: &Plan,
    report: &mut Report,
) -> Result<()> {
    let (Some(valgrind), Some(vgdb)) = (find("valgrind"), find("vgdb")) else {
        return report
            .section("valgrind is not here (`apt-get install valgrind`): no instructions are counted");
    };
    report
        .section("Instructions of a proxy for one request, against those in e2e/bench/instructions.json")?;
    let reference: Reference = serde_json::from_str(REFERENCE).context("e2e/bench/instructions.json")?;
    let own = env::temp_dir().join(format!("trellis-instructions-{}", std::process::id()));
    let directory = profile.unwrap_or(&own);
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let counter = Counter { vgdb, directory: directory.to_owned() };
    let counted = count(binaries, &counter, valgrind, cores, plan, &reference, report).await;
    if profile.is_none() {
        fs::remove_dir_all(&own).with_context(|| format!("removing {}", own.display()))?;
    }
    counted
}

async fn count(
    binaries: &Path,
    counter: &Counter,
    valgrind: PathBuf,
    cores: Cores,
    plan: &Plan,
    reference: &Reference,
    report: &mut Report,
) -> Result<()> {
    let out = format!("--callgrind-out-file={}/%p", counter.directory.display());
    // Until it is told to, it only follows the program, which is faster.
    let arguments = ["--quiet", "--tool=callgrind", "--instr-atstart=no", &out];
    let wrap = Wrap { program: valgrind, arguments: arguments.map(str::to_owned).to_vec() };
    let bed = Bed::open_in(binaries, cores, Setup { wrap: Some(wrap), ..Setup::default() }).await?;
    for (language, load) in [("HTTP", plan.one_by_one().in_http()), ("bytes", plan.one_by_one())] {
        let counted = counter.run(&bed, &load).await.with_context(|| bed.logs())?;
        for (side, counted) in ["client", "server"].into_iter().zip(counted) {
            let known = reference.get(language).and_then(|sides| sides.get(side)).copied();
            let known = known.with_context(|| format!("no reference for {language} and {side}"))?;
            let figure = Figure::compare(
                &format!("{language}: at the {side}'s proxy"),
                "instr.",
                &Rounds::from(vec![(counted, known)]),
            );
            report.add(figure.target(TARGET))?;
        }
    }
    bed.close().await;
    Ok(())
}

/// Asks callgrind, which runs the proxies, for what it counted.
struct Counter {
    vgdb: PathBuf,
    directory: PathBuf,
}

impl Counter {
    /// Instructions of each proxy for one request of `load`.
    async fn run(&self, bed: &Bed, load: &Load) -> Result<[f64; 2]> {
        let proxies = bed.proxies();
        let mut client = bed.client(Route::Through, load).await?;
        for process in proxies {
            self.ask(process, "instrumentation on")?;
            self.ask(process, "zero")?;
        }
        client.go().await?;
        let requests = client.tally().await?.requests;
        ensure!(requests > 0, "a client was not answered once");
        time::sleep(SETTLE).await;
        let mut counted = [0.0; 2];
        for (process, counted) in proxies.into_iter().zip(&mut counted) {
            *counted = self.total(process)? as f64 / requests as f64;
            self.ask(process, "instrumentation off")?;
        }
        Ok(counted)
    }

    fn ask(&self, process: u32, what: &str) -> Result<()> {
        let said = Command::new(&self.vgdb).arg(format!("--pid={process}")).args(what.split(' ')).output();
        let said = said.with_context(|| format!("running {}", self.vgdb.display()))?;
        let words = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "callgrind did not do {what:?}: {words}");
        Ok(())
    }

    /// All that was counted since it was at zero.
    fn total(&self, process: u32) -> Result<u64> {
        let dumps = || -> Result<Vec<PathBuf>> {
            let all = fs::read_dir(&self.directory)?.map(|entry| Ok(entry?.path()));
            all.collect::<std::io::Result<Vec<_>>>().map_err(Into::into)
        };
        let before = dumps()?;
        self.ask(process, "dump")?;
        let prefix = format!("{process}.");
        let new = dumps()?.into_iter().find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(&prefix) && !before.contains(path)
        });
        let path = new.context("callgrind wrote nothing")?;
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        total(&text).with_context(|| format!("{} has no total", path.display()))
    }
}

fn total(dump: &str) -> Option<u64> {
    dump.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
}

fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_a_dump() {
        let dump = "# callgrind format\nevents: Ir\nsummary: 9\n\nfn=(1) main\n3 4\n\ntotals: 1234\n";
        assert_eq!(total(dump), Some(1234));
        assert_eq!(total("summary: 9\n"), None);
    }

    #[test]
    fn there_is_a_reference_for_each_language_and_side() {
        let reference: Reference = serde_json::from_str(REFERENCE).unwrap();
        for language in ["HTTP", "bytes"] {
            for side in ["client", "server"] {
                assert!(reference[language][side] > 0.0, "{language}, {side}");
            }
        }
    }
}
