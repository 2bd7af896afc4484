//! Commands and their deliveries as admins see them, and the audit log.

use super::{App, Error};
use crate::model::{AuditId, CommandId, DeliveryState, DeviceId, EnrollmentId, Secret, Timestamp};
use crate::service::reports::{as_it_came, as_read};
use crate::store::{AuditFilter, AuditRow, CommandFilter, DeliveryRow, ListedCommand, Slice, TransitionRow};

/// A command and how far it is.
#[derive(Clone, Debug)]
pub struct CommandView {
    /// The command.
    pub command: ListedCommand,
    /// How many deliveries are in each state.
    pub counts: Vec<(String, i64)>,
    /// For a command for all: how many targets have no delivery yet.
    pub to_come: i64,
    /// Whether nothing more can happen to it.
    pub is_done: bool,
}

/// A delivery and how it came to be as it is.
#[derive(Clone, Debug)]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: DeliveryRow,
    /// Its transitions, oldest first.
    pub transitions: Vec<TransitionRow>,
}

/// What a device reported on a command.
#[derive(Clone, Debug)]
pub struct ReportView {
    /// Apple's word for how it went.
    pub status: String,
    /// When it came.
    pub received_at: Timestamp,
    /// As it was read, JSON; may hold secrets.
    pub parsed: Secret<Vec<u8>>,
    /// As it came; may hold secrets.
    pub raw: Secret<Vec<u8>>,
}

/// The next commands of a list.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn commands(
    app: &App,
    filter: &CommandFilter,
    is_descending: bool,
    after: Option<CommandId>,
    limit: i64,
) -> Result<Slice<ListedCommand, CommandId>, Error> {
    Ok(app.store.begin_read().await?.list_commands(filter, is_descending, after, limit).await?)
}

/// One command and how far it is.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn command(app: &App, id: CommandId) -> Result<CommandView, Error> {
    let mut read = app.store.begin_read().await?;
    let command = read.command_facts(id).await?.ok_or_else(|| Error::NotFound(format!("there is no command {id}")))?;
    let counts = read.count_deliveries(id).await?;
    let to_come = match command.fleet_number.filter(|_| !command.materialized) {
        Some(number) => read.count_not_materialized(number).await?,
        None => 0,
    };
    let is_done = to_come == 0 && !read.is_command_open(id).await?;
    Ok(CommandView { command, counts, to_come, is_done })
}

/// The next deliveries of a command.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn deliveries_of_command(
    app: &App,
    id: CommandId,
    state: Option<DeliveryState>,
    after: Option<EnrollmentId>,
    limit: i64,
) -> Result<Vec<DeliveryRow>, Error> {
    Ok(app.store.begin_read().await?.list_deliveries_of_command(id, state, after, limit).await?)
}

/// The next deliveries for a device, the newest command first.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn deliveries_of_device(
    app: &App,
    id: DeviceId,
    state: Option<DeliveryState>,
    verb: Option<&str>,
    after: Option<(CommandId, EnrollmentId)>,
    limit: i64,
) -> Result<Vec<DeliveryRow>, Error> {
    Ok(app.store.begin_read().await?.list_deliveries_of_device(id, state, verb, after, limit).await?)
}

/// One delivery and its history.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn delivery(app: &App, command: CommandId, enrollment: EnrollmentId) -> Result<DeliveryView, Error> {
    let mut read = app.store.begin_read().await?;
    let delivery = read.delivery_row(enrollment, command).await?.ok_or_else(|| none(command, enrollment))?;
    let transitions = read.transitions(enrollment, command).await?;
    Ok(DeliveryView { delivery, transitions })
}

/// What the device reported last on a command.
///
/// # Errors
/// [`Error::NotFound`], also where no report came yet.
pub async fn report(app: &App, command: CommandId, enrollment: EnrollmentId) -> Result<ReportView, Error> {
    let mut read = app.store.begin_read().await?;
    let delivery = read.delivery(enrollment, command).await?.ok_or_else(|| none(command, enrollment))?;
    let row = match delivery.report_id {
        Some(id) => read.report(enrollment, id).await?,
        None => None,
    };
    let row = row.ok_or_else(|| {
        let why = "no report on this command has come yet, or it is older than reports are kept (retention.reports)";
        Error::NotFound(why.to_owned())
    })?;
    let raw = as_it_came(app, row.id, &row.raw_sealed)?;
    let parsed = as_read(&row.status, raw.expose())?;
    Ok(ReportView { status: row.status, received_at: row.received_at, parsed, raw })
}

fn none(command: CommandId, enrollment: EnrollmentId) -> Error {
    Error::NotFound(format!("command {command} has no delivery for enrollment {enrollment}"))
}

/// The next rows of the audit log.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn audit(
    app: &App,
    filter: &AuditFilter,
    is_descending: bool,
    after: Option<AuditId>,
    limit: i64,
) -> Result<Vec<AuditRow>, Error> {
    Ok(app.store.begin_read().await?.list_audit(filter, is_descending, after, limit).await?)
}
