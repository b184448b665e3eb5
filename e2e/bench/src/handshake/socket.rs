//! Handshakes over loopback: the server's thread accepts, shakes hands and closes, as the handshake thread
//! of a proxy does; clients are on another core.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    runtime,
    task::JoinSet,
    time,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trellis_pki::tls::ClientAuth;

use super::Pair;
use crate::{
    clock,
    cores::{self, Cores},
};

/// Clients at the same time.
const CLIENTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// CPU of the server's thread for all of them.
pub fn run(pair: &Arc<Pair>, cores: Cores, handshakes: usize) -> Result<Duration> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            cores::pin_self(cores.mesh)?;
            let begun = clock::thread_cpu();
            block_on(serve(pair, listener, handshakes))?;
            anyhow::Ok(clock::thread_cpu().saturating_sub(begun))
        });
        let clients = scope.spawn(|| {
            cores::pin_self(cores.load)?;
            block_on(call(pair, address, handshakes))
        });
        let (clients, server) = (clients.join(), server.join());
        let broke = |_| anyhow!("a thread of the measurement broke");
        clients.map_err(broke)??;
        server.map_err(broke)?
    })
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let bounded = async { time::timeout(PATIENCE, work).await.context("handshakes that never ended")? };
    runtime.block_on(bounded)
}

async fn serve(pair: &Arc<Pair>, listener: StdListener, handshakes: usize) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut serving = JoinSet::new();
    for _ in 0..handshakes {
        let (socket, _) = listener.accept().await?;
        let pair = pair.clone();
        serving.spawn(async move {
            socket.set_nodelay(true)?;
            let accepting = pair.server.accept(ClientAuth::Required)?;
            let stream = TlsAcceptor::from(accepting.config).accept(socket).await?;
            let (_socket, connection) = stream.into_inner();
            pair.check(&accepting.recorder, &connection)
        });
    }
    all(serving).await
}

async fn call(pair: &Arc<Pair>, address: SocketAddr, handshakes: usize) -> Result<()> {
    let mut calling = JoinSet::new();
    for number in 0..CLIENTS {
        let pair = pair.clone();
        let share = (number..handshakes).step_by(CLIENTS).len();
        calling.spawn(async move {
            for _ in 0..share {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                let connecting = pair.client.connect(vec![pair.server_identity.clone()], true)?;
                let connector = TlsConnector::from(connecting.config);
                let stream = connector.connect(connecting.server_name, socket).await?;
                // The server closes when it is done; it has nothing to say in TLS any more.
                let (mut socket, _) = stream.into_inner();
                let more = socket.read(&mut [0; 64]).await?;
                anyhow::ensure!(more == 0, "{more} bytes after a handshake");
            }
            anyhow::Ok(())
        });
    }
    all(calling).await
}

async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        done.context("a part of the measurement broke")??;
    }
    Ok(())
}
