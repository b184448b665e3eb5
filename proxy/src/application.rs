//! A connection that has reached an application: through its tunnel or without one, and in TLS of the
//! application's own where it wants that.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    directory::{ApplicationTls, Endpoint, Reach},
    handshake::ConnectError,
    http::Far,
    ledger::{Direction, Flow, OpenConnection, Row},
    reach,
    relay::Tunnelled,
    trace::Open,
    tunnel::{Peer, Place},
    worker::Worker,
};

mod seal;

pub struct Connection {
    /// Its bytes are not counted yet.
    pub far: Far,
    pub flow: Arc<Flow>,
    pub row: Arc<Row>,
    /// Whose tunnel it rides on.
    pub peer: Option<Arc<Peer>>,
    pub held: Held,
}

/// What a connection holds until it ends.
pub struct Held {
    pub place: Option<Place>,
    _open: Option<OpenConnection>,
}

/// The TLS that an application wants to be spoken to in, and what is said in it: nothing, where that is bytes.
#[derive(Clone, Copy)]
pub struct Seal<'a> {
    pub tls: &'a Arc<ApplicationTls>,
    pub protocol: Option<&'a [u8]>,
}

/// `certain` waits until the application has accepted it.
pub async fn connect(
    worker: &Worker,
    endpoint: &Endpoint,
    seal: Option<Seal<'_>>,
    certain: bool,
    within: Option<&Open>,
) -> Result<Connection, ConnectError> {
    let ledger = &worker.shared.ledger;
    match &endpoint.reach {
        Reach::Tunnel { identity, address } => {
            let (mut stream, peer, place) =
                reach::open(worker, identity, *address, endpoint.address, within).await?;
            if certain {
                accepted(&mut stream, *address).await?;
            }
            let mut far = Far::tunnel(stream);
            if let Some(seal) = seal {
                far = Far::sealed(seal::connect(worker, endpoint, far, seal).await?.0);
            }
            let (flow, row) = (peer.flow.clone(), peer.row.clone());
            let held = Held { place: Some(place), _open: None };
            Ok(Connection { far, flow, row, peer: Some(peer), held })
        }
        Reach::Plaintext { reason } => {
            let (far, row) = match seal {
                None => {
                    let (socket, row) = reach::plaintext(worker, endpoint, reason).await?;
                    (Far::plain(socket), row)
                }
                Some(seal) => {
                    let far = Far::plain(reach::socket(endpoint.address).await?);
                    let (stream, negotiated) = seal::connect(worker, endpoint, far, seal).await?;
                    let (peer, weakness) = (endpoint.peer.to_string(), seal::weakness(&negotiated));
                    let row = ledger.outside(Direction::Outbound, peer, &negotiated, weakness);
                    (Far::sealed(stream), row)
                }
            };
            let held = Held { place: None, _open: Some(row.opened()) };
            Ok(Connection { far, flow: ledger.flow(Direction::Outbound, row.class), row, peer: None, held })
        }
    }
}

async fn accepted(stream: &mut Tunnelled, address: SocketAddr) -> Result<(), ConnectError> {
    std::future::poll_fn(|cx| stream.poll_accepted(cx)).await.map_err(|error| {
        match reach::refused_by_peer(&error) {
            Some(reason) => ConnectError::Application { address, reason },
            None => ConnectError::Closed(error.to_string().into()),
        }
    })
}
