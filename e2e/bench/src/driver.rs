//! Starts a client process, says when it shall work, and takes its tally.

use std::{
    os::fd::OwnedFd,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe::{Receiver, Sender},
};
use trellis_local::child;

use crate::load::{Load, READY, Tally};

/// A client that has warmed up. It ends when this is dropped.
pub struct Client {
    child: Child,
    input: Sender,
    output: BufReader<Receiver>,
}

impl Client {
    pub async fn start(load: &Load) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut child = child::command(own.as_os_str())?
            .arg("client")
            .args(load.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a client")?;
        let input = child.stdin.take().context("a client without an input")?;
        let output = child.stdout.take().context("a client without an output")?;
        let mut client = Self {
            child,
            input: Sender::from_owned_fd(OwnedFd::from(input))?,
            output: BufReader::new(Receiver::from_owned_fd(OwnedFd::from(output))?),
        };
        match client.line().await?.trim() {
            READY => Ok(client),
            // What went wrong, the client itself has said on our standard error.
            "" => bail!("a client ended before it was ready"),
            other => bail!("a client said {other:?} instead of that it is ready"),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Begins what is measured.
    pub async fn go(&mut self) -> Result<()> {
        self.input.write_all(b"go\n").await.context("a client ended before its work")
    }

    /// Waits for the end of the work.
    pub async fn tally(&mut self) -> Result<Tally> {
        let line = self.line().await?;
        if line.is_empty() {
            bail!("a client ended in the middle of its work");
        }
        serde_json::from_str(&line).with_context(|| format!("no tally: {line:?}"))
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).await.context("listening to a client")?;
        Ok(line)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only where the client has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
