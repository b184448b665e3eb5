//! HTTP/2 with prior knowledge, and what gRPC needs of it.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::future::try_join_all;
use h2::{
    Reason, RecvStream, SendStream,
    client::SendRequest,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use libtest_mimic::Trial;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time,
};
use trellis_loopback::stage::{Error, Stage};

use super::open;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("many_streams_carry_bodies_and_trailers_at_once", many),
        trial("a_conversation_goes_both_ways_on_one_stream", conversation),
        trial("an_answer_may_consist_of_its_trailers", trailers_only),
        trial("a_reader_who_does_not_read_stalls_no_other_stream", slow_reader),
        trial("resets_travel_both_ways", resets),
        trial("an_application_that_says_goodbye_under_load_loses_nothing", goodbye),
    ]
}

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// Serves each request to the application with `serve`. After `last` requests a connection says goodbye.
pub fn application<F>(
    listener: TcpListener,
    last: usize,
    serve: impl Fn(Asked) -> F + Send + Sync + Clone + 'static,
) where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move {
                let mut connection = server::Builder::new().handshake::<_, Bytes>(socket).await?;
                let mut came = 0;
                while let Some(asked) = connection.accept().await {
                    let served = serve(asked?);
                    tokio::spawn(async move {
                        if let Err(error) = served.await {
                            eprintln!("the application: {error}");
                        }
                    });
                    came += 1;
                    if came == last {
                        connection.graceful_shutdown();
                    }
                }
                Result::<(), Error>::Ok(())
            });
        }
    });
}

pub async fn client(stage: &Stage) -> Result<SendRequest<Bytes>, Error> {
    let socket = TcpStream::connect(stage.entry()).await?;
    let (send, connection) = h2::client::Builder::new()
        .initial_max_send_streams(100)
        .initial_window_size(1 << 20)
        // Room for streams that are not read.
        .initial_connection_window_size(1 << 26)
        .handshake(socket)
        .await?;
    tokio::spawn(connection);
    Ok(send.ready().await?)
}

/// A question as gRPC asks it.
fn request(uri: &'static str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = Uri::from_static(uri);
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    request
}

async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let data = body.data().await.transpose()?;
    if let Some(data) = &data {
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(data)
}

async fn whole(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = next(body).await? {
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

fn trailers(name: &'static str, value: usize) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from(value))])
}

/// Answers with what it got, and its length behind.
async fn echo((request, mut respond): Asked) -> Result<(), Error> {
    let (body, sent) = whole(&mut request.into_body()).await?;
    assert_eq!(sent.ok_or("no trailers")?["x-sum"], body.len().to_string());
    let mut answer = respond.send_response(Response::new(()), false)?;
    let length = body.len();
    answer.send_data(body.into(), false)?;
    Ok(answer.send_trailers(trailers("grpc-status", length))?)
}

async fn many() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, 0, echo);
    let client = client(&stage).await?;
    let one = |number: usize| {
        let client = client.clone();
        async move {
            let (answer, mut body) = client.ready().await?.send_request(request("http://web/many"), false)?;
            let said = vec![number as u8; 1 + number * 37];
            body.send_data(said.clone().into(), false)?;
            body.send_trailers(trailers("x-sum", said.len()))?;
            let answer = answer.await?;
            assert_eq!(answer.status(), StatusCode::OK);
            let (heard, trailers) = whole(&mut answer.into_body()).await?;
            assert_eq!(heard, said);
            assert_eq!(trailers.ok_or("no trailers")?["grpc-status"], said.len().to_string());
            Result::<(), Error>::Ok(())
        }
    };
    try_join_all((0..400).map(one)).await?;
    Ok(())
}

async fn conversation() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, 0, |(request, mut respond)| async move {
        // The answer begins before the question has.
        let mut answer = respond.send_response(Response::new(()), false)?;
        let mut body = request.into_body();
        while let Some(data) = next(&mut body).await? {
            answer.send_data(data, false)?;
        }
        Ok(answer.send_trailers(trailers("grpc-status", 0))?)
    });
    let client = client(&stage).await?;
    let (answer, mut say) = client.ready().await?.send_request(request("http://web/talk"), false)?;
    let mut heard = answer.await?.into_body();
    for number in 0..50u8 {
        say.send_data(vec![number].into(), false)?;
        assert_eq!(next(&mut heard).await?.ok_or("ended")?, [number][..]);
    }
    say.send_data(Bytes::new(), true)?;
    let (rest, trailers) = whole(&mut heard).await?;
    assert_eq!((rest, trailers.ok_or("no trailers")?["grpc-status"].as_bytes()), (vec![], &b"0"[..]));
    Ok(())
}

async fn trailers_only() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, 0, |(_, mut respond)| async move {
        let response =
            Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
        respond.send_response(response.body(())?, true)?;
        Ok(())
    });
    let client = client(&stage).await?;
    let (answer, _) = client.ready().await?.send_request(request("http://web/none"), true)?;
    let answer = answer.await?;
    assert_eq!(answer.headers()["grpc-status"], "5");
    assert!(answer.body().is_end_stream(), "the headers are all there is");
    Ok(())
}

/// Together they are owed far more than one connection may hold.
const UNREAD: usize = 20;

async fn slow_reader() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, 0, |(request, mut respond)| async move {
        let mut answer = respond.send_response(Response::new(()), false)?;
        let size = if request.uri().path() == "/flood" { 4 << 20 } else { 3 };
        send(&mut answer, size).await
    });
    let client = client(&stage).await?;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let (answer, _) = client.clone().ready().await?.send_request(request("http://web/flood"), true)?;
        unread.push(answer.await?.into_body());
    }
    for _ in 0..20 {
        let (answer, _) = client.clone().ready().await?.send_request(request("http://web/drop"), true)?;
        let (body, _) = whole(&mut answer.await?.into_body()).await?;
        assert_eq!(body.len(), 3);
    }
    // And those that were not read are whole.
    for body in &mut unread {
        assert_eq!(whole(body).await?.0.len(), 4 << 20);
    }
    Ok(())
}

async fn send(stream: &mut SendStream<Bytes>, size: usize) -> Result<(), Error> {
    let mut left = size;
    while left > 0 {
        stream.reserve_capacity(left.min(16 * 1024));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or("gone")??;
        let part = room.min(left);
        stream.send_data(vec![1; part].into(), false)?;
        left -= part;
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

async fn resets() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let (saw, mut seen) = mpsc::channel(1);
    application(listener, 0, move |(request, mut respond)| {
        let saw = saw.clone();
        async move {
            if request.uri().path() == "/from-client" {
                let mut answer = respond.send_response(Response::new(()), false)?;
                let reason = std::future::poll_fn(|cx| answer.poll_reset(cx)).await?;
                saw.send(reason).await?;
            } else {
                let mut answer = respond.send_response(Response::new(()), false)?;
                answer.send_data("some".into(), false)?;
                // The client has seen as much.
                next(&mut request.into_body()).await?;
                answer.send_reset(Reason::INTERNAL_ERROR);
            }
            Ok(())
        }
    });
    let client = client(&stage).await?;
    let (answer, mut say) =
        client.clone().ready().await?.send_request(request("http://web/from-client"), false)?;
    let answer = answer.await?;
    say.send_reset(Reason::CANCEL);
    drop(answer);
    let reason = time::timeout(Duration::from_secs(10), seen.recv()).await?;
    assert_eq!(reason, Some(Reason::CANCEL));
    let (answer, mut say) =
        client.clone().ready().await?.send_request(request("http://web/from-server"), false)?;
    let mut heard = answer.await?.into_body();
    assert_eq!(next(&mut heard).await?.ok_or("ended")?, "some");
    say.send_data("seen".into(), false)?;
    let error = whole(&mut heard).await.expect_err("a reset is no end");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{error}");
    Ok(())
}

async fn goodbye() -> Result<(), Error> {
    const REQUESTS: usize = 1_000;
    let (stage, listener) = open().await?;
    application(listener, 23, |(_, mut respond)| async move {
        let mut answer = respond.send_response(Response::new(()), false)?;
        Ok(answer.send_data("whole".into(), true)?)
    });
    let client = client(&stage).await?;
    let one = |number: usize| {
        let client = client.clone();
        async move {
            for request_number in 0..REQUESTS / 20 {
                let (answer, _) = client.clone().ready().await?.send_request(request("http://web/"), true)?;
                let answer = answer.await?;
                if answer.status() != StatusCode::OK {
                    return Err(format!("{number}, {request_number}: {answer:?}").into());
                }
                assert_eq!(whole(&mut answer.into_body()).await?.0, b"whole");
            }
            Result::<(), Error>::Ok(())
        }
    };
    try_join_all((0..20).map(one)).await?;
    Ok(())
}
