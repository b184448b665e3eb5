//! Keys, ciphertexts and signatures go to other implementations and come back: OpenSSL's, pyca/cryptography's and
//! that of Go's standard library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod go;
mod openssl;
mod pyca;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use tempfile::TempDir;
use trellis_crypto::{Algorithm, KemAlgorithm, PrivateKey, PublicKey, SignatureAlgorithm, kem, signature};

fn needed(name: &str) -> String {
    #[allow(clippy::disallowed_methods, reason = "a test is told by its caller where things are")]
    let found = std::env::var(name);
    found.unwrap_or_else(|_| panic!("{name} is not set; run these tests by ci/test keys"))
}

/// A folder in which a program reads and writes.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
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

    /// What the program says, if it says that all is well.
    fn run(&self, program: &str, args: &[&str]) -> String {
        self.try_run(program, args).unwrap_or_else(|said| panic!("{program} {args:?}: {said}"))
    }

    fn try_run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let run = |folder: &Path| -> io::Result<_> {
            Command::new(program).args(args).current_dir(folder).output()
        };
        let done = run(self.0.path()).unwrap();
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(said) } else { Err(said) }
    }
}

fn kem_key(algorithm: KemAlgorithm) -> kem::PrivateKey {
    kem::PrivateKey::generate(algorithm).unwrap()
}

fn signing_key(algorithm: SignatureAlgorithm) -> signature::PrivateKey {
    signature::PrivateKey::generate(algorithm).unwrap()
}

/// The same key without its seed.
fn bare(key: &PrivateKey) -> PrivateKey {
    PrivateKey::from_expanded(key.algorithm(), key.expanded().unwrap().as_bytes()).unwrap()
}

fn kem_of(key: PrivateKey) -> kem::PrivateKey {
    let PrivateKey::Kem(key) = key else { panic!("{} does not encapsulate", key.algorithm()) };
    key
}

fn signer_of(key: PrivateKey) -> signature::PrivateKey {
    let PrivateKey::Signature(key) = key else { panic!("{} does not sign", key.algorithm()) };
    key
}
