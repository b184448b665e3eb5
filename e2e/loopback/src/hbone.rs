//! The client side of a tunnel, with everything that a peer could do differently left to the test.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client};
use http::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trellis_pki::{refusal::Refusal, spiffe::SpiffeId, tls::MeshTls};

use crate::stage::Error;

/// A handshake as `tls` makes it. `Err` in the inner result is why the peer, or we, refused.
pub async fn handshake(
    tls: &MeshTls,
    expected: SpiffeId,
    present: bool,
    to: SocketAddr,
) -> Result<Result<TlsStream<TcpStream>, Refusal>, Error> {
    let connecting = tls.connect(vec![expected], present)?;
    let socket = TcpStream::connect(to).await?;
    let attempt = async {
        let mut stream =
            TlsConnector::from(connecting.config).connect(connecting.server_name, socket).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        // A server that accepted us sends its SETTINGS; one that did not sends an alert.
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        std::io::Result::Ok(stream)
    };
    Ok(attempt.await.map_err(|error| Refusal::of_io(&error, &connecting.recorder)))
}

/// A tunnel on which the test may ask for anything.
pub struct Hbone(client::SendRequest<Bytes>);

impl Hbone {
    pub async fn open(tls: &MeshTls, expected: SpiffeId, to: SocketAddr) -> Result<Self, Error> {
        let connecting = tls.connect(vec![expected], true)?;
        let socket = TcpStream::connect(to).await?;
        let stream = TlsConnector::from(connecting.config).connect(connecting.server_name, socket).await?;
        let (send, connection) = client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(send.ready().await?))
    }

    /// Sends a request and returns its status and both halves of its stream.
    pub async fn ask(
        &mut self,
        method: Method,
        uri: &str,
    ) -> Result<(StatusCode, SendStream<Bytes>, RecvStream), Error> {
        let request = Request::builder().method(method).uri(uri).body(())?;
        let (response, send) = self.0.send_request(request, false)?;
        let response = response.await?;
        Ok((response.status(), send, response.into_body()))
    }
}
