//! Shares of a core: the most that the kernel's cpu controller lets a thread have. A worker with a share is
//! a small core of its own that the load does not take from, so that two of them and one can be compared on
//! a machine whose cores carry the load as well.

use std::{fs, path::Path, path::PathBuf, process};

use anyhow::{Context, Result, ensure};

/// Where version 1 of control groups has it. Version 2 has it for threads only below a group that holds all
/// of their processes.
const CONTROLLER: &str = "/sys/fs/cgroup/cpu";
/// In microseconds; short, since whoever has used up his share stands still for the rest of it.
const PERIOD: u64 = 10_000;

/// Groups of one thread each. They go away with this, once their threads have ended.
#[derive(Default)]
pub struct Shares {
    groups: Vec<PathBuf>,
}

impl Shares {
    /// Why there can be none on this machine is the error.
    pub fn open() -> Result<Self> {
        let quota = Path::new(CONTROLLER).join("cpu.cfs_quota_us");
        ensure!(quota.exists(), "there is no {}, the cpu controller of control groups v1", quota.display());
        Ok(Self::default())
    }

    /// From here on, each thread of `process` whose name begins with `name` has at most `share` of a core.
    /// Returns how many those are.
    pub fn limit(&mut self, process: u32, name: &str, share: f64) -> Result<usize> {
        let quota = (share * PERIOD as f64) as u64;
        let mut limited = 0;
        for task in fs::read_dir(format!("/proc/{process}/task")).context("listing the threads to limit")? {
            let task = task?;
            if !fs::read_to_string(task.path().join("comm"))?.starts_with(name) {
                continue;
            }
            let thread = task.file_name().to_string_lossy().into_owned();
            let group = Path::new(CONTROLLER).join(format!("trellis-bench-{}-{thread}", process::id()));
            fs::create_dir(&group)
                .with_context(|| format!("making {}, which takes root", group.display()))?;
            self.groups.push(group.clone());
            write(&group.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
            write(&group.join("cpu.cfs_quota_us"), &quota.to_string())?;
            write(&group.join("tasks"), &thread)?;
            limited += 1;
        }
        Ok(limited)
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for group in &self.groups {
            // One whose thread still runs stays, and limits nobody else.
            let _ = fs::remove_dir(group);
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {text:?} into {}", path.display()))
}
