//! tls.key, tls.crt and ca.crt in a folder, changed together: they are links through one link to a folder
//! of their own, and that one link is replaced. Whoever reads finds a key and its certificate, at any time.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};
use trellis_pki::{
    algorithm::Algorithm, bundle::Bundle, identity::Identity, key::PrivateKey, leaf::Leaf, x509_pem,
};
use zeroize::Zeroizing;

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const BUNDLE: &str = "ca.crt";
/// The link that is replaced.
const DATA: &str = "..data";
const DRAFT: &str = "..draft";
/// How folders of one state begin.
const STATE: &str = "..trellis-";

pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The certificate that is there, if it is good for now and as wanted, with its key.
    pub fn held(&self, trust_domain: &str, wanted: Algorithm, now: SystemTime) -> Option<Leaf> {
        let data = self.0.join(DATA);
        let text = Zeroizing::new(fs::read_to_string(data.join(KEY)).ok()?);
        let der = Zeroizing::new(pem::parse(text.as_bytes()).ok()?.into_contents());
        let key = PrivateKey::from_pkcs8(&der).ok()?;
        let bundle = Bundle::from_pem(trust_domain, &fs::read_to_string(data.join(BUNDLE)).ok()?).ok()?;
        let leaf = certificate(&fs::read(data.join(CERTIFICATE)).ok()?).ok()?;
        Identity::new(key, leaf, &bundle, wanted, now).ok().map(|identity| identity.leaf().clone())
    }

    /// The bundle that is there.
    pub fn bundle(&self) -> Option<String> {
        fs::read_to_string(self.0.join(DATA).join(BUNDLE)).ok()
    }

    pub fn write(&self, pkcs8: &[u8], certificate: &str, bundle: &str) -> Result<()> {
        let key = Zeroizing::new(x509_pem("PRIVATE KEY", pkcs8));
        self.swap(&key, certificate, bundle)
            .with_context(|| format!("out: cannot write to {}; name a folder of your own", self.0.display()))
    }

    /// The same key and certificate under another bundle.
    pub fn trust(&self, bundle: &str) -> Result<()> {
        let data = self.0.join(DATA);
        let written = (|| {
            let key = Zeroizing::new(fs::read_to_string(data.join(KEY))?);
            self.swap(&key, &fs::read_to_string(data.join(CERTIFICATE))?, bundle)
        })();
        written.with_context(|| format!("out: cannot renew {}", self.0.join(BUNDLE).display()))
    }

    fn swap(&self, key: &str, certificate: &str, bundle: &str) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let state = format!("{STATE}{:016x}", rand::random::<u64>());
        let folder = self.0.join(&state);
        DirBuilder::new().mode(0o755).create(&folder)?;
        write(&folder.join(KEY), key, 0o600)?;
        write(&folder.join(CERTIFICATE), certificate, 0o644)?;
        write(&folder.join(BUNDLE), bundle, 0o644)?;
        self.link(Path::new(&state), DATA)?;
        for name in [KEY, CERTIFICATE, BUNDLE] {
            let target = Path::new(DATA).join(name);
            if fs::read_link(self.0.join(name)).ok().as_ref() != Some(&target) {
                self.link(&target, name)?;
            }
        }
        self.forget_all_but(&state);
        Ok(())
    }

    /// Puts a link in place of whatever has the name.
    fn link(&self, target: &Path, name: &str) -> io::Result<()> {
        let draft = self.0.join(DRAFT);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(target, &draft)?,
        }
        fs::rename(draft, self.0.join(name))
    }

    /// What cannot be removed is removed next time.
    fn forget_all_but(&self, state: &str) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(STATE) && name != state {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The DER of the one certificate in a PEM text.
pub fn certificate(text: &[u8]) -> Result<Vec<u8>> {
    let mut blocks = pem::parse_many(text).context("it is not PEM")?.into_iter();
    match (blocks.next(), blocks.next()) {
        (Some(block), None) if block.tag() == "CERTIFICATE" => Ok(block.into_contents()),
        _ => anyhow::bail!("it is not exactly one CERTIFICATE in PEM"),
    }
}
