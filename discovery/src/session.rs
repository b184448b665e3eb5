//! One proxy's stream: its requests in, the answers it subscribed to out. The whole exchange is one
//! stream that is polled only when the proxy can take an answer, so one that stops reading also stops
//! being read.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tonic::Status;
use trellis_api::proto::discovery::{ResolveRequest, ResolveResponse, resolve_request::Action};
use trellis_telemetry::Counter;

use crate::{
    hub::Session,
    outbox::Full,
    subject::{InvalidSubject, Subject},
};

pub struct Conversation<R> {
    pub session: Session,
    pub requests: R,
    /// Counts the answers sent.
    pub updates: Counter,
    /// When this ends, so does the stream, without an error: the proxy shall come again.
    pub until: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<R> Conversation<R>
where
    R: Stream<Item = Result<ResolveRequest, Status>> + Send + Unpin + 'static,
{
    pub fn answers(self) -> impl Stream<Item = Result<ResolveResponse, Status>> + Send + 'static {
        stream::unfold(Some(self), |conversation| async {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(conversation))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<ResolveResponse>, Status> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request {
                    Some(request) => self.asked(&request?)?,
                    None => return Ok(None),
                },
                (subject, answer) = self.session.next() => {
                    self.updates.add(1);
                    return Ok(Some(answer.to_proto(&subject, self.session.viewer())));
                }
                () = &mut self.until => return Ok(None),
            }
        }
    }

    fn asked(&self, request: &ResolveRequest) -> Result<(), Status> {
        match &request.action {
            Some(Action::Subscribe(destination)) => self.subscribe(destination),
            Some(Action::Unsubscribe(destination)) => self.unsubscribe(destination),
            Some(Action::SubscribeBackend(backend)) => self.subscribe(backend),
            Some(Action::UnsubscribeBackend(backend)) => self.unsubscribe(backend),
            Some(Action::SubscribeGateway(gateway)) => self.subscribe(gateway),
            Some(Action::SubscribePolicy(pod)) => self.subscribe(pod),
            None => Err(Status::invalid_argument(
                "action: none that this version knows; send `subscribe` or `unsubscribe`",
            )),
        }
    }

    fn subscribe<T>(&self, asked: T) -> Result<(), Status>
    where
        Subject: TryFrom<T, Error = InvalidSubject>,
    {
        let full = |full: Full| Status::resource_exhausted(full.to_string());
        self.session.subscribe(read(asked)?).map_err(full)
    }

    fn unsubscribe<T>(&self, asked: T) -> Result<(), Status>
    where
        Subject: TryFrom<T, Error = InvalidSubject>,
    {
        self.session.unsubscribe(read(asked)?);
        Ok(())
    }
}

fn read<T>(asked: T) -> Result<Subject, Status>
where
    Subject: TryFrom<T, Error = InvalidSubject>,
{
    Subject::try_from(asked).map_err(|error| Status::invalid_argument(error.to_string()))
}
