//! Where lines are appended: a file, or standard output. Nothing that was written is ever written again,
//! taken back or overwritten, also where others append to the same file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use trellis_pki::audit::{hash, record_in};

/// The end of a file in which its last record is looked for; some of the longest records.
const TAIL: u64 = 256 * 1024;

/// Somewhere to append to. Writing blocks, and so does not belong on a runtime's thread.
pub enum Place {
    Stdout {
        out: File,
        /// Whether the last line has no end.
        torn: bool,
    },
    File {
        path: PathBuf,
        open: Option<Opened>,
    },
}

pub struct Opened {
    file: File,
    inode: (u64, u64),
    /// Whether something was written that may not be on the disk.
    unsynced: bool,
}

/// A write that failed, behind so many whole lines.
#[derive(Debug)]
pub struct Short {
    pub lines: usize,
    pub error: io::Error,
}

impl Place {
    pub fn stdout() -> io::Result<Self> {
        // Without the standard library's buffer, which would not tell how far it got.
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self::Stdout { out, torn: false })
    }

    pub fn file(path: PathBuf) -> Self {
        Self::File { path, open: None }
    }

    /// Writes whole lines, and returns when they will survive the end of this process; of a file, when
    /// they are on the disk. An empty text makes sure that the file is there.
    pub fn append(&mut self, text: &str) -> Result<(), Short> {
        match self {
            Self::Stdout { out, torn } => {
                if *torn {
                    write(out, "\n").map_err(|(_, error)| Short { lines: 0, error })?;
                    *torn = false;
                }
                write(out, text).map_err(|(written, error)| {
                    *torn = !matches!(text.as_bytes().get(..written), Some([] | [.., b'\n']) | None);
                    Short::behind(text, written, error)
                })
            }
            Self::File { path, open } => append_to(path, open, text),
        }
    }

    /// The hash of the record that a file ends with, if it holds one.
    pub fn last_record(&self) -> io::Result<Option<String>> {
        match self {
            Self::Stdout { .. } => Ok(None),
            Self::File { path, .. } => match File::open(path) {
                Ok(file) => last_record(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}

impl Short {
    fn behind(text: &str, written: usize, error: io::Error) -> Self {
        let arrived = text.as_bytes().get(..written).unwrap_or_default();
        Self { lines: arrived.iter().filter(|byte| **byte == b'\n').count(), error }
    }
}

fn append_to(path: &Path, open: &mut Option<Opened>, text: &str) -> Result<(), Short> {
    let nothing = |error| Short { lines: 0, error };
    // What did not reach the disk is tried again before anything else, wherever the file is by now.
    if let Some(opened) = open.as_mut().filter(|opened| opened.unsynced) {
        opened.sync().map_err(nothing)?;
    }
    let current = fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    // Somebody moved it away, as log rotation does: what follows goes into a new one.
    if open.as_ref().is_some_and(|opened| Some(opened.inode) != current) {
        *open = None;
    }
    let opened = match open {
        Some(opened) => opened,
        None => open.insert(Opened::at(path).map_err(nothing)?),
    };
    if text.is_empty() {
        return Ok(());
    }
    if let Err((written, error)) = write(&mut opened.file, text) {
        // When it is opened again, it is looked at whether its last line has an end.
        *open = None;
        return Err(Short::behind(text, written, error));
    }
    opened.unsynced = true;
    opened.sync().map_err(|error| Short::behind(text, text.len(), error))
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
        let found = file.metadata()?;
        // A line that was cut must not swallow the next one.
        if found.is_file() && found.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file, inode: (found.dev(), found.ino()), unsynced: false })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced = false;
        Ok(())
    }
}

/// As `write_all`, but it says how far it got.
fn write(out: &mut File, text: &str) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = text.as_bytes().get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

fn last_record(mut file: File) -> io::Result<Option<String>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let is_whole = |record: &&[u8]| serde_json::from_slice::<serde_json::Value>(record).is_ok();
    Ok(tail.rsplit(|byte| *byte == b'\n').filter_map(record_in).find(is_whole).map(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_appended_to_what_is_there_and_a_cut_one_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trail");
        fs::write(&path, "whole\ncut").unwrap();
        let mut place = Place::file(path.clone());
        for text in ["a\nb\n", "", "c\n"] {
            place.append(text).unwrap();
        }
        assert_eq!(read(&path), "whole\ncut\na\nb\nc\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_also_when_there_is_nothing_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("trail"), folder.path().join("trail.1"));
        let mut place = Place::file(path.clone());
        place.append("a\n").unwrap();
        fs::rename(&path, &old).unwrap();
        place.append("").unwrap();
        assert_eq!(read(&path), "");
        place.append("b\n").unwrap();
        fs::remove_file(&path).unwrap();
        place.append("c\n").unwrap();
        assert_eq!((read(&old), read(&path)), ("a\n".to_owned(), "c\n".to_owned()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_written_is_said_and_nothing_is_thought_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/trail");
        let mut place = Place::file(path.clone());
        assert_eq!(place.append("a\n").unwrap_err().lines, 0);
        fs::create_dir(path.parent().unwrap()).unwrap();
        place.append("a\n").unwrap();
        assert_eq!(read(&path), "a\n");
        // A device that is always full.
        let short = Place::file("/dev/full".into()).append("a\nb\n").unwrap_err();
        assert_eq!((short.lines, short.error.kind()), (0, io::ErrorKind::StorageFull));
    }

    #[test]
    fn of_a_write_that_failed_only_whole_lines_count() {
        let error = || io::Error::other("full");
        for (written, lines) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] {
            assert_eq!(Short::behind("a\nb\n", written, error()).lines, lines);
        }
    }

    #[test]
    fn the_last_record_is_found_behind_what_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trail");
        let last = || Place::file(path.clone()).last_record().unwrap();
        assert_eq!(last(), None);
        let record = r#"{"audit":"trellis.dev/audit/v1","chain":"a","seq":0}"#;
        fs::write(&path, format!("{record}\nother\n{}\n{{}}\n", &record[..50])).unwrap();
        assert_eq!(last(), Some(hash(record.as_bytes())));
        fs::write(&path, "other\n").unwrap();
        assert_eq!(last(), None);
    }
}
