use super::{Source, SourceError, ask};

/// A command that waits for an enrollment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Apple's id of the enrollment.
    pub id: String,
    /// The command's name.
    pub command_uuid: String,
    /// What it asks for.
    pub request_type: String,
    /// The greater, the sooner.
    pub priority: i64,
    /// When it was queued, by the server's clock, in microseconds since the epoch.
    pub at: Option<i64>,
    /// How long the command is, bytes.
    pub size_bytes: i64,
}

impl Source {
    /// The next commands that were not answered for good, in the order of enrollment and name, after `after`.
    ///
    /// # Errors
    /// Any [`SourceError`] of a database.
    pub async fn queue(&mut self, after: &Queued, limit: i64) -> Result<Vec<Queued>, SourceError> {
        let rows = ask!(
            self,
            fetch_all,
            (String, String, String, i64, Option<i64>, i64),
            "SELECT q.id, q.command_uuid, c.request_type, CAST(q.priority AS {int}), {micros}q.created_at{as_micros},
                    CAST(OCTET_LENGTH(c.command) AS {int})
               FROM {t}enrollment_queue q
               JOIN {t}commands c ON c.command_uuid = q.command_uuid
               LEFT JOIN {t}command_results r ON r.id = q.id AND r.command_uuid = q.command_uuid
              WHERE q.active = TRUE AND (r.status IS NULL OR r.status = 'NotNow')
                AND q.id >= $1 AND (q.id > $2 OR q.command_uuid > $3)
              ORDER BY q.id, q.command_uuid LIMIT $4",
            &after.id,
            &after.id,
            &after.command_uuid,
            limit
        )?;
        Ok(rows
            .into_iter()
            .map(|(id, command_uuid, request_type, priority, at, size_bytes)| Queued {
                id,
                command_uuid,
                request_type,
                priority,
                at,
                size_bytes,
            })
            .collect())
    }

    /// Whether a command waits for an enrollment still.
    ///
    /// # Errors
    /// As [`Source::queue`].
    pub async fn is_queued(&mut self, id: &str, command_uuid: &str) -> Result<bool, SourceError> {
        let (count,) = ask!(
            self,
            fetch_one,
            (i64,),
            "SELECT COUNT(*) FROM {t}enrollment_queue q
               LEFT JOIN {t}command_results r ON r.id = q.id AND r.command_uuid = q.command_uuid
              WHERE q.id = $1 AND q.command_uuid = $2 AND q.active = TRUE AND (r.status IS NULL OR r.status = 'NotNow')",
            id,
            command_uuid
        )?;
        Ok(count > 0)
    }

    /// The command of this name as the tool sent it; none where it is gone by now.
    ///
    /// # Errors
    /// As [`Source::queue`].
    pub async fn command(&mut self, command_uuid: &str) -> Result<Option<String>, SourceError> {
        let row = ask!(
            self,
            fetch_optional,
            (String,),
            "SELECT command FROM {t}commands WHERE command_uuid = $1",
            command_uuid
        )?;
        Ok(row.map(|(command,)| command))
    }
}
