use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};

use super::authorities::OpenedAuthorities;
use super::device_identity::VerifiedCertificates;
use super::seen::Seen;
use super::trust::Trust;
use super::wakes::PushIdentities;
use super::webhooks::Outbox;
use super::{Error, apps, webhooks};
use crate::config::Settings;
use crate::model::{Clock, ProcessId, Randomness, Secret};
use crate::pki::vault::Vault;
use crate::remote::apns::Pusher;
use crate::remote::hooks::Hooks;
use crate::store::Store;

/// What the verbs work with: the store, the settings, the keys, the clock. Cheap to clone; there are no globals.
#[derive(Clone)]
pub struct App(Arc<State>);

/// What the composition root brings.
pub struct Parts {
    /// The database, migrated.
    pub store: Store,
    /// The settings.
    pub settings: Settings,
    /// The keys for what is encrypted at rest.
    pub vault: Vault,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Randomness>,
    /// Sends pushes.
    pub pusher: Arc<dyn Pusher>,
}

/// See [`App`].
pub struct State {
    /// The database.
    pub store: Store,
    /// The settings.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Randomness>,
    /// Sends pushes.
    pub pusher: Arc<dyn Pusher>,
    /// Calls hooks.
    pub hooks: Hooks,
    /// Tells webhooks: a client of its own, so that receivers which hang take no place from hooks that devices wait for.
    pub receivers: Hooks,
    /// This process, which leases are in the name of.
    pub process: ProcessId,
    /// Wakes the workers of this process.
    pub signals: Signals,
    /// Places for uploads of packages that come at the same time: each takes as much of the disk as it is large, before
    /// it is known whether it can be kept.
    pub uploads: Semaphore,
    vault: Vault,
    pub(super) trust: ArcSwap<Trust>,
    pub(super) verified: VerifiedCertificates,
    pub(super) seen: Seen,
    pub(super) push_identities: PushIdentities,
    pub(super) opened_authorities: OpenedAuthorities,
    pub(super) outbox: Outbox,
}

/// Tells the workers of this process that there is something to do, after the commit that made it. Nothing depends on
/// it: they look by themselves as well.
#[derive(Debug, Default)]
pub struct Signals {
    /// A wake-up is due.
    pub push: Notify,
    /// A job is due.
    pub jobs: Notify,
    /// Something waits for a webhook.
    pub webhooks: Notify,
    /// A poll waits for one.
    pub polled: Notify,
    /// Pushes of this process have ended and are written down.
    pub pushed: Notify,
}

impl App {
    /// Puts the parts together. Reads nothing: call [`App::reload_trust`] before serving devices.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let client = || Hooks::new(&parts.settings.hooks.allow, Arc::clone(&parts.clock));
        let (hooks, receivers) = (client(), client().at_once(webhooks::places(&parts.settings)));
        let process = ProcessId::new(parts.clock.now(), &*parts.random);
        Self(Arc::new(State {
            process,
            store: parts.store,
            hooks,
            receivers,
            settings: parts.settings,
            clock: parts.clock,
            random: parts.random,
            pusher: parts.pusher,
            signals: Signals::default(),
            uploads: Semaphore::new(apps::MAX_UPLOADS),
            vault: parts.vault,
            trust: ArcSwap::from_pointee(Trust::default()),
            verified: VerifiedCertificates::default(),
            seen: Seen::default(),
            push_identities: PushIdentities::default(),
            opened_authorities: OpenedAuthorities::default(),
            outbox: Outbox::default(),
        }))
    }

    /// Encrypts something for the place that `context` names (`table.column:key`).
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.vault.seal(&*self.random, context, plain)?)
    }

    /// Decrypts what was encrypted for the place that `context` names.
    ///
    /// # Errors
    /// [`Error::Internal`]: the master key is not there, or the record is damaged.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
        Ok(self.vault.open(context, sealed)?)
    }

    /// The keys for what is encrypted at rest.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.vault
    }
}

impl Deref for App {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}
