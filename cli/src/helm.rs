//! Helm as a program of the user's: found, asked for its version, and run.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
};

use clap::Args;
use thiserror::Error;
use tokio::process::Command;

/// The oldest Helm that the chart is tested with. Helm 3 has reached the end of its support.
const OLDEST: Version = Version { major: 4, minor: 0 };
const REMEDY: &str = "install it from https://helm.sh, or name one with --helm";

/// Where Helm is.
#[derive(Clone, Debug, Args)]
pub struct HelmPath {
    /// The Helm program to use.
    #[arg(long = "helm", env = "TRELLIS_HELM", value_name = "PATH", default_value = "helm")]
    program: PathBuf,
}

/// A Helm that is there and new enough.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

#[derive(Debug, Error)]
pub enum HelmError {
    #[error("--helm {}: {cause}; {REMEDY}", program.display())]
    Missing { program: PathBuf, cause: std::io::Error },
    #[error("--helm {}: `{said}` is not a version of Helm; {REMEDY}", program.display())]
    NotHelm { program: PathBuf, said: String },
    #[error("--helm {}: version {said} is too old; Helm {}.{} or later is needed: {REMEDY}", program.display(), OLDEST.major, OLDEST.minor)]
    TooOld { program: PathBuf, said: String },
    #[error("`{}` failed ({status}); its own message is above", command.display())]
    Failed { command: OsString, status: std::process::ExitStatus },
}

impl HelmPath {
    pub async fn find(self) -> Result<Helm, HelmError> {
        let missing = |cause| HelmError::Missing { program: self.program.clone(), cause };
        let out = Command::new(&self.program)
            .args(["version", "--template", "{{.Version}}"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(missing)?;
        let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        match said.parse::<Version>() {
            Ok(version) if version >= OLDEST => Ok(Helm { program: self.program }),
            Ok(_) => Err(HelmError::TooOld { program: self.program, said }),
            Err(()) => Err(HelmError::NotHelm { program: self.program, said }),
        }
    }
}

impl Helm {
    /// Runs to the end with this process's output. An interrupt from the terminal reaches Helm as well;
    /// it ends in its own order while we wait for it.
    pub async fn run(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<(), HelmError> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let missing = |cause| HelmError::Missing { program: self.program.clone(), cause };
        let mut child = Command::new(&self.program)
            .args(&arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(missing)?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(missing)?,
                signal = tokio::signal::ctrl_c() => signal.map_err(missing)?,
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(HelmError::Failed { command: line(&self.program, &arguments), status })
    }
}

/// Program and subcommand; the rest may hold a user's secrets.
fn line(program: &Path, arguments: &[OsString]) -> OsString {
    let mut line = program.as_os_str().to_owned();
    if let Some(first) = arguments.first() {
        line.push(" ");
        line.push(first);
    }
    line
}

impl FromStr for Version {
    type Err = ();

    /// `v4.3.1+g1234`, `v4.3` and the like.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.strip_prefix('v').ok_or(())?.split(['.', '-', '+']);
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(());
        Ok(Self { major: number()?, minor: number()? })
    }
}

#[cfg(test)]
pub mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;

    /// A program that claims to be Helm, and writes down what it was asked.
    pub struct FakeHelm {
        folder: TempDir,
    }

    impl FakeHelm {
        pub fn new(version: &str, exit: u8) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("helm");
            let script = format!(
                "#!/bin/sh\nif [ \"$1\" = version ]; then printf '%s' '{version}'; exit 0; fi\n\
                 printf '%s\\n' \"$@\" >> {}\nexit {exit}\n",
                folder.path().join("asked").display()
            );
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            Self { folder }
        }

        pub fn path(&self) -> HelmPath {
            HelmPath { program: self.folder.path().join("helm") }
        }

        pub fn asked(&self) -> Vec<String> {
            let text = fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn versions_are_read_as_helm_writes_them() {
        for (text, major, minor) in
            [("v4.3.1", 4, 3), ("v4.3", 4, 3), ("v3.18.4+g7b0a1b1", 3, 18), ("v4.0.0-rc.1", 4, 0)]
        {
            assert_eq!(text.parse(), Ok(Version { major, minor }), "{text}");
        }
        for text in ["", "4.3.1", "v4", "vx.y", "helm: command not found"] {
            assert_eq!(text.parse::<Version>(), Err(()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_helm_that_is_missing_or_too_old_is_an_error_with_a_remedy() {
        let missing = HelmPath { program: "/nowhere/helm".into() };
        let old = FakeHelm::new("v3.18.4", 0);
        let strange = FakeHelm::new("hello", 0);
        for (path, reason) in [
            (missing, "No such file"),
            (old.path(), "v3.18.4 is too old"),
            (strange.path(), "`hello` is not"),
        ] {
            let error = path.find().await.unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("https://helm.sh"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_failure_of_helm_is_ours_and_repeats_no_argument() {
        let helm = FakeHelm::new("v4.3.1", 7).path().find().await;
        // The folder of the fake is gone with it.
        assert!(helm.unwrap().run(["install".into()]).await.is_err());
        let fake = FakeHelm::new("v4.3.1", 7);
        let helm = fake.path().find().await.unwrap();
        let error = helm.run(["upgrade".into(), "--set=password=x".into()]).await.unwrap_err().to_string();
        assert!(error.contains("upgrade") && error.contains("7") && !error.contains("password"), "{error}");
        assert_eq!(fake.asked(), ["upgrade", "--set=password=x"]);
    }
}
