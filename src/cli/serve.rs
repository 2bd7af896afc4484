use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::open;
use super::server::Server;
use super::{Error, SettingsFile, SystemClock, SystemRandomness, start_telemetry};
use crate::http::Shutdown;
use crate::http::observe::log_panics;

/// How long requests in flight may take after the first signal to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `muster serve`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: SettingsFile,
}

/// Serves until a signal.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let settings = arguments.settings.load()?;
    // Fails only when something logs already, which is as good.
    let _ = start_telemetry(&settings.log);
    log_panics();
    super::block_on(async move {
        let store = open::store(&settings, true).await?;
        let app = open::app(settings, store, Arc::new(SystemClock), Arc::new(SystemRandomness))?;
        let shutdown = Shutdown::new();
        shutdown.on_signals(PATIENCE).map_err(|e| Error::Listen(format!("cannot watch signals: {e}")))?;
        let public_url = app.settings.public_url.as_str().to_owned();
        let server = Server::start(app, shutdown).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            public_url,
            devices = %server.devices,
            admin = %server.admin,
            "serving"
        );
        let dropped = server.stopped().await;
        tracing::info!(dropped_connections = dropped, "stopped");
        Ok(())
    })
}
