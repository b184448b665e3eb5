//! `trellis crypto`, `trellis sign` and `trellis verify` as users run them: the program, in a folder.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod attestations;
mod files;
mod inspecting;
mod keys;
mod signatures;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{fs, thread};

use tempfile::TempDir;

/// A folder, and the program run in it.
struct Desk(TempDir);

struct Said {
    ok: bool,
    out: Vec<u8>,
    err: String,
}

impl Desk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// With a key pair of each algorithm named, in files of that name.
    fn with_keys(algorithms: &[&str]) -> Self {
        let desk = Self::new();
        for algorithm in algorithms {
            desk.run(&format!("crypto keygen --algorithm {algorithm} --out {algorithm}"));
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.get(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn say(&self, args: &str, input: &[u8]) -> Said {
        self.say_by(Command::new(env!("CARGO_BIN_EXE_trellis")).args(args.split(' ')), input)
    }

    fn say_by(&self, command: &mut Command, input: &[u8]) -> Said {
        let command = command.current_dir(self.0.path()).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let done = thread::scope(|scope| {
            // Who does not read it all, does not have to.
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().unwrap()
        });
        let err = String::from_utf8(done.stderr).unwrap();
        Said { ok: done.status.success(), out: done.stdout, err }
    }

    /// What the program says when all is well.
    fn run(&self, args: &str) -> String {
        let said = self.say(args, b"");
        assert!(said.ok, "trellis {args}: {}", said.err);
        String::from_utf8(said.out).unwrap()
    }

    /// Why the program refuses.
    fn refused(&self, args: &str) -> String {
        let said = self.say(args, b"");
        assert!(!said.ok, "trellis {args} did it");
        said.err
    }
}
