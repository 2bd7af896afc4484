use clap::Args;

use super::completions::write;
use super::open::{self, ServerLock};
use super::{Error, SettingsFile};

/// Options of `muster migrate`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsFile,
}

/// Brings the tables up to this version, over `database.direct_url` where there is one.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let settings = arguments.settings.load()?;
    super::block_on(async move {
        let store = open::store(&settings, true).await?;
        let pending = store.pending_migrations().await?;
        let text = if pending == 0 {
            // Also refuses a database of a newer version.
            store.migrate().await?;
            "nothing to do: the database is up to date\n".to_owned()
        } else {
            // The tables do not change under a server that knows the old ones.
            let _lock = ServerLock::take(&store)?;
            store.migrate().await?;
            format!("migrated: {pending} of {} were missing\n", store.known_migrations())
        };
        store.close().await;
        write(&mut std::io::stdout().lock(), text.as_bytes())
    })
}
