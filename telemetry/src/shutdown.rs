//! When to stop.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal as listen},
    sync::watch,
};

/// True from the moment that the process is asked to stop.
pub type Shutdown = watch::Receiver<bool>;

/// Becomes true at the first SIGTERM or SIGINT. Call it once, inside the runtime, before anything that
/// would have to be cleaned up: from then on these signals no longer kill the process.
pub fn signal() -> io::Result<Shutdown> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
        sender.send_replace(true);
        // Whoever asks later must still see `true` rather than a closed channel.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Waits until the process is asked to stop. If whoever could have asked is gone, that counts as asked.
pub async fn requested(mut shutdown: Shutdown) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}
