//! `Expect: 100-continue`: a client that asks whether its body is wanted is answered by the application. The
//! body is not asked for before the application has said so, or has said nothing for a while.

use std::{pin::Pin, time::Duration};

use http::{HeaderMap, Request, StatusCode, header};
use tokio::{sync::watch, time};

use super::body::Body;

/// How long an application may say nothing. Many know nothing of the question.
const PATIENCE: Duration = Duration::from_secs(1);

/// Resolves when the body may be sent, or shall never be.
pub type Waiting = Pin<Box<dyn Future<Output = Result<(), Unwanted>> + Send>>;

/// The application has answered without the body, and the client has to know.
#[derive(Debug, thiserror::Error)]
#[error("the application answered without this body")]
pub struct Unwanted;

/// What the application thinks of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    None,
    Wanted,
    Unwanted,
}

/// Hears the application on behalf of a body that waits.
pub struct Question {
    word: watch::Sender<Word>,
}

/// Whether a request asks.
pub fn asks(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Question {
    /// Makes the body of a request that asks wait.
    pub fn ask(request: &mut Request<Body>) -> Option<Self> {
        if !asks(request.headers()) || !request.body().is_passed() {
            return None;
        }
        let (word, heard) = watch::channel(Word::None);
        let said = word.clone();
        hyper::ext::on_informational(request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                said.send_replace(Word::Wanted);
            }
        });
        request.body_mut().wait(Box::pin(waiting(heard)));
        Some(Self { word })
    }

    /// The application has given its answer. Says whether that was instead of hearing the body: an answer
    /// that is no refusal may still be followed by it.
    pub fn answered(&self, status: StatusCode) -> bool {
        let refused = status.is_client_error() || status.is_server_error();
        let waits = !self.word.is_closed() && *self.word.borrow() == Word::None;
        if waits {
            self.word.send_replace(if refused { Word::Unwanted } else { Word::Wanted });
        }
        waits && refused
    }
}

async fn waiting(mut heard: watch::Receiver<Word>) -> Result<(), Unwanted> {
    let word = match time::timeout(PATIENCE, heard.wait_for(|word| *word != Word::None)).await {
        Ok(Ok(word)) => *word,
        Ok(Err(_)) => return Err(Unwanted),
        Err(_) => Word::Wanted,
    };
    if word == Word::Unwanted {
        // The connection ends with the body, so that comes after the answer.
        let _ = heard.wait_for(|_| false).await;
        return Err(Unwanted);
    }
    Ok(())
}
