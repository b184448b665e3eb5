//! Tokens in software, each in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{needed, support::World};

pub const PIN: &str = "12345678";
const SO_PIN: &str = "87654321";
pub const LABEL: &str = "mesh";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kryoptic,
    SoftHsm,
}

/// One token, as its module finds it by the environment.
pub struct SoftToken {
    kind: Kind,
    folder: PathBuf,
    module: String,
}

impl SoftToken {
    pub fn new(world: &World, kind: Kind) -> Self {
        let folder = world.path("token");
        fs::create_dir_all(folder.join("objects")).unwrap();
        let module = match kind {
            Kind::Kryoptic => needed("TRELLIS_TEST_KRYOPTIC"),
            Kind::SoftHsm => needed("TRELLIS_TEST_SOFTHSM"),
        };
        let objects = folder.join("objects");
        let conf = match kind {
            Kind::Kryoptic => format!(
                "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
                objects.join("token.sql").display()
            ),
            Kind::SoftHsm => format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                objects.display()
            ),
        };
        fs::write(folder.join("conf"), conf).unwrap();
        let token = Self { kind, folder, module };
        let slot: &[&str] = if kind == Kind::Kryoptic { &["--slot", "1"] } else { &["--free"] };
        let mut args = vec!["--init-token", "--label", LABEL, "--pin", PIN, "--so-pin", SO_PIN];
        args.extend(slot);
        token.util(&args);
        token.write_pin(PIN);
        token
    }

    /// The environment by which the module finds the token.
    pub fn env(&self) -> (&'static str, String) {
        let name = match self.kind {
            Kind::Kryoptic => "KRYOPTIC_CONF",
            Kind::SoftHsm => "SOFTHSM2_CONF",
        };
        (name, self.folder.join("conf").display().to_string())
    }

    pub fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    pub fn write_pin(&self, pin: &str) {
        fs::write(self.folder.join("draft"), pin).unwrap();
        fs::rename(self.folder.join("draft"), self.pin_file()).unwrap();
    }

    /// The flags of a CA that makes its keys in the token.
    pub fn args(&self, keys: &str) -> Vec<String> {
        vec![
            format!("--keys={keys}"),
            format!("--token-module={}", self.module),
            format!("--token-label={LABEL}"),
            format!("--token-pin-file={}", self.pin_file().display()),
        ]
    }

    pub fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// Takes the token away, as somebody does who pulls it out.
    pub fn pull(&self) {
        fs::rename(self.objects(), self.folder.join("pulled")).unwrap();
        fs::create_dir(self.objects()).unwrap();
    }

    pub fn put_back(&self) {
        fs::remove_dir_all(self.objects()).unwrap();
        fs::rename(self.folder.join("pulled"), self.objects()).unwrap();
    }

    /// The private keys, as somebody else's program sees them.
    pub fn keys(&self) -> Vec<Listed> {
        let listed = Command::new("pkcs11-tool")
            .args(["--module", &self.module, "--token-label", LABEL, "--login", "--pin", PIN])
            .args(["--list-objects", "--type", "privkey"])
            .env(self.env().0, self.env().1)
            .output()
            .unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout).unwrap();
        let field = |block: &str, name: &str| {
            let line = block.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        text.split("Private Key Object")
            .skip(1)
            .map(|block| Listed {
                id: field(block, "ID:"),
                label: field(block, "label:"),
                usage: field(block, "Usage:"),
                access: field(block, "Access:"),
            })
            .collect()
    }

    fn util(&self, args: &[&str]) {
        let done = Command::new("softhsm2-util")
            .args(["--module", &self.module])
            .args(args)
            .env(self.env().0, self.env().1)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// One private key.
#[derive(Debug)]
pub struct Listed {
    pub id: String,
    pub label: String,
    pub usage: String,
    pub access: String,
}

/// Every generation file of a SoftHSM token: whoever holds one locked makes it hang.
pub fn generations(objects: &Path) -> Vec<PathBuf> {
    let tokens = fs::read_dir(objects).unwrap().map(|entry| entry.unwrap().path());
    tokens.map(|token| token.join("generation")).collect()
}
