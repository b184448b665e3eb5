//! What an application that speaks HTTP/2 says of itself first: whether it takes WebSockets (RFC 8441). The library
//! knows it and tells nobody when it has come, so it is read as it goes by.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::{sync::watch, time};

/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const SETTING: usize = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;
/// What is read of it. There are seven settings in use.
const MOST: usize = HEAD + SETTING * 64;

pub struct Settings(watch::Receiver<Option<bool>>);

/// A connection whose first word is listened to.
pub struct Heard<S> {
    stream: S,
    listening: Option<Listening>,
}

struct Listening {
    first: Vec<u8>,
    websockets: watch::Sender<Option<bool>>,
}

/// Listens to a connection that begins now.
pub fn heard<S>(stream: S) -> (Heard<S>, Settings) {
    let (websockets, told) = watch::channel(None);
    (Heard { stream, listening: Some(Listening { first: Vec::new(), websockets }) }, Settings(told))
}

impl Settings {
    pub async fn take_websockets(&self) -> bool {
        let mut told = self.0.clone();
        match time::timeout(PATIENCE, told.wait_for(Option::is_some)).await {
            Ok(Ok(told)) => *told == Some(true),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

/// Whether it takes them; nothing as long as the rest may tell.
fn takes_websockets(first: &[u8]) -> Option<bool> {
    let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = first else { return None };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if *kind != SETTINGS || flags & ACK != 0 || HEAD + length > MOST {
        return Some(false);
    }
    let settings = rest.get(..length)?.chunks_exact(SETTING);
    let mut values = settings.filter_map(|setting| match setting {
        [high, low, value @ ..] if u16::from_be_bytes([*high, *low]) == ENABLE_CONNECT_PROTOCOL => {
            Some(value == [0, 0, 0, 1])
        }
        _ => None,
    });
    Some(values.next_back() == Some(true))
}

impl<S: Read + Unpin> Read for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, listening } = &mut *self;
        let Some(Listening { first, websockets }) = listening else {
            return Pin::new(stream).poll_read(cx, buf);
        };
        let mut bytes = [0; MOST];
        let most = (MOST - first.len()).min(buf.remaining());
        let mut read = ReadBuf::new(&mut bytes[..most]);
        ready!(Pin::new(stream).poll_read(cx, read.unfilled()))?;
        first.extend_from_slice(read.filled());
        buf.put_slice(read.filled());
        if let Some(takes) = takes_websockets(first) {
            websockets.send_replace(Some(takes));
            *listening = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, settings: &[[u8; 6]]) -> Vec<u8> {
        let payload = settings.concat();
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], &payload].concat()
    }

    const WINDOW: [u8; 6] = [0, 4, 0, 1, 0, 0];
    const YES: [u8; 6] = [0, 8, 0, 0, 0, 1];
    const NO: [u8; 6] = [0, 8, 0, 0, 0, 0];

    #[test]
    fn what_is_said_first_is_known_once_it_is_whole_and_not_before() {
        for (said, takes) in [
            (frame(SETTINGS, 0, &[WINDOW, YES]), true),
            (frame(SETTINGS, 0, &[YES, WINDOW]), true),
            (frame(SETTINGS, 0, &[NO, YES]), true),
            (frame(SETTINGS, 0, &[YES, NO]), false),
            (frame(SETTINGS, 0, &[WINDOW]), false),
            (frame(SETTINGS, 0, &[]), false),
            (frame(SETTINGS, 0, &[[0, 8, 1, 0, 0, 1]]), false),
            (frame(SETTINGS, 0, &[YES; 64]), true),
        ] {
            for cut in 0..said.len() {
                assert_eq!(takes_websockets(&said[..cut]), None, "{said:?} cut at {cut}");
            }
            let more = [&said[..], &frame(SETTINGS, ACK, &[])].concat();
            assert_eq!(
                (takes_websockets(&said), takes_websockets(&more)),
                (Some(takes), Some(takes)),
                "{said:?}"
            );
        }
        for other in [frame(SETTINGS, ACK, &[YES]), frame(0, 0, &[YES]), frame(SETTINGS, 0, &[YES; 65])] {
            assert_eq!(takes_websockets(&other[..HEAD]), Some(false));
        }
        assert_eq!(takes_websockets(b"HTTP/1.1 400 Bad Request\r\n"), Some(false));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_read_as_it_goes_by_and_nothing_of_it_is_lost() {
        for piece in [1, 5, 14, 1_000] {
            let (mut application, ours) = duplex(2_000);
            let (heard, settings) = heard(TokioIo::new(ours));
            let mut heard = TokioIo::new(heard);
            let said = [frame(SETTINGS, 0, &[WINDOW, YES]), vec![7; 900]].concat();
            for piece in said.chunks(piece) {
                application.write_all(piece).await.unwrap();
                let mut read = vec![0; piece.len()];
                heard.read_exact(&mut read).await.unwrap();
                assert_eq!(read, piece);
            }
            assert!(settings.take_websockets().await);
            heard.write_all(b"and back").await.unwrap();
            let mut read = [0; 8];
            application.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"and back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_leaves_takes_none() {
        let (application, ours) = duplex(100);
        let (heard, settings) = heard(TokioIo::new(ours));
        assert!(!settings.take_websockets().await);
        drop((application, heard));
        assert!(!settings.take_websockets().await);
    }
}
