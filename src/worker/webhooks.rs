//! Telling webhooks of what devices sent.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{LOOK, WebhookObserver, put_off};
use crate::model::{DeviceId, WebhookId};
use crate::service::webhooks::{Flight, Waiting, clear_removed, count_waiting, send_idle, take_counts};
use crate::service::{App, Error};

/// How soon a webhook that another process made or changed is known here.
const KNOWN: Duration = Duration::from_secs(2);
/// How often what waits is counted.
const COUNT: Duration = Duration::from_secs(15);

/// What became of events, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookNews {
    /// So many came to this result.
    Ended(&'static str, u64),
    /// So much waits.
    Waiting(Waiting),
}

/// Sends what waits until `stop`, and then waits for what is under way.
pub(super) async fn run(app: App, stop: CancellationToken, observe: WebhookObserver) {
    let mut flight = Flight::new(&app, stop.clone());
    let mut round = Round { removed: None, next: [Instant::now(); 2] };
    let mut is_due = true;
    while !stop.is_cancelled() || !flight.is_empty() {
        let mut pause = LOOK;
        if !stop.is_cancelled() {
            if let Err(error) = round.look(&app, &observe).await {
                pause = put_off("webhooks", &error);
            } else if is_due {
                if let Err(error) = flight.begin().await {
                    pause = put_off("webhooks", &error);
                }
                is_due = false;
            }
        }
        tokio::select! {
            sent = flight.next(), if !flight.is_empty() => {
                // More may be due in the same line.
                is_due = true;
                if let Err(error) = sent {
                    put_off("webhooks", &error);
                }
            }
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            () = app.signals.webhooks.notified() => is_due = true,
            () = tokio::time::sleep(pause) => is_due = true,
        }
    }
    report(&app, &observe);
}

/// Tells of polls until `stop`. Those that wait then are lost.
pub(super) async fn run_idle(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.signals.polled.notified() => {}
        }
        if let Err(error) = send_idle(&app, &stop).await {
            put_off("webhooks", &error);
        }
    }
}

/// What is done from time to time.
struct Round {
    /// How far what removed webhooks left has been taken away.
    removed: Option<(WebhookId, DeviceId)>,
    next: [Instant; 2],
}

impl Round {
    async fn look(&mut self, app: &App, observe: &WebhookObserver) -> Result<(), Error> {
        let now = Instant::now();
        let [known, count] = &mut self.next;
        if now >= *known {
            *known = now + KNOWN;
            report(app, observe);
            app.reload_webhooks().await?;
            // One bit at a time: others wait for the transaction.
            clear_removed(app, &mut self.removed).await?;
        }
        if now >= *count {
            *count = now + COUNT;
            observe(&WebhookNews::Waiting(count_waiting(app).await?));
        }
        Ok(())
    }
}

fn report(app: &App, observe: &WebhookObserver) {
    for (result, count) in take_counts(app).into_iter().filter(|(_, count)| *count > 0) {
        observe(&WebhookNews::Ended(result, count));
    }
}
