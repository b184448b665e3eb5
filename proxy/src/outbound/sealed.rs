//! Bytes to an application that wants TLS of its own. A client that speaks TLS itself is not spoken for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{Heard, MALFORMED, Onward, UNCERTAIN, dropped, first_word, greeting, hear, refused, requests};
use crate::{
    directory::{Answer, Followed},
    reach::{self, Reached},
    relay::Begun,
    worker::Worker,
};

/// How long a client may be silent before it is taken to wait for its server: one that speaks TLS itself has
/// begun by then, and to speak for that one would be one TLS too many.
const MUTE: Duration = Duration::from_millis(200);

/// Carries bytes to the application in its TLS, and as they are where they are TLS already. With `followed`, a
/// client that speaks HTTP after all is forwarded request by request.
pub async fn carry(
    worker: &Arc<Worker>,
    mut socket: TcpStream,
    mut first: BytesMut,
    to: SocketAddr,
    answer: &Answer,
    followed: Option<Followed>,
) -> Option<Onward> {
    let mut heard = match first.is_empty() {
        true => hear(&mut socket, &mut first, Some(MUTE), UNCERTAIN).await,
        false => Heard::Uncertain,
    };
    let mut reached = None;
    if let Heard::Silent = heard {
        let Some(mut before) = reach::endpoint(worker, to, answer, answer.tls()).await else {
            return dropped(socket);
        };
        heard = first_word(&mut socket, &mut first, &mut before).await;
        reached = Some(before);
    }
    match (heard, followed) {
        (Heard::Left, _) => {
            left(reached);
            return None;
        }
        (Heard::Speaks(protocol), Some(followed)) if protocol.is_http() => {
            left(reached);
            return Some(requests(worker, socket, first.freeze(), protocol, to, followed));
        }
        _ => {}
    }
    let tls = match speaks_tls(&mut socket, &mut first).await {
        Ok(true) => {
            left(reached.take());
            None
        }
        Ok(false) => answer.tls(),
        Err(reason) => {
            left(reached);
            return refused(worker, socket, to, reason);
        }
    };
    let reached = match reached {
        Some(reached) => Some(reached),
        None => reach::endpoint(worker, to, answer, tls).await,
    };
    match reached {
        Some(reached) => Some(reached.carry(worker, Begun::new(first.freeze(), socket), to, None)),
        None => dropped(socket),
    }
}

fn left(reached: Option<Reached>) {
    if let Some(reached) = reached {
        reached.leave();
    }
}

/// Whether a client begins with a greeting of TLS, which is whole: what only looks like one is spoken for.
async fn speaks_tls(socket: &mut TcpStream, first: &mut BytesMut) -> Result<bool, &'static str> {
    if !first.starts_with(&[22]) {
        return Ok(false);
    }
    match greeting(socket, first).await {
        Ok(_) => Ok(true),
        Err(MALFORMED) => Ok(false),
        Err(reason) => Err(reason),
    }
}
