//! What is spoken is known for certain or not at all, however it comes in.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time,
};
use trellis_loopback::{
    stage::{Error, Stage},
    wire::Wire,
};

use super::{application, client, echo_paths, metrics, open};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_first_request_may_be_cut_at_any_byte", cut_http1),
        trial("a_first_frame_of_http2_may_be_cut_at_any_byte", cut_http2),
        trial("a_first_record_of_tls_may_be_cut_at_any_byte", cut_tls),
        trial("what_only_begins_like_http_is_carried_as_bytes", inline),
        trial("after_silence_whoever_speaks_first_decides", silence),
        trial("bytes_may_be_finished_by_either_side_first", half_close),
    ]
}

/// Says `all` in two parts, so that the first travels alone if it can.
async fn in_two(wire: &mut Wire, all: &[u8], cut: usize) -> Result<(), Error> {
    wire.say(&all[..cut]).await?;
    time::sleep(Duration::from_millis(1)).await;
    wire.say(&all[cut..]).await
}

async fn spoken(stage: &Stage, protocol: &str) -> Result<u64, Error> {
    let lines = metrics(stage, "trellis_application_protocols_total{direction=\"outbound\"").await?;
    let line = lines.iter().find(|line| line.contains(&format!("protocol=\"{protocol}\"")));
    Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default())
}

async fn cut_http1() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let came = application(listener, echo_paths);
    let request = b"GET /cut HTTP/1.1\r\nhost: web\r\n\r\n";
    for cut in 1..request.len() {
        let mut client = client(&stage).await?;
        in_two(&mut client, request, cut).await?;
        let head = client.answer().await?;
        assert_eq!((head.status(), client.body(&head).await?), (200, b"/cut".to_vec()), "cut at {cut}");
    }
    assert_eq!(spoken(&stage, "http1").await?, request.len() as u64 - 1);
    assert_eq!(came.load(Relaxed), 1);
    Ok(())
}

async fn cut_http2() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    tokio::spawn(answers_http2(listener));
    let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    first.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // GET http://web/ by the static table, end of headers and stream.
    let block = [0x82, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'];
    first.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]);
    first.extend(block);
    for cut in 1..first.len() {
        let mut client = client(&stage).await?;
        in_two(&mut client, &first, cut).await?;
        loop {
            let header = client.bytes(9).await?;
            let length = usize::from(header[1]) << 8 | usize::from(header[2]);
            let payload = client.bytes(length).await?;
            assert_ne!(header[3], 7, "a goodbye to who was cut at {cut}");
            if header[3] == 1 {
                // :status 200
                assert_eq!((payload[0], header[8]), (0x88, 1), "cut at {cut}");
                break;
            }
        }
    }
    assert_eq!(spoken(&stage, "http2").await?, first.len() as u64 - 1);
    Ok(())
}

async fn answers_http2(listener: TcpListener) -> Result<(), Error> {
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(socket).await?;
            while let Some(accepted) = connection.accept().await {
                let (_, mut respond) = accepted?;
                respond.send_response(http::Response::new(()), false)?.send_data(Bytes::new(), true)?;
            }
            Result::<(), h2::Error>::Ok(())
        });
    }
}

async fn cut_tls() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let mut hello = vec![22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3];
    hello.resize(65, 9);
    let length = hello.len();
    application(listener, move |mut wire: Wire, _| async move {
        let heard = wire.bytes(length).await?;
        wire.say(heard).await
    });
    for cut in 1..length {
        let mut client = client(&stage).await?;
        in_two(&mut client, &hello, cut).await?;
        assert_eq!(client.bytes(length).await?, hello, "cut at {cut}");
    }
    assert_eq!(spoken(&stage, "tls").await?, length as u64 - 1);
    Ok(())
}

async fn inline() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        // A line is answered as Redis does, whatever it is.
        let mut line = [0; 64];
        loop {
            let read = wire.stream.read(&mut line).await?;
            if read == 0 {
                return Ok(());
            }
            wire.say([b"+", &line[..read]].concat()).await?;
        }
    });
    for line in ["GET key\r\n", "PING\r\n", "*1\r\n$4\r\nPING\r\n", "SET a b\r\n", "GET / HTTP/9.9\r\n"] {
        let mut client = client(&stage).await?;
        for _ in 0..3 {
            client.say(line).await?;
            let answer = client.bytes(line.len() + 1).await?;
            assert_eq!(answer, format!("+{line}").into_bytes());
        }
    }
    Ok(())
}

async fn silence() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        // Whoever waits here is asked nothing until something comes.
        let head = wire.head().await?;
        match head {
            Some(head) if head.path() == "/late" => {
                wire.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await
            }
            Some(_) => wire.say("bytes").await,
            None => Ok(()),
        }
    });
    // Far longer than anybody waits for the first byte.
    let pause = || time::sleep(Duration::from_millis(150));
    let mut one = client(&stage).await?;
    pause().await;
    let (head, body) = one.ask("GET /late HTTP/1.1\r\nhost: web\r\n\r\n").await?;
    assert_eq!((head.status(), body), (200, b"late".to_vec()));
    let mut two = client(&stage).await?;
    pause().await;
    two.say("hello a\r\n\r\n").await?;
    assert_eq!(two.bytes(5).await?, b"bytes");
    assert_eq!(spoken(&stage, "http1").await?, 1);
    Ok(())
}

async fn half_close() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, number| async move {
        if number == 1 {
            wire.say("that is all").await?;
            wire.finish().await?;
        }
        let heard = wire.rest().await?;
        if number == 0 {
            wire.say([b"heard ", &heard[..]].concat()).await?;
            wire.stream.shutdown().await?;
        }
        Ok(())
    });
    let mut one = client(&stage).await?;
    one.say("no http").await?;
    one.finish().await?;
    assert_eq!(one.rest().await?, b"heard no http");
    let mut two = client(&stage).await?;
    assert_eq!(two.rest().await?, b"that is all");
    two.say("still talking").await?;
    two.finish().await
}
