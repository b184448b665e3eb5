//! The application behind the proxies, and what is said to it: a request names its own length and that of
//! the answer it wants.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
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

/// The length of the request that begins here, and of the answer it wants.
fn parse(bytes: &[u8]) -> Option<(usize, u64)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let answer = rest.first_chunk()?;
    Some((u32::from_be_bytes(*length) as usize, u64::from_be_bytes(*answer)))
}

pub async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = bind(listen).with_context(|| format!("the application cannot listen on {listen}"))?;
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
        let (length, mut left) = loop {
            match parse(&inbox) {
                Some((length, _)) if !(HEADER..=MAX_REQUEST).contains(&length) => {
                    bail!("a request of {length} bytes")
                }
                Some((length, answer)) if inbox.len() >= length => break (length, answer),
                _ => {}
            }
            if stream.read_buf(&mut inbox).await? == 0 {
                return Ok(());
            }
        };
        inbox.drain(..length);
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
}
