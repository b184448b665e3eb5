//! One HTTP request to a process of ours.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
#[error("http://{address}{path}: {reason}")]
pub struct GetError {
    address: SocketAddr,
    path: String,
    reason: String,
}

pub async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), GetError> {
    request(Method::GET, address, path).await
}

pub async fn post(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), GetError> {
    request(Method::POST, address, path).await
}

async fn request(method: Method, address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), GetError> {
    let error = |reason: String| GetError { address, path: path.to_owned(), reason };
    match time::timeout(TIMEOUT, exchange(method, address, path)).await {
        Ok(result) => result.map_err(|reason| error(reason.to_string())),
        Err(_) => Err(error(format!("no answer within {TIMEOUT:?}"))),
    }
}

async fn exchange(
    method: Method,
    address: SocketAddr,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await?.to_bytes();
        Ok((status, body))
    };
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        // The connection ends by itself when the answer was its last: the answer is then here.
        ended = connection => { ended?; exchange.await }
    }
}
