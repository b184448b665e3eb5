//! HTTP/1.1 as it stands on the wire, for applications of tests: what a library would mend or hide can be
//! said and seen here.

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::stage::Error;

/// One connection, and what was read of it and not used yet.
pub struct Wire<S = TcpStream> {
    pub stream: S,
    read: BytesMut,
}

/// The first line and the headers of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub first: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The values of a header, however its name is written.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Of an answer; 0 where it is none.
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    /// Of a request.
    pub fn path(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// How this message frames its body.
    pub fn length(&self) -> Option<usize> {
        self.get("content-length").and_then(|value| value.parse().ok())
    }

    pub fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// Says that nothing more will come.
    pub async fn finish(&mut self) -> Result<(), Error> {
        Ok(self.stream.shutdown().await?)
    }

    async fn more(&mut self) -> Result<bool, Error> {
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// The next line without its end; nothing where the connection ends before it begins.
    pub async fn line(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
            }
            if !self.more().await? {
                return match self.read.is_empty() {
                    true => Ok(None),
                    false => Err(format!("the connection ended within a line: {:?}", self.read).into()),
                };
            }
        }
    }

    /// The head of the next message; nothing where the connection ends before it begins.
    pub async fn head(&mut self) -> Result<Option<Head>, Error> {
        let Some(first) = self.line().await? else { return Ok(None) };
        let mut head = Head { first, headers: Vec::new() };
        while let Some(line) = self.line().await? {
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("no header: {line}"))?;
            head.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Err("the connection ended within a head".into())
    }

    /// The same where there must be one.
    pub async fn answer(&mut self) -> Result<Head, Error> {
        self.head().await?.ok_or_else(|| "the connection ended without an answer".into())
    }

    /// So many bytes.
    pub async fn bytes(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        while self.read.len() < length {
            if !self.more().await? {
                return Err(format!("ended after {} of {length} bytes", self.read.len()).into());
            }
        }
        Ok(self.read.split_to(length).to_vec())
    }

    /// A body in chunks, and the headers behind it.
    pub async fn chunks(&mut self) -> Result<(Vec<u8>, Vec<(String, String)>), Error> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?.ok_or("ended between chunks")?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)?;
            if size == 0 {
                break;
            }
            body.extend(self.bytes(size).await?);
            self.line().await?;
        }
        let mut trailers = Vec::new();
        while let Some(line) = self.line().await?.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or("no trailer")?;
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok((body, trailers))
    }

    /// The body of a message with this head, as the head frames it.
    pub async fn body(&mut self, head: &Head) -> Result<Vec<u8>, Error> {
        if head.is_chunked() {
            return Ok(self.chunks().await?.0);
        }
        match head.length() {
            Some(length) => self.bytes(length).await,
            None if head.status() > 0 => self.rest().await,
            None => Ok(Vec::new()),
        }
    }

    /// Passes over so many bytes without keeping them.
    pub async fn skip(&mut self, mut length: usize) -> Result<(), Error> {
        while length > 0 {
            if self.read.is_empty() && !self.more().await? {
                return Err(format!("ended {length} bytes too early").into());
            }
            let passed = length.min(self.read.len());
            self.read.advance(passed);
            length -= passed;
        }
        Ok(())
    }

    /// Everything until the other side finishes.
    pub async fn rest(&mut self) -> Result<Vec<u8>, Error> {
        while self.more().await? {}
        Ok(self.read.split().to_vec())
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Result<(Head, Vec<u8>), Error> {
        self.say(request).await?;
        let head = self.answer().await?;
        let body = self.body(&head).await?;
        Ok((head, body))
    }

    /// What was read already, and the connection.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        (self.read.to_vec(), self.stream)
    }
}

/// A frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
