//! Serves gRPC on the connections of a listener, each from its first request, which makes room for the
//! next newcomer, to its end in good order: when the process stops, when it is old, or when what it rests on
//! is trusted no more. A client is told by GOAWAY, answers that are under way are finished, and streams end
//! without an error, so that clients come again at once.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::{
    body::{Body, Frame, Incoming as Asked, SizeHint},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, body::Body as Answer, service::Routes};
use tower::ServiceExt;
use trellis_telemetry::shutdown::{Shutdown, requested};

use super::{Incoming, Secured};

/// From the head of a request to that of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Of a connection, so that members spread again over the replicas there are.
const AGE: Duration = Duration::from_secs(55 * 60);
const AGE_SPREAD: Duration = Duration::from_secs(10 * 60);
/// What is under way when a connection is to end has this long.
const GRACE: Duration = Duration::from_secs(20);
/// What a peer may have on its way to us that nobody has read, in bytes: of all streams of a connection and
/// of each. Members say little, and there are thousands.
const WINDOW: u32 = 64 << 10;
/// What we have on the way to a peer that does not read.
const SEND_BUFFER: usize = 64 << 10;

/// What one connection may do.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// At once.
    pub streams: u32,
    /// All headers of a request, in bytes.
    pub headers: u32,
    /// How long it may be silent before it is asked, and how long it may take to answer.
    pub keep_alive: Duration,
}

/// Serves until asked to stop, then finishes what is under way.
pub async fn serve(mut incoming: Incoming, routes: Routes, terms: Terms, stop: Shutdown) {
    let routes = routes.prepare();
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    {
        let stopping = requested(stop.clone());
        tokio::pin!(stopping);
        loop {
            let secured = tokio::select! {
                () = &mut stopping => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                secured = incoming.next() => secured,
            };
            let Some(Ok(secured)) = secured else { break };
            number = number.wrapping_add(1);
            connections.spawn(connection(secured, routes.clone(), terms, age(number), stop.clone()));
        }
    }
    drop(incoming);
    while connections.join_next().await.is_some() {}
}

async fn connection(secured: Secured, routes: Routes, terms: Terms, age: Duration, stop: Shutdown) {
    let (peer, newcomer, falls) = (secured.peer().clone(), secured.newcomer(), secured.falls());
    let remote = peer.remote;
    let ending = watch::Sender::new(false);
    let ended = ending.subscribe();
    let service = service_fn(move |mut request: Request<Asked>| {
        request.extensions_mut().insert(peer.clone());
        let (answering, answered) = oneshot::channel();
        let request = request.map(|body| Question { body, answered });
        let (answer, newcomer, ended) = (routes.clone().oneshot(request), newcomer.clone(), ended.clone());
        async move {
            let answer = match timeout(REQUEST_TIMEOUT, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(late()),
            };
            newcomer.served();
            answer.map(|answer| {
                answer.map(|body| Until { body, ended, end: None, over: false, _answering: answering })
            })
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(terms.streams)
        .max_header_list_size(terms.headers)
        .keep_alive_interval(terms.keep_alive)
        .keep_alive_timeout(terms.keep_alive)
        .serve_connection(TokioIo::new(secured), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return over(remote, result),
        () = falls => {}
        () = sleep(age) => {}
        () = requested(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    ending.send_replace(true);
    match timeout(GRACE, connection).await {
        Ok(result) => over(remote, result),
        Err(_) => tracing::debug!(%remote, "a connection did not end by itself; cutting it"),
    }
}

fn over(remote: std::net::SocketAddr, result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%remote, %error, "a connection ended early");
    }
}

fn late() -> Response<Answer> {
    let text = format!("no answer within {} s; ask again", REQUEST_TIMEOUT.as_secs());
    Status::deadline_exceeded(text).into_http()
}

/// Spread evenly, so that connections that came together do not leave together: multiples of the golden
/// ratio never bunch.
fn age(number: u64) -> Duration {
    let turn = (number as f64 * 0.618_033_988_749_895).fract();
    AGE + AGE_SPREAD.mul_f64(turn)
}

/// The body of a request. It ends with the answer, since nobody is left then who could want more of it; a
/// client whose stream was ended might hold its own half, and with it the connection, open for ever.
struct Question {
    body: Asked,
    answered: oneshot::Receiver<Infallible>,
}

impl Body for Question {
    type Data = <Asked as Body>::Data;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Self::Data>>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        // Nothing can be sent: only the end of who answers is heard.
        Pin::new(&mut self.answered).poll(cx).map(|_| None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. When its connection is to end and nothing more is ready, neither will be: what is
/// unfinished then is a stream that would go on for ever, and its client asks for another one.
struct Until {
    body: Answer,
    ended: watch::Receiver<bool>,
    /// Made by who has to wait: most answers are there at once.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    over: bool,
    _answering: oneshot::Sender<Infallible>,
}

impl Body for Until {
    type Data = <Answer as Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let this = &mut *self;
        let end = this.end.get_or_insert_with(|| {
            let mut ended = this.ended.clone();
            Box::pin(async move {
                // Without a sender there is no connection either.
                let _ = ended.wait_for(|ended| *ended).await;
            })
        });
        ready!(end.as_mut().poll(cx));
        this.over = true;
        let good =
            HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        Poll::Ready(Some(Ok(Frame::trailers(good))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_came_together_end_apart() {
        let mut ages: Vec<_> = (1..=600).map(age).collect();
        assert!(ages.iter().all(|age| (AGE..=AGE + AGE_SPREAD).contains(age)));
        ages.sort();
        let widest = ages.windows(2).map(|two| two[1] - two[0]).max().unwrap();
        assert!(widest < Duration::from_secs(3), "{widest:?}");
    }
}
