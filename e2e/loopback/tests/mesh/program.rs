//! A program without a proxy: `trellis identity get` against the CA.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use libtest_mimic::Trial;
use tokio::{
    process::{Child, Command},
    time::sleep,
};
use trellis_api::{
    names::DEFAULT_TRUST_DOMAIN,
    trust::{Issuing, KeyAlgorithm, TrustDomainSpec},
};
use trellis_loopback::stage::{Error, Stage, binaries};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    identity::Identity,
    key::PrivateKey,
    leaf::Leaf,
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_program_without_a_proxy_gets_its_identity_as_files", once),
        trial("a_program_is_told_why_it_gets_none", refused),
        trial("a_program_keeps_up_with_a_rotation", watch),
    ]
}

fn command(stage: &Stage, out: &Path, more: &[&str]) -> Result<Command, Error> {
    let mut command = Command::new(binaries()?.join("trellis"));
    let token = stage.mesh.token(&stage.client.workload)?;
    command
        .args(["identity", "get", "--json", "--out"])
        .arg(out)
        .arg(format!("--ca={}", stage.mesh.ca_api()))
        .arg(format!("--ca-file={}", stage.mesh.bundle().display()))
        .arg(format!("--token-file={}", token.display()))
        .args(more)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

async fn get(stage: &Stage, out: &Path, more: &[&str]) -> Result<Output, Error> {
    Ok(command(stage, out, more)?.output().await?)
}

/// What stands in the folder, judged as a peer would.
fn identity(out: &Path, algorithm: Algorithm) -> Result<Leaf, Error> {
    let der =
        |name: &str| -> Result<Vec<u8>, Error> { Ok(pem::parse(fs::read(out.join(name))?)?.into_contents()) };
    let bundle = Bundle::from_pem(DEFAULT_TRUST_DOMAIN, &fs::read_to_string(out.join("ca.crt"))?)?;
    let key = PrivateKey::from_pkcs8(&der("tls.key")?)?;
    let identity = Identity::new(key, der("tls.crt")?, &bundle, algorithm, SystemClock.now())?;
    Ok(identity.leaf().clone())
}

async fn once() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let out = stage.mesh.path("program");
    let ran = get(&stage, &out, &["--hours", "3"]).await?;
    assert!(ran.status.success(), "{ran:?}");
    let leaf = identity(&out, Algorithm::MlDsa65)?;
    let said = String::from_utf8(ran.stdout)?;
    assert!(said.contains(&leaf.serial) && said.contains("\"action\":\"issued\""), "{said}");
    assert_eq!(leaf.identity.to_string(), "spiffe://cluster.local/ns/test/sa/client");
    assert_eq!(leaf.not_after.duration_since(leaf.not_before)?, Duration::from_secs(3 * 60 * 60));
    assert_eq!(fs::metadata(out.join("tls.key"))?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(out.join("tls.crt"))?.permissions().mode() & 0o777, 0o644);

    // What is good is kept; another algorithm is another wish; and nothing old stays.
    let kept = get(&stage, &out, &["--renew"]).await?;
    assert!(String::from_utf8(kept.stdout)?.contains("\"action\":\"kept\""));
    assert_eq!(identity(&out, Algorithm::MlDsa65)?.serial, leaf.serial);
    assert!(get(&stage, &out, &["--renew", "--algorithm", "ml-dsa-87"]).await?.status.success());
    assert_ne!(identity(&out, Algorithm::MlDsa87)?.serial, leaf.serial);
    assert_eq!(fs::read_dir(&out)?.count(), 5, "three files, one link, and one state");
    assert_ne!(fs::metadata(out.join("tls.key"))?.size(), 0);
    stage.mesh.stop().await;
    Ok(())
}

async fn refused() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let out = stage.mesh.path("program");
    assert!(get(&stage, &out, &[]).await?.status.success());
    let before = identity(&out, Algorithm::MlDsa65)?.serial;
    let table: [(&[&str], &str); 5] = [
        (&["--hours", "999"], "validityHours is 999; ask for 1 to 24"),
        (&["--ca-namespace", "elsewhere"], "TLS with"),
        (&["--ca-file", "/nonexistent"], "ca-file: mount"),
        (&["--ca", "127.0.0.1:1"], "cannot connect to 127.0.0.1:1"),
        (&["--exec", "true"], "--watch"),
    ];
    for (flags, expected) in table {
        let mut arguments = command(&stage, &out, &[])?;
        // The last of a flag that is given twice is refused by the parser, so the first is left out.
        if flags[0].starts_with("--ca") {
            arguments = Command::new(binaries()?.join("trellis"));
            arguments.args(["identity", "get", "--out"]).arg(&out);
            let token = stage.mesh.token(&stage.client.workload)?;
            arguments.arg(format!("--token-file={}", token.display()));
            if flags[0] != "--ca" {
                arguments.arg(format!("--ca={}", stage.mesh.ca_api()));
            }
            if flags[0] != "--ca-file" {
                arguments.arg(format!("--ca-file={}", stage.mesh.bundle().display()));
            }
        }
        let ran = arguments.args(flags).output().await?;
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains(expected), "{flags:?}: {said}");
    }
    assert_eq!(identity(&out, Algorithm::MlDsa65)?.serial, before, "what was good is still there");
    stage.mesh.stop().await;
    Ok(())
}

async fn watch() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let (out, ran) = (stage.mesh.path("program"), stage.mesh.path("ran"));
    let exec = format!("cat \"$TRELLIS_IDENTITY_DIR\"/ca.crt | grep -c BEGIN >> {}", ran.display());
    let _watching: Child =
        command(&stage, &out, &["--watch", "--look", "1", "--exec", &exec])?.stdout(Stdio::null()).spawn()?;
    let first = until(&out, |leaf, anchors| (anchors == 1).then(|| leaf.serial.clone())).await?;
    stage.mesh.wish(&TrustDomainSpec::of(Issuing::own(KeyAlgorithm::MlDsa65, 2)))?;
    // Both anchors, and a certificate of the new one; at any time the files fit together.
    until(&out, |leaf, anchors| (anchors == 2 && leaf.serial != first).then_some(())).await?;
    for _ in 0..300 {
        let status = stage.mesh.trust().await?;
        if status.rotation.is_none() && status.past.len() == 1 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    until(&out, |_, anchors| (anchors == 1).then_some(())).await?;
    let ran = fs::read_to_string(ran)?;
    assert!(ran.starts_with("1\n") && ran.contains("2\n") && ran.ends_with("1\n"), "{ran}");
    stage.mesh.stop().await;
    Ok(())
}

/// Looks at the folder until what is there is as wished.
async fn until<T>(out: &Path, wished: impl Fn(&Leaf, usize) -> Option<T>) -> Result<T, Error> {
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        // One state of the folder, whatever comes meanwhile.
        let Ok(state) = fs::read_link(out.join("..data")) else { continue };
        let state: PathBuf = out.join(state);
        let Ok(bundle) = fs::read_to_string(state.join("ca.crt")) else { continue };
        let Ok(leaf) = identity(&state, Algorithm::MlDsa65) else { continue };
        if let Some(found) = wished(&leaf, bundle.matches("BEGIN CERTIFICATE").count()) {
            return Ok(found);
        }
    }
    Err(format!("{} was never as wished", out.display()).into())
}
