//! Requests and answers of HTTP/1: each arrives as it was meant, and connections are shared.

use std::sync::atomic::Ordering::Relaxed;

use libtest_mimic::Trial;
use tokio::io::AsyncWriteExt;
use trellis_api::evidence::Class;
use trellis_loopback::{
    stage::Error,
    wire::{Head, Wire},
};

use super::{application, client, echo_paths, metrics, open, status};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("requests_of_many_connections_share_one_to_the_application", keep_alive),
        trial("pipelined_requests_are_answered_in_order", pipelining),
        trial("large_bodies_pass_both_ways_in_little_memory", large),
        trial("chunks_and_trailers_arrive", chunks),
        trial("answers_without_a_body_leave_the_connection_as_it_was", no_body),
        trial("interim_answers_do_no_harm", interim),
        trial("http10_is_served_with_and_without_a_host", http10),
        trial("what_the_application_gets_names_the_connection_nothing", hop_by_hop),
    ]
}

async fn keep_alive() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let came = application(listener, echo_paths);
    for connection in 0..3 {
        let mut client = client(&stage).await?;
        for request in 0..4 {
            let path = format!("/{connection}/{request}");
            let (head, body) = client.ask(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await?;
            assert_eq!((head.status(), String::from_utf8(body)?), (200, path));
        }
    }
    assert_eq!(came.load(Relaxed), 1, "connections that the application saw");
    let evidence = stage.client.evidence().await?;
    assert_eq!(evidence.outbound.len(), 1, "{:?}", evidence.outbound);
    let row = &evidence.outbound[0];
    assert_eq!((row.count, row.class), (1, Class::Pq));
    let counted = metrics(&stage, "trellis_requests_total{").await?;
    assert_eq!(counted.len(), 1, "{counted:?}");
    for label in ["service=\"test/server:", "class=\"pq\"", "status=\"200\"", "reason=\"\"", "} 12"] {
        assert!(counted[0].contains(label), "{label} in {counted:?}");
    }
    Ok(())
}

async fn pipelining() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, echo_paths);
    let mut client = client(&stage).await?;
    let mut all = String::new();
    for number in 0..50 {
        all += &format!("POST /{number} HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello");
    }
    client.say(all).await?;
    for number in 0..50 {
        let head = client.answer().await?;
        let body = client.body(&head).await?;
        assert_eq!((head.status(), String::from_utf8(body)?), (200, format!("/{number}")));
    }
    Ok(())
}

async fn large() -> Result<(), Error> {
    const SIZE: usize = 100 * 1024 * 1024;
    const MORE_KIB: usize = 24 * 1024;
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            wire.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await?;
            if head.path() == "/up" {
                // The answer's body after the whole of the question's.
                wire.skip(SIZE).await?;
            }
            fill(&mut wire, SIZE).await?;
        }
        Ok(())
    });
    let mut client = client(&stage).await?;
    client.ask_small().await?;
    let proxies = [stage.client.pid, stage.server.pid];
    let before = [status(proxies[0], "VmHWM")?, status(proxies[1], "VmHWM")?];
    client.say("GET /down HTTP/1.1\r\nhost: web\r\n\r\n").await?;
    let head = client.answer().await?;
    assert_eq!((head.status(), head.length()), (200, Some(SIZE)));
    client.skip(SIZE).await?;
    client.say(format!("POST /up HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\n\r\n")).await?;
    fill(&mut client, SIZE).await?;
    let head = client.answer().await?;
    assert_eq!(head.status(), 200);
    client.skip(SIZE).await?;
    for (pid, before) in proxies.into_iter().zip(before) {
        let after = status(pid, "VmHWM")?;
        assert!(after < before + MORE_KIB, "a proxy grew from {before} to {after} KiB");
    }
    Ok(())
}

trait Small {
    async fn ask_small(&mut self) -> Result<(), Error>;
}

impl Small for Wire {
    /// Whatever is made once is made before anything is measured.
    async fn ask_small(&mut self) -> Result<(), Error> {
        self.say("HEAD / HTTP/1.1\r\nhost: web\r\n\r\n").await?;
        self.answer().await.map(|_| ())
    }
}

async fn fill(wire: &mut Wire, size: usize) -> Result<(), Error> {
    let block = vec![7; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let part = left.min(block.len());
        wire.stream.write_all(&block[..part]).await?;
        left -= part;
    }
    Ok(())
}

async fn chunks() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            assert!(head.is_chunked(), "{head:?}");
            let (body, trailers) = wire.chunks().await?;
            assert_eq!(body, b"hello world");
            assert_eq!(trailers, [("x-sum".to_owned(), "11".to_owned())]);
            wire.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n").await?;
            wire.say("6\r\nanswer\r\n0\r\nx-end: yes\r\n\r\n").await?;
        }
        Ok(())
    });
    let mut client = client(&stage).await?;
    for _ in 0..2 {
        client
            .say("POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        client.say("6\r\nhello \r\n5;extension=1\r\nworld\r\n0\r\nx-sum: 11\r\n\r\n").await?;
        let head = client.answer().await?;
        assert!(head.status() == 200 && head.is_chunked(), "{head:?}");
        let (body, trailers) = client.chunks().await?;
        assert_eq!(body, b"answer");
        assert_eq!(trailers, [("x-end".to_owned(), "yes".to_owned())]);
    }
    Ok(())
}

async fn no_body() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let came = application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            match head.path() {
                "/head" => wire.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?,
                "/204" => wire.say("HTTP/1.1 204 No Content\r\n\r\n").await?,
                "/304" => {
                    wire.say("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n").await?;
                }
                _ => wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?,
            }
        }
        Ok(())
    });
    let mut client = client(&stage).await?;
    for (method, path, status, length) in [
        ("HEAD", "/head", 200, Some(1000)),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, None),
        ("DELETE", "/empty", 200, Some(0)),
        ("HEAD", "/head", 200, Some(1000)),
    ] {
        client.say(format!("{method} {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await?;
        let head = client.answer().await?;
        assert_eq!((head.status(), head.length()), (status, length), "{method} {path}: {head:?}");
    }
    assert_eq!(came.load(Relaxed), 1);
    Ok(())
}

async fn interim() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while wire.head().await?.is_some() {
            wire.say("HTTP/1.1 102 Processing\r\n\r\n").await?;
            wire.say("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").await?;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
        Ok(())
    });
    let mut client = client(&stage).await?;
    for _ in 0..3 {
        client.say("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await?;
        let mut head = client.answer().await?;
        while (100..200).contains(&head.status()) {
            head = client.answer().await?;
        }
        assert_eq!((head.status(), client.body(&head).await?), (200, b"ok".to_vec()));
    }
    Ok(())
}

async fn http10() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            let host = head.get("host").unwrap_or_default().to_owned();
            let said = format!("{} {host}", head.first);
            wire.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            wire.say(format!("{:x}\r\n{said}\r\n0\r\n\r\n", said.len())).await?;
        }
        Ok(())
    });
    for (header, host) in [("", stage.entry().to_string()), ("Host: web\r\n", "web".to_owned())] {
        let mut client = client(&stage).await?;
        client.say(format!("GET /old HTTP/1.0\r\n{header}\r\n")).await?;
        let head = client.answer().await?;
        // Who speaks HTTP/1.0 knows no chunks: the end of the connection is that of the body.
        assert!(head.status() == 200 && !head.is_chunked(), "{head:?}");
        let body = String::from_utf8(client.rest().await?)?;
        assert_eq!(body, format!("GET /old HTTP/1.1 {host}"));
    }
    // It may ask for the connection to stay.
    let mut client = client(&stage).await?;
    for _ in 0..2 {
        client.say("HEAD / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await?;
        let head = client.answer().await?;
        assert_eq!(head.get("connection"), Some("keep-alive"), "{head:?}");
    }
    Ok(())
}

async fn hop_by_hop() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            let names: Vec<String> =
                head.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let said = names.join("|");
            wire.say(format!(
                "HTTP/1.1 200 OK\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=9\r\ncontent-length: {}\r\n\r\n{said}",
                said.len()
            ))
            .await?;
        }
        Ok(())
    });
    let mut client = client(&stage).await?;
    let request = "GET / HTTP/1.1\r\nhost: web\r\nconnection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\n\
                   proxy-connection: keep-alive\r\nx-other: 2\r\n\r\n";
    let (head, body): (Head, _) = client.ask(request).await?;
    let mut seen: Vec<String> = String::from_utf8(body)?.split('|').map(str::to_lowercase).collect();
    seen.sort();
    assert_eq!(seen, ["host=web", "x-other=2"]);
    assert!(head.get("x-private").is_none() && head.get("keep-alive").is_none(), "{head:?}");
    Ok(())
}
