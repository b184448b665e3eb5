//! Machines whose clocks differ: real processes, each told another time of day.

use std::{env, fs, os::unix::fs::symlink, path::PathBuf};

use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use trellis_api::evidence::Class;
use trellis_local::Environment;
use trellis_loopback::stage::{Error, Stage, binaries};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_ca_ten_minutes_ahead_or_behind_serves_the_mesh", ca_apart),
        trial("two_proxies_ten_minutes_apart_reach_one_another", proxies_apart),
        trial("a_clock_two_hours_off_is_refused_with_the_difference", too_far),
    ]
}

/// Clocks of processes, in minutes from ours. Only the time of day is shifted: timers go as they do.
fn clocks(shifts: &[(&str, i32)]) -> Result<Environment, Error> {
    let library = library()?.display().to_string();
    let shifted = shifts.iter().map(|(process, minutes)| {
        let environment = [
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME", format!("{:+}", minutes * 60)),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        ((*process).to_owned(), environment.map(|(name, value)| (name.to_owned(), value)).to_vec())
    });
    Ok(shifted.collect())
}

fn library() -> Result<PathBuf, Error> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|folder| Some(folder.ok()?.path()));
    // The one for programs with threads.
    let mut libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let found = libraries.find(|library| library.is_file());
    Ok(found.ok_or("libfaketimeMT.so.1 is not there; apt-get install faketime, or ci/test setup")?)
}

/// The programs as they are built for release, but for the proxy: that one has its C library inside, where no
/// other clock gets to. It is the one which the workspace's tests are built with.
struct Programs(TempDir);

impl Programs {
    fn new() -> Result<Self, Error> {
        let (built, folder) = (binaries()?, tempfile::tempdir()?);
        let test = env::current_exe()?;
        let tested = test.ancestors().nth(2).map(|folder| folder.join("trellis-proxy"));
        let Some(proxy) = tested.filter(|proxy| proxy.is_file()) else {
            return Err(
                format!("no trellis-proxy beside {}; run `cargo test --workspace`", test.display()).into()
            );
        };
        let programs =
            [built.join("trellis-ca"), built.join("trellis-discovery"), built.join("trellis"), proxy];
        for program in programs {
            let name = program.file_name().unwrap_or_default();
            symlink(&program, folder.path().join(name))?;
        }
        Ok(Self(folder))
    }

    async fn play(&self, shifts: &[(&str, i32)]) -> Result<Stage, Error> {
        Stage::open_with(self.0.path().to_owned(), clocks(shifts)?, &[]).await
    }
}

/// A question and its answer through both proxies, over a tunnel that is post-quantum on both sides.
async fn passes(shifts: &[(&str, i32)]) -> Result<(), Error> {
    let programs = Programs::new()?;
    let stage = programs.play(shifts).await.map_err(|error| format!("{shifts:?}: {error}"))?;
    let application = TcpListener::bind(stage.application()).await?;
    let (client, server) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    let (mut client, (mut server, _)) = (client?, server?);
    let talk = async {
        client.write_all(b"question").await?;
        let mut heard = [0; 8];
        server.read_exact(&mut heard).await?;
        server.write_all(b"answer").await?;
        let mut heard = [0; 6];
        client.read_exact(&mut heard).await?;
        Result::<_, Error>::Ok(heard)
    };
    let heard = talk.await.map_err(|error| format!("{shifts:?}: {error}; {}", stage.mesh.logs()))?;
    assert_eq!(&heard, b"answer", "{shifts:?}");
    let evidence = stage.server.evidence().await?;
    let [row] = evidence.inbound.as_slice() else {
        return Err(format!("{shifts:?}: {:?}", evidence.inbound).into());
    };
    assert_eq!((row.count, row.class), (1, Class::Pq), "{shifts:?}");
    assert_eq!(row.source, "spiffe://cluster.local/ns/test/sa/client");

    // The shift is real: whoever is that far from the CA says so.
    let warned = stage.mesh.logs().contains("the mesh works with 10 minutes");
    assert!(warned || shifts.len() > 1, "{shifts:?}: {}", stage.mesh.logs());
    stage.mesh.stop().await;
    Ok(())
}

async fn ca_apart() -> Result<(), Error> {
    passes(&[("ca", 10)]).await?;
    passes(&[("ca", -10)]).await
}

async fn proxies_apart() -> Result<(), Error> {
    passes(&[("client", 10)]).await?;
    passes(&[("client", -10)]).await?;
    passes(&[("client", -5), ("server", 5)]).await
}

/// Nothing starts that would only be refused by all others, and what it says names the difference.
async fn too_far() -> Result<(), Error> {
    let programs = Programs::new()?;
    for (shifts, said) in [
        // Discovery is the first to ask this CA, whose own certificate lies in its future.
        ([("ca", 120)], "behind that of the CA which issued it; set both by NTP"),
        ([("client", -120)], "behind that of the CA which issued it; set both by NTP"),
        // This CA sees a token of the future.
        ([("ca", -120)], "this clock is at least 2 h 0 min behind that of who made it; set both by NTP"),
    ] {
        let Err(error) = programs.play(&shifts).await else {
            return Err(format!("{shifts:?} started").into());
        };
        let error = error.to_string();
        assert!(error.contains(said), "{shifts:?}: {error}");
    }
    // Who is ahead can go on, until others see what it is given; it is told at once.
    let stage = programs.play(&[("client", 120)]).await?;
    let logs = stage.mesh.logs();
    assert!(logs.contains("this clock is 2 h 0 min ahead of the CA's"), "{logs}");
    stage.mesh.stop().await;
    Ok(())
}
