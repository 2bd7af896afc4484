use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::server::Server;
use super::{Error, SettingsFile, SystemClock, SystemRandomness, start_telemetry};
use super::{named, open};
use crate::http::Shutdown;
use crate::http::observe::log_panics;
use crate::model::Clock;

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
        named::check(&settings)?;
        for fault in named::vendor(&settings, SystemClock.now()).err().into_iter().flatten() {
            tracing::warn!("{fault}: requests for push certificates cannot be signed");
        }
        for file in named::exposed_keys(&settings) {
            let file = file.display();
            tracing::warn!(
                "the master key {file} can be read by others: it opens every secret stored; chmod 600 {file}"
            );
        }
        // Made by `init` or `migrate` alone: in the place of one that is lost, an empty one would look like an
        // installation that nobody has used yet.
        let store = open::store(&settings, false).await?;
        if store.is_backup().await? {
            return Err(Error::Refused(
                "database.url: the file is a backup that was put in place by hand; run `muster restore --mark` first: it \
                 holds the wipes and locks that may have been done since, and ends old enrollment links"
                    .to_owned(),
            ));
        }
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
