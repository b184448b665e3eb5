//! What is read and written: files, or standard input and output as `-`. A file appears whole or not at all, and
//! never in the place of another unless that is asked for.

use std::{
    fmt, fs,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use tempfile::{Builder, NamedTempFile};
use zeroize::Zeroizing;

/// A file to read, or `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Standard,
    File(PathBuf),
}

/// A file to write, or `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Standard,
    File(PathBuf),
}

/// Who may read what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The owner.
    Private,
    /// Whoever the umask allows.
    Public,
}

impl Input {
    pub fn open(&self) -> Result<Box<dyn Read>> {
        Ok(match self {
            Self::Standard => Box::new(io::stdin().lock()),
            Self::File(path) => {
                let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
                    bail!("{} is a folder: name a file", path.display());
                }
                Box::new(file)
            }
        })
    }

    /// All of it, if that is not more than `most` bytes. A key never makes the buffer grow, so that wiping it wipes all.
    pub fn read(&self, most: usize) -> Result<Zeroizing<Vec<u8>>> {
        const ENOUGH_FOR_KEYS: usize = 64 * 1024;
        let mut read = Zeroizing::new(Vec::with_capacity(most.min(ENOUGH_FOR_KEYS) + 1));
        let source = self.open()?;
        source.take(most as u64 + 1).read_to_end(&mut read).with_context(|| format!("cannot read {self}"))?;
        if read.len() > most {
            bail!("{self} has more than {most} bytes: it is not what it should be");
        }
        Ok(read)
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Standard => None,
            Self::File(path) => Some(path),
        }
    }

    /// The last part of the path.
    pub fn name(&self) -> Option<String> {
        Some(self.path()?.file_name()?.to_string_lossy().into_owned())
    }
}

/// Of all that one command reads, only one thing can come by standard input.
pub fn at_most_one_standard(inputs: &[(&str, &Input)]) -> Result<()> {
    let standard: Vec<_> =
        inputs.iter().filter(|(_, input)| **input == Input::Standard).map(|(name, _)| *name).collect();
    if standard.len() > 1 {
        bail!("{} cannot all be standard input: name files", standard.join(" and "));
    }
    Ok(())
}

impl Output {
    /// The file beside `input` that has `suffix` behind its name; standard output for standard input.
    pub fn beside(input: &Input, suffix: &str) -> Self {
        match input {
            Input::Standard => Self::Standard,
            Input::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                Self::File(PathBuf::from(name))
            }
        }
    }

    /// Before work is done for nothing.
    pub fn check(&self, force: bool) -> Result<()> {
        let Self::File(path) = self else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => {
                bail!("{} is there and no regular file: name another", path.display())
            }
            Ok(_) if !force => {
                bail!("{} is there already: name another file, or give --force", path.display())
            }
            _ => Ok(()),
        }
    }

    /// Writes what `fill` gives: to a file all of it or, on an error, nothing.
    pub fn write<T>(
        &self,
        content: Content,
        force: bool,
        fill: impl FnOnce(&mut dyn Write) -> Result<T>,
    ) -> Result<T> {
        self.check(force)?;
        let Self::File(path) = self else {
            let mut stdout = io::stdout().lock();
            let result = fill(&mut stdout)?;
            stdout.flush()?;
            return Ok(result);
        };
        let mut file = beside(path, content).with_context(|| format!("cannot make {}", path.display()))?;
        let result = fill(&mut file)?;
        file.as_file().sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        let placed = if force {
            file.persist(path).map_err(|error| error.error)
        } else {
            file.persist_noclobber(path).map_err(|error| error.error)
        };
        placed.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(result)
    }

    pub fn write_all(&self, content: Content, force: bool, bytes: &[u8]) -> Result<()> {
        self.write(content, force, |output| Ok(output.write_all(bytes)?))
    }
}

/// A file without a name yet, in the same folder.
fn beside(path: &Path, content: Content) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = match content {
        Content::Private => 0o600,
        Content::Public => 0o644,
    };
    Builder::new().prefix(".trellis-").permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(if text == "-" { Self::Standard } else { Self::File(text.into()) })
    }
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(if text == "-" { Self::Standard } else { Self::File(text.into()) })
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
