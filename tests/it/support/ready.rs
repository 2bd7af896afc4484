//! A server that devices can enroll at: its authorities are made, and it has a push certificate if the story wants one.

use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use muster::config::Settings;
use muster::model::Role;
use muster::pki::PrivateKey;
use muster::service::authorities::{self, Prepared};
use muster::service::{Actor, App, Parts};
use muster::store::PushCertificateRow;

use super::app::{TestApp, actor};
use super::db::{Fixture, TestDb};
use super::rows::{DAY, HOUR, TOPIC};

/// The settings of such a server, beside those that every story has.
pub const SCHOOL: &str = "[organization]\nname = \"Example School\"\n";

/// A [`TestApp`] with authorities, and an admin at hand.
#[derive(Clone)]
pub struct Ready {
    pub test: TestApp,
    pub admin: Actor,
}

impl Deref for Ready {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.test
    }
}

impl Fixture for Ready {
    async fn on(db: TestDb) -> Self {
        Self::with(db, SCHOOL).await
    }
}

impl Ready {
    /// With these settings, and a push certificate.
    pub async fn with(db: TestDb, settings: &str) -> Self {
        let ready = Self::empty(db, settings).await;
        authorities::ensure_with(&ready.app, prepared()).await.unwrap();
        ready.put_push_certificate(365 * DAY).await;
        ready
    }

    /// With these settings, and an empty database.
    pub async fn empty(db: TestDb, settings: &str) -> Self {
        Self { test: TestApp::with(db, settings).await, admin: actor(Role::Admin) }
    }

    /// Another server process on the same database, with other settings perhaps.
    pub async fn second_process(&self, settings: &str) -> Self {
        let db = TestDb { store: self.db.second_process().await, ..self.db.clone() };
        let text = format!(
            "public_url = \"https://mdm.example.org\"\ndata_dir = {:?}\n{settings}",
            self.test.directory.path()
        );
        let app = App::new(Parts {
            store: db.store.clone(),
            settings: Settings::parse(Path::new("muster.toml"), &text, []).unwrap(),
            vault: self.app.vault().clone(),
            clock: db.clock.clone(),
            random: db.random.clone(),
            pusher: self.test.pusher.clone(),
        });
        app.reload_trust().await.unwrap();
        Self { test: TestApp { app, db, ..self.test.clone() }, admin: self.admin.clone() }
    }

    /// Puts a push certificate for [`TOPIC`] into the database, the default one. Nothing can be sent with it.
    pub async fn put_push_certificate(&self, validity: Duration) {
        let now = self.now();
        let row = PushCertificateRow {
            topic: TOPIC.to_owned(),
            chain_pem: String::new(),
            key_sealed: Vec::new(),
            sha256: self.db.digest(),
            subject: format!("UID={TOPIC}"),
            not_before: now.minus(HOUR),
            not_after: now.plus(validity),
            is_default: true,
            created_at: now,
            created_by: "ci".to_owned(),
        };
        let mut tx = self.db.write().await;
        tx.put_push_certificate(&row).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// One of a few RSA keys of 2048 bits, made once per run since making them takes its time. 0 and 1 are the server's.
pub fn rsa(number: usize) -> PrivateKey {
    static KEYS: [OnceLock<PrivateKey>; 8] = [const { OnceLock::new() }; 8];
    KEYS[number].get_or_init(|| PrivateKey::generate_rsa(2048).unwrap()).clone()
}

/// Keys for the server's authorities.
pub fn prepared() -> Prepared {
    Prepared { device_ca: Some(rsa(0)), profile_signer: Some(rsa(1)) }
}
