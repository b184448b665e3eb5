//! Where an audit trail goes: standard output, or a file that is only ever appended to.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use thiserror::Error;
use trellis_pki::audit::{FORM, hash};

/// The end of a file in which its last record is looked for.
const TAIL: u64 = 128 * 1024;

/// `stdout` or `file:PATH`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("audit sink {0:?} is unknown; use stdout or file:PATH")]
pub struct UnknownSink(String);

impl FromStr for SinkSpec {
    type Err = UnknownSink;

    fn from_str(text: &str) -> Result<Self, UnknownSink> {
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(UnknownSink(text.to_owned())),
        }
    }
}

impl fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// An open sink. Writing blocks, and so does not belong on a runtime's thread.
pub enum Sink {
    Stdout,
    File { path: PathBuf, open: Option<Opened> },
}

pub struct Opened {
    file: File,
    inode: (u64, u64),
}

impl Sink {
    pub fn new(spec: &SinkSpec) -> Self {
        match spec {
            SinkSpec::Stdout => Self::Stdout,
            SinkSpec::File(path) => Self::File { path: path.clone(), open: None },
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File { .. } => "file",
        }
    }

    /// Writes whole lines, and returns when they will survive the end of this process; of a file, when
    /// they are on the disk.
    pub fn write(&mut self, lines: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes())?;
                out.flush()
            }
            Self::File { path, open } => {
                let current = fs::metadata(&*path).ok().map(|found| (found.dev(), found.ino()));
                // Somebody moved it away, as log rotation does: what follows goes into a new one.
                if open.as_ref().is_some_and(|opened| Some(opened.inode) != current) {
                    *open = None;
                }
                let mut opened = match open.take() {
                    Some(opened) => opened,
                    None => append(path)?,
                };
                let before = opened.file.metadata()?.len();
                let written = opened.file.write_all(lines.as_bytes()).and_then(|()| opened.file.sync_data());
                match written {
                    Ok(()) => *open = Some(opened),
                    // The next attempt writes all of it again: what got there is taken back.
                    Err(_) => opened.file.set_len(before)?,
                }
                written
            }
        }
    }

    /// The head of the chain that a file ends with, if it holds one.
    pub fn last_head(&self) -> io::Result<Option<String>> {
        match self {
            Self::Stdout => Ok(None),
            Self::File { path, .. } => match File::open(path) {
                Ok(file) => last_record(file).map(|line| line.map(|line| hash(&line))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}

fn append(path: &Path) -> io::Result<Opened> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    let found = file.metadata()?;
    // A line that was cut by a crash must not swallow the next one.
    if found.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(Opened { file, inode: (found.dev(), found.ino()) })
}

fn last_record(mut file: File) -> io::Result<Option<String>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    Ok(tail.lines().rev().find(|line| line.contains(FORM) && line.ends_with('}')).map(str::to_owned))
}
