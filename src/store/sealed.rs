//! Every sealed record, to seal it anew under another master key.

use uuid::Uuid;

use super::{Read, StoreError, Write};
use crate::model::{DeviceId, EnrollmentId, EventId, ReportId, TokenId, WebhookId};

/// A column whose values are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub enum SealedColumn {
    AuthorityKey,
    ServerCertificateKey,
    PushCertificateKey,
    PushRequestKey,
    ProfileContent,
    Escrow,
    CheckIn,
    CommandPayload,
    CommandWire,
    ReportRaw,
    Answer,
    WebhookSecret,
    WebhookEvent,
}

impl SealedColumn {
    /// All of them: the few that matter most first.
    pub const ALL: [Self; 13] = [
        Self::AuthorityKey,
        Self::ServerCertificateKey,
        Self::PushCertificateKey,
        Self::PushRequestKey,
        Self::ProfileContent,
        Self::Escrow,
        Self::CheckIn,
        Self::CommandPayload,
        Self::CommandWire,
        Self::ReportRaw,
        Self::Answer,
        Self::WebhookSecret,
        Self::WebhookEvent,
    ];

    /// Table and column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorityKey => "authorities.key_sealed",
            Self::ServerCertificateKey => "server_certificates.key_sealed",
            Self::PushCertificateKey => "push_certificates.key_sealed",
            Self::PushRequestKey => "push_requests.key_sealed",
            Self::ProfileContent => "profiles.content_sealed",
            Self::Escrow => "escrow.value_sealed",
            Self::CheckIn => "check_ins.raw_sealed",
            Self::CommandPayload => "commands.payload_sealed",
            Self::CommandWire => "commands.wire_sealed",
            Self::ReportRaw => "reports.raw_sealed",
            Self::Answer => "idempotency.response_sealed",
            Self::WebhookSecret => "webhooks.secret_sealed",
            Self::WebhookEvent => "webhook_events.content_sealed",
        }
    }
}

/// What the place of a sealed record is named by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub enum SealedKey {
    Id(Uuid),
    Name(String),
    Escrow { enrollment: EnrollmentId, generation: i64, kind: String },
    CheckIn { enrollment: EnrollmentId, message_type: String, apple_id: String },
    Report { enrollment: EnrollmentId, id: ReportId },
    Answer { token: TokenId, key: String },
    Event { device: DeviceId, webhook: WebhookId, number: i64, id: EventId },
}

/// A sealed record.
#[derive(Clone, Debug)]
pub struct SealedRecord {
    /// Where it is.
    pub key: SealedKey,
    /// As it is stored.
    pub sealed: Vec<u8>,
}

/// Reads records after `$2` that do not name the master key `$1`: its id stands behind the version byte.
macro_rules! read_after {
    ($table:literal, $key:literal, $column:literal) => {
        concat!(
            "SELECT ",
            $key,
            ", ",
            $column,
            " FROM ",
            $table,
            " WHERE ",
            $key,
            " > $2 AND ",
            $column,
            " IS NOT NULL AND substr(",
            $column,
            ", 2, 8) <> $1 ORDER BY ",
            $key,
            " LIMIT $3"
        )
    };
}

/// Replaces a record that is still what was read.
macro_rules! write_one {
    ($table:literal, $key:literal, $column:literal) => {
        concat!("UPDATE ", $table, " SET ", $column, " = $3 WHERE ", $key, " = $1 AND ", $column, " = $2")
    };
}

impl Read {
    /// Up to `limit` records of a column that are under another master key than `active`, in the order of their keys,
    /// after the one named.
    pub async fn sealed_otherwise(
        &mut self,
        column: SealedColumn,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let by_id = match column {
            SealedColumn::AuthorityKey => Some(read_after!("authorities", "id", "key_sealed")),
            SealedColumn::PushRequestKey => Some(read_after!("push_requests", "id", "key_sealed")),
            SealedColumn::ProfileContent => Some(read_after!("profiles", "id", "content_sealed")),
            SealedColumn::CommandPayload => Some(read_after!("commands", "id", "payload_sealed")),
            SealedColumn::CommandWire => Some(read_after!("commands", "id", "wire_sealed")),
            SealedColumn::WebhookSecret => Some(read_after!("webhooks", "id", "secret_sealed")),
            _ => None,
        };
        if let Some(sql) = by_id {
            let after = if let Some(SealedKey::Id(id)) = after { *id } else { Uuid::nil() };
            let rows: Vec<(Uuid, Vec<u8>)> = on!(self, fetch_all, query_as(sql, active, after, limit))?;
            return Ok(rows.into_iter().map(|(id, sealed)| record(SealedKey::Id(id), sealed)).collect());
        }
        match column {
            SealedColumn::ServerCertificateKey => {
                self.sealed_by_name(read_after!("server_certificates", "name", "key_sealed"), active, after, limit)
                    .await
            }
            SealedColumn::PushCertificateKey => {
                self.sealed_by_name(read_after!("push_certificates", "topic", "key_sealed"), active, after, limit).await
            }
            SealedColumn::ReportRaw => self.sealed_reports(active, after, limit).await,
            SealedColumn::Escrow => self.sealed_escrow(active, after, limit).await,
            SealedColumn::CheckIn => self.sealed_check_ins(active, after, limit).await,
            SealedColumn::WebhookEvent => self.sealed_events(active, after, limit).await,
            _ => self.sealed_answers(active, after, limit).await,
        }
    }

    async fn sealed_by_name(
        &mut self,
        sql: &'static str,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let after = if let Some(SealedKey::Name(name)) = after { name.as_str() } else { "" };
        let rows: Vec<(String, Vec<u8>)> = on!(self, fetch_all, query_as(sql, active, after, limit))?;
        Ok(rows.into_iter().map(|(name, sealed)| record(SealedKey::Name(name), sealed)).collect())
    }

    async fn sealed_reports(
        &mut self,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let nil = Uuid::nil();
        let (after_enrollment, after_id) = match after {
            Some(SealedKey::Report { enrollment, id }) => (*enrollment, *id),
            _ => (EnrollmentId(nil), ReportId(nil)),
        };
        let sql = "SELECT enrollment_id, id, raw_sealed FROM reports
                    WHERE (enrollment_id, id) > ($2, $3) AND substr(raw_sealed, 2, 8) <> $1
                    ORDER BY enrollment_id, id LIMIT $4";
        let rows: Vec<(EnrollmentId, ReportId, Vec<u8>)> =
            on!(self, fetch_all, query_as(sql, active, after_enrollment, after_id, limit))?;
        let key = |enrollment, id| SealedKey::Report { enrollment, id };
        Ok(rows.into_iter().map(|(enrollment, id, sealed)| record(key(enrollment, id), sealed)).collect())
    }

    async fn sealed_escrow(
        &mut self,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let (after_enrollment, after_generation, after_kind) = match after {
            Some(SealedKey::Escrow { enrollment, generation, kind }) => (*enrollment, *generation, kind.as_str()),
            _ => (EnrollmentId(Uuid::nil()), 0, ""),
        };
        let rows: Vec<(EnrollmentId, i64, String, Vec<u8>)> = on!(
            self,
            fetch_all,
            query_as(
                "SELECT enrollment_id, generation, kind, value_sealed FROM escrow
                  WHERE (enrollment_id, generation, kind) > ($2, $3, $4) AND substr(value_sealed, 2, 8) <> $1
                  ORDER BY enrollment_id, generation, kind LIMIT $5",
                active,
                after_enrollment,
                after_generation,
                after_kind,
                limit
            )
        )?;
        let key = |enrollment, generation, kind| SealedKey::Escrow { enrollment, generation, kind };
        Ok(rows.into_iter().map(|(id, generation, kind, sealed)| record(key(id, generation, kind), sealed)).collect())
    }

    async fn sealed_check_ins(
        &mut self,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let (after_enrollment, after_type) = match after {
            Some(SealedKey::CheckIn { enrollment, message_type, .. }) => (*enrollment, message_type.as_str()),
            _ => (EnrollmentId(Uuid::nil()), ""),
        };
        let rows: Vec<(EnrollmentId, String, String, Vec<u8>)> = on!(
            self,
            fetch_all,
            query_as(
                "SELECT c.enrollment_id, c.message_type, e.apple_id, c.raw_sealed
                   FROM check_ins c JOIN enrollments e ON e.id = c.enrollment_id
                  WHERE (c.enrollment_id, c.message_type) > ($2, $3) AND substr(c.raw_sealed, 2, 8) <> $1
                  ORDER BY c.enrollment_id, c.message_type LIMIT $4",
                active,
                after_enrollment,
                after_type,
                limit
            )
        )?;
        let key = |enrollment, message_type, apple_id| SealedKey::CheckIn { enrollment, message_type, apple_id };
        Ok(rows.into_iter().map(|(id, kind, apple_id, sealed)| record(key(id, kind, apple_id), sealed)).collect())
    }

    async fn sealed_answers(
        &mut self,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let (after_token, after_key) = match after {
            Some(SealedKey::Answer { token, key }) => (*token, key.as_str()),
            _ => (TokenId(Uuid::nil()), ""),
        };
        let rows: Vec<(TokenId, String, Vec<u8>)> = on!(
            self,
            fetch_all,
            query_as(
                "SELECT token_id, key, response_sealed FROM idempotency
                  WHERE (token_id, key) > ($2, $3) AND response_sealed IS NOT NULL
                    AND substr(response_sealed, 2, 8) <> $1
                  ORDER BY token_id, key LIMIT $4",
                active,
                after_token,
                after_key,
                limit
            )
        )?;
        let key = |token, key| SealedKey::Answer { token, key };
        Ok(rows.into_iter().map(|(token, name, sealed)| record(key(token, name), sealed)).collect())
    }

    async fn sealed_events(
        &mut self,
        active: &[u8],
        after: Option<&SealedKey>,
        limit: i64,
    ) -> Result<Vec<SealedRecord>, StoreError> {
        let nil = Uuid::nil();
        let (after_device, after_webhook, after_number) = match after {
            Some(SealedKey::Event { device, webhook, number, .. }) => (*device, *webhook, *number),
            _ => (DeviceId(nil), WebhookId(nil), 0),
        };
        let rows: Vec<(DeviceId, WebhookId, i64, EventId, Vec<u8>)> = on!(
            self,
            fetch_all,
            query_as(
                "SELECT device_id, webhook_id, number, id, content_sealed FROM webhook_events
                  WHERE (device_id, webhook_id, number) > ($2, $3, $4) AND substr(content_sealed, 2, 8) <> $1
                  ORDER BY device_id, webhook_id, number LIMIT $5",
                active,
                after_device,
                after_webhook,
                after_number,
                limit
            )
        )?;
        let key = |device, webhook, number, id| SealedKey::Event { device, webhook, number, id };
        Ok(rows.into_iter().map(|(d, w, number, id, sealed)| record(key(d, w, number, id), sealed)).collect())
    }
}

impl Write {
    /// Replaces a sealed record, unless it is no longer what was read. Returns whether it was.
    pub async fn replace_sealed(
        &mut self,
        column: SealedColumn,
        was: &SealedRecord,
        sealed: &[u8],
    ) -> Result<bool, StoreError> {
        let old = was.sealed.as_slice();
        let changed = match &was.key {
            SealedKey::Id(id) => {
                let sql = match column {
                    SealedColumn::AuthorityKey => write_one!("authorities", "id", "key_sealed"),
                    SealedColumn::PushRequestKey => write_one!("push_requests", "id", "key_sealed"),
                    SealedColumn::ProfileContent => write_one!("profiles", "id", "content_sealed"),
                    SealedColumn::CommandWire => write_one!("commands", "id", "wire_sealed"),
                    SealedColumn::WebhookSecret => write_one!("webhooks", "id", "secret_sealed"),
                    _ => write_one!("commands", "id", "payload_sealed"),
                };
                run!(self, sql, *id, old, sealed)?
            }
            SealedKey::Name(name) => {
                let sql = match column {
                    SealedColumn::ServerCertificateKey => write_one!("server_certificates", "name", "key_sealed"),
                    _ => write_one!("push_certificates", "topic", "key_sealed"),
                };
                run!(self, sql, name.as_str(), old, sealed)?
            }
            SealedKey::Escrow { enrollment, generation, kind } => run!(
                self,
                "UPDATE escrow SET value_sealed = $5
                  WHERE enrollment_id = $1 AND generation = $2 AND kind = $3 AND value_sealed = $4",
                *enrollment,
                *generation,
                kind.as_str(),
                old,
                sealed
            )?,
            SealedKey::CheckIn { enrollment, message_type, .. } => run!(
                self,
                "UPDATE check_ins SET raw_sealed = $4
                  WHERE enrollment_id = $1 AND message_type = $2 AND raw_sealed = $3",
                *enrollment,
                message_type.as_str(),
                old,
                sealed
            )?,
            SealedKey::Report { enrollment, id } => {
                let sql = "UPDATE reports SET raw_sealed = $4 WHERE enrollment_id = $1 AND id = $2 AND raw_sealed = $3";
                run!(self, sql, *enrollment, *id, old, sealed)?
            }
            SealedKey::Answer { token, key } => run!(
                self,
                "UPDATE idempotency SET response_sealed = $4
                  WHERE token_id = $1 AND key = $2 AND response_sealed = $3",
                *token,
                key.as_str(),
                old,
                sealed
            )?,
            // By its id: one that was given up gets another number when it is sent again.
            SealedKey::Event { device, webhook, id, .. } => run!(
                self,
                "UPDATE webhook_events SET content_sealed = $5
                  WHERE device_id = $1 AND webhook_id = $2 AND id = $3 AND content_sealed = $4",
                *device,
                *webhook,
                *id,
                old,
                sealed
            )?,
        };
        Ok(changed == 1)
    }
}

fn record(key: SealedKey, sealed: Vec<u8>) -> SealedRecord {
    SealedRecord { key, sealed }
}
