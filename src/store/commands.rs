use sqlx::FromRow;
use uuid::Uuid;

use super::slice::STEPS;
use super::{Read, Slice, StoreError, Write};
use crate::model::{CommandId, EnrollmentId, Resend, Timestamp};

/// A command's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct CommandRow {
    pub id: CommandId,
    pub verb: String,
    pub request_type: String,
    pub payload_sealed: Vec<u8>,
    pub fills: String,
    pub summary: String,
    pub resend: Resend,
    pub destruction: Option<String>,
    pub priority: i64,
    pub internal: bool,
    pub target: String,
    pub target_count: i64,
    pub fleet_number: Option<i64>,
    pub materialized: bool,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    pub cancelled_at: Option<Timestamp>,
    pub held_at: Option<Timestamp>,
    pub wire_uuid: Option<String>,
    pub wire_sealed: Option<Vec<u8>>,
}

columns!(CommandRow, command_columns: id, verb, request_type, payload_sealed, fills, summary, resend, destruction, priority, internal, target, target_count, fleet_number, materialized, created_at, created_by, expires_at, cancelled_at, held_at, wire_uuid, wire_sealed);

/// What a delivery takes over from its command.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct CommandHead {
    pub id: CommandId,
    pub resend: Resend,
    pub priority: i64,
    pub fleet_number: Option<i64>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub cancelled_at: Option<Timestamp>,
}

columns!(CommandHead, head_columns: id, resend, priority, fleet_number, created_at, expires_at, cancelled_at);

impl CommandRow {
    /// What a delivery takes over.
    #[must_use]
    pub const fn head(&self) -> CommandHead {
        CommandHead {
            id: self.id,
            resend: self.resend,
            priority: self.priority,
            fleet_number: self.fleet_number,
            created_at: self.created_at,
            expires_at: self.expires_at,
            cancelled_at: self.cancelled_at,
        }
    }
}

/// What kind of command it is.
#[derive(Clone, Debug)]
pub struct CommandKind {
    /// The verb.
    pub verb: String,
    /// Apple's request type.
    pub request_type: String,
}

columns!(CommandKind, kind_columns: verb, request_type);

/// A command without its payload, for showing.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ListedCommand {
    pub id: CommandId,
    pub verb: String,
    pub request_type: String,
    pub summary: String,
    pub priority: i64,
    pub internal: bool,
    pub target: String,
    pub target_count: i64,
    pub fleet_number: Option<i64>,
    pub materialized: bool,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    pub cancelled_at: Option<Timestamp>,
    pub held_at: Option<Timestamp>,
}

/// Which commands a list shows. What is none does not matter.
#[derive(Clone, Debug, Default)]
pub struct CommandFilter {
    /// The verb.
    pub verb: Option<String>,
    /// Apple's request type.
    pub request_type: Option<String>,
    /// The name of whoever asked for it.
    pub created_by: Option<String>,
    /// Whether the server's own are shown too.
    pub with_internal: bool,
    /// Whether only those are shown that are held since a restore.
    pub only_held: bool,
}

/// The texts of a list of commands: those of admins have an index of their own, as the server's outnumber them, and so
/// have those that are held.
macro_rules! command_list {
    ($which:literal, "<", $direction:literal) => {
        command_list!($which, "<", ">=", $direction)
    };
    ($which:literal, ">", $direction:literal) => {
        command_list!($which, ">", "<=", $direction)
    };
    ($which:literal, $compare:literal, $turned:literal, $direction:literal) => {
        concat!(
            "SELECT id, verb, request_type, summary, priority, internal, target, target_count, fleet_number,
                    materialized, created_at, created_by, expires_at, cancelled_at, held_at
               FROM commands
              WHERE id ",
            $compare,
            " $1 AND id ",
            $turned,
            " $6 AND ($2 IS NULL OR verb = $2) AND ($3 IS NULL OR request_type = $3)
                AND ($4 IS NULL OR created_by = $4)",
            $which,
            " ORDER BY id ",
            $direction,
            " LIMIT $5"
        )
    };
}

/// A command to be accepted.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct NewCommand<'a> {
    pub id: CommandId,
    pub verb: &'a str,
    pub request_type: &'a str,
    pub payload_sealed: &'a [u8],
    pub fills: &'a str,
    pub summary: &'a str,
    pub resend: Resend,
    pub destruction: Option<&'a str>,
    pub priority: i64,
    pub internal: bool,
    pub target_count: i64,
    /// Some for a command for all.
    pub fleet_number: Option<i64>,
    pub created_by: &'a str,
    pub expires_at: Option<Timestamp>,
}

impl Read {
    /// What kind of command this id is of.
    pub async fn command_kind(&mut self, id: CommandId) -> Result<Option<CommandKind>, StoreError> {
        hot!(self, first, concat!("SELECT ", kind_columns!(), " FROM commands WHERE id = $1"), id)
    }

    /// The command with this id.
    pub async fn command(&mut self, id: CommandId) -> Result<Option<CommandRow>, StoreError> {
        hot!(self, first, concat!("SELECT ", command_columns!(), " FROM commands WHERE id = $1"), id)
    }

    /// A command without its payload.
    pub async fn command_facts(&mut self, id: CommandId) -> Result<Option<ListedCommand>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as(
                "SELECT id, verb, request_type, summary, priority, internal, target, target_count, fleet_number,
                        materialized, created_at, created_by, expires_at, cancelled_at, held_at
                   FROM commands WHERE id = $1",
                id
            )
        )
    }

    /// The next commands of a list, after the one with the id `after` (the first ones without it). With filters that no
    /// index knows, no more than a bounded part of the list is looked through.
    pub async fn list_commands(
        &mut self,
        filter: &CommandFilter,
        is_descending: bool,
        after: Option<CommandId>,
        limit: i64,
    ) -> Result<Slice<ListedCommand, CommandId>, StoreError> {
        let mut from = after.unwrap_or(CommandId(if is_descending { Uuid::max() } else { Uuid::nil() }));
        let (verb, request_type) = (filter.verb.as_deref(), filter.request_type.as_deref());
        let created_by = filter.created_by.as_deref();
        let looks_through = !filter.only_held
            && (request_type.is_some() || created_by.is_some() || verb.is_some() && filter.with_internal);
        let sql = match (filter.only_held, filter.with_internal, is_descending) {
            (false, false, true) if verb.is_some() && !looks_through => {
                command_list!(" AND internal = FALSE AND verb = $2", "<", "DESC")
            }
            (false, false, false) if verb.is_some() && !looks_through => {
                command_list!(" AND internal = FALSE AND verb = $2", ">", "ASC")
            }
            (true, _, true) => command_list!(" AND held_at IS NOT NULL", "<", "DESC"),
            (true, _, false) => command_list!(" AND held_at IS NOT NULL", ">", "ASC"),
            (false, false, true) => command_list!(" AND internal = FALSE", "<", "DESC"),
            (false, false, false) => command_list!(" AND internal = FALSE", ">", "ASC"),
            (false, true, true) => command_list!("", "<", "DESC"),
            (false, true, false) => command_list!("", ">", "ASC"),
        };
        let last = CommandId(if is_descending { Uuid::nil() } else { Uuid::max() });
        if !looks_through {
            let rows = on!(self, fetch_all, query_as(sql, from, verb, request_type, created_by, limit, last))?;
            return Ok(Slice::whole(rows));
        }
        let mut rows: Vec<ListedCommand> = Vec::new();
        for step in STEPS {
            let end = self.command_behind(filter.with_internal, is_descending, from, step).await?;
            let (to, left) = (end.unwrap_or(last), limit.saturating_sub(i64::try_from(rows.len()).unwrap_or(limit)));
            let more: Vec<ListedCommand> =
                on!(self, fetch_all, query_as(sql, from, verb, request_type, created_by, left, to))?;
            rows.extend(more);
            let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= limit);
            match end {
                Some(end) if !is_full => from = end,
                _ => return Ok(Slice::whole(rows)),
            }
        }
        Ok(Slice { rows, more: Some(from) })
    }

    /// The command that is so many rows behind another; none if there are fewer.
    async fn command_behind(
        &mut self,
        with_internal: bool,
        is_descending: bool,
        from: CommandId,
        rows: i64,
    ) -> Result<Option<CommandId>, StoreError> {
        let sql = match (with_internal, is_descending) {
            (false, true) => {
                "SELECT id FROM commands WHERE id < $1 AND internal = FALSE ORDER BY id DESC LIMIT 1 OFFSET $2"
            }
            (false, false) => {
                "SELECT id FROM commands WHERE id > $1 AND internal = FALSE ORDER BY id LIMIT 1 OFFSET $2"
            }
            (true, true) => "SELECT id FROM commands WHERE id < $1 ORDER BY id DESC LIMIT 1 OFFSET $2",
            (true, false) => "SELECT id FROM commands WHERE id > $1 ORDER BY id LIMIT 1 OFFSET $2",
        };
        on!(self, fetch_optional, query_scalar(sql, from, rows - 1))
    }

    /// How many deliveries are open in each state, of all commands.
    pub async fn count_open_deliveries(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT state, COUNT(*) FROM deliveries WHERE state IN ('queued', 'sent', 'not_now')
                  GROUP BY state ORDER BY state"
            )
        )
    }

    /// The targets of a command for all: how many device channels are enabled, by topic.
    pub async fn count_enabled(&mut self) -> Result<Vec<(Option<String>, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT topic, COUNT(*) FROM enrollments WHERE state = 'enabled' AND parent_id IS NULL
                  GROUP BY topic ORDER BY topic"
            )
        )
    }

    /// How many of those have no push token that is valid.
    pub async fn count_enabled_without_token(&mut self) -> Result<i64, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT COUNT(*) FROM enrollments WHERE state = 'enabled' AND parent_id IS NULL AND push_token IS NULL"
            )
        )
    }

    /// How many deliveries of a command are in each state.
    pub async fn count_deliveries(&mut self, id: CommandId) -> Result<Vec<(String, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT state, COUNT(*) FROM deliveries WHERE command_id = $1 GROUP BY state ORDER BY state", id)
        )
    }

    /// How many enabled device channels were not yet looked at for a command for all.
    pub async fn count_not_materialized(&mut self, fleet_number: i64) -> Result<i64, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT COUNT(*) FROM enrollments WHERE state = 'enabled' AND parent_id IS NULL AND fleet_cursor < $1",
                fleet_number
            )
        )
    }

    /// The commands for all that an enrollment has not been served yet, oldest first, cancelled and expired ones too.
    pub async fn commands_for_all_after(&mut self, cursor: i64) -> Result<Vec<CommandHead>, StoreError> {
        hot!(
            self,
            all,
            concat!(
                "SELECT ",
                head_columns!(),
                " FROM commands WHERE fleet_number > $1 ORDER BY fleet_number LIMIT 1000"
            ),
            cursor
        )
    }

    /// Whether there is a command for all that an enrollment has not been served yet.
    pub async fn has_commands_for_all_after(&mut self, cursor: i64) -> Result<bool, StoreError> {
        hot!(self, one, "SELECT EXISTS (SELECT 1 FROM commands WHERE fleet_number > $1)", cursor)
    }

    /// The next enabled device channels that a command for all is yet to be given to, by id, with Apple's id of each; with `queued_of`, its id, also
    /// those that have it waiting, whoever gave it to them.
    pub async fn enrollments_before_fleet_number(
        &mut self,
        fleet_number: i64,
        queued_of: Option<CommandId>,
        after: EnrollmentId,
        limit: i64,
    ) -> Result<Vec<(EnrollmentId, String)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT e.id, e.apple_id FROM enrollments e
                  WHERE e.state = 'enabled' AND e.parent_id IS NULL AND e.id > $3
                    AND (e.fleet_cursor < $1
                         OR EXISTS (SELECT 1 FROM deliveries d
                                     WHERE d.enrollment_id = e.id AND d.command_id = $2 AND d.state = 'queued'))
                  ORDER BY e.id LIMIT $4",
                fleet_number,
                queued_of,
                after,
                limit
            )
        )
    }
}

impl Write {
    /// Adds a command.
    pub async fn insert_command(&mut self, new: &NewCommand<'_>, now: Timestamp) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO commands (id, verb, request_type, payload_sealed, fills, summary, resend, priority, internal,
                                   target, target_count, fleet_number, materialized, created_at, created_by, expires_at,
                                   destruction)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
            new.id,
            new.verb,
            new.request_type,
            new.payload_sealed,
            new.fills,
            new.summary,
            new.resend,
            new.priority,
            new.internal,
            if new.fleet_number.is_some() { "all" } else { "devices" },
            new.target_count,
            new.fleet_number,
            new.fleet_number.is_none(),
            now,
            new.created_by,
            new.expires_at,
            new.destruction
        )
        .map(drop)
    }

    /// The command with this id, locked until the end of the transaction.
    pub async fn command_for_update(&mut self, id: CommandId) -> Result<Option<CommandRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM commands WHERE id = $1 FOR UPDATE", id))
    }

    /// Every target of a command for all has its delivery now.
    pub async fn set_materialized(&mut self, id: CommandId) -> Result<(), StoreError> {
        run!(self, "UPDATE commands SET materialized = TRUE WHERE id = $1", id).map(drop)
    }

    /// No new delivery of this command is made from now on.
    pub async fn cancel_command(&mut self, id: CommandId, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE commands SET cancelled_at = $2, materialized = TRUE, held_at = NULL
              WHERE id = $1 AND cancelled_at IS NULL",
            id,
            now
        )
        .map(drop)
    }
}
