use serde_json::Value;

use super::{Actor, App, Error};
use crate::model::{AuditId, Timestamp};
use crate::store::{AuditRow, Write};

/// What something was done to.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// `device`, `command`, `token`, …
    pub kind: &'static str,
    /// Its id.
    pub id: &'a str,
}

impl App {
    /// Writes a row of the audit log in the transaction of the change itself: no change without its row, no row
    /// without its change. `detail` must hold no secrets.
    pub(super) async fn audit(
        &self,
        tx: &mut Write,
        actor: &Actor,
        action: &str,
        subject: Subject<'_>,
        detail: &Value,
        now: Timestamp,
    ) -> Result<(), Error> {
        tx.insert_audit(&AuditRow {
            id: AuditId::new(now, &*self.random),
            at: now,
            actor_kind: actor.kind.as_str().to_owned(),
            actor: actor.name.clone(),
            actor_token: actor.token,
            action: action.to_owned(),
            subject_kind: subject.kind.to_owned(),
            subject: subject.id.to_owned(),
            detail: detail.to_string(),
            request_id: actor.request_id.clone(),
            address: actor.address.clone(),
        })
        .await?;
        Ok(())
    }
}
