//! Keeps a certificate fresh: renewed in the window of the proxies, by the same state machine, and as well
//! whenever trust changes. Nobody waits for a program without a proxy before an anchor goes, so it looks
//! itself.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use http::HeaderValue;
use rustix::process::{self, Pid};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use trellis_pki::{
    clock::Clock,
    leaf::Leaf,
    renewal::{Renewal, STARTUP_ATTEMPTS, Step},
};

use super::{Get, folder::Folder};

/// What is run after a change may take so long.
const COMMAND: Duration = Duration::from_secs(60);

/// Runs until it is asked to stop, or the first certificate cannot be had.
pub async fn keep(
    get: &Get,
    folder: &Folder,
    held: Option<Leaf>,
    after: &After,
    clock: &Arc<dyn Clock>,
) -> Result<()> {
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut renewal = Renewal::new(rand::random());
    if let Some(leaf) = held {
        renewal.issued(leaf.not_before, leaf.not_after, clock.now());
        get.say("kept", &leaf)?;
    }
    let mut trust = Trust { bundle: folder.bundle(), tag: None };
    loop {
        let pause = match renewal.poll(clock.now()) {
            Step::Renew => {
                match get.get(folder, trust.bundle.as_deref(), clock).await {
                    Ok(got) => {
                        renewal.issued(got.leaf.not_before, got.leaf.not_after, clock.now());
                        trust.bundle = Some(got.bundle);
                        get.say("issued", &got.leaf)?;
                        after.changed().await;
                    }
                    Err(error) => {
                        complain(&format!("no certificate: {error:#}"));
                        renewal.failed(clock.now());
                    }
                }
                continue;
            }
            Step::Check { expires_in } if expires_in.is_zero() => {
                complain("the certificate has ended, and there is no new one yet");
                continue;
            }
            Step::Check { .. } => continue,
            Step::GiveUp => bail!("no certificate after {STARTUP_ATTEMPTS} attempts"),
            Step::Sleep(pause) => pause.min(Duration::from_secs(get.look)),
        };
        tokio::select! {
            () = sleep(pause) => {}
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
        }
        match trust.look(get, folder, clock).await {
            Ok(false) => {}
            Ok(true) => {
                after.changed().await;
                // Perhaps the anchor that the certificate hangs on is about to go.
                renewal.renew_now();
            }
            Err(error) => complain(&format!("cannot look at the trust bundle: {error:#}")),
        }
    }
}

/// What the CA has told of trust.
struct Trust {
    bundle: Option<String>,
    tag: Option<HeaderValue>,
}

impl Trust {
    /// Whether there is another bundle, which is then written.
    async fn look(&mut self, get: &Get, folder: &Folder, clock: &Arc<dyn Clock>) -> Result<bool> {
        let api = get.api(self.bundle.as_deref(), clock)?;
        let Some(served) = api.bundle(self.tag.as_ref()).await? else { return Ok(false) };
        self.tag = served.tag;
        if self.bundle.as_ref() == Some(&served.bundle) {
            return Ok(false);
        }
        folder.trust(&served.bundle)?;
        self.bundle = Some(served.bundle);
        Ok(true)
    }
}

/// Signals that make programs read their certificates again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(process::Signal);

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("SIG").unwrap_or(text) {
            "HUP" => Ok(Self(process::Signal::HUP)),
            "USR1" => Ok(Self(process::Signal::USR1)),
            "USR2" => Ok(Self(process::Signal::USR2)),
            "TERM" => Ok(Self(process::Signal::TERM)),
            _ => Err("use HUP, USR1, USR2 or TERM".to_owned()),
        }
    }
}

/// What is done after each change. What fails is said; the certificate is there all the same.
pub struct After {
    folder: PathBuf,
    exec: Option<String>,
    signal: Option<(Signal, PathBuf)>,
}

impl After {
    pub fn new(
        folder: &Path,
        exec: Option<String>,
        signal: Option<Signal>,
        pid_file: Option<PathBuf>,
    ) -> Self {
        Self { folder: folder.to_owned(), exec, signal: signal.zip(pid_file) }
    }

    async fn changed(&self) {
        if let Some(command) = &self.exec
            && let Err(error) = self.run(command).await
        {
            complain(&format!("exec: {error:#}"));
        }
        if let Some((signal, file)) = &self.signal
            && let Err(error) = send(*signal, file)
        {
            complain(&format!("signal: {error:#}"));
        }
    }

    async fn run(&self, command: &str) -> Result<()> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("TRELLIS_IDENTITY_DIR", &self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run sh")?;
        match timeout(COMMAND, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{command:?} ended with {status}"),
            Ok(Err(error)) => Err(error).context("cannot wait for it"),
            Err(_) => bail!("{command:?} took longer than {} s and was ended", COMMAND.as_secs()),
        }
    }
}

fn send(signal: Signal, file: &Path) -> Result<()> {
    let text = super::read(file)?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{} holds no number of a process", file.display()))?;
    process::kill_process(pid, signal.0).with_context(|| format!("cannot signal process {}", text.trim()))
}

/// To standard error, where nothing is read by programs.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}
