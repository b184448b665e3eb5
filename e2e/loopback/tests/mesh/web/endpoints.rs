//! What clients see of applications that fail, and who answers then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use libtest_mimic::Trial;
use tokio::{net::TcpListener, time};
use trellis_local::{Role, Service};
use trellis_loopback::{
    stage::{Error, PORT, Stage, workload},
    wire::Wire,
};

use super::{application, client, open};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("an_application_that_is_down_is_named_in_the_answer", down),
        trial("half_an_answer_is_never_taken_for_a_whole_one", broken),
        trial("an_endpoint_that_keeps_failing_is_left_alone_and_tried_again", ejected),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

async fn down() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let mut client = client(&stage).await?;
    for request in [GET, "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhi"] {
        let (head, body) = client.ask(request).await?;
        assert_eq!((head.status(), head.get("trellis-error")), (503, Some("peer_unavailable")), "{head:?}");
        assert!(body.starts_with(b"trellis: "), "{body:?}");
    }
    // It comes up, and the same connection is served.
    let listener = TcpListener::bind(stage.application()).await?;
    application(listener, super::echo_paths);
    assert_eq!(client.ask(GET).await?.0.status(), 200);
    Ok(())
}

async fn broken() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        let head = wire.answer().await?;
        let framing = match head.path() {
            "/length" => "content-length: 1000\r\n\r\nsome",
            "/chunks" => "transfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
            _ => "\r\nsome",
        };
        wire.say(format!("HTTP/1.1 200 OK\r\n{framing}")).await?;
        // The reset comes after the client has seen the beginning.
        wire.bytes(0).await?;
        time::sleep(Duration::from_millis(50)).await;
        wire.stream.set_zero_linger()?;
        Ok(())
    });
    for path in ["/length", "/chunks", "/until-the-end"] {
        let mut client = client(&stage).await?;
        client.say(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await?;
        let head = client.answer().await?;
        assert_eq!(head.status(), 200);
        let body = client.body(&head).await;
        assert!(body.is_err(), "{path} looks whole: {head:?} {body:?}");
    }
    Ok(())
}

/// Of two endpoints one answers 500 for as long as `ill` is set.
async fn ejected() -> Result<(), Error> {
    let mut stage = Stage::open(&[]).await?;
    let network = stage.mesh.network();
    let other = workload(&stage.mesh, 3, "other", vec![]);
    stage.mesh.join(&other, &[], &[PORT], &[]).await?;
    let service = Service { name: "server".into(), address: network.address(Role::Service, 1), port: PORT };
    stage.mesh.behind(&service, &other)?;
    let ill = Arc::new(AtomicBool::new(false));
    let served = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    for (number, address) in [stage.application(), (other.application, PORT).into()].into_iter().enumerate() {
        let (ill, served) = (ill.clone(), served[number].clone());
        application(TcpListener::bind(address).await?, move |mut wire: Wire, _| {
            let (ill, served) = (ill.clone(), served.clone());
            async move {
                while wire.head().await?.is_some() {
                    served.fetch_add(1, Relaxed);
                    let status = if number == 1 && ill.load(Relaxed) { "500 No" } else { "200 OK" };
                    wire.say(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await?;
                }
                Ok(())
            }
        });
    }
    let mut client = client(&stage).await?;
    let (wire, count) = (&mut client, |number: usize| served[number].load(Relaxed));
    let both = async {
        while count(0) == 0 || count(1) == 0 {
            assert_eq!(wire.ask(GET).await?.0.status(), 200);
        }
        Result::<(), Error>::Ok(())
    };
    time::timeout(Duration::from_secs(20), both).await??;
    ill.store(true, Relaxed);
    let (mut failed, before) = (0, count(1));
    for _ in 0..400 {
        failed += usize::from(client.ask(GET).await?.0.status() == 500);
    }
    assert_eq!((failed, count(1) - before), (5, 5), "after five failures in a row it is left alone");
    ill.store(false, Relaxed);
    let (again, healed) = (count(1), async {
        while count(1) < before + 15 {
            assert_eq!(client.ask(GET).await?.0.status(), 200);
            time::sleep(Duration::from_millis(5)).await;
        }
        Result::<(), Error>::Ok(())
    });
    time::timeout(Duration::from_secs(60), healed).await??;
    assert!(count(1) > again);
    Ok(())
}
