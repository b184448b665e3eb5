//! One process of the mesh, its log, and its end.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{self, Instant};

use crate::{child, get::get};

/// How long a process may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
const LOG_LINES: usize = 20;

#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start {name} ({program}): {source}; build it with `make build`")]
    Start { name: String, program: PathBuf, source: io::Error },
    #[error("{name} ended with {status}; the end of its log:\n{log}")]
    Ended { name: String, status: ExitStatus, log: String },
    #[error("{name} was not ready after {after:?} ({state}); the end of its log:\n{log}")]
    NotReady { name: String, after: Duration, state: String, log: String },
}

impl Process {
    pub fn start<I, S>(
        name: &str,
        program: &Path,
        arguments: I,
        environment: &[(String, String)],
        log: PathBuf,
    ) -> Result<Self, ProcessError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let failed =
            |source| ProcessError::Start { name: name.to_owned(), program: program.to_owned(), source };
        if !program.is_file() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let output = File::create(&log).map_err(failed)?;
        let child = child::command(program.as_os_str())
            .map_err(failed)?
            .args(arguments)
            // What is set for us is not meant for it.
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process says at `address` that it is ready.
    pub async fn ready(&mut self, address: SocketAddr, patience: Duration) -> Result<(), ProcessError> {
        let begun = Instant::now();
        loop {
            let state = match get(address, "/ready").await {
                Ok((StatusCode::OK, _)) => return Ok(()),
                Ok((_, body)) => String::from_utf8_lossy(&body).trim().replace('\n', ", "),
                Err(error) => error.to_string(),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(ProcessError::Ended { name: self.name.clone(), status, log: self.log() });
            }
            if begun.elapsed() > patience {
                let (name, log) = (self.name.clone(), self.log());
                return Err(ProcessError::NotReady { name, after: patience, state, log });
            }
            time::sleep(LOOK).await;
        }
    }

    /// Asks the process to stop, and makes it if it does not.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            time::sleep(LOOK).await;
        }
        // The rest is done by `drop`.
    }

    /// The end of what the process wrote.
    pub fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        // A child that was not waited for keeps its process id, so this never meets a stranger.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
