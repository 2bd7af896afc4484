use sqlx::FromRow;
use uuid::Uuid;

use super::{Read, StoreError, Write};
use crate::model::{AuditId, Timestamp, TokenId};

/// A row of the audit log.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AuditRow {
    pub id: AuditId,
    pub at: Timestamp,
    pub actor_kind: String,
    pub actor: String,
    pub actor_token: Option<TokenId>,
    pub action: String,
    pub subject_kind: String,
    pub subject: String,
    pub detail: String,
    pub request_id: Option<String>,
    pub address: Option<String>,
}

/// Which rows of the audit log a list shows. What is none does not matter.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// What was done.
    pub action: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
    /// What kind of thing it was done to.
    pub subject_kind: Option<String>,
    /// The id of what it was done to.
    pub subject: Option<String>,
    /// Not before this time (to the millisecond).
    pub since: Option<Timestamp>,
    /// Before this time (to the millisecond).
    pub until: Option<Timestamp>,
}

/// The texts of a list of the audit log: the rows of one subject have an index of their own.
macro_rules! audit_list {
    ($subject:literal, $compare:literal, $direction:literal) => {
        concat!(
            "SELECT * FROM audit WHERE id >= $1 AND id < $2 AND id ",
            $compare,
            " $3 AND ",
            $subject,
            " AND ($5 IS NULL OR action = $5) AND ($6 IS NULL OR actor = $6) AND ($7 IS NULL OR subject_kind = $7)
              ORDER BY id ",
            $direction,
            " LIMIT $8"
        )
    };
}

/// The least id of a row of this time: ids begin with their milliseconds (RFC 9562, section 5.7).
pub(super) fn least_id(at: Timestamp) -> AuditId {
    let millis = u64::try_from(at.micros().div_euclid(1000)).unwrap_or(0).min((1 << 48) - 1);
    AuditId(Uuid::from_u128(u128::from(millis) << 80))
}

impl Read {
    /// The next rows of the audit log, after the one with the id `after` (the first ones without it).
    pub async fn list_audit(
        &mut self,
        filter: &AuditFilter,
        is_descending: bool,
        after: Option<AuditId>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let from = filter.since.map_or(AuditId(Uuid::nil()), least_id);
        let to = filter.until.map_or(AuditId(Uuid::max()), least_id);
        let after = after.unwrap_or(AuditId(if is_descending { Uuid::max() } else { Uuid::nil() }));
        let sql = match (filter.subject.is_some(), is_descending) {
            (true, true) => audit_list!("subject = $4", "<", "DESC"),
            (true, false) => audit_list!("subject = $4", ">", "ASC"),
            (false, true) => audit_list!("$4 IS NULL", "<", "DESC"),
            (false, false) => audit_list!("$4 IS NULL", ">", "ASC"),
        };
        let (subject, action) = (filter.subject.as_deref(), filter.action.as_deref());
        let (actor, kind) = (filter.actor.as_deref(), filter.subject_kind.as_deref());
        on!(self, fetch_all, query_as(sql, from, to, after, subject, action, actor, kind, limit))
    }
}

impl Write {
    /// Adds a row, in the transaction of the change that it tells of.
    pub async fn insert_audit(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO audit (id, at, actor_kind, actor, actor_token, action, subject_kind, subject, detail,
                                request_id, address)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            row.id,
            row.at,
            row.actor_kind.as_str(),
            row.actor.as_str(),
            row.actor_token,
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
