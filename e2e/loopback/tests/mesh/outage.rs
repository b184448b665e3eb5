//! The whole control plane is away: whoever is known goes on being served, whoever is not is refused, and
//! nobody has to be started again when it comes back.

use std::{net::SocketAddr, time::Duration};

use libtest_mimic::Trial;
use tokio::{io::AsyncReadExt, net::TcpStream, time};
use trellis_api::names::READY_PORT;
use trellis_local::{
    Role, Running, Service,
    get::{get, post},
};
use trellis_loopback::{
    stage::{Error, NAMESPACE, PORT, workload},
    wire::Wire,
};

use crate::{
    restarts::{GET, Rolling, whole},
    trial,
};

pub fn trials() -> Vec<Trial> {
    vec![trial("without_a_control_plane_what_is_known_goes_on_and_what_is_new_waits", away)]
}

async fn away() -> Result<(), Error> {
    let mut rolling = Rolling::open().await?;
    let replicas =
        [rolling.add(11, "one").await?, rolling.add(12, "two").await?, rolling.add(13, "three").await?];
    let (entry, network) = (rolling.entry(), rolling.stage.mesh.network());
    // Another client knows all of them by another Service, and has asked one of them once.
    let quiet = Service { name: "quiet".into(), address: network.address(Role::Service, 3), port: PORT };
    rolling.stage.mesh.apply("quiet", vec![quiet.alone(NAMESPACE)])?;
    for replica in &replicas {
        rolling.stage.mesh.behind(&quiet, &replica.workload)?;
    }
    let seldom = SocketAddr::from((quiet.address, PORT));
    let unknown = SocketAddr::from((network.address(Role::Service, 9), PORT));
    let other = workload(&rolling.stage.mesh, 4, "other", vec![]);
    let other = rolling.stage.mesh.join(&other, &[seldom, unknown], &[], &[]).await?;
    let mut load = rolling.load().await?;
    for replica in &replicas {
        rolling.serves(replica).await?;
    }
    ask(seldom).await?;
    let before = handshakes(&other).await?;
    let (caller, service) = (rolling.caller.clone(), rolling.service.clone());
    let fourth = workload(&rolling.stage.mesh, 14, "four", vec![]);
    let going = rolling
        .stage
        .mesh
        .without_control_plane(async |mesh| {
            // What is known: requests, over kept connections and over new ones.
            load.goes_on(500).await?;
            // And over new tunnels, to endpoints that were never talked to.
            let all = async {
                while handshakes(&other).await? < before + 2 {
                    ask(seldom).await?;
                }
                Result::<(), Error>::Ok(())
            };
            time::timeout(Duration::from_secs(30), all).await??;
            // What is not known is refused in time, and reaches nobody in plaintext.
            let mut stranger = TcpStream::connect(unknown).await?;
            let read = time::timeout(Duration::from_secs(15), stranger.read(&mut [0])).await?;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
            // Nobody is told of what is new.
            mesh.announce(&fourth)?;
            mesh.behind(&service, &fourth)?;
            // To ask for a certificate in vain takes none away.
            post(caller.admin, "/identity/rotate").await?;
            load.goes_on(500).await?;
            for proxy in [&caller, &other] {
                assert_eq!(ready(proxy).await?, 200, "{}", proxy.workload.name);
            }
            Result::<(), Error>::Ok(())
        })
        .await?;
    going?;
    // It is back, and nothing was restarted.
    rolling.stage.mesh.apart(&service, &fourth)?;
    let fifth = rolling.add(15, "five").await?;
    rolling.serves(&fifth).await?;
    load.goes_on(250).await?;
    whole(load).await?;
    // The certificate that was asked for in vain comes now.
    let serial = |running: &Running| {
        let running = running.clone();
        async move { Result::<_, Error>::Ok(running.evidence().await?.leaf.map(|leaf| leaf.serial)) }
    };
    let old = serial(&caller).await?;
    caller.rotate().await?;
    let renewed = async {
        while serial(&caller).await? == old {
            time::sleep(Duration::from_millis(50)).await;
        }
        Result::<(), Error>::Ok(())
    };
    time::timeout(Duration::from_secs(30), renewed).await??;
    ask(entry).await?;
    Ok(())
}

/// One request on a connection of its own.
async fn ask(to: SocketAddr) -> Result<(), Error> {
    let (head, _) = Wire::new(TcpStream::connect(to).await?).ask(GET).await?;
    assert_eq!(head.status(), 200, "{head:?}");
    Ok(())
}

async fn ready(proxy: &Running) -> Result<u16, Error> {
    let (status, _) = get(SocketAddr::new(proxy.admin.ip(), READY_PORT), "/ready").await?;
    Ok(status.as_u16())
}

/// Handshakes that the proxy began and that ended well.
async fn handshakes(proxy: &Running) -> Result<u64, Error> {
    let (_, body) = get(proxy.metrics, "/metrics").await?;
    let text = String::from_utf8_lossy(&body);
    let ok = |line: &&str| {
        line.starts_with("trellis_handshakes_total{")
            && line.contains("direction=\"outbound\"")
            && line.contains("result=\"ok\"")
    };
    let counts = text.lines().filter(ok).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}
