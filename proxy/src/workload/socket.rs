//! The socket: where it is, who may connect, and how many.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tonic::transport::server::Connected;

/// Connections that may be open at once. Each may carry several streams.
pub const CONNECTIONS: usize = 64;
/// Whoever runs in the pod and sees the volume may connect, as which user whatsoever.
const MODE: u32 = 0o666;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
#[error("workload-api-socket: {}: {problem}", path.display())]
pub struct SocketError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("there is something else than a socket; name a path of the proxy's own")]
    Taken,
    #[error("another process answers there; give each proxy a path of its own")]
    InUse,
    #[error("{0}; name a path of less than 108 bytes in a folder that the proxy may write to")]
    Io(#[from] io::Error),
}

/// A socket that is bound. Its file goes with it.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Takes the place of a socket that an earlier run has left.
    pub fn bind(path: PathBuf) -> Result<Self, SocketError> {
        match bind(&path) {
            Ok(listener) => Ok(Self { path, listener }),
            Err(problem) => Err(SocketError { path, problem }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connections, without end. What is beyond the limit is closed at once.
    pub fn incoming(&self) -> impl Stream<Item = io::Result<Connection>> + Send + '_ {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        stream::unfold(places, move |places| async move {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => match places.clone().try_acquire_owned() {
                        Ok(place) => return Some((Ok(Connection { stream, _place: place }), places)),
                        Err(_) => tracing::warn!(
                            limit = CONNECTIONS,
                            "too many connections to the workload API; closed one"
                        ),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a caller of the workload API; trying again");
                        sleep(PAUSE).await;
                    }
                }
            }
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What is left is taken away by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> Result<UnixListener, Problem> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(Problem::Taken),
        Ok(_) if StdStream::connect(path).is_ok() => return Err(Problem::InUse),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// One connection, and its place among those that there may be.
pub struct Connection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
