//! Handshakes without a socket: nothing but the TLS code, one end after the other on one thread.

use std::{io, ops::DerefMut, time::Duration};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData};
use trellis_pki::tls::ClientAuth;

use super::Pair;
use crate::clock;

/// CPU of the server for all of them, and bytes both ways.
pub fn run(pair: &Pair, handshakes: usize) -> Result<(Duration, u64)> {
    let (mut cpu, mut bytes) = (Duration::ZERO, 0);
    for _ in 0..handshakes {
        let (one_cpu, one_bytes) = one(pair)?;
        cpu += one_cpu;
        bytes += one_bytes;
    }
    Ok((cpu, bytes))
}

fn one(pair: &Pair) -> Result<(Duration, u64)> {
    let connecting = pair.client.connect(vec![pair.server_identity.clone()], true)?;
    let mut client = ClientConnection::new(connecting.config, connecting.server_name)?;
    let begun = clock::thread_cpu();
    let accepting = pair.server.accept(ClientAuth::Required)?;
    let mut server = ServerConnection::new(accepting.config)?;
    let mut cpu = clock::thread_cpu().saturating_sub(begun);
    let mut bytes = 0;
    let mut to_server = turn(&mut client, &[])?;
    loop {
        let begun = clock::thread_cpu();
        let to_client = turn(&mut server, &to_server)?;
        cpu += clock::thread_cpu().saturating_sub(begun);
        bytes += to_server.len() + to_client.len();
        to_server = turn(&mut client, &to_client)?;
        if to_server.is_empty() {
            break;
        }
    }
    ensure!(!client.is_handshaking(), "a handshake that stopped halfway");
    let begun = clock::thread_cpu();
    pair.check(&accepting.recorder, &server)?;
    cpu += clock::thread_cpu().saturating_sub(begun);
    Ok((cpu, bytes as u64))
}

/// Takes in what came and returns what goes out.
fn turn<C, S>(connection: &mut C, mut came: &[u8]) -> Result<Vec<u8>>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    while !came.is_empty() {
        connection.read_tls(&mut came).context("feeding a handshake")?;
        connection.process_new_packets().context("a handshake that failed")?;
    }
    let mut out = Vec::new();
    while connection.wants_write() {
        ensure!(connection.write_tls(&mut out)? > 0, io::Error::from(io::ErrorKind::WriteZero));
    }
    Ok(out)
}
