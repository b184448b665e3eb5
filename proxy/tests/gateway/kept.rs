//! Which connections to an application are kept for the next request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time,
};
use trellis_api::proto::discovery::listener::Kind;

use crate::{stage::Stage, web::*};

/// More than a proxy keeps of one endpoint.
const CLIENTS: usize = 300;
/// What cannot be said twice takes no connection that has waited longer than a second.
const RESTED: Duration = Duration::from_millis(1_200);
const POST: &str = "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 0\r\n\r\n";

/// Says how many connections it was asked for, and how many requests it has; answers once it is told to.
struct Counting {
    connections: AtomicUsize,
    requests: watch::Sender<usize>,
    answers: watch::Sender<bool>,
}

async fn counting(address: SocketAddr) -> Arc<Counting> {
    let listener = TcpListener::bind(address).await.unwrap();
    let counts = Arc::new(Counting {
        connections: AtomicUsize::new(0),
        requests: watch::Sender::new(0),
        answers: watch::Sender::new(false),
    });
    let counted = counts.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.connections.fetch_add(1, SeqCst);
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                while let Ok(1..) = socket.read_buf(&mut heard).await {
                    if heard.ends_with(b"\r\n\r\n") {
                        heard.clear();
                        counted.requests.send_modify(|requests| *requests += 1);
                        let _ = counted.answers.subscribe().wait_for(|answers| *answers).await;
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    counts
}

#[tokio::test]
async fn connections_that_have_waited_for_long_make_room_for_those_of_now() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    let application = counting(at).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&[]).await;

    let mut all = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
        all.spawn(async move { say(&mut client, POST, "ok").await });
    }
    application.requests.subscribe().wait_for(|requests| *requests == CLIENTS).await.unwrap();
    application.answers.send_replace(true);
    assert!(all.join_all().await.iter().all(|answer| answer.starts_with("HTTP/1.1 200")));
    assert_eq!(application.connections.load(SeqCst), CLIENTS);

    time::sleep(RESTED).await;
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    for _ in 0..50 {
        assert!(say(&mut client, POST, "ok").await.starts_with("HTTP/1.1 200"));
    }
    let more = application.connections.load(SeqCst) - CLIENTS;
    // One; and one more for each second in which this machine did nothing for us.
    assert!(more < 10, "{more} connections for 50 requests, one after the other");
}
