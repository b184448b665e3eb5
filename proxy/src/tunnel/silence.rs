//! Tests of what is silent: streams may be for as long as they want, and dead peers may not.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use h2::{client, server};
use http::Request;
use tokio::{
    sync::{oneshot, watch},
    time,
};

use super::{PING_EVERY, PING_TIMEOUT, State, silent, unused};
use crate::alarm::Alarms;

const HOUR: Duration = Duration::from_secs(3_600);

/// A peer that answers one stream, speaks on it when it is told to, and moves for as long as `alive`.
async fn peer(io: tokio::io::DuplexStream, speak: oneshot::Receiver<()>, alive: watch::Receiver<bool>) {
    let mut connection = server::handshake(io).await.unwrap();
    let (_asked, mut respond) = connection.accept().await.unwrap().unwrap();
    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
    tokio::spawn(async move {
        speak.await.unwrap();
        send.send_data(Bytes::from_static(b"later"), false).unwrap();
        // It stays open.
        std::future::pending::<()>().await;
    });
    let mut dead = alive.clone();
    tokio::select! {
        _ = connection.accept() => {}
        _ = dead.wait_for(|alive| !alive) => {}
    }
    // Its node has died: nothing is closed, and nothing is answered.
    std::future::pending::<()>().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_be_silent_for_hours_and_a_dead_peer_may_not() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (speak, spoken) = oneshot::channel();
    let (alive, lives) = watch::channel(true);
    tokio::spawn(peer(theirs, spoken, lives));
    let (send, mut connection) = client::handshake(ours).await.unwrap();
    let ping = connection.ping_pong();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let (answer, _stream) =
        send.send_request(Request::connect("10.0.0.1:80").body(()).unwrap(), false).unwrap();
    let mut stream = answer.await.unwrap().into_body();
    let state = State::default();
    state.streams.store(1, Relaxed);
    let alarms = Alarms::here();
    let (silent, unused) =
        (silent(&alarms, &state, ping), unused(&alarms, &state.streams, &state.changed, HOUR / 12));
    tokio::pin!(silent, unused);
    tokio::select! {
        () = &mut silent => panic!("the peer answered every ping"),
        () = &mut unused => panic!("a stream is open"),
        () = time::sleep(6 * HOUR) => {}
    }
    speak.send(()).unwrap();
    assert_eq!(&stream.data().await.unwrap().unwrap()[..], b"later");
    // Pings went on all the while: that it does not answer any more is noticed.
    alive.send_replace(false);
    let began = time::Instant::now();
    silent.await;
    assert!(began.elapsed() <= PING_EVERY + PING_TIMEOUT, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_idle_only_once_its_last_stream_has_gone() {
    let state = State::default();
    let idle = HOUR / 12;
    let alarms = Alarms::here();
    let unused = unused(&alarms, &state.streams, &state.changed, idle);
    tokio::pin!(unused);
    for _ in 0..3 {
        state.streams.store(1, Relaxed);
        state.changed.notify_one();
        assert!(time::timeout(5 * HOUR, &mut unused).await.is_err(), "a stream is open");
        state.streams.store(0, Relaxed);
        state.changed.notify_one();
        assert!(time::timeout(idle / 2, &mut unused).await.is_err(), "another may come");
    }
    let began = time::Instant::now();
    unused.await;
    assert_eq!(began.elapsed(), idle / 2);
}
