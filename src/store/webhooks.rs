use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{Timestamp, WebhookForm, WebhookId};

/// A webhook's row.
#[derive(Clone, FromRow, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct WebhookRow {
    pub id: WebhookId,
    pub name: String,
    pub url: String,
    pub form: WebhookForm,
    pub secret_sealed: Option<Vec<u8>>,
    pub topics: String,
    pub idle: bool,
    pub raw: bool,
    pub revision: i64,
    pub paused_at: Option<Timestamp>,
    pub paused_reason: Option<String>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub updated_at: Timestamp,
    pub removed_at: Option<Timestamp>,
}

impl fmt::Debug for WebhookRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its URL may hold a secret.
        f.debug_struct("WebhookRow").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Read {
    /// All webhooks, the oldest first; those too that were removed and are being taken away.
    pub async fn all_webhooks(&mut self) -> Result<Vec<WebhookRow>, StoreError> {
        on!(self, fetch_all, query_as("SELECT * FROM webhooks ORDER BY id"))
    }

    /// How many webhooks there are.
    pub async fn count_webhooks(&mut self) -> Result<i64, StoreError> {
        on!(self, fetch_one, query_scalar("SELECT COUNT(*) FROM webhooks WHERE removed_at IS NULL"))
    }

    /// Webhooks that were made before this one, newest first.
    pub async fn webhooks(&mut self, before: Option<WebhookId>, limit: i64) -> Result<Vec<WebhookRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM webhooks WHERE removed_at IS NULL AND ($1 IS NULL OR id < $1) ORDER BY id DESC LIMIT $2",
                before,
                limit
            )
        )
    }

    /// The webhook with this id.
    pub async fn webhook(&mut self, id: WebhookId) -> Result<Option<WebhookRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM webhooks WHERE id = $1 AND removed_at IS NULL", id))
    }
}

impl Write {
    /// The webhook with this id, locked.
    pub async fn webhook_for_update(&mut self, id: WebhookId) -> Result<Option<WebhookRow>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as("SELECT * FROM webhooks WHERE id = $1 AND removed_at IS NULL FOR UPDATE", id)
        )
    }

    /// Adds a webhook.
    pub async fn insert_webhook(&mut self, row: &WebhookRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO webhooks (id, name, url, form, secret_sealed, topics, idle, raw, revision, created_at,
                                   created_by, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $10)",
            row.id,
            row.name.as_str(),
            row.url.as_str(),
            row.form,
            row.secret_sealed.as_deref(),
            row.topics.as_str(),
            row.idle,
            row.raw,
            row.revision,
            row.created_at,
            row.created_by.as_str()
        )
        .map(drop)
    }

    /// Changes what may change of a webhook, if it still has the revision `row.revision`. False: it has another by now.
    pub async fn update_webhook(&mut self, row: &WebhookRow, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE webhooks
                SET name = $3, url = $4, secret_sealed = $5, topics = $6, idle = $7, raw = $8, paused_at = $9,
                    paused_reason = $10, revision = revision + 1, updated_at = $11
              WHERE id = $1 AND revision = $2 AND removed_at IS NULL",
            row.id,
            row.revision,
            row.name.as_str(),
            row.url.as_str(),
            row.secret_sealed.as_deref(),
            row.topics.as_str(),
            row.idle,
            row.raw,
            row.paused_at,
            row.paused_reason.as_deref(),
            now
        )? == 1)
    }

    /// Removes a webhook, if it still has this revision. What waits for it is taken away later. False: it has another
    /// revision by now.
    pub async fn remove_webhook(&mut self, id: WebhookId, revision: i64, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE webhooks SET removed_at = $3, secret_sealed = NULL
              WHERE id = $1 AND revision = $2 AND removed_at IS NULL",
            id,
            revision,
            now
        )? == 1)
    }

    /// Forgets a removed webhook of which nothing is left.
    pub async fn forget_webhook(&mut self, id: WebhookId) -> Result<(), StoreError> {
        run!(self, "DELETE FROM webhooks WHERE id = $1 AND removed_at IS NOT NULL", id).map(drop)
    }
}
