use sqlx::FromRow;
use uuid::Uuid;

use super::{Read, StoreError, Write};
use crate::model::{CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, ReportId, Resend, Timestamp};

/// A delivery's row: one command for one enrollment.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Delivery {
    pub enrollment_id: EnrollmentId,
    pub command_id: CommandId,
    pub generation: i64,
    pub state: DeliveryState,
    pub priority: i64,
    pub resend: Resend,
    pub connection: i64,
    pub attempts: i64,
    pub revision: i64,
    pub queued_at: Timestamp,
    pub sent_at: Option<Timestamp>,
    pub answered_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub error: Option<String>,
    pub report_id: Option<ReportId>,
}

columns!(Delivery, delivery_columns: enrollment_id, command_id, generation, state, priority, resend, connection, attempts, revision, queued_at, sent_at, answered_at, updated_at, expires_at, error, report_id);

/// A delivery with its command and device, for showing.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct DeliveryRow {
    pub command_id: CommandId,
    pub enrollment_id: EnrollmentId,
    pub device_id: DeviceId,
    pub kind: EnrollmentKind,
    pub device_name: Option<String>,
    pub serial: Option<String>,
    pub verb: String,
    pub request_type: String,
    pub summary: String,
    pub created_by: String,
    pub internal: bool,
    pub state: DeliveryState,
    pub attempts: i64,
    pub queued_at: Timestamp,
    pub sent_at: Option<Timestamp>,
    pub answered_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub error: Option<String>,
    pub report_id: Option<ReportId>,
}

/// The text of a list of deliveries.
macro_rules! delivery_list {
    ($rest:literal) => {
        concat!(
            "SELECT d.command_id, d.enrollment_id, e.device_id, e.kind, v.name AS device_name, v.serial, c.verb,
                    c.request_type, c.summary, c.created_by, c.internal, d.state, d.attempts, d.queued_at, d.sent_at,
                    d.answered_at, d.updated_at, d.expires_at, d.error, d.report_id
               FROM deliveries d
               JOIN enrollments e ON e.id = d.enrollment_id
               JOIN devices v ON v.id = e.device_id
               JOIN commands c ON c.id = d.command_id
              WHERE ",
            $rest
        )
    };
}

// What the connections of a device read. Its history grows for years, so each goes by an index of what is open; that
// SQLite takes it is tested.

pub(super) const OFFERABLE: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries
      WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now') AND connection < $2
        AND (state <> 'sent' OR attempts < $3)
      ORDER BY priority, queued_at, command_id LIMIT $4"
);

pub(super) const UNANSWERED: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries
      WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now') AND connection < $2
        AND state = 'sent' AND attempts >= $3
      ORDER BY priority, queued_at, command_id LIMIT $4"
);

/// In the order of the index: sorted by time, SQLite would read the whole history.
pub(super) const OFFERED: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries
      WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now') AND state = 'sent' AND connection = $2
      ORDER BY priority, queued_at, command_id LIMIT 1000"
);

pub(super) const SENT_BY_ADMIN_ONLY: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries
      WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now')
        AND state = 'sent' AND resend = 'by_admin_only'
      ORDER BY priority, queued_at, command_id LIMIT $2"
);

pub(super) const SENT_OF_VERB: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries
      WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now') AND state = 'sent'
        AND (SELECT c.verb FROM commands c WHERE c.id = command_id) = $2
      ORDER BY priority, queued_at, command_id LIMIT $3"
);

/// Two parts, each with its index: what waits for an admin may wait for long, and stays out of that of what is open.
pub(super) const UNFINISHED: &str = "SELECT * FROM deliveries
      WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now')
      UNION ALL SELECT * FROM deliveries WHERE enrollment_id = $1 AND state = 'unconfirmed'
      ORDER BY priority, queued_at, command_id";

/// One step of a delivery's history.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct TransitionRow {
    pub revision: i64,
    pub state: DeliveryState,
    pub at: Timestamp,
    pub detail: Option<String>,
}

impl Read {
    /// One delivery.
    pub async fn delivery(
        &mut self,
        enrollment: EnrollmentId,
        command: CommandId,
    ) -> Result<Option<Delivery>, StoreError> {
        hot!(
            self,
            first,
            concat!("SELECT ", delivery_columns!(), " FROM deliveries WHERE enrollment_id = $1 AND command_id = $2"),
            enrollment,
            command
        )
    }

    /// What may be offered to an enrollment in this connection (neither sent, put off nor left waiting in it), in the
    /// order of delivery, but for what was handed over `patience` times or more and not answered since. Connections count
    /// from 1.
    pub async fn offerable_deliveries(
        &mut self,
        enrollment: EnrollmentId,
        connection: i64,
        patience: i64,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        hot!(self, all, OFFERABLE, enrollment, connection, patience, limit)
    }

    /// What [`Read::offerable_deliveries`] leaves out.
    pub async fn unanswered_deliveries(
        &mut self,
        enrollment: EnrollmentId,
        connection: i64,
        patience: i64,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        hot!(self, all, UNANSWERED, enrollment, connection, patience, limit)
    }

    /// What was handed over last in this connection and is not answered.
    pub async fn last_offered(
        &mut self,
        enrollment: EnrollmentId,
        connection: i64,
    ) -> Result<Option<Delivery>, StoreError> {
        let offered: Vec<Delivery> = hot!(self, all, OFFERED, enrollment, connection)?;
        Ok(offered.into_iter().max_by_key(|delivery| (delivery.sent_at, delivery.command_id)))
    }

    /// What was handed over and not answered, and must not be handed over again without an admin.
    pub async fn sent_by_admin_only(
        &mut self,
        enrollment: EnrollmentId,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        hot!(self, all, SENT_BY_ADMIN_ONLY, enrollment, limit)
    }

    /// What was handed over and not answered, of commands with this verb.
    pub async fn sent_of_verb(
        &mut self,
        enrollment: EnrollmentId,
        verb: &str,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        hot!(self, all, SENT_OF_VERB, enrollment, verb, limit)
    }

    /// The deliveries of a command that wait for an admin and could be handed over again (those of the present
    /// generation of an enrollment that has not ended), in the order of enrollments, each with its revision.
    pub async fn redeliverable(
        &mut self,
        command: CommandId,
        limit: i64,
    ) -> Result<Vec<(EnrollmentId, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT d.enrollment_id, d.revision FROM deliveries d JOIN enrollments e ON e.id = d.enrollment_id
                  WHERE d.command_id = $1 AND d.state = 'unconfirmed' AND e.state = 'enabled'
                    AND e.generation = d.generation
                  ORDER BY d.enrollment_id LIMIT $2",
                command,
                limit
            )
        )
    }

    /// Whether anything can still happen to the deliveries of a command that were made. What an earlier generation left
    /// unconfirmed stays so.
    pub async fn is_command_open(&mut self, command: CommandId) -> Result<bool, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT EXISTS (SELECT 1 FROM deliveries d JOIN enrollments e ON e.id = d.enrollment_id
                                 WHERE d.command_id = $1
                                   AND (d.state IN ('queued', 'sent', 'not_now')
                                        OR d.state = 'unconfirmed' AND d.generation = e.generation))",
                command
            )
        )
    }

    /// Everything of an enrollment that is not in a terminal state.
    pub async fn unfinished_deliveries(&mut self, enrollment: EnrollmentId) -> Result<Vec<Delivery>, StoreError> {
        on!(self, fetch_all, query_as(UNFINISHED, enrollment))
    }

    /// Deliveries whose time ran out before the device had them.
    pub async fn expired_deliveries(&mut self, now: Timestamp, limit: i64) -> Result<Vec<Delivery>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM deliveries
                  WHERE expires_at <= $1 AND state IN ('queued', 'not_now') ORDER BY expires_at LIMIT $2",
                now,
                limit
            )
        )
    }

    /// What was noted with the latest step of a delivery.
    pub async fn delivery_detail(&mut self, delivery: &Delivery) -> Result<Option<String>, StoreError> {
        let detail: Option<Option<String>> = on!(
            self,
            fetch_optional,
            query_scalar(
                "SELECT detail FROM delivery_transitions
                  WHERE enrollment_id = $1 AND command_id = $2 AND revision = $3",
                delivery.enrollment_id,
                delivery.command_id,
                delivery.revision
            )
        )?;
        Ok(detail.flatten())
    }

    /// The history of a delivery: its newest 1000 steps, in their order. A device that says NotNow each quarter of an hour
    /// has as many after some days.
    pub async fn transitions(
        &mut self,
        enrollment: EnrollmentId,
        command: CommandId,
    ) -> Result<Vec<TransitionRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT n.revision, n.state, n.at, n.detail
                   FROM (SELECT revision, state, at, detail FROM delivery_transitions
                          WHERE enrollment_id = $1 AND command_id = $2 ORDER BY revision DESC LIMIT 1000) n
                  ORDER BY n.revision",
                enrollment,
                command
            )
        )
    }

    /// One delivery with its command and device.
    pub async fn delivery_row(
        &mut self,
        enrollment: EnrollmentId,
        command: CommandId,
    ) -> Result<Option<DeliveryRow>, StoreError> {
        let sql = delivery_list!("d.enrollment_id = $1 AND d.command_id = $2");
        on!(self, fetch_optional, query_as(sql, enrollment, command))
    }

    /// The next deliveries of a command, by enrollment, after that of `after` (the first ones without it).
    pub async fn list_deliveries_of_command(
        &mut self,
        command: CommandId,
        state: Option<DeliveryState>,
        after: Option<EnrollmentId>,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let after = after.unwrap_or(EnrollmentId(Uuid::nil()));
        let sql = delivery_list!(
            "d.command_id = $1 AND d.enrollment_id > $2 AND ($3 IS NULL OR d.state = $3)
              ORDER BY d.enrollment_id LIMIT $4"
        );
        on!(self, fetch_all, query_as(sql, command, after, state, limit))
    }

    /// The next deliveries for all channels of a device, the newest command first, after that of `after`.
    pub async fn list_deliveries_of_device(
        &mut self,
        device: DeviceId,
        state: Option<DeliveryState>,
        verb: Option<&str>,
        after: Option<(CommandId, EnrollmentId)>,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let (command, enrollment) = after.unwrap_or((CommandId(Uuid::max()), EnrollmentId(Uuid::max())));
        let sql = delivery_list!(
            "e.device_id = $1 AND d.command_id <= $2 AND (d.command_id < $2 OR d.enrollment_id < $3)
                AND ($4 IS NULL OR d.state = $4) AND ($5 IS NULL OR c.verb = $5)
              ORDER BY d.command_id DESC, d.enrollment_id DESC LIMIT $6"
        );
        on!(self, fetch_all, query_as(sql, device, command, enrollment, state, verb, limit))
    }

    /// The deliveries of a command that are in one of two states, in the order of enrollments.
    pub async fn deliveries_in(
        &mut self,
        command: CommandId,
        states: [DeliveryState; 2],
        after: EnrollmentId,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM deliveries
                  WHERE command_id = $1 AND state IN ($2, $3) AND enrollment_id > $4
                  ORDER BY enrollment_id LIMIT $5",
                command,
                states[0],
                states[1],
                after,
                limit
            )
        )
    }
}

impl Write {
    /// Makes a delivery, queued. False: it is there already.
    pub async fn insert_delivery(&mut self, new: &Delivery) -> Result<bool, StoreError> {
        let added = hot!(
            self,
            change,
            "INSERT INTO deliveries (enrollment_id, command_id, generation, state, priority, resend, connection,
                                     attempts, revision, queued_at, updated_at, expires_at)
             VALUES ($1, $2, $3, 'queued', $4, $5, 0, 0, 1, $6, $6, $7)
             ON CONFLICT (enrollment_id, command_id) DO NOTHING",
            new.enrollment_id,
            new.command_id,
            new.generation,
            new.priority,
            new.resend,
            new.queued_at,
            new.expires_at
        )?;
        if added == 1 {
            self.insert_transition(new.enrollment_id, new.command_id, 1, DeliveryState::Queued, new.queued_at, None)
                .await?;
        }
        Ok(added == 1)
    }

    /// Writes a delivery that went through a transition, and the step itself. The revision says from which state of
    /// the row the caller decided: false when it is another by now, and then nothing was written.
    pub async fn update_delivery(&mut self, next: &Delivery, detail: Option<&str>) -> Result<bool, StoreError> {
        let changed = hot!(
            self,
            change,
            "UPDATE deliveries
                SET state = $4, connection = $5, attempts = $6, sent_at = $7, answered_at = $8, error = $9,
                    report_id = $10, updated_at = $11, revision = $3
              WHERE enrollment_id = $1 AND command_id = $2 AND revision = $3 - 1",
            next.enrollment_id,
            next.command_id,
            next.revision,
            next.state,
            next.connection,
            next.attempts,
            next.sent_at,
            next.answered_at,
            next.error.as_deref(),
            next.report_id,
            next.updated_at
        )?;
        if changed == 1 {
            self.insert_transition(
                next.enrollment_id,
                next.command_id,
                next.revision,
                next.state,
                next.updated_at,
                detail,
            )
            .await?;
        }
        Ok(changed == 1)
    }

    /// Leaves a delivery out of a connection, without a step.
    pub async fn leave_delivery(&mut self, delivery: &Delivery, connection: i64) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE deliveries SET connection = $3 WHERE enrollment_id = $1 AND command_id = $2",
            delivery.enrollment_id,
            delivery.command_id,
            connection
        )
        .map(drop)
    }

    async fn insert_transition(
        &mut self,
        enrollment: EnrollmentId,
        command: CommandId,
        revision: i64,
        state: DeliveryState,
        at: Timestamp,
        detail: Option<&str>,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO delivery_transitions (enrollment_id, command_id, revision, state, at, detail)
             VALUES ($1, $2, $3, $4, $5, $6)",
            enrollment,
            command,
            revision,
            state,
            at,
            detail
        )
        .map(drop)
    }
}
