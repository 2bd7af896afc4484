use sqlx::FromRow;

use super::{StoreError, Write};
use crate::model::{AuditId, Timestamp};

/// A row of the audit log.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AuditRow {
    pub id: AuditId,
    pub at: Timestamp,
    pub actor_kind: String,
    pub actor: String,
    pub action: String,
    pub subject_kind: String,
    pub subject: String,
    pub detail: String,
    pub request_id: Option<String>,
    pub address: Option<String>,
}

impl Write {
    /// Adds a row, in the transaction of the change that it tells of.
    pub async fn insert_audit(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO audit (id, at, actor_kind, actor, action, subject_kind, subject, detail, request_id, address)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            row.id,
            row.at,
            row.actor_kind.as_str(),
            row.actor.as_str(),
            row.action.as_str(),
            row.subject_kind.as_str(),
            row.subject.as_str(),
            row.detail.as_str(),
            row.request_id.as_deref(),
            row.address.as_deref()
        )
        .map(drop)
    }
}
