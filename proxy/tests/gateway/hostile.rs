//! What anybody may send to a gateway, and what a gateway may show. Beside the world's worst, others are served,
//! and memory comes back.

use std::net::SocketAddr;

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use trellis_api::{
    names::{ADMIN_PORT, METRICS_PORT, READY_PORT},
    proto::discovery::listener::Kind,
};
use trellis_local::get::get;
use trellis_loopback::wire::frame;

use crate::{
    stage::{PATIENCE, Proxy, Stage},
    web::*,
};

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
/// END_HEADERS and END_STREAM.
const WHOLE: u8 = 5;
const OPEN: u8 = 4;

/// What a gateway's memory is in KiB.
fn memory(gateway: &Proxy) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn serving() -> (Stage, Proxy) {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&[]).await;
    // What many clients at once need is there before anything is measured.
    let many = (0..250).map(|_| async {
        let mut one = TcpStream::connect(gateway.at(80)).await.unwrap();
        ask(&mut one, "shop.example", "/").await
    });
    assert!(futures::future::join_all(many).await.iter().all(|said| said.contains("application: one")));
    (stage, gateway)
}

#[tokio::test]
async fn floods_of_http2_end_their_own_connection_and_nothing_else() {
    let (_stage, gateway) = serving().await;
    let before = memory(&gateway);
    let mut ask = vec![0x82, 0x86, 0x84, 0x41, 12];
    ask.extend(b"shop.example");
    let streams = |count: u32| (0..count).map(|number| 2 * number + 1);
    let each = |count, flags, more: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        streams(count)
            .flat_map(|stream| [frame(HEADERS, flags, stream, &ask), more(stream)].concat())
            .collect()
    };
    // One header of 4000 bytes is kept, and named ten thousand times.
    let bomb = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4_000], &[0xbe; 10_000]].concat();
    // And one cookie in as many crumbs: `cookie: a=b`, by index.
    let crumb = [&[0x60, 3][..], b"a=b"].concat();
    let crumbs = [&crumb[..], &[0xbe; 10_000]].concat();
    let unpacks = |block: &[u8]| -> Vec<u8> {
        streams(50).flat_map(|stream| frame(HEADERS, WHOLE, stream, &[&ask[..], block].concat())).collect()
    };
    let floods = [
        ("rapid resets", each(20_000, WHOLE, &|stream| frame(RESET, 0, stream, &8u32.to_be_bytes()))),
        ("resets that we are made to send", each(5_000, OPEN, &|stream| frame(WINDOW, 0, stream, &[0; 4]))),
        (
            "continuations without end",
            [frame(HEADERS, 0, 1, &ask), frame(CONTINUATION, 0, 1, &[]).repeat(20_000)].concat(),
        ),
        ("headers that unpack", unpacks(&bomb)),
        ("crumbs of a cookie", unpacks(&crumbs)),
    ];
    for (name, bytes) in floods {
        let mut hostile = TcpStream::connect(gateway.at(80)).await.unwrap();
        let (mut read, mut write) = hostile.split();
        let writing = async {
            let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), bytes].concat();
            let _ = write.write_all(&begin).await;
            std::future::pending::<()>().await;
        };
        let mut heard = vec![0; 64 * 1024];
        let ended = async { while matches!(read.read(&mut heard).await, Ok(1..)) {} };
        tokio::select! {
            ended = time::timeout(PATIENCE, ended) => assert!(ended.is_ok(), "{name} goes on"),
            () = writing => {}
        }
        let mut good = TcpStream::connect(gateway.at(80)).await.unwrap();
        assert!(crate::web::ask(&mut good, "shop.example", "/").await.contains("application: one"), "{name}");
        let within = async {
            while memory(&gateway) > before + before / 5 {
                time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let within = time::timeout(PATIENCE, within).await;
        assert!(within.is_ok(), "after {name}: {} KiB, and {before} KiB before", memory(&gateway));
    }
    gateway.until(&["trellis_http_refused_total"], 5.0).await;
}

/// Keys, and what clients prove themselves with, are in nothing that a gateway shows, to its own pod or to anybody, nor in what it logs.
#[tokio::test]
async fn nothing_that_is_shown_holds_a_secret() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    let authority = Authority::new(&P256);
    let issued = authority.issue(&P256, &["shop.example"]);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let routes = || vec![route(&[], "/", "one")];
    // The key of one is not that of its certificate, so that it is named.
    let mut broken = issued.wire("edge/broken");
    broken.key_pem = authority.issue(&P256, &["other.example"]).key.into_bytes();
    let strange = String::from_utf8(broken.key_pem.clone()).unwrap();
    stage.control.gateway(vec![
        http(listener("web", 80, Kind::Http, ""), routes()),
        tls(http(listener("secure", 443, Kind::Https, ""), routes()), vec![issued.wire("edge/web"), broken]),
    ]);
    let gateway = stage.gateway(&[]).await;
    let provider = trellis_pki::provider::public(trellis_pki::public::KeyExchange::Prefer);
    let mut client = secure(gateway.at(443), "shop.example", &authority, provider).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: shop.example\r\nauthorization: Bearer of-great-value\r\n\r\n";
    assert!(say(&mut client, request, "body: \n").await.contains("application: one"));
    let mut shown = gateway.log();
    for (port, paths) in [
        (ADMIN_PORT, &["/routes", "/destinations", "/"][..]),
        (METRICS_PORT, &["/metrics", "/evidence", "/routes", "/destinations"]),
        (READY_PORT, &["/ready", "/live"]),
    ] {
        for path in paths {
            let (status, body) = get(SocketAddr::new(gateway.address, port), path).await.unwrap();
            // What is for the pod alone is not shown to whoever may scrape it.
            let found = status == 200;
            let private = *path == "/routes" || *path == "/destinations";
            assert_eq!(found, *path != "/" && (port == ADMIN_PORT) == private, "{path} at {port}");
            shown += &String::from_utf8_lossy(&body);
        }
    }
    assert!(shown.contains("edge/broken") && shown.contains("shop/one"), "{shown}");
    let lines = [&issued.key, &strange].into_iter().flat_map(|key| key.lines());
    for secret in lines.chain(["of-great-value"]) {
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
}
