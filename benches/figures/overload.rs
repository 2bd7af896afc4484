//! Whether health checks are answered while devices ask for more than the machine can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::context::{Context, Requests};
use crate::idle::polls;
use crate::load::{Until, drive};
use crate::spread::Spread;
use crate::wire::{Wire, request};

/// Far more connections than two cores keep up with, each asking again at once.
const CONNECTIONS: usize = 2_000;
/// Between two health checks.
const PAUSE: Duration = Duration::from_millis(20);

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    context.start_all().await?;
    let Some(fleet) = context.fleets.first() else { return Ok(()) };
    let (label, admin) = (fleet.shape.label.clone(), fleet.installation.admin);
    let stop = Arc::new(AtomicBool::new(false));
    let checks = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let (mut took, ready) = (Vec::new(), request("GET /readyz", &[], b""));
            while !stop.load(Ordering::SeqCst) {
                let begin = Instant::now();
                // As a balancer asks: by a connection of its own each time.
                let answer = Wire::connect(admin).await?.ask(&ready).await?;
                if answer.status != 200 {
                    return Err(answer.unexpected());
                }
                took.push(begin.elapsed().as_secs_f64() * 1e3);
                sleep(PAUSE).await;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(took)
        }
    });
    let counted = Duration::from_millis(context.size.millis * 2);
    let until = Until::Time { warm: Duration::from_millis(context.size.millis / 4), counted };
    let load =
        drive(Requests::new(polls(fleet), 1), fleet.installation.devices, CONNECTIONS, until, fleet.meter()?).await;
    stop.store(true, Ordering::SeqCst);
    let took = Spread::of(checks.await??);
    let work = "health check while 2,000 connections poll";
    context.row(work, &label, format!("{took} ms"), None, format!("{:.0} polls /s", load?.rate()));
    context.put(work, &label, json!({"milliseconds": took.json()}));
    Ok(())
}
