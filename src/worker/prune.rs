//! Taking away what is old, beside all else.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PruneObserver, put_off};
use crate::service::App;
use crate::service::retention::{Sweep, next_batch};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(10 * 60);
/// The least pause between two bits. It is no shorter than the bit took, so that at least half of the time is for others.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes away what is old, until `stop`.
pub(super) async fn run(app: App, stop: CancellationToken, observe: PruneObserver) {
    while !stop.is_cancelled() {
        let mut sweep = Sweep::default();
        let pause = loop {
            let began = Instant::now();
            match next_batch(&app, &mut sweep).await {
                Ok(Some(pruned)) => observe(&pruned),
                Ok(None) => break EVERY,
                Err(error) => break put_off("retention", &error),
            }
            if !wait(&stop, began.elapsed().max(PAUSE)).await {
                return;
            }
        };
        wait(&stop, pause).await;
    }
}

/// False: it is to stop.
async fn wait(stop: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}
