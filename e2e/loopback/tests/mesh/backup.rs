//! A trust domain that was lost comes back, and its members notice nothing.

use std::{ffi::OsStr, fs, path::Path, process::Output, time::Duration};

use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use trellis_local::Running;
use trellis_loopback::stage::{Error, Stage, trellis};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("a_lost_trust_domain_comes_back_and_members_keep_their_identities", lost)]
}

async fn lost() -> Result<(), Error> {
    let mut stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let (key, public, stranger) = (at("key"), at("key.pub"), at("stranger"));
    let (backup, cut, root) = (at("backup"), at("cut"), stage.mesh.root());
    for key in [&key, &stranger] {
        succeeds(&run(&["backup-key", "--out"], &[key]).await?);
    }
    // The only key to what was sealed so far is not written over.
    assert!(said(&run(&["backup-key", "--out"], &[&key]).await?).contains("not there yet"));
    let made =
        run(&["backup", "--to"], &[&public, "--out".as_ref(), &backup, "--root-folder".as_ref(), &root])
            .await?;
    succeeds(&made);
    let anchor = anchor(&stage).await?;
    assert!(said(&made).contains(&anchor), "{}", said(&made));
    let sealed = fs::read(&backup)?;
    let kept = fs::read(root.join("trust-domain.json"))?;
    assert!(!sealed.windows(40).any(|part| kept.windows(40).any(|secret| secret == part)));
    fs::write(&cut, &sealed[..sealed.len() - 1])?;

    let serials = [serial(&stage.client).await?, serial(&stage.server).await?];
    let mut open = pair(&stage, &application).await?;
    let restored = stage
        .mesh
        .without_ca(async |mesh| {
            let root = mesh.root();
            fs::remove_dir_all(&root)?;
            let restore = async |file: &Path, key: &Path, more: &[&str]| {
                let fixed: [&Path; 5] = [file, "--key".as_ref(), key, "--root-folder".as_ref(), &root];
                let more = more.iter().map(|one| Path::new(*one));
                run(&["restore"], &fixed.into_iter().chain(more).collect::<Vec<_>>()).await
            };
            // Whatever is wrong, nothing is touched.
            let pinned = ["--anchor", anchor.as_str()];
            for (file, key, more, reason) in [
                (&backup, &stranger, &pinned[..], "does not open this file"),
                (&cut, &key, &pinned[..], "cut or changed"),
                (&key, &key, &pinned[..], "no sealed file"),
                (&backup, &key, &[][..], "nothing was done"),
                (&backup, &key, &["--anchor", "00000000000000000"][..], "is none of these"),
            ] {
                let refused = restore(file, key, more).await?;
                assert!(!refused.status.success());
                assert!(said(&refused).contains(reason), "{}", said(&refused));
                assert!(!root.exists());
            }
            let restored = restore(&backup, &key, &pinned).await?;
            succeeds(&restored);
            // Once more changes nothing, and another domain is not overwritten unasked.
            let again = restore(&backup, &key, &pinned).await?;
            succeeds(&again);
            assert!(said(&again).contains("nothing was done"), "{}", said(&again));
            let text = fs::read_to_string(root.join("trust-domain.json"))?;
            let other = text.replace(&anchor, &"0".repeat(64));
            fs::write(root.join("trust-domain.json"), &other)?;
            let refused = restore(&backup, &key, &pinned).await?;
            assert!(!refused.status.success() && said(&refused).contains("--replace"), "{}", said(&refused));
            assert_eq!(fs::read_to_string(root.join("trust-domain.json"))?, other);
            succeeds(&restore(&backup, &key, &["--anchor", &anchor, "--replace"]).await?);
            Result::<(), Error>::Ok(())
        })
        .await?;
    restored?;

    // What was open still is, nobody had to take a new certificate, and everybody can.
    talks(&mut open).await?;
    assert_eq!([serial(&stage.client).await?, serial(&stage.server).await?], serials);
    assert_eq!(self::anchor(&stage).await?, anchor);
    for (running, before) in [(&stage.client, &serials[0]), (&stage.server, &serials[1])] {
        running.rotate().await?;
        time::timeout(Duration::from_secs(30), async {
            while serial(running).await? == *before {
                time::sleep(Duration::from_millis(20)).await;
            }
            Result::<(), Error>::Ok(())
        })
        .await??;
    }
    talks(&mut pair(&stage, &application).await?).await
}

async fn run(words: &[&str], more: &[&Path]) -> Result<Output, Error> {
    let words = ["trust"].iter().chain(words).map(|word| OsStr::new(*word));
    trellis(&words.chain(more.iter().map(|path| path.as_os_str())).collect::<Vec<_>>()).await
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

/// The one anchor, once the CA shows it.
async fn anchor(stage: &Stage) -> Result<String, Error> {
    let shown = async {
        loop {
            if let [anchor] = stage.mesh.trust().await?.anchors.as_slice() {
                return Result::<_, Error>::Ok(anchor.fingerprint.clone());
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(Duration::from_secs(30), shown).await?
}

async fn serial(running: &Running) -> Result<Option<String>, Error> {
    Ok(running.evidence().await?.leaf.map(|leaf| leaf.serial))
}

async fn pair(stage: &Stage, application: &TcpListener) -> Result<(TcpStream, TcpStream), Error> {
    let (client, server) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    Ok((client?, server?.0))
}

async fn talks((client, server): &mut (TcpStream, TcpStream)) -> Result<(), Error> {
    client.write_all(b"ping").await?;
    server.read_exact(&mut [0; 4]).await?;
    Ok(())
}
