//! The memory of a server after its start.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::installation::{Front, Installation};
use crate::process::Process;
use crate::report::{Report, Row};
use crate::{Result, tell};

/// What a server may take after its start, MB (2^20 bytes).
const LIMIT: f64 = 60.0;
/// How long after it is ready: what it does in the background has begun.
const SETTLED: Duration = Duration::from_secs(4);

pub async fn measure(place: &Path, report: &mut Report) -> Result<()> {
    tell("memory: a fresh installation on SQLite");
    let installation = Installation::make(place, None)?;
    // A server makes no database; `muster init` does, or this.
    installation.open(Front::Own).await?.store.close().await;
    let process = Process::muster(&installation.settle(Front::Own)?, installation.admin).await?;
    tokio::time::sleep(SETTLED).await;
    let memory = process.memory()?;
    process.stop().await?;
    report.add(Row {
        figure: "resident memory after the start, SQLite".to_owned(),
        measured: format!("{:.1} MB", memory.resident),
        limit: Some((format!("below {LIMIT} MB"), memory.resident < LIMIT)),
        note: format!("at most {:.1} MB up to then", memory.peak),
    });
    report.put(&["memory"], json!({"resident_mb": memory.resident, "peak_mb": memory.peak, "limit_mb": LIMIT}));
    Ok(())
}
