//! Connections end when either side wants it, and no request pays for that.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use libtest_mimic::Trial;
use tokio::{sync::Mutex, time};
use trellis_loopback::{stage::Error, wire::Wire};

use super::{application, client, echo_paths, open};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("either_side_may_close_after_an_answer", close),
        trial("what_cannot_be_said_twice_is_not_said_to_who_may_be_leaving", once),
        trial("an_application_that_closes_idle_connections_fails_no_request", idle),
    ]
}

async fn close() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let came = application(listener, |mut wire: Wire, number| async move {
        if number == 0 {
            wire.answer().await?;
            return wire.say("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end").await;
        }
        echo_paths(wire, number).await
    });
    // The application closes: the client's connection may stay.
    let mut one = client(&stage).await?;
    one.say("GET /a HTTP/1.1\r\nhost: web\r\n\r\n").await?;
    let head = one.answer().await?;
    assert_eq!(one.body(&head).await?, b"until the end");
    let mut one = match head.is_chunked() {
        true => one,
        false => client(&stage).await?,
    };
    assert_eq!(one.ask("GET /b HTTP/1.1\r\nhost: web\r\n\r\n").await?.1, b"/b");
    // The client wants to close: the connection to the application stays.
    let (head, body) = one.ask("GET /c HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await?;
    assert_eq!((head.get("connection"), body), (Some("close"), b"/c".to_vec()));
    assert_eq!(one.rest().await?, b"");
    let mut two = client(&stage).await?;
    assert_eq!(two.ask("GET /d HTTP/1.1\r\nhost: web\r\n\r\n").await?.1, b"/d");
    assert_eq!(came.load(Relaxed), 2);
    Ok(())
}

/// An application that has lost interest in a connection which was idle.
async fn once() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        let head = wire.answer().await?;
        wire.body(&head).await?;
        wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        wire.head().await?;
        Ok(())
    });
    let mut client = client(&stage).await?;
    for _ in 0..3 {
        let (head, _) = client.ask("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhi").await?;
        assert_eq!(head.status(), 200, "{head:?}");
        time::sleep(Duration::from_millis(1_200)).await;
    }
    Ok(())
}

/// Every connection to the application ends after a few requests, without a word, at another moment each.
async fn idle() -> Result<(), Error> {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 600;
    let (stage, listener) = open().await?;
    let posts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let seen = posts.clone();
    let came = application(listener, move |mut wire: Wire, number| {
        let seen = seen.clone();
        async move {
            let (last, pause) = (1 + number % 7, Duration::from_micros((number * 137 % 1_500) as u64));
            for request in 0.. {
                let Some(head) = wire.head().await? else { return Ok(()) };
                wire.body(&head).await?;
                if head.first.starts_with("POST") {
                    *seen.lock().await.entry(head.path().to_owned()).or_default() += 1;
                }
                wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
                if request == last {
                    time::sleep(pause).await;
                    return Ok(());
                }
            }
            Ok(())
        }
    });
    let clients = (0..CLIENTS).map(|number| {
        let stage = &stage;
        async move {
            let mut failed = 0;
            let mut wire = client(stage).await?;
            for request in 0..REQUESTS {
                let (post, path) = (request % 4 == 0, format!("/{number}/{request}"));
                let method = if post { "POST" } else { "GET" };
                let body = if post { "content-length: 2\r\n\r\nhi" } else { "\r\n" };
                let (head, _) = wire.ask(format!("{method} {path} HTTP/1.1\r\nhost: web\r\n{body}")).await?;
                match (head.status(), post) {
                    (200, _) => {}
                    // What the application may have seen is not said again.
                    (502 | 503, true) => failed += 1,
                    (status, _) => return Err(format!("{method} {path}: {status} {head:?}").into()),
                }
            }
            Result::<usize, Error>::Ok(failed)
        }
    });
    let failed: usize = futures::future::try_join_all(clients).await?.into_iter().sum();
    let posts = posts.lock().await;
    assert!(posts.values().all(|times| *times == 1), "said twice: {posts:?}");
    let all = CLIENTS * REQUESTS / 4;
    assert!(posts.len() + failed >= all, "{} arrived, {failed} failed of {all}", posts.len());
    assert!(came.load(Relaxed) > 500, "only {} connections ended", came.load(Relaxed));
    eprintln!("{failed} of {all} POSTs were told that they may have been lost");
    Ok(())
}
