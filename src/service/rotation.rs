//! Sealing everything anew after the master key was changed, so that the older one can be taken out of use.

use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error};
use super::{
    authorities, check_in, compat, deliveries, idempotency, profiles, push_certificates, reports, signing, wakes,
    webhooks,
};
use crate::model::{CaId, CommandId, ProfileId, PushRequestId, WebhookId};
use crate::store::{SealedColumn, SealedKey};

/// Records in one transaction: few enough that devices do not wait for it.
const BATCH: i64 = 100;

/// What became of the sealed records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Records that are under the active key now.
    pub resealed: u64,
    /// Records that do not open: how many, and the first of each column with the reason.
    pub unreadable: u64,
    /// The first unreadable record of each column.
    pub examples: Vec<String>,
}

/// Seals every record that is under an older master key anew, under the active one. Works beside running servers, as
/// long as they know both keys; what was done stays done when it is broken off.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn reseal(app: &App, actor: &Actor) -> Result<Rotated, Error> {
    let mut rotated = Rotated::default();
    for column in SealedColumn::ALL {
        reseal_column(app, column, &mut rotated).await?;
    }
    let now = app.clock.now();
    let key = hex::encode(app.vault().active_key_id());
    let mut tx = app.store.begin_write().await?;
    let detail = json!({"records": rotated.resealed, "unreadable": rotated.unreadable});
    app.audit(&mut tx, actor, "master_key.rotated", Subject { kind: "master_key", id: &key }, &detail, now).await?;
    tx.commit().await?;
    Ok(rotated)
}

async fn reseal_column(app: &App, column: SealedColumn, rotated: &mut Rotated) -> Result<(), Error> {
    let active = app.vault().active_key_id();
    let mut after: Option<SealedKey> = None;
    let mut is_first = true;
    loop {
        // Looked for outside of the transaction: a long search must not keep others from writing.
        let mut read = app.store.begin_read().await?;
        let batch = read.sealed_otherwise(column, &active, after.as_ref(), BATCH).await?;
        drop(read);
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some(last.key.clone());
        let mut tx = app.store.begin_write().await?;
        for record in &batch {
            let context = context(column, &record.key);
            match app.open(&context, &record.sealed) {
                Ok(plain) => {
                    let sealed = app.seal(&context, plain.expose())?;
                    rotated.resealed += u64::from(tx.replace_sealed(column, record, &sealed).await?);
                }
                Err(why) => {
                    rotated.unreadable += 1;
                    if std::mem::take(&mut is_first) {
                        rotated.examples.push(format!("{} ({context}): {why}", column.as_str()));
                    }
                }
            }
        }
        tx.commit().await?;
    }
}

/// The place for which a record is sealed: as each verb names it that seals there.
fn context(column: SealedColumn, key: &SealedKey) -> String {
    match (column, key) {
        (SealedColumn::AuthorityKey, SealedKey::Id(id)) => authorities::key_context(CaId(*id)),
        (SealedColumn::PushRequestKey, SealedKey::Id(id)) => push_certificates::request_key_context(PushRequestId(*id)),
        (SealedColumn::ProfileContent, SealedKey::Id(id)) => profiles::content_context(ProfileId(*id)),
        (SealedColumn::CommandWire, SealedKey::Id(id)) => compat::wire_context(CommandId(*id)),
        (SealedColumn::WebhookSecret, SealedKey::Id(id)) => webhooks::secret_context(WebhookId(*id)),
        (_, SealedKey::Id(id)) => deliveries::payload_context(CommandId(*id)),
        (SealedColumn::ServerCertificateKey, SealedKey::Name(name)) => signing::own_key_context(name),
        (_, SealedKey::Name(topic)) => wakes::key_context(topic),
        (_, SealedKey::Escrow { enrollment, generation, kind }) => {
            check_in::escrow_context(*enrollment, *generation, kind)
        }
        (_, SealedKey::CheckIn { message_type, apple_id, .. }) => check_in::raw_context(apple_id, message_type),
        (_, SealedKey::Report { id, .. }) => reports::raw_context(*id),
        (_, SealedKey::Event { id, .. }) => webhooks::content_context(*id),
        (_, SealedKey::Answer { token, key }) => idempotency::context(*token, key),
    }
}
