//! `Expect: 100-continue`: a client's body waits for the word of the application, not for ours.

use std::time::Duration;

use libtest_mimic::Trial;
use tokio::{sync::mpsc, time};
use trellis_loopback::{stage::Error, wire::Wire};

use super::{application, client, open};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_body_waits_until_the_application_wants_it", wanted),
        trial("a_body_that_the_application_does_not_want_is_never_sent", refused),
        trial("a_body_is_sent_to_an_application_that_says_nothing", silent),
    ]
}

const ASK: &str = "POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

async fn wanted() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let (go, mut went) = mpsc::channel::<()>(1);
    let (came, mut comes) = mpsc::channel(1);
    let accepted = tokio::spawn(async move {
        let (socket, _) = listener.accept().await?;
        let mut wire = Wire::new(socket);
        for _ in 0..2 {
            let head = wire.answer().await?;
            assert_eq!(head.get("expect"), Some("100-continue"), "{head:?}");
            came.send(()).await?;
            went.recv().await;
            wire.say("HTTP/1.1 100 Continue\r\n\r\n").await?;
            assert_eq!(wire.bytes(5).await?, b"hello");
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Result::<(), Error>::Ok(())
    });
    let mut client = client(&stage).await?;
    for _ in 0..2 {
        client.say(ASK).await?;
        comes.recv().await;
        // Far less than the second after which nobody waits any more.
        let early = time::timeout(Duration::from_millis(300), client.head()).await;
        assert!(early.is_err(), "told to go on by somebody else: {early:?}");
        go.send(()).await?;
        assert_eq!(client.answer().await?.status(), 100);
        client.say("hello").await?;
        assert_eq!(client.answer().await?.status(), 200);
    }
    accepted.await?
}

async fn refused() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let (after, mut heard) = mpsc::channel(1);
    application(listener, move |mut wire: Wire, number| {
        let after = after.clone();
        async move {
            let head = wire.answer().await?;
            if number > 0 {
                return wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
            assert_eq!(head.get("expect"), Some("100-continue"));
            wire.say("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await?;
            // Nothing of a body, and nothing of another request.
            after.send(wire.rest().await.unwrap_or_default()).await?;
            Ok(())
        }
    });
    let mut client = client(&stage).await?;
    let (head, body) = client.ask(ASK).await?;
    assert_eq!((head.status(), body), (413, b"big".to_vec()), "{head:?}");
    // What would be taken for a request is none while a body is owed.
    assert_eq!(head.get("connection"), Some("close"), "{head:?}");
    let _ = client.say("hello").await;
    assert!(matches!(client.rest().await.as_deref(), Ok([]) | Err(_)));
    assert_eq!(heard.recv().await, Some(Vec::new()));
    let mut next = super::client(&stage).await?;
    assert_eq!(next.ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await?.0.status(), 200);
    Ok(())
}

async fn silent() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        let head = wire.answer().await?;
        let body = wire.body(&head).await?;
        wire.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await?;
        wire.say(body).await
    });
    let mut client = client(&stage).await?;
    client.say(ASK).await?;
    assert_eq!(client.answer().await?.status(), 100);
    let (head, body) = client.ask("hello").await?;
    assert_eq!((head.status(), body), (200, b"hello".to_vec()));
    Ok(())
}
