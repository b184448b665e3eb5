use std::collections::VecDeque;

use trellis_pki::{clock::SystemClock, policy::Policy};

use super::*;

/// Fails as scripted, and then hands out real connections.
struct Failing {
    errors: VecDeque<io::Error>,
    tcp: TcpListener,
}

impl Accept for Failing {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match self.errors.pop_front() {
            Some(error) => Poll::Ready(Err(error)),
            None => self.tcp.poll_accept(cx),
        }
    }
}

#[tokio::test]
async fn accepting_goes_on_after_every_error() {
    const EMFILE: i32 = 24;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let errors = [
        io::Error::from_raw_os_error(EMFILE),
        io::ErrorKind::ConnectionAborted.into(),
        io::Error::from_raw_os_error(EMFILE),
        io::Error::other("unheard of"),
    ];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registry = Registry::new();
    let limits = Limits::default();
    let bounds = Bounds { total: 4, per_source: 4 };
    let handshaker = Handshaker {
        tls: Arc::new(MeshTls::new(Policy::default(), "cluster.local", clock.clone())),
        auth: ClientAuth::None,
        clock,
        metrics: Handshakes::new(&registry),
        ends: ends(&registry),
        stalled: limits.stalled,
        timeout: limits.handshake_timeout,
        log: Mutex::new(Throttle::per_second(REFUSALS_LOGGED)),
        newcomers: Gate::new(bounds),
        handshakes: Gate::new(bounds),
        connections: Gate::new(bounds),
        resting: Resting::default(),
        epochs: watch::Sender::new(0),
    };
    let (ready, _served) = mpsc::channel(1);
    let accepting = tokio::spawn(accept(Failing { errors: errors.into(), tcp }, Arc::new(handshaker), ready));
    // There is no certificate to answer with, so the connection is closed: which shows that it was taken.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(!accepting.is_finished());
    assert!(registry.prometheus().contains(NOT_READY));
    accepting.abort();
}
