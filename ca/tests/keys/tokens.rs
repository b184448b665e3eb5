//! Tokens in software, each in a folder of its own.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
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

    /// Puts the token behind a socket, as those are that many machines share.
    pub fn share(&self) -> Shared<'_> {
        let mut shared = Shared { token: self, server: None };
        shared.plug_in();
        shared
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

/// A token that can be pulled out: a server between it and whoever uses it.
pub struct Shared<'a> {
    token: &'a SoftToken,
    server: Option<Child>,
}

impl Shared<'_> {
    fn socket(&self) -> PathBuf {
        self.token.folder.join("socket")
    }

    pub fn env(&self) -> (&'static str, String) {
        ("P11_KIT_SERVER_ADDRESS", format!("unix:path={}", self.socket().display()))
    }

    pub fn args(&self, keys: &str) -> Vec<String> {
        let mut args = self.token.args(keys);
        args[1] = format!("--token-module={}", needed("TRELLIS_TEST_P11KIT"));
        args
    }

    pub fn plug_in(&mut self) {
        let _ = fs::remove_file(self.socket());
        let server = Command::new("p11-kit")
            .args(["server", "--foreground", "--provider", &self.token.module, "--name"])
            .arg(self.socket())
            .arg(format!("pkcs11:token={LABEL}"))
            .env(self.token.env().0, self.token.env().1)
            .stdout(Stdio::null())
            // It has a process for each of its users.
            .process_group(0)
            .spawn()
            .unwrap();
        self.server = Some(server);
        while !self.socket().exists() {
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pull_out(&mut self) {
        self.signal("-KILL");
        self.server.take().unwrap().wait().unwrap();
    }

    /// To all processes of the server.
    pub fn signal(&self, signal: &str) {
        let group = format!("-{}", self.server.as_ref().unwrap().id());
        assert!(Command::new("kill").args([signal, "--", &group]).status().unwrap().success());
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.pull_out();
        }
    }
}
