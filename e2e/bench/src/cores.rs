//! Who runs where: client and application on one core, both proxies on another, so that neither side's
//! cost hides in the other's.

use std::{fmt, fs};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Of the client, the application and this program.
    pub load: usize,
    /// Of the proxies.
    pub mesh: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("asking for the cores that may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(load), Some(mesh)) => Ok(Self { load, mesh }),
            _ => bail!("two cores are needed, one for the load and one for the proxies: only one is allowed"),
        }
    }

    pub fn both(self) -> [usize; 2] {
        [self.load, self.mesh]
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client and application on core {}, both proxies on core {}", self.load, self.mesh)
    }
}

/// Keeps the calling thread, and whatever it starts from now on, on `core`.
pub fn pin_self(core: usize) -> Result<()> {
    spread_self(&[core])
}

/// The same on any of `cores`.
pub fn spread_self(cores: &[usize]) -> Result<()> {
    place(None, cores)
}

/// Keeps every thread of a process on `core`.
pub fn pin(process: u32, core: usize) -> Result<()> {
    spread(process, &[core])
}

/// The same on any of `cores`.
pub fn spread(process: u32, cores: &[usize]) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{process}/task")).context("listing the threads to place")? {
        let task = task?.file_name();
        let thread = task.to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        place(Some(thread.context("a thread without a number")?), cores)?;
    }
    Ok(())
}

fn place(thread: Option<Pid>, cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(thread, &set).with_context(|| format!("placing a thread on {cores:?}"))
}
