//! The domain on a database of its own: a clock that stands still, seeded randomness, and a push service that only
//! takes notes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use muster::config::Settings;
use muster::model::{Role, Timestamp};
use muster::pki::vault::{MasterKey, Vault};
use muster::remote::apns::{ApnsIdentity, Push, PushOutcome, Pusher};
use muster::service::{Actor, App, Parts};
use tempfile::TempDir;

use super::db::{Fixture, TestDb};

/// The settings of a story, beside those that every story has.
const SETTINGS: &str = "public_url = \"https://mdm.example.org\"\n";

/// An [`App`] with all that it stands on.
#[derive(Clone)]
pub struct TestApp {
    pub app: App,
    pub db: TestDb,
    pub pusher: Arc<FakePusher>,
    /// Gone when the last clone is dropped.
    pub directory: Arc<TempDir>,
}

impl Fixture for TestApp {
    async fn on(db: TestDb) -> Self {
        Self::with(db, "").await
    }
}

impl TestApp {
    /// With more settings: the text of a settings file, without `public_url` and `data_dir`.
    pub async fn with(db: TestDb, settings: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let settings = format!("{SETTINGS}data_dir = {:?}\n{settings}", directory.path());
        let settings = Settings::parse(&directory.path().join("muster.toml"), &settings, []).unwrap();
        let pusher = Arc::new(FakePusher::default());
        let app = App::new(Parts {
            store: db.store.clone(),
            settings,
            vault: Vault::new(MasterKey::generate(&*db.random), Vec::new()),
            clock: db.clock.clone(),
            random: db.random.clone(),
            pusher: pusher.clone(),
        });
        Self { app, db, pusher, directory }
    }

    /// The time of the story.
    pub fn now(&self) -> Timestamp {
        self.db.now()
    }

    /// The actions in the audit log, in the order of the alphabet: the clock may have stood still.
    pub async fn audited(&self) -> Vec<String> {
        self.db.texts("SELECT action FROM audit ORDER BY action").await
    }
}

/// Somebody with this role.
pub fn actor(role: Role) -> Actor {
    Actor { role, ..Actor::command_line() }
}

/// A push that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub topic: String,
    pub token: Vec<u8>,
    pub magic: String,
}

/// Takes every push, unless told what to answer.
#[derive(Default)]
pub struct FakePusher {
    sent: Mutex<Vec<Sent>>,
    answers: Mutex<VecDeque<PushOutcome>>,
}

impl FakePusher {
    /// The answer to the next push that has none yet.
    pub fn answer(&self, outcome: PushOutcome) {
        self.answers.lock().unwrap().push_back(outcome);
    }

    /// The pushes since this was last asked.
    pub fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

impl Pusher for FakePusher {
    fn push<'a>(&'a self, identity: &'a ApnsIdentity, push: &'a Push) -> BoxFuture<'a, PushOutcome> {
        let topic = identity.topic().to_owned();
        self.sent.lock().unwrap().push(Sent { topic, token: push.token.clone(), magic: push.magic.clone() });
        let accepted = PushOutcome::Accepted { apns_id: None };
        let outcome = self.answers.lock().unwrap().pop_front().unwrap_or(accepted);
        Box::pin(std::future::ready(outcome))
    }
}
