//! The keys of device CAs, opened once: decrypting and parsing one costs more than the rest of a SCEP request but its RSA.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::{App, Error};
use super::{DEVICE, authority_of, none_issues};
use crate::model::CaId;
use crate::pki::Authority;
use crate::store::AuthorityRow;

/// The device CAs with their keys, as this process has opened them. Which of them count is never remembered: the rows are
/// read each time, so that one that was retired, or whose record was changed, is not used, and leaves the memory.
#[derive(Default)]
pub struct OpenedAuthorities(Mutex<HashMap<CaId, Opened>>);

/// One of them, and what it was opened from.
struct Opened {
    certificate: Vec<u8>,
    key_sealed: Vec<u8>,
    authority: Arc<Authority>,
}

impl Opened {
    fn is_of(&self, row: &AuthorityRow) -> bool {
        self.certificate == row.certificate && row.key_sealed.as_ref() == Some(&self.key_sealed)
    }
}

/// The device CAs whose keys are here and that are not retired, the one that issues first.
pub(in super::super) async fn with_keys(app: &App) -> Result<Vec<(CaId, Arc<Authority>)>, Error> {
    let mut rows = app.store.begin_read().await?.authorities(DEVICE).await?;
    rows.retain(|row| row.key_sealed.is_some());
    rows.sort_by_key(|row| row.slot.is_none());
    if rows.first().is_none_or(|row| row.slot.is_none()) {
        return Err(none_issues());
    }
    // Not held while a key is opened: at the worst two requests open the same.
    let known: Vec<Option<Arc<Authority>>> = {
        let mut opened = app.opened_authorities.0.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|id, opened| rows.iter().any(|row| row.id == *id && opened.is_of(row)));
        rows.iter().map(|row| opened.get(&row.id).map(|opened| Arc::clone(&opened.authority))).collect()
    };
    let mut authorities = Vec::with_capacity(rows.len());
    for (row, known) in rows.into_iter().zip(known) {
        let id = row.id;
        let authority = match known {
            Some(authority) => authority,
            None => {
                let authority = Arc::new(authority_of(app, &row)?);
                let opened = Opened {
                    certificate: row.certificate,
                    key_sealed: row.key_sealed.unwrap_or_default(),
                    authority: Arc::clone(&authority),
                };
                app.opened_authorities.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, opened);
                authority
            }
        };
        authorities.push((id, authority));
    }
    Ok(authorities)
}
