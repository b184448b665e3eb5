//! Peers that break HTTP/2, or keep to its letter and mean harm: an application towards its own proxy, and a
//! member of the mesh towards somebody else's, through the tunnel.

use std::time::Duration;

use libtest_mimic::Trial;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time,
};
use trellis_loopback::{
    hbone::{Hbone, handshake},
    stage::{Error, Stage},
    wire::frame,
};
use trellis_pki::policy::Policy;

use super::{
    application, client, echo_paths,
    hostile::{refused, unharmed, warm},
    open, status,
};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("floods_of_an_application_end_its_own_connection_and_nothing_else", from_client),
        trial("floods_of_a_peer_end_its_own_tunnel_and_nothing_else", from_peer),
        trial("requests_of_http2_that_would_be_two_are_refused", downgrade),
    ]
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const BEYOND: &str = "data beyond the window";

/// How a flood is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Met {
    /// The connection ends.
    Ended,
    /// Each is answered, or nothing has to be.
    Borne,
}

struct Flood {
    name: &'static str,
    bytes: Vec<u8>,
    met: Met,
}

/// `ask` is the block of a request's headers.
fn floods(ask: &[u8]) -> Vec<Flood> {
    let streams = |count: u32| (0..count).map(|number| 2 * number + 1);
    let headers = |flags, stream| frame(HEADERS, flags, stream, ask);
    let cancel = 8u32.to_be_bytes();
    let rapid: Vec<u8> = streams(20_000)
        .flat_map(|stream| {
            [headers(END_HEADERS | END_STREAM, stream), frame(RESET, 0, stream, &cancel)].concat()
        })
        .collect();
    let made_by_us: Vec<u8> = streams(5_000)
        .flat_map(|stream| [headers(END_HEADERS, stream), frame(WINDOW, 0, stream, &[0; 4])].concat())
        .collect();
    let of = |first: Vec<u8>, repeated: Vec<u8>, times: usize| [first, repeated.repeat(times)].concat();
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    bomb.extend([b'v'; 4_000]);
    bomb.extend([0xbe; 10_000]);
    let bombs: Vec<u8> = streams(50)
        .flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[ask, &bomb[..]].concat()))
        .collect();
    let data = frame(DATA, 0, 1, &[0; 16_384]);
    vec![
        Flood { name: "rapid resets", bytes: rapid, met: Met::Ended },
        Flood { name: "resets that we are made to send", bytes: made_by_us, met: Met::Ended },
        Flood {
            name: "empty continuations",
            bytes: of(headers(0, 1), frame(CONTINUATION, 0, 1, &[]), 20_000),
            met: Met::Ended,
        },
        Flood {
            name: "continuations of one byte",
            bytes: of(headers(0, 1), frame(CONTINUATION, 0, 1, &[0x82]), 20_000),
            met: Met::Ended,
        },
        Flood {
            name: "empty data",
            bytes: of(headers(END_HEADERS, 1), frame(DATA, 0, 1, &[]), 100_000),
            met: Met::Ended,
        },
        Flood { name: "settings", bytes: frame(SETTINGS, 0, 0, &[]).repeat(50_000), met: Met::Borne },
        Flood { name: "pings", bytes: frame(PING, 0, 0, &[7; 8]).repeat(50_000), met: Met::Borne },
        Flood { name: "headers that unpack", bytes: bombs, met: Met::Ended },
        Flood { name: BEYOND, bytes: of(headers(END_HEADERS, 1), data, 1_000), met: Met::Ended },
        Flood { name: "data on an idle stream", bytes: frame(DATA, 0, 99, b"x"), met: Met::Ended },
        Flood { name: "an answer's trailers first", bytes: frame(CONTINUATION, 4, 1, ask), met: Met::Ended },
    ]
}

/// Sends all of it while reading whatever comes. Says whether the connection was ended.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(stream: S, bytes: &[u8]) -> Result<Met, Error> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut heard = vec![0; 64 * 1024];
    let writing = async {
        let written = write.write_all(bytes).await;
        let flushed = write.flush().await;
        if written.is_ok() && flushed.is_ok() {
            // Long enough for whatever is said about it.
            time::sleep(Duration::from_secs(2)).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let reading = async { while matches!(read.read(&mut heard).await, Ok(length) if length > 0) {} };
    Ok(tokio::select! {
        () = writing => Met::Borne,
        () = reading => Met::Ended,
    })
}

async fn from_client() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, echo_paths);
    let before = warm(&stage).await?;
    let get = [0x82, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'];
    let mut ended = 0;
    for flood in floods(&get) {
        let mut hostile = client(&stage).await?;
        hostile.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        hostile.say(frame(SETTINGS, 0, 0, &[])).await?;
        let (_, stream) = hostile.into_parts();
        let met = send(stream, &flood.bytes).await?;
        assert_eq!(met, flood.met, "{}", flood.name);
        ended += u64::from(met == Met::Ended);
        unharmed(&stage, before, flood.name).await?;
    }
    let mut counted = 0;
    for reason in ["flood", "flow_control", "compression", "frame_size", "protocol"] {
        counted += refused(&stage, reason).await?;
    }
    assert_eq!(counted, ended, "each end is counted");
    Ok(())
}

async fn from_peer() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let listener = TcpListener::bind(stage.application()).await?;
    application(listener, echo_paths);
    warm(&stage).await?;
    let before = status(stage.server.pid, "VmRSS")?;
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let pod = stage.pod().to_string();
    let mut connect = vec![0x42, 7];
    connect.extend(b"CONNECT");
    connect.extend([0x41, pod.len() as u8]);
    connect.extend(pod.as_bytes());
    for flood in floods(&connect) {
        let accepted = handshake(&tls, stage.server_identity()?, true, stage.server.tunnel).await?;
        let stream = accepted.map_err(|refusal| refusal.as_str())?;
        let met = send(stream, &flood.bytes).await?;
        // Its application reads, and so opens the window again.
        let expected = if flood.name == BEYOND { Met::Borne } else { flood.met };
        assert_eq!(met, expected, "{}", flood.name);
        let now = status(stage.server.pid, "VmRSS")?;
        // Another peer's tunnel works.
        let mut tunnel = Hbone::open(&tls, stage.server_identity()?, stage.server.tunnel).await?;
        assert_eq!(tunnel.ask(http::Method::CONNECT, &pod).await?.0, http::StatusCode::OK);
        let within = async {
            while status(stage.server.pid, "VmRSS")? > before + before / 5 {
                time::sleep(Duration::from_millis(50)).await;
            }
            Result::<(), Error>::Ok(())
        };
        time::timeout(Duration::from_secs(10), within)
            .await
            .map_err(|_| format!("after {}: {now} KiB, and {before} KiB before", flood.name))??;
    }
    Ok(())
}

/// Headers of HTTP/2 that would become others, or another request, in HTTP/1.
async fn downgrade() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let came = application(listener, echo_paths);
    let before = warm(&stage).await?;
    let connections = came.load(std::sync::atomic::Ordering::Relaxed);
    let literal = |name: &str, value: &str| {
        let mut header = vec![0, name.len() as u8];
        header.extend(name.as_bytes());
        header.push(value.len() as u8);
        header.extend(value.as_bytes());
        header
    };
    let get = [0x82, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'];
    let cases = [
        literal("x", "a\r\nb: c"),
        literal("x", "a\0b"),
        literal("x y", "a"),
        literal("X", "a"),
        literal("connection", "x"),
        literal("transfer-encoding", "chunked"),
        literal("te", "gzip"),
        literal(":path", "/again"),
        literal(":other", "x"),
        [literal("content-length", "5"), literal("content-length", "6")].concat(),
        literal("content-length", "5"),
        [literal("host", "other"), literal("host", "third")].concat(),
    ];
    for (number, case) in cases.iter().enumerate() {
        let mut hostile = client(&stage).await?;
        hostile.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        hostile.say(frame(SETTINGS, 0, 0, &[])).await?;
        hostile.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&get[..], case].concat())).await?;
        let met = async {
            loop {
                let header = hostile.bytes(9).await?;
                let length = usize::from(header[1]) << 8 | usize::from(header[2]);
                let payload = hostile.bytes(length).await?;
                match header[3] {
                    RESET | 7 => return Result::<_, Error>::Ok("reset".to_owned()),
                    // :status 400
                    HEADERS => return Ok(format!("{:x}", payload[0])),
                    _ => {}
                }
            }
        };
        let met = time::timeout(Duration::from_secs(10), met).await?.unwrap_or_else(|_| "reset".into());
        assert!(["reset", "8c"].contains(&met.as_str()), "case {number}: {met}");
    }
    assert_eq!(came.load(std::sync::atomic::Ordering::Relaxed), connections, "something was passed on");
    unharmed(&stage, before, "headers that would split").await
}
