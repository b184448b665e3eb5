//! WebSockets over HTTP/2 (RFC 8441): from clients that speak it to applications of either version, and from
//! clients of HTTP/1.1 to applications that speak nothing else.

use std::{future::poll_fn, time::Duration};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::future::try_join_all;
use h2::{
    Reason, RecvStream, SendStream,
    client::SendRequest,
    ext::Protocol,
    server::{self, SendResponse},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use libtest_mimic::Trial;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc, time};
use trellis_loopback::{
    stage::{Error, NAMESPACE, Stage},
    wire::{Head, Wire},
};

use super::{application, client, http2, metrics, open};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_websocket_over_http2_reaches_an_application_of_http1", upgraded),
        trial("a_websocket_over_http2_reaches_an_application_that_takes_it", connected),
        trial("a_websocket_of_http1_reaches_an_application_of_http2", translated),
        trial("a_websocket_that_is_refused_says_why", refused),
        trial("a_connect_is_for_websockets_and_has_one_target", hostile),
        trial("a_websocket_that_is_not_read_stalls_no_other_stream", unread),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection of a client whose server has said that it takes WebSockets.
async fn websockets(stage: &Stage) -> Result<SendRequest<Bytes>, Error> {
    let client = http2::client(stage).await?;
    let said = async {
        while !client.is_extended_connect_protocol_enabled() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(PATIENCE, said).await?;
    Ok(client)
}

fn connect(uri: &str, headers: &[(&str, &str)]) -> Result<Request<()>, Error> {
    let mut request = Request::builder().method(Method::CONNECT).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(())?;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Ok(request)
}

/// The answer, and both ways of the stream.
async fn ask(
    client: &SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(StatusCode, HeaderMap, SendStream<Bytes>, RecvStream), Error> {
    let (answer, send) = client.clone().ready().await?.send_request(request, false)?;
    let (parts, body) = time::timeout(PATIENCE, answer).await??.into_parts();
    Ok((parts.status, parts.headers, send, body))
}

/// So much, and then as much again as comes with it.
async fn hear(body: &mut RecvStream, length: usize) -> Result<Vec<u8>, Error> {
    let mut heard = Vec::new();
    while heard.len() < length {
        let data = time::timeout(PATIENCE, body.data()).await?.ok_or("ended")??;
        body.flow_control().release_capacity(data.len())?;
        heard.extend_from_slice(&data);
    }
    Ok(heard)
}

async fn rest(body: &mut RecvStream) -> Result<Vec<u8>, Error> {
    let mut heard = Vec::new();
    while let Some(data) = time::timeout(PATIENCE, body.data()).await? {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        heard.extend_from_slice(&data);
    }
    Ok(heard)
}

fn proof(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Has the server's port say what it speaks, and waits until its client's proxy knows.
async fn declare(
    stage: &Stage,
    protocol: &str,
    known: impl AsyncFn() -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut manifests = stage.server.workload.manifests();
    for service in manifests.iter_mut().filter(|one| one["kind"] == "Service") {
        service["spec"]["ports"][0]["appProtocol"] = json!(protocol);
    }
    stage.mesh.apply(&format!("{NAMESPACE}-server"), manifests)?;
    let waited = time::timeout(PATIENCE, async {
        while !known().await.unwrap_or(false) {
            time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.map_err(|_| format!("{protocol} never came to be known").into())
}

fn agree(head: &Head) -> String {
    let proof = proof(head.get("sec-websocket-key").unwrap_or_default());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {proof}\r\nsec-websocket-protocol: chat\r\n\r\n"
    )
}

async fn upgraded() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        let head = wire.answer().await?;
        if !head.first.starts_with("GET /a/chat?room=1 HTTP/1.1") {
            return wire.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await;
        }
        assert_eq!(head.get("upgrade"), Some("websocket"), "{head:?}");
        assert_eq!(head.get("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
        assert_eq!(head.all("host"), ["web"]);
        assert_eq!(head.get("sec-websocket-protocol"), Some("chat, other"));
        assert_eq!(head.all("sec-websocket-key").len(), 1);
        wire.say(agree(&head) + "first;").await?;
        match head.get("x-end") {
            // The client ends it, and hears the rest.
            Some("client") => {
                assert_eq!(wire.rest().await?, b"from the client");
                wire.say("understood").await
            }
            // The application does, and hears the rest.
            Some("application") => {
                assert_eq!(wire.bytes(4).await?, b"from");
                wire.finish().await?;
                assert_eq!(wire.rest().await?, b" the client");
                Ok(())
            }
            // A client that is gone is seen to be.
            _ => {
                assert!(wire.rest().await.is_err(), "a reset is no end");
                Ok(())
            }
        }
    });
    declare(&stage, "kubernetes.io/ws", async || {
        let client = websockets(&stage).await?;
        let (answer, _) = client.ready().await?.send_request(Request::get("http://web/").body(())?, true)?;
        Ok(answer.await?.status() == StatusCode::OK)
    })
    .await?;
    let client = websockets(&stage).await?;
    let one = |end: &'static str| {
        let client = client.clone();
        async move {
            let headers = [
                ("x-end", end),
                ("sec-websocket-protocol", "chat, other"),
                ("sec-websocket-version", "13"),
                // Of no meaning here, and nobody's to choose.
                ("sec-websocket-key", "Zm9yZ2Vk"),
            ];
            let request = connect("http://web/a/./b/../chat?room=1", &headers)?;
            let (status, headers, mut send, mut body) = ask(&client, request).await?;
            assert_eq!(
                (status.as_u16(), &headers["sec-websocket-protocol"]),
                (200, &"chat".parse()?),
                "{headers:?}"
            );
            for name in ["upgrade", "connection", "sec-websocket-accept"] {
                assert!(!headers.contains_key(name), "{headers:?}");
            }
            assert_eq!(hear(&mut body, 6).await?, b"first;");
            match end {
                "client" => {
                    send.send_data("from the client".into(), true)?;
                    assert_eq!(rest(&mut body).await?, b"understood");
                }
                "application" => {
                    send.send_data("from".into(), false)?;
                    assert_eq!(rest(&mut body).await?, b"");
                    send.send_data(" the client".into(), true)?;
                }
                _ => send.send_reset(Reason::CANCEL),
            }
            Result::<(), Error>::Ok(())
        }
    };
    // All at once on one connection, beside what is none.
    let ends = ["client", "application", "nobody"].into_iter().cycle().take(30);
    let plain = async {
        let request = Request::get("http://web/").body(())?;
        let (answer, _) = client.clone().ready().await?.send_request(request, true)?;
        assert_eq!(rest(answer.await?.body_mut()).await?, b"plain");
        Ok(())
    };
    tokio::try_join!(try_join_all(ends.map(one)), plain)?;
    let counted = metrics(&stage, "trellis_requests_total").await?;
    let counted = counted.iter().find(|line| line.contains("status=\"200\"")).ok_or("nothing counted")?;
    assert!(counted.contains("class=\"pq\"") && counted.contains("test/server:8080"), "{counted}");
    Ok(())
}

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// An application that takes WebSockets over HTTP/2, and sends back what it gets, in upper case.
fn shouting(listener: TcpListener, takes: bool) -> mpsc::UnboundedReceiver<Result<(), String>> {
    let (told, tells) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut builder = server::Builder::new();
                if takes {
                    builder.enable_connect_protocol();
                }
                let mut connection = builder.handshake::<_, Bytes>(socket).await?;
                while let Some(asked) = connection.accept().await {
                    let (asked, told) = (asked?, told.clone());
                    tokio::spawn(async move {
                        let served = shout(asked).await.map_err(|error| error.to_string());
                        let _ = told.send(served);
                    });
                }
                Result::<(), Error>::Ok(())
            });
        }
    });
    tells
}

async fn shout((request, mut respond): Asked) -> Result<(), Error> {
    let (parts, mut body) = request.into_parts();
    if parts.method != Method::CONNECT {
        respond.send_response(Response::new(()), true)?;
        return Ok(());
    }
    let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
    let target = (protocol, parts.uri.path(), parts.uri.authority().map(|one| one.as_str()));
    let headers = &parts.headers;
    let foreign =
        ["upgrade", "connection", "sec-websocket-key"].iter().any(|name| headers.contains_key(*name));
    if target != (Some("websocket"), "/chat", Some("web")) || foreign {
        return Err(format!("{target:?} {headers:?}").into());
    }
    if headers.contains_key("x-forbidden") {
        let mut answer = respond.send_response(Response::builder().status(403).body(())?, false)?;
        answer.send_data("no".into(), true)?;
        return Ok(());
    }
    let mut answer = respond.send_response(Response::builder().header("x-is", "it").body(())?, false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        answer.send_data(data.to_ascii_uppercase().into(), false)?;
    }
    answer.send_data("!".into(), true)?;
    Ok(())
}

async fn connected() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let mut tells = shouting(listener, true);
    let client = websockets(&stage).await?;
    for _ in 0..3 {
        let (status, headers, mut send, mut body) = ask(&client, connect("http://web/chat", &[])?).await?;
        assert_eq!((status.as_u16(), headers.get("x-is").is_some()), (200, true), "{headers:?}");
        for word in ["hello", "and more"] {
            send.send_data(word.into(), false)?;
            assert_eq!(hear(&mut body, word.len()).await?, word.to_uppercase().as_bytes());
        }
        send.send_data(Bytes::new(), true)?;
        assert_eq!(rest(&mut body).await?, b"!");
        assert_eq!(tells.recv().await, Some(Ok(())));
    }
    let (status, _, _, mut body) = ask(&client, connect("http://web/chat", &[("x-forbidden", "1")])?).await?;
    assert_eq!((status.as_u16(), rest(&mut body).await?), (403, b"no".to_vec()));
    // They share one connection to the application, and one that is cut off leaves it to the others.
    let (_, _, mut kept, mut heard) = ask(&client, connect("http://web/chat", &[])?).await?;
    let (_, _, mut cut, _body) = ask(&client, connect("http://web/chat", &[])?).await?;
    cut.send_reset(Reason::CANCEL);
    kept.send_data("still".into(), true)?;
    assert_eq!(rest(&mut heard).await?, b"STILL!");
    Ok(())
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn upgrade(more: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\n{more}\r\n"
    )
}

async fn translated() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let mut tells = shouting(listener, true);
    declare(&stage, "kubernetes.io/h2c", async || {
        let (head, _) = client(&stage).await?.ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await?;
        Ok(head.status() == 200)
    })
    .await?;
    while tells.try_recv().is_ok() {}
    for _ in 0..3 {
        let mut client = client(&stage).await?;
        client.say(upgrade(&format!("sec-websocket-key: {KEY}\r\n")) + "early").await?;
        let head = client.answer().await?;
        assert_eq!((head.status(), head.get("x-is")), (101, Some("it")), "{head:?}");
        assert_eq!(head.get("upgrade"), Some("websocket"), "{head:?}");
        assert_eq!(head.get("sec-websocket-accept"), Some(&*proof(KEY)), "{head:?}");
        assert_eq!(client.bytes(5).await?, b"EARLY");
        client.say(" and late").await?;
        client.finish().await?;
        assert_eq!(client.rest().await?, b" AND LATE!");
        assert_eq!(tells.recv().await, Some(Ok(())));
    }
    for (more, status, said) in [
        (format!("sec-websocket-key: {KEY}\r\nx-forbidden: 1\r\n"), 403, "no"),
        ("sec-websocket-key: bm9uZQ==\r\n".to_owned(), 400, "sec-websocket-key"),
        (String::new(), 400, "sec-websocket-key"),
        (format!("sec-websocket-key: {KEY}\r\ncontent-length: 4\r\n\r\nbody"), 400, "has a body"),
    ] {
        let (head, body) = client(&stage).await?.ask(upgrade(&more)).await?;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(head.status() == status && body.contains(said), "{head:?} {body}");
    }
    // What there is nothing of in HTTP/2 is an ordinary request.
    let other = "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let (head, _) = client(&stage).await?.ask(other).await?;
    assert_eq!(head.status(), 200, "{head:?}");
    Ok(())
}

async fn refused() -> Result<(), Error> {
    // An application of HTTP/2 that does not take them.
    let (stage, listener) = open().await?;
    shouting(listener, false);
    let client = websockets(&stage).await?;
    for _ in 0..2 {
        let (status, headers, _, mut body) = ask(&client, connect("http://web/chat", &[])?).await?;
        assert_eq!((status.as_u16(), &headers["trellis-error"]), (502, &"no_websockets_in_http2".parse()?));
        let said = String::from_utf8(rest(&mut body).await?)?;
        assert!(said.contains("RFC 8441"), "{said}");
    }
    let request = Request::get("http://web/").body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    assert_eq!(answer.await?.status().as_u16(), 200, "all else goes on");

    // One of HTTP/1 that answers otherwise.
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            let answer = match head.path() {
                "/forbidden" => "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_owned(),
                "/away" => "HTTP/1.1 301 Gone\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "/well" => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell".to_owned(),
                "/unproven" => agree(&Head::default()) + "not yours",
                "/other" => agree(&head).replace("upgrade: websocket", "upgrade: other"),
                // It breaks off.
                _ => return Ok(()),
            };
            wire.say(answer).await?;
        }
        Ok(())
    });
    declare(&stage, "kubernetes.io/ws", async || {
        let client = websockets(&stage).await?;
        let (status, ..) = ask(&client, connect("http://web/forbidden", &[])?).await?;
        Ok(status == StatusCode::FORBIDDEN)
    })
    .await?;
    let client = websockets(&stage).await?;
    for (path, status, error, said) in [
        ("forbidden", 403, None, "no"),
        ("away", 301, None, ""),
        (
            "well",
            502,
            Some("upgrade_refused"),
            "trellis: the application answered a request for a WebSocket with 200\n",
        ),
        ("unproven", 502, Some("upgrade_unproven"), "trellis: the application agreed"),
        ("other", 502, Some("upgrade_unproven"), "trellis: the application agreed"),
        ("broken", 502, Some("connection_broke"), "trellis: the application gave no answer"),
    ] {
        // In gRPC an answer would be 200, which is to agree.
        for headers in [&[][..], &[("content-type", "application/grpc")]] {
            let (got, head, _, mut body) =
                ask(&client, connect(&format!("http://web/{path}"), headers)?).await?;
            let reason = head.get("trellis-error").map(|reason| reason.to_str()).transpose()?;
            let body = String::from_utf8(rest(&mut body).await?)?;
            assert_eq!((got.as_u16(), reason), (status, error), "{path}: {body}");
            assert!(body.starts_with(said) && (said.is_empty() == body.is_empty()), "{path}: {body}");
        }
    }
    Ok(())
}

async fn hostile() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let (heard, mut hears) = mpsc::unbounded_channel();
    application(listener, move |mut wire: Wire, _| {
        let heard = heard.clone();
        async move {
            while let Some(head) = wire.head().await? {
                heard.send(head.first.clone())?;
                wire.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await?;
            }
            Ok(())
        }
    });
    declare(&stage, "kubernetes.io/ws", async || {
        let client = websockets(&stage).await?;
        let (status, ..) = ask(&client, connect("http://web/known", &[])?).await?;
        Ok(status == StatusCode::FORBIDDEN)
    })
    .await?;
    while hears.try_recv().is_ok() {}
    let client = websockets(&stage).await?;
    let named = |protocol: &'static str| {
        let mut request = connect("http://web/chat", &[("content-type", "application/grpc")])?;
        request.extensions_mut().insert(Protocol::from_static(protocol));
        Result::<_, Error>::Ok(request)
    };
    let plain =
        Request::builder().method(Method::CONNECT).uri("web:80").header("content-type", "application/grpc");
    for (request, status, reason) in [
        (plain.body(())?, 400, "no_path"),
        (named("connect-udp")?, 501, "unknown_protocol"),
        (named("h2c")?, 501, "unknown_protocol"),
        (connect("ftp://web/chat", &[])?, 400, "bad_scheme"),
        (connect("http://web/chat", &[("host", "other")])?, 400, "hosts_differ"),
        (connect("http://web/a\\b", &[])?, 400, "backslash"),
        (connect("http://web/..%2Fchat", &[])?, 400, "hidden_dots"),
        (connect("http://we..b/chat", &[])?, 400, "bad_host"),
    ] {
        let said = format!("{request:?}");
        let (got, headers, _, _) = ask(&client, request).await?;
        assert_eq!((got.as_u16(), &headers["trellis-error"]), (status, &reason.parse()?), "{said}");
    }
    assert!(hears.try_recv().is_err(), "the application heard of it");
    let (status, ..) = ask(&client, connect("http://web/x/../chat", &[])?).await?;
    assert_eq!((status, hears.recv().await.as_deref()), (StatusCode::FORBIDDEN, Some("GET /chat HTTP/1.1")));
    // What has a body is no CONNECT.
    let request = connect("http://web/chat", &[("content-length", "3")])?;
    let (answer, _send) = client.ready().await?.send_request(request, false)?;
    assert!(time::timeout(PATIENCE, answer).await?.is_err());
    assert!(hears.try_recv().is_err(), "the application heard of it");
    Ok(())
}

async fn unread() -> Result<(), Error> {
    const MUCH: usize = 4 << 20;
    let (stage, listener) = open().await?;
    let (told, mut tells) = mpsc::unbounded_channel();
    application(listener, move |mut wire: Wire, _| {
        let told = told.clone();
        async move {
            let head = wire.answer().await?;
            wire.say(agree(&head)).await?;
            if head.path() == "/flood" {
                wire.say(vec![7; MUCH]).await?;
                wire.finish().await?;
                return Ok(());
            }
            let length = wire.bytes(MUCH).await?.len();
            told.send(length)?;
            wire.say("all of it").await
        }
    });
    declare(&stage, "kubernetes.io/ws", async || {
        let client = websockets(&stage).await?;
        Ok(ask(&client, connect("http://web/small", &[])?).await?.0 == StatusCode::OK)
    })
    .await?;
    let client = websockets(&stage).await?;
    let (status, _, _send, mut flood) = ask(&client, connect("http://web/flood", &[])?).await?;
    assert_eq!(status, StatusCode::OK);
    // Nobody reads that one, and another one works beside it.
    let (_, _, mut send, mut body) = ask(&client, connect("http://web/bulk", &[])?).await?;
    let mut left = MUCH;
    while left > 0 {
        send.reserve_capacity(left.min(64 * 1024));
        let room = poll_fn(|cx| send.poll_capacity(cx)).await.ok_or("gone")??;
        let part = room.min(left);
        send.send_data(vec![1; part].into(), false)?;
        left -= part;
    }
    assert_eq!(time::timeout(PATIENCE, tells.recv()).await?, Some(MUCH));
    assert_eq!(hear(&mut body, 9).await?, b"all of it");
    assert_eq!(rest(&mut flood).await?, vec![7; MUCH]);
    Ok(())
}
