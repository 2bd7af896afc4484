use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How a server ends, in two steps: first it takes nothing new and finishes what it has; then, if that takes too long or
/// somebody insists, it drops the rest.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// For a server that shall run.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first step: accept nothing more, finish.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The second step: drop what is not finished.
    pub fn abort(&self) {
        self.stop.cancel();
        self.abort.cancel();
    }

    /// Cancelled at the first step; for workers to watch.
    #[must_use]
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled at the second step.
    #[must_use]
    pub const fn aborting(&self) -> &CancellationToken {
        &self.abort
    }

    /// Turns SIGTERM and SIGINT (Ctrl-C) into the two steps; the second comes by itself after `patience`.
    ///
    /// # Errors
    /// If the system lets no signal be watched.
    pub fn on_signals(&self, patience: Duration) -> std::io::Result<()> {
        let mut signals =
            Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = signals.next() => tracing::info!("stopping: finishing what is in flight; signal again to stop at once"),
                () = shutdown.stop.cancelled() => {}
            }
            shutdown.stop();
            tokio::select! {
                () = signals.next() => tracing::warn!("stopping at once"),
                () = tokio::time::sleep(patience) => {}
                () = shutdown.abort.cancelled() => {}
            }
            shutdown.abort();
        });
        Ok(())
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
