//! What processes use, as the kernel tells it: CPU time, memory, and how much of our cores went to others.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

use crate::{clock, cores::Cores};

/// CPU time of the threads that a process has, to the nanosecond.
fn cpu_of_threads(process: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{process}/task")).context("listing the threads of a process")? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse().ok());
        sum += Duration::from_nanos(nanoseconds.with_context(|| format!("{}: {text:?}", path.display()))?);
    }
    Ok(sum)
}

/// CPU time of a process with the threads that have ended, in hundredths of a second.
fn cpu_of_process(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let ticks = cpu_ticks(&text).with_context(|| format!("{path}: {text:?}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name, in brackets, may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory of a process in bytes, shared pages included.
pub fn resident(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let kilobytes: Option<u64> = text
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok());
    Ok(kilobytes.with_context(|| format!("{path} names no Rss"))? * 1024)
}

/// Has the kernel count the most from here on.
pub fn forget_peak(process: u32) -> Result<()> {
    let path = format!("/proc/{process}/clear_refs");
    fs::write(&path, "5").with_context(|| path)
}

/// The most that a process has had resident, in bytes.
pub fn peak(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let kilobytes: Option<u64> = text
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok());
    Ok(kilobytes.with_context(|| format!("{path} names no VmHWM"))? * 1024)
}

/// Watches processes for a while.
pub struct Watch {
    cores: Cores,
    measured: Vec<u32>,
    others: Vec<u32>,
    began: Duration,
    idle: Duration,
    cpu: Duration,
    cpu_of_others: Duration,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Span {
    /// CPU time of those that were measured.
    pub cpu: Duration,
    /// The share of both cores that went to neither us nor idleness.
    pub foreign: f64,
}

impl Watch {
    /// The threads of those that are `measured` must not end meanwhile; `others` are ours as well.
    pub fn begin(cores: Cores, measured: &[u32], others: &[u32]) -> Result<Self> {
        let (measured, others) = (measured.to_vec(), others.to_vec());
        let cpu_of_others = sum(&others, cpu_of_process)?;
        let (idle, cpu) = (idle(cores)?, sum(&measured, cpu_of_threads)?);
        Ok(Self { cores, measured, others, began: clock::now(), idle, cpu, cpu_of_others })
    }

    pub fn end(self) -> Result<Span> {
        let cpu = sum(&self.measured, cpu_of_threads)?.saturating_sub(self.cpu);
        let elapsed = clock::now().saturating_sub(self.began);
        let idle = idle(self.cores)?.saturating_sub(self.idle);
        let others = sum(&self.others, cpu_of_process)?.saturating_sub(self.cpu_of_others);
        let whole = elapsed * u32::try_from(self.cores.both().len())?;
        let foreign = whole.saturating_sub(idle).saturating_sub(cpu).saturating_sub(others);
        Ok(Span { cpu, foreign: foreign.as_secs_f64() / whole.as_secs_f64() })
    }
}

fn sum(processes: &[u32], cpu: fn(u32) -> Result<Duration>) -> Result<Duration> {
    processes.iter().map(|process| cpu(*process)).sum()
}

/// Time that our cores have done nothing.
fn idle(cores: Cores) -> Result<Duration> {
    const PATH: &str = "/proc/stat";
    // The kernel counts in hundredths of a second whatever its own tick is.
    let tick = 1.0 / clock_ticks_per_second() as f64;
    let text = fs::read_to_string(PATH).context(PATH)?;
    let mut ticks = 0;
    for core in cores.both() {
        ticks += idle_ticks(&text, core).with_context(|| format!("{PATH} says nothing of core {core}"))?;
    }
    Ok(Duration::from_secs_f64(ticks as f64 * tick))
}

/// Idle and waiting for a disk, which leaves a core to whoever wants it.
fn idle_ticks(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let mut fields = stat
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut line| (line.next() == Some(&name)).then_some(line))?;
    let idle: u64 = fields.nth(3)?.parse().ok()?;
    let waiting: u64 = fields.next()?.parse().ok()?;
    Some(idle + waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_read_from_the_line_of_the_core() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 3 400 50 6 7 8 0 0\ncpu10 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(idle_ticks(stat, 1), Some(450));
        assert_eq!(idle_ticks(stat, 10), Some(9));
        assert_eq!(idle_ticks(stat, 2), None);
    }

    #[test]
    fn cpu_time_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (short) S 1"), None);
    }

    #[test]
    fn the_work_and_the_memory_of_a_process_are_seen() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        // Ends because the child does nothing but work; both clocks must see it.
        for cpu in [cpu_of_threads, cpu_of_process] {
            let before = cpu(child.id()).unwrap();
            while cpu(child.id()).unwrap() < before + Duration::from_millis(20) {}
        }
        assert!(resident(child.id()).unwrap() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        let held = vec![1_u8; 32 * 1024 * 1024];
        assert!(resident(std::process::id()).unwrap() >= held.len() as u64);
    }
}
