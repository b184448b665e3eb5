//! Connections that leave HTTP, and those that only want to.

use std::sync::atomic::Ordering::Relaxed;

use libtest_mimic::Trial;
use tokio::sync::mpsc;
use trellis_loopback::{stage::Error, wire::Wire};

use super::{application, client, open};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_websocket_carries_bytes_from_its_first_segment_to_its_half_close", websocket),
        trial("what_follows_a_refused_upgrade_never_reaches_the_application", refused),
        trial("what_follows_an_upgrade_that_nobody_wanted_is_not_carried", unasked),
        trial("a_client_of_a_forward_proxy_is_carried_as_bytes", connect),
    ]
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

async fn websocket() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        let head = wire.answer().await?;
        assert_eq!(head.get("upgrade"), Some("websocket"), "{head:?}");
        assert_eq!(head.get("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
        wire.say("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nfrom the server")
            .await?;
        assert_eq!(wire.rest().await?, b"from the client, and more");
        // The client has finished, and still listens.
        wire.say("understood").await
    });
    for _ in 0..3 {
        let mut client = client(&stage).await?;
        client.say(format!("{UPGRADE}from the client")).await?;
        let head = client.answer().await?;
        assert_eq!((head.status(), head.get("upgrade")), (101, Some("websocket")), "{head:?}");
        assert_eq!(client.bytes(15).await?, b"from the server");
        client.say(", and more").await?;
        client.finish().await?;
        assert_eq!(client.rest().await?, b"understood");
    }
    Ok(())
}

async fn refused() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let (after, mut heard) = mpsc::channel(8);
    let came = application(listener, move |mut wire: Wire, _| {
        let after = after.clone();
        async move {
            let head = wire.answer().await?;
            let status = if head.path() == "/chat" { "403 Forbidden" } else { "200 OK" };
            wire.say(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno")).await?;
            after.send(wire.rest().await.unwrap_or_default()).await?;
            Ok(())
        }
    });
    let mut client = client(&stage).await?;
    client.say(format!("{UPGRADE}\u{81}\u{5}smuggled")).await?;
    let head = client.answer().await?;
    assert_eq!((head.status(), client.body(&head).await?), (403, b"no".to_vec()));
    // What is left is no request.
    if let Ok(Some(head)) = client.head().await {
        assert_eq!(head.status(), 400, "{head:?}");
    }
    drop(client);
    drop(stage);
    for _ in 0..came.load(Relaxed) {
        let heard = heard.recv().await.unwrap_or_default();
        assert!(heard.is_empty(), "the application heard {:?}", String::from_utf8_lossy(&heard));
    }
    Ok(())
}

async fn unasked() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        wire.answer().await?;
        wire.say("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nbytes")
            .await?;
        wire.rest().await?;
        Ok(())
    });
    let mut client = client(&stage).await?;
    client.say("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await?;
    let head = client.answer().await?;
    assert_eq!(head.status(), 502, "{head:?}");
    assert_eq!(head.get("trellis-error"), Some("unexpected_upgrade"), "{head:?}");
    Ok(())
}

async fn connect() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        let head = wire.answer().await?;
        assert_eq!(head.first, "CONNECT far:443 HTTP/1.1");
        // As it was written, and not as we would write it.
        assert_eq!(head.headers, [("HoSt".to_owned(), "far:443".to_owned())]);
        wire.say("HTTP/1.1 200 Connection established\r\n\r\n").await?;
        assert_eq!(wire.bytes(4).await?, [22, 3, 1, 0]);
        wire.say([22, 3, 3, 9]).await
    });
    let mut client = client(&stage).await?;
    client.say("CONNECT far:443 HTTP/1.1\r\nHoSt: far:443\r\n\r\n").await?;
    assert_eq!(client.answer().await?.first, "HTTP/1.1 200 Connection established");
    client.say([22, 3, 1, 0]).await?;
    assert_eq!(client.bytes(4).await?, [22, 3, 3, 9]);
    Ok(())
}
