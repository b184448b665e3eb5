//! The limits in time, with a clock that the test moves.

use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

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

#[tokio::test(start_paused = true)]
async fn what_comes_bit_by_bit_comes_for_as_long_as_it_is_listened_to() {
    let (bits, coming) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let coming = parking_lot::Mutex::new(Some(ReceiverStream::new(coming)));
    let routes = Routes::new().follow("/tap", "text/plain", move |query| {
        assert_eq!(query.get("to"), Some("a/b"));
        let coming = coming.lock().take();
        coming
            .map(|coming| StreamBody::new(coming).boxed_unsync())
            .ok_or_else(|| Response::text(StatusCode::TOO_MANY_REQUESTS, "full\n"))
    });
    let (mut client, connection) = connect_to(routes);
    client.write_all(b"GET /tap?to=a%2Fb HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 15];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    sleep(MAX_AGE * 3).await;
    bits.send(Ok(Frame::data("news".into()))).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"news\r\n") {
        client.read_buf(&mut said).await.unwrap();
    }
    drop(client);
    connection.await.unwrap();
    assert!(bits.is_closed(), "nobody listens any more");
}

fn connect() -> (DuplexStream, JoinHandle<()>) {
    let routes = Routes::new()
        .get("/", || Response::text(StatusCode::OK, "here\n"))
        .get("/large", || Response::text(StatusCode::OK, vec![b'x'; 1_000_000]));
    connect_to(routes)
}

fn connect_to(routes: Routes) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = duplex(1024);
    let (stop, stopped) = watch::channel(false);
    let task = async move {
        connection(server, Arc::new(routes), stopped).await;
        drop(stop);
    };
    (client, tokio::spawn(task))
}
