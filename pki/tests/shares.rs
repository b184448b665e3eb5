//! Key shares that are none. Neither half of a hybrid exchange may be empty words, and whoever sends one that
//! is gets no connection.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;

use memory::*;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConnection};
use trellis_pki::{
    algorithm::Algorithm,
    policy::Ladder,
    provider,
    refusal::Refusal,
    tls::{ClientAuth, MeshTls},
};

/// X25519MLKEM768, and how long a client's and a server's share of it are.
const GROUP: [u8; 2] = [0x11, 0xec];
const UP: usize = 1184 + 32;
const DOWN: usize = 1088 + 32;

/// The share of this length within a first flight.
fn share(flight: &mut [u8], length: usize) -> &mut [u8] {
    let head = [&GROUP[..], &u16::try_from(length).unwrap().to_be_bytes()].concat();
    let at = flight.windows(4).position(|window| window == head).unwrap() + 4;
    &mut flight[at..at + length]
}

fn ends() -> (MeshTls, MeshTls) {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    (strict(&root, "cart", &clock), strict(&root, "pay", &clock))
}

fn greeting(client: &mut ClientConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    flight
}

/// What the server says to a ClientHello whose share was bent.
fn server_hears(bend: impl Fn(&mut [u8])) -> Refusal {
    let (client, server) = ends();
    let connecting = client.connect(vec![id("pay")], true).unwrap();
    let mut client = ClientConnection::new(connecting.config, connecting.server_name).unwrap();
    let accepting = server.accept(ClientAuth::Required).unwrap();
    let mut server = ServerConnection::new(accepting.config).unwrap();
    let mut flight = greeting(&mut client);
    bend(share(&mut flight, UP));
    server.read_tls(&mut &flight[..]).unwrap();
    let error = server.process_new_packets().map(drop).unwrap_err();
    assert_eq!(accepting.recorder.posture(&server), None);
    Refusal::of(&error, &accepting.recorder)
}

/// What the client says to a ServerHello whose share was bent.
fn client_hears(bend: impl Fn(&mut [u8])) -> Refusal {
    let (client, server) = ends();
    let connecting = client.connect(vec![id("pay")], true).unwrap();
    let mut client = ClientConnection::new(connecting.config, connecting.server_name).unwrap();
    let accepting = server.accept(ClientAuth::Required).unwrap();
    let mut server = ServerConnection::new(accepting.config).unwrap();
    server.read_tls(&mut &greeting(&mut client)[..]).unwrap();
    server.process_new_packets().unwrap();
    let mut flight = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut flight).unwrap();
    }
    bend(share(&mut flight, DOWN));
    let mut rest = &flight[..];
    let error = loop {
        client.read_tls(&mut rest).unwrap();
        if let Err(error) = client.process_new_packets() {
            break error;
        }
        assert!(!rest.is_empty(), "the client believed it");
    };
    assert_eq!(connecting.recorder.posture(&client), None);
    Refusal::of(&error, &connecting.recorder)
}

#[test]
fn a_share_of_which_either_half_is_none_is_refused() {
    let no_x25519 = |share: &mut [u8]| {
        let half = share.len() - 32;
        share[half..].fill(0);
    };
    assert_eq!(server_hears(no_x25519), Refusal::BadKeyShare, "all points become one");
    assert_eq!(client_hears(no_x25519), Refusal::BadKeyShare, "all points become one");
    // No coefficient of an ML-KEM key is that large.
    assert_eq!(server_hears(|share| share[..1184].fill(0xff)), Refusal::BadKeyShare);
}

/// ML-KEM makes a key of any ciphertext. It is not the server's, and so nothing of what follows is believed.
#[test]
fn a_ciphertext_of_noise_opens_nothing() {
    for bend in [|share: &mut [u8]| share[..1088].fill(0xa5), |share: &mut [u8]| share[0] ^= 1] {
        assert_eq!(client_hears(bend), Refusal::Undecipherable);
    }
}

/// A client that lists the hybrid group and guessed another one is asked again, and is post-quantum then.
#[test]
fn who_guessed_another_group_is_asked_again() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let server = strict(&root, "pay", &clock);
    let mut guessing = (*provider::mesh(policy(Ladder::Prefer, Ladder::Prefer))).clone();
    guessing.kx_groups.reverse();
    assert_ne!(u16::from(guessing.kx_groups[0].name()), u16::from_be_bytes(GROUP));
    let stranger = Stranger::bare(policy(Ladder::Prefer, Ladder::Prefer), &clock);
    let config = ClientConfig::builder_with_provider(Arc::new(guessing))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(stranger.believer())
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), anywhere()).unwrap();
    let accepting = server.accept(ClientAuth::None).unwrap();
    let meeting = Meeting::new(client, ServerConnection::new(accepting.config).unwrap());
    assert_eq!((&meeting.client_result, &meeting.server_result), (&Ok(()), &Ok(())));
    assert_eq!(meeting.server.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    let group = meeting.server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(u16::from(group), u16::from_be_bytes(GROUP));
}
