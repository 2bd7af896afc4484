//! The server itself, as admins see it.

use super::{App, Error};
use crate::store::PushCertificateRow;

/// How the server is.
#[derive(Clone, Debug)]
pub struct Overview {
    /// `sqlite` or `postgres`.
    pub database: &'static str,
    /// Devices by the state of their device channel.
    pub devices: Vec<(String, i64)>,
    /// Enrolled channels by push topic; none for those without one.
    pub enrolled_by_topic: Vec<(Option<String>, i64)>,
    /// Open deliveries by state.
    pub deliveries: Vec<(String, i64)>,
    /// Wake-ups that are due.
    pub wakes_due: i64,
    /// Jobs that wait.
    pub jobs_waiting: i64,
    /// Jobs that were given up.
    pub jobs_dead: i64,
    /// The push certificates, the default first.
    pub push_certificates: Vec<PushCertificateRow>,
}

/// How the server is now.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn overview(app: &App) -> Result<Overview, Error> {
    let mut read = app.store.begin_read().await?;
    let (jobs_waiting, jobs_dead) = read.count_jobs().await?;
    Ok(Overview {
        database: app.store.kind(),
        devices: read.count_devices().await?,
        enrolled_by_topic: read.enabled_by_topic().await?,
        deliveries: read.count_open_deliveries().await?,
        wakes_due: read.count_due_wakes(app.clock.now()).await?,
        jobs_waiting,
        jobs_dead,
        push_certificates: read.push_certificates().await?,
    })
}
