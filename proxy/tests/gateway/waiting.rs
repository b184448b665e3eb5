//! Clients that keep a gateway waiting in the middle of a request, and applications that may.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use trellis_api::proto::discovery::listener::Kind;

use crate::{
    stage::{PATIENCE, Proxy, Stage},
    web::*,
};

const LARGE: usize = 64 << 20;

/// Answers `/large` with more than any window holds, `/later` with a head at once and the rest when it is
/// told to, and anything else once it has the whole request.
async fn slow_application(address: SocketAddr, later: watch::Receiver<bool>) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut later = later.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if socket.read_buf(&mut head).await? == 0 {
                        return Ok(());
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                if head.contains("/large") {
                    let say = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                    socket.write_all(say.as_bytes()).await?;
                    return socket.write_all(&vec![b'x'; LARGE]).await;
                }
                if head.contains("/later") {
                    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await?;
                    let _ = later.wait_for(|later| *later).await;
                    return socket.write_all(b"later").await;
                }
                if head.contains("content-length: 0") || head.starts_with("GET") {
                    return socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
                // The rest of the body never comes, or somebody else answers first.
                socket.read_to_end(&mut Vec::new()).await.map(drop)
            });
        }
    });
}

/// Answers calls of gRPC once it is told to, and has heard nothing more of their clients by then.
async fn calls(address: SocketAddr, later: watch::Receiver<bool>) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let later = later.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((asked, mut respond))) = connection.accept().await {
                    let mut later = later.clone();
                    tokio::spawn(async move {
                        let _ = later.wait_for(|later| *later).await;
                        respond.send_response(http::Response::new(()), true).unwrap();
                        drop(asked);
                    });
                }
            });
        }
    });
}

async fn open(later: watch::Receiver<bool>) -> (Stage, Proxy) {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    slow_application(at, later).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&["--client-stall-seconds=2"]).await;
    (stage, gateway)
}

/// A client of HTTP/2 that gives back no room by itself.
async fn http2(gateway: &Proxy) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(gateway.at(80)).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

fn request(path: &str) -> Request<()> {
    Request::get(format!("http://shop.example{path}")).body(()).unwrap()
}

fn refused(reason: &str) -> [&str; 2] {
    match reason {
        "slow_body" => ["trellis_http_refused_total", "reason=\"slow_body\""],
        _ => ["trellis_http_refused_total", "reason=\"slow_reader\""],
    }
}

#[tokio::test]
async fn a_body_that_drips_is_not_waited_for() {
    let (_later, later) = watch::channel(false);
    let (_stage, gateway) = open(later).await;
    let mut dripping = TcpStream::connect(gateway.at(80)).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 1000\r\n\r\nhello";
    dripping.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = dripping.split();
    let drips = async {
        while write.write_all(b"x").await.is_ok() {
            time::sleep(std::time::Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut said = String::new();
    let heard = async { read.read_to_string(&mut said).await };
    tokio::select! {
        _ = time::timeout(PATIENCE, heard) => {}
        () = drips => {}
    }
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("trellis-error: slow_body"), "{said}");
    assert!(said.contains("connection: close"), "{said}");
    gateway.until(&refused("slow_body"), 1.0).await;
    gateway.until(&["trellis_requests_total", "status=\"408\"", "reason=\"slow_body\""], 1.0).await;

    // On a connection with others, the one request ends.
    let mut client = http2(&gateway).await;
    let silent = Request::post("http://shop.example/").body(()).unwrap();
    let (answer, mut body) = client.send_request(silent, false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let answer = time::timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    let (answer, _) = client.send_request(request("/"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    gateway.until(&refused("slow_body"), 2.0).await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_not_kept() {
    let (_later, later) = watch::channel(false);
    let (_stage, gateway) = open(later).await;
    let mut client = http2(&gateway).await;
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let (answer, _) = client.send_request(request("/large"), true).unwrap();
        stalled.push(answer.await.unwrap().into_body());
    }
    // Nothing of them is released, so that no window opens again.
    for body in &mut stalled {
        let ended = async {
            loop {
                match body.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error.reason(),
                    None => return None,
                }
            }
        };
        let reason = time::timeout(PATIENCE, ended).await.unwrap();
        assert_eq!(reason, Some(h2::Reason::CANCEL));
    }
    gateway.until(&refused("slow_reader"), 10.0).await;
    let (answer, _) = client.send_request(request("/"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK, "the others on the connection go on");

    let mut stalled = TcpStream::connect(gateway.at(80)).await.unwrap();
    stalled.write_all(b"GET /large HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.unwrap();
    gateway.until(&refused("slow_reader"), 11.0).await;
    let mut taken = 0;
    let mut block = vec![0; 1 << 20];
    while let Ok(read @ 1..) = stalled.read(&mut block).await {
        taken += read;
    }
    assert!(taken < LARGE, "it was all kept");
}

#[tokio::test]
async fn an_application_may_be_silent_for_as_long_as_it_wants() {
    let (speak, later) = watch::channel(false);
    let (stage, gateway) = open(later.clone()).await;
    let at = stage.application(2, 8080);
    calls(at, later).await;
    stage.control.backend(stage.plain("calls", at));
    let routes = vec![route(&[], "/", "one"), route(&[], "/calls", "calls")];
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), routes)]);
    let led = async {
        let asked = || curl(gateway.at(80), "http://shop.example/calls", &["--max-time", "1"]);
        while asked().await.body.contains("ok") {}
    };
    time::timeout(PATIENCE, led).await.unwrap();
    let mut waiting = http2(&gateway).await;
    let (answer, _) = waiting.send_request(request("/later"), true).unwrap();
    let mut waits = answer.await.unwrap().into_body();
    let mut plain = TcpStream::connect(gateway.at(80)).await.unwrap();
    let said = say(&mut plain, "GET /later HTTP/1.1\r\nhost: shop.example\r\n\r\n", "\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let call = Request::post("http://shop.example/calls").header("content-type", "application/grpc");
    let (call, mut said) = waiting.send_request(call.body(()).unwrap(), false).unwrap();
    said.send_data(Bytes::from_static(b"hello"), false).unwrap();
    // Meanwhile three others, one after the other, run out of time.
    for number in 1..=3 {
        let mut stalled = TcpStream::connect(gateway.at(80)).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 9\r\n\r\n";
        assert!(say(&mut stalled, head, "\r\n\r\n").await.starts_with("HTTP/1.1 408"));
        gateway.until(&refused("slow_body"), f64::from(number)).await;
    }
    speak.send(true).unwrap();
    assert_eq!(&waits.data().await.unwrap().unwrap()[..], b"later");
    assert_eq!(say(&mut plain, "", "later").await, "later");
    assert_eq!(call.await.unwrap().status(), StatusCode::OK);
}

/// Of TLS: the greeting comes, byte by byte, and never ends.
#[tokio::test]
async fn a_greeting_that_drips_is_cut_off() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let issued = Authority::new(&rcgen::PKCS_ECDSA_P256_SHA256)
        .issue(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.example"]);
    let web = http(listener("web", 443, Kind::Https, ""), vec![route(&[], "/", "one")]);
    stage.control.gateway(vec![tls(web, vec![issued.wire("edge/web")])]);
    let gateway = stage.gateway(&[]).await;
    let drips = (0..20).map(|_| async {
        let mut hostile = TcpStream::connect(gateway.at(443)).await.unwrap();
        // A record of 1,500 bytes with a ClientHello in it.
        hostile.write_all(&[22, 3, 1, 5, 220, 1, 0, 5, 216, 3, 3]).await.unwrap();
        while hostile.write_all(&[7]).await.is_ok() {
            time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    let all = time::timeout(PATIENCE, futures::future::join_all(drips));
    let beside = async {
        let got = curl(gateway.at(443), "https://shop.example/", &["-k"]).await;
        assert_eq!(got.status, 200, "{got:?}");
    };
    let (cut, ()) = tokio::join!(all, beside);
    assert!(cut.is_ok(), "they drip on");
    gateway.until(&["trellis_handshakes_total", "reason=\"timed_out\""], 20.0).await;
}
