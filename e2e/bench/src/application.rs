//! The application behind the proxies, and what is said to it, as bytes or in HTTP/1.1: a request names its
//! own length and that of the answer it wants.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use futures::future;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

const HEADER: usize = 12;
/// Longer requests than this are none of ours.
const MAX_REQUEST: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

static FILLER: [u8; 256 * 1024] = [b'x'; 256 * 1024];

/// A request of `length` bytes for an answer of `answer` bytes.
pub fn request(length: usize, answer: u64) -> Vec<u8> {
    let length = length.clamp(HEADER, MAX_REQUEST);
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    request.extend_from_slice(&answer.to_be_bytes());
    request.resize(length, b'x');
    request
}

/// The same in HTTP, with a body of `length` bytes.
pub fn http_request(length: usize, answer: u64) -> Vec<u8> {
    let length = length.min(MAX_REQUEST / 2);
    let head = format!(
        "POST /{answer} HTTP/1.1\r\nhost: server.bench\r\nuser-agent: bench\r\naccept: */*\r\n\
         content-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.resize(request.len() + length, b'x');
    request
}

/// The lengths of the head that begins here and of the body after it, once the head is whole.
pub fn http_lengths(bytes: &[u8]) -> Option<(usize, u64)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let lines = std::str::from_utf8(bytes.get(..head)?).ok()?.lines();
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    Some((head, lines.filter_map(length).next().unwrap_or_default()))
}

/// The length of the request that begins here, and of the answer it wants.
fn parse(bytes: &[u8]) -> Option<(usize, u64)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let answer = rest.first_chunk()?;
    Some((u32::from_be_bytes(*length) as usize, u64::from_be_bytes(*answer)))
}

/// The same of a request in HTTP.
fn parse_http(bytes: &[u8]) -> Option<(usize, u64)> {
    let (head, body) = http_lengths(bytes)?;
    let target = bytes.get(..head)?.split(|byte| *byte == b' ').nth(1)?;
    let answer = std::str::from_utf8(target).ok()?.trim_start_matches('/').parse().ok()?;
    Some((head + usize::try_from(body).ok()?, answer))
}

pub async fn serve(listen: &[SocketAddr]) -> Result<()> {
    let mut listeners = Vec::new();
    for listen in listen {
        listeners.push(bind(*listen).with_context(|| format!("the application cannot listen on {listen}"))?);
    }
    future::try_join_all(listeners.iter().map(accept)).await?;
    Ok(())
}

async fn accept(listener: &TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        // A client that goes away in the middle is its own affair; it will say so.
        tokio::spawn(answer(stream));
    }
}

fn bind(listen: SocketAddr) -> Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    Ok(socket.listen(BACKLOG)?)
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut inbox = Vec::with_capacity(2048);
    loop {
        let (http, length, mut left) = loop {
            // A length of ours begins with a zero, a method with a letter.
            let http = inbox.first().is_some_and(u8::is_ascii_uppercase);
            match if http { parse_http(&inbox) } else { parse(&inbox) } {
                Some((length, _)) if !(HEADER..=MAX_REQUEST).contains(&length) => {
                    bail!("a request of {length} bytes")
                }
                Some((length, answer)) if inbox.len() >= length => break (http, length, answer),
                None if inbox.len() > MAX_REQUEST => bail!("a head without an end"),
                _ => {}
            }
            if stream.read_buf(&mut inbox).await? == 0 {
                return Ok(());
            }
        };
        inbox.drain(..length);
        if http {
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: application/octet-stream\r\n\
                 content-length: {left}\r\n\r\n"
            )
            .into_bytes();
            // A short answer is one packet.
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(FILLER.len());
            answer.extend_from_slice(FILLER.get(..part).unwrap_or_default());
            left -= part as u64;
            stream.write_all(&answer).await?;
        }
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(FILLER.len());
            let sent = stream.write(FILLER.get(..part).unwrap_or_default()).await?;
            left -= sent as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_request_gets_an_answer_of_the_length_it_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let serving = tokio::spawn(answer(served));
        // Two at once, the second cut in its header.
        let both = [request(1024, 700_000), request(20, 3)].concat();
        let (first, second) = both.split_at(1029);
        client.write_all(first).await.unwrap();
        let mut answered = vec![0; 700_000];
        client.read_exact(&mut answered).await.unwrap();
        client.write_all(second).await.unwrap();
        client.read_exact(&mut answered[..3]).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut answered).await.unwrap(), 0);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn http_is_answered_on_the_same_port() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let serving = tokio::spawn(answer(served));
        for wanted in [3, 300_000] {
            client.write_all(&http_request(1024, wanted)).await.unwrap();
            let mut answered = Vec::new();
            let (head, body) = loop {
                assert!(client.read_buf(&mut answered).await.unwrap() > 0);
                if let Some(lengths) = http_lengths(&answered) {
                    break lengths;
                }
            };
            assert_eq!(body, wanted);
            let mut rest = vec![0; head + body as usize - answered.len()];
            client.read_exact(&mut rest).await.unwrap();
        }
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        serving.await.unwrap().unwrap();
    }
}
