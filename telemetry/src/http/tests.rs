//! The limits in time, with a clock that the test moves.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut_off() {
    for head in ["", "GET /", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let (mut client, connection) = connect();
        let start = Instant::now();
        client.write_all(head.as_bytes()).await.unwrap();
        connection.await.unwrap();
        assert!(start.elapsed() <= HEAD_TIMEOUT * 2, "{head:?} held for {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let (mut client, connection) = connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let start = Instant::now();
    connection.await.unwrap();
    assert!(start.elapsed() <= HEAD_TIMEOUT * 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_is_cut_off() {
    let (mut client, connection) = connect();
    client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let start = Instant::now();
    connection.await.unwrap();
    assert!(start.elapsed() <= MAX_AGE, "{:?}", start.elapsed());
}

fn connect() -> (DuplexStream, JoinHandle<()>) {
    let routes = Routes::new()
        .get("/", || Response::text(StatusCode::OK, "here\n"))
        .get("/large", || Response::text(StatusCode::OK, vec![b'x'; 1_000_000]));
    let (client, server) = duplex(1024);
    let (stop, stopped) = watch::channel(false);
    let task = async move {
        connection(server, Arc::new(routes), stopped).await;
        drop(stop);
    };
    (client, tokio::spawn(task))
}
