//! Changing the master key: everything that is sealed is found, sealed anew, and opens without the older key.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use muster::model::{Role, Secret, Sha256, TokenId, WebhookForm};
use muster::pki::PrivateKey;
use muster::pki::authority::make_tls_root;
use muster::pki::push::issue_fake;
use muster::pki::vault::{MasterKey, Vault};
use muster::service::idempotency::Repeat;
use muster::service::push_certificates::{NewCertificate, NewRequest, put, request};
use muster::service::tokens::{self, NewToken};
use muster::service::{Actor, App, Parts, authorities, profiles, rotation, webhooks};
use muster::store::SealedColumn;

use crate::support::app::{TestApp, actor};
use crate::support::edge::Edge;
use crate::support::program::Installation;
use crate::support::ready::{prepared, rsa};
use crate::support::rows::{DAY, TOPIC};

const WIFI: &[u8] = include_bytes!("../fixtures/plists/profile-wifi.mobileconfig");

/// The same server, started with other keys.
fn with_keys(t: &TestApp, active: &MasterKey, older: Vec<MasterKey>) -> App {
    App::new(Parts {
        store: t.db.store.clone(),
        settings: t.app.settings.clone(),
        vault: Vault::new(active.clone(), older),
        clock: t.db.clock.clone(),
        random: t.db.random.clone(),
        pusher: t.pusher.clone(),
    })
}

/// How many records of each column are under another key than the active one.
async fn otherwise(app: &App) -> Vec<(&'static str, usize)> {
    let mut found = Vec::new();
    for column in SealedColumn::ALL {
        let key = app.vault().active_key_id();
        let mut read = app.store.begin_read().await.unwrap();
        let records = read.sealed_otherwise(column, &key, None, 1000).await.unwrap();
        if !records.is_empty() {
            found.push((column.as_str(), records.len()));
        }
    }
    found
}

/// Something sealed in every column.
async fn fill(edge: &Edge, app: &App) {
    let admin = actor(Role::Admin);
    authorities::ensure_with(app, prepared()).await.unwrap();
    let apple = make_tls_root("Fake Apple", "", app.clock.now(), &*app.random).unwrap();
    let key: PrivateKey = rsa(2);
    let made = issue_fake(&apple, key, TOPIC, app.clock.now(), DAY * 365, &*app.random).unwrap().identity;
    let file = format!("{}{}", made.certificate.to_pem(), made.key.to_pem().expose()).into_bytes();
    put(app, &admin, NewCertificate { file: Secret::new(file), password: None, default: None, force: false })
        .await
        .unwrap();
    request(app, &admin, NewRequest { name: None, email: None }).await.unwrap();
    profiles::create(app, &admin, WIFI).await.unwrap();
    let repeat = Repeat { token: edge.t.db.id(TokenId::new), key: "once".to_owned(), request: Sha256::of(b"this") };
    let new = NewToken { name: "x".to_owned(), role: Role::Viewer, expires_at: None };
    tokens::create(app, &Actor { repeat: Some(repeat), ..admin }, new).await.unwrap();
    let new = webhooks::NewWebhook {
        name: "x".to_owned(),
        url: Secret::new("https://hooks.example.org/".to_owned()),
        form: WebhookForm::CloudEvents,
        secret: None,
        topics: Vec::new(),
        idle: false,
        raw: false,
    };
    webhooks::create(app, &Actor::command_line(), new).await.unwrap();
    let phone = edge.phone("PHONE-1").await;
    phone.authenticate().await;
    phone.token_update(Some(b"escrow")).await;
    phone.finish_all().await;
    let tool = Actor::compat("nanomdm");
    let lock = crate::support::compat::command("CMD1", "DeviceLock", &[("PIN", "123456".into())]);
    let taken = muster::service::compat::enqueue(app, &tool, &["PHONE-1".to_owned()], &lock, true).await;
    assert_eq!(taken.command_error, None);
}

both_databases! {
    async fn everything_is_sealed_anew_and_opens_without_the_older_key(edge: Edge) {
        let first = edge.t.app.clone();
        fill(&edge, &first).await;
        assert_eq!(otherwise(&first).await, []);

        // Without the older key nothing is lost: it says what it cannot open, and leaves it.
        let (second, third) = (MasterKey::generate(&*first.random), MasterKey::generate(&*first.random));
        let blind = with_keys(&edge.t, &second, vec![]);
        let before = otherwise(&blind).await;
        assert_eq!(before.len(), SealedColumn::ALL.len(), "each column has something: {before:?}");
        let refused = rotation::reseal(&blind, &Actor::command_line()).await.unwrap();
        assert_eq!((refused.resealed, refused.examples.len()), (0, before.len()));
        assert_eq!(otherwise(&blind).await, before);

        let both = with_vault(&edge.t, first.vault(), &second);
        let rotated = rotation::reseal(&both, &Actor::command_line()).await.unwrap();
        let records: usize = before.iter().map(|(_, records)| records).sum();
        assert_eq!((rotated.resealed, rotated.unreadable), (records as u64, 0), "{:?}", rotated.examples);
        assert_eq!(otherwise(&both).await, []);
        let again = rotation::reseal(&both, &Actor::command_line()).await.unwrap();
        assert_eq!((again.resealed, again.unreadable), (0, 0));

        // What was sealed anew opens in its place under the new key alone: each is opened to be sealed once more.
        let next = with_keys(&edge.t, &third, vec![second]);
        let rotated = rotation::reseal(&next, &Actor::command_line()).await.unwrap();
        assert_eq!((rotated.resealed, rotated.unreadable), (records as u64, 0), "{:?}", rotated.examples);
        authorities::ensure(&with_keys(&edge.t, &third, vec![])).await.unwrap();
        assert!(edge.t.audited().await.contains(&"master_key.rotated".to_owned()));
    }
}

/// A server that opens with the key of another one, and seals under a new one.
fn with_vault(t: &TestApp, older: &Vault, active: &MasterKey) -> App {
    App::new(Parts {
        store: t.db.store.clone(),
        settings: t.app.settings.clone(),
        vault: older.clone().rotated(active.clone()),
        clock: t.db.clock.clone(),
        random: t.db.random.clone(),
        pusher: t.pusher.clone(),
    })
}

#[test]
fn every_sealed_column_of_the_tables_is_known() {
    let text = include_str!("../../migrations/sqlite/0001_foundation.sql");
    let (mut table, mut columns) = ("", BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("CREATE TABLE ") {
            table = rest.trim_end_matches(" (");
        }
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.ends_with("_sealed") {
            columns.insert(format!("{table}.{name}"));
        }
    }
    let known: BTreeSet<_> = SealedColumn::ALL.iter().map(|column| column.as_str().to_owned()).collect();
    assert_eq!(columns, known);
}

both_fresh_databases! {
    async fn the_master_key_is_changed_from_the_command_line(made: Installation) {
        let new = made.path("data/master-2.key");
        // With paths from where it is run: what is printed has to hold in the settings, where they are read otherwise.
        let out = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(["rotate-key", "--config", "muster.toml", "--make", "data/master-2.key"])
            .env_clear()
            .current_dir(made.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
        let printed = |key: &str| {
            let line = said.lines().map(str::trim).find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{said}"));
            line.to_owned()
        };
        let (file, older) = (printed("file = "), printed("older = "));
        assert_eq!(file, format!("file = \"{}\"", new.display()));
        assert_eq!(older, format!("older = [\"{}\"]", made.path("data/master.key").display()));
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
        let twice = made.run(&["rotate-key", "--make", new.to_str().unwrap()]).with(1);
        assert!(twice.stderr.contains("nothing was changed"), "{}", twice.stderr);

        made.set("#file = \"master.key\"", &file);
        made.set("#older = []", &older);
        let server = made.serve();
        let doctor = made.run(&["doctor", "--offline"]).with(0).stdout;
        assert!(doctor.contains("run `muster rotate-key`"), "{doctor}");
        let done = made.run(&["rotate-key"]).with(0).stdout;
        assert!(done.starts_with("4 records were sealed anew"), "{done}");
        drop(server);

        made.set(&older, "older = []");
        fs::remove_file(made.path("data/master.key")).unwrap();
        let doctor = made.run(&["doctor", "--offline"]).with(0).stdout;
        assert!(doctor.contains("ok    secrets"), "{doctor}");
        assert_eq!(made.serve().get("/api/v1/tokens", &made.token()).await.0, 200);
    }
}

#[test]
fn keys_are_private_to_whoever_makes_them() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let file = place.path().join("muster.toml");
    fs::write(&file, "public_url = \"https://mdm.example.org\"\n").unwrap();
    let key = place.path().join("new.key");
    let arguments = ["rotate-key", "--config", file.to_str().unwrap(), "--make", key.to_str().unwrap()];
    let ended = crate::support::program::muster(&arguments, &[]).with(0);
    let text = fs::read_to_string(&key).unwrap();
    assert!(!ended.stdout.contains(text.trim()), "the key itself is not shown");
    MasterKey::parse(&text).unwrap();
}
