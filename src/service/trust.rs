use std::sync::Arc;

use super::{App, Error};
use crate::model::CaId;
use crate::pki::Certificate;

/// The authorities whose device certificates are accepted, as this process knows them.
#[derive(Debug, Default)]
pub struct Trust {
    /// Raised when the list changes: what was verified under an earlier one counts no more.
    pub version: u64,
    /// In the order of the certificates in `roots`.
    pub authorities: Vec<TrustedAuthority>,
    /// Their certificates.
    pub roots: Vec<Certificate>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedAuthority {
    /// Its id.
    pub id: CaId,
    /// Whether its certificates are issued elsewhere, so that there is no issuing record here.
    pub issues_elsewhere: bool,
}

impl App {
    /// The authorities whose device certificates are accepted.
    #[must_use]
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    /// Reads the list of device authorities. Called at the start, after a change, and by the scheduler, so that a
    /// change made by another process is seen within its interval.
    ///
    /// # Errors
    /// [`Error::Unavailable`], or [`Error::Internal`] when a stored certificate cannot be read.
    pub async fn reload_trust(&self) -> Result<(), Error> {
        let rows = self.store.begin_read().await?.authorities("device").await?;
        let mut authorities = Vec::with_capacity(rows.len());
        let mut roots = Vec::with_capacity(rows.len());
        for row in rows {
            let certificate = Certificate::from_der(&row.certificate)
                .map_err(|e| Error::Internal(format!("the certificate of authority {}: {e}", row.id)))?;
            authorities.push(TrustedAuthority { id: row.id, issues_elsewhere: row.issues_elsewhere });
            roots.push(certificate);
        }
        let now = self.trust.load();
        if now.authorities != authorities || now.version == 0 {
            self.trust.store(Arc::new(Trust { version: now.version + 1, authorities, roots }));
        }
        Ok(())
    }
}
