//! `trellis trust backup-key`, `backup` and `restore`: what a lost cluster needs to be the same trust
//! domain again. It is sealed to keys that are kept elsewhere, and it is only believed for the anchor that
//! whoever restores it names: that a file opens says nothing about who made it.

mod content;
mod place;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use trellis_crypto::seal::{OpeningKey, Recipient, open_bytes, seal_bytes};
use trellis_pki::clock::{Clock, SystemClock};
use zeroize::Zeroizing;

use self::{
    content::{Content, Pin},
    place::{Place, Root},
};
use super::say;

/// Bound into every backup, so that no other sealed file can be passed off as one.
const PURPOSE: &str = "trellis backup";
/// Far more than the sixteen anchors of a domain take.
const MAX_FILE: u64 = 4 << 20;

#[derive(Debug, Args)]
pub struct MakeKey {
    /// Where the private key goes. The public one, which backups are sealed to, goes beside it as FILE.pub.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The public key that it is sealed to, as `trellis trust backup-key` made it. May be repeated: each
    /// opens it.
    #[arg(long, value_name = "FILE", required = true)]
    to: Vec<PathBuf>,
    /// Where it goes; standard output if absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    root: Root,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The backup.
    file: PathBuf,
    /// The private key that opens it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The anchor that it must bring, by the SHA-256 that `trellis trust backup` showed; 16 digits of it at
    /// least. May be repeated: each must be there. Without, it is shown what the backup brings, and nothing
    /// is done.
    #[arg(long, value_name = "SHA-256")]
    anchor: Vec<Pin>,
    /// Put it in the place of another trust domain that is there, whose keys are lost by that.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    root: Root,
}

impl MakeKey {
    pub fn run(self) -> Result<ExitCode> {
        let key = OpeningKey::generate()?;
        let mut public = self.out.clone().into_os_string();
        public.push(".pub");
        let public = PathBuf::from(public);
        create(&self.out, key.pem()?.as_bytes(), 0o600)?;
        create(&public, key.recipient().pem().as_bytes(), 0o644)?;
        say(&format!(
            "{}: keep it where no cluster can reach it\n{}: seal backups to it\n",
            self.out.display(),
            public.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Backup {
    pub async fn run(self, namespace: &str) -> Result<ExitCode> {
        let recipients = self.to.iter().map(|path| recipient(path)).collect::<Result<Vec<_>>>()?;
        let place = Place::open(&self.root, namespace).await?;
        let Some((items, _)) = place.get().await? else {
            bail!("there is nothing at {place}: name the control plane's namespace with --namespace");
        };
        let content = Content::new(items, SystemClock.now());
        let brought = content.check().with_context(|| format!("{place} is not what a CA wrote"))?;
        let sealed = seal_bytes(PURPOSE, &recipients, &content.encode()?)?;
        match &self.out {
            Some(path) => create(path, &sealed, 0o600)?,
            None => io::stdout().write_all(&sealed)?,
        }
        // Standard output may be the backup itself.
        io::stderr()
            .write_all(format!("{brought}Keep these with it: a restore asks for one.\n").as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Restore {
    pub async fn run(self, namespace: &str) -> Result<ExitCode> {
        let key = OpeningKey::from_pem(&Zeroizing::new(text(&self.key)?))
            .with_context(|| format!("--key {}", self.key.display()))?;
        let what = || format!("the backup {}", self.file.display());
        let plain = open_bytes(PURPOSE, &key, &bytes(&self.file)?).with_context(what)?;
        let content = Content::decode(&plain).with_context(what)?;
        let brought = content.check().with_context(what)?;
        say(&format!("{brought}"))?;
        if self.anchor.is_empty() {
            bail!(
                "nothing was done: anybody can seal a backup to your key, so compare these with what was shown when it \
                 was made, and name one with --anchor"
            );
        }
        brought.hold_to(&self.anchor)?;
        let place = Place::open(&self.root, namespace).await?;
        let found = place.get().await?;
        if let Some((there, _)) = &found {
            let there = Content::new(there.clone(), SystemTime::UNIX_EPOCH);
            if there.is_as_new_as(&content) {
                say(&format!("{place} is this trust domain already; nothing was done\n"))?;
                return Ok(ExitCode::SUCCESS);
            }
            if !self.replace {
                bail!(
                    "{place} holds another state of trust, {}: its keys would be lost; give --replace if nobody needs them",
                    there.describe()
                );
            }
        }
        place.put(&content.restored(), found.map(|(_, version)| version)).await?;
        say(&format!("restored to {place}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn recipient(path: &Path) -> Result<Recipient> {
    Recipient::from_pem(&text(path)?).with_context(|| format!("--to {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(bytes(path)?).with_context(|| format!("{} is no text", path.display()))
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let file = fs::File::open(path).with_context(context)?;
    let mut read = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut read).with_context(context)?;
    if read.len() as u64 > MAX_FILE {
        bail!("{} has more than {MAX_FILE} bytes: it is not what it should be", path.display());
    }
    Ok(read)
}

/// Never over a file that is there: it may be the only key to older backups.
fn create(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let context = || format!("cannot make {}; name a file that is not there yet", path.display());
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(context)?;
    file.write_all(content).and_then(|()| file.sync_all()).with_context(context)
}
