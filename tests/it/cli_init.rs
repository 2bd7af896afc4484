//! `muster init` makes everything once, and overwrites nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use muster::model::Sha256;

use crate::support::db::{Kind, TestDb, run_empty};
use crate::support::program::{FreshInstallation, muster};

/// Every file and directory under a place, with its mode and content.
fn contents(place: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![place.to_path_buf()]);
    while let Some(path) = open.pop() {
        let facts = fs::symlink_metadata(&path).unwrap();
        let content = if facts.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path.display().to_string(), (facts.mode() & 0o777, content));
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

both_fresh_databases! {
    async fn an_installation_is_private_and_sound(made: FreshInstallation) {
        for (name, expected) in [("muster.toml", 0o600), ("data", 0o700), ("data/master.key", 0o600)] {
            assert_eq!(mode(&made.path(name)), expected, "{name}");
        }
        if made.database.starts_with("sqlite:") {
            assert_eq!(mode(&made.path("data/muster.db")), 0o600);
        }
        let text = fs::read_to_string(made.path("muster.toml")).unwrap();
        assert!(text.contains("public_url = \"https://localhost:8443\""), "{text}");
        assert!(text.contains("listen = \"0.0.0.0:8443\""), "{text}");
        assert!(!text.contains(&made.token()) && text.lines().count() > 150);

        let doctor = made.run(&["doctor", "--offline"]).with(0);
        assert!(!doctor.stdout.contains("FAIL"), "{}", doctor.stdout);

        let hashed = if made.database.starts_with("sqlite:") { "hex(hash)" } else { "encode(hash, 'hex')" };
        let kept = made.texts(&format!("SELECT {hashed} FROM api_tokens")).await;
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].to_lowercase(), Sha256::of(made.token().as_bytes()).hex());
    }

    async fn a_second_run_is_refused_and_changes_nothing(made: FreshInstallation) {
        let before = contents(&made.place());
        let second = muster(&["init", made.place().to_str().unwrap()], &[]).with(1);
        assert!(second.stderr.contains("muster.toml is there already, and nothing is overwritten"), "{}", second.stderr);
        assert_eq!(second.stdout, "");
        assert_eq!(contents(&made.place()), before);

        // Not even when only the settings were moved away.
        fs::rename(made.path("muster.toml"), made.path("elsewhere.toml")).unwrap();
        let before = contents(&made.place());
        let third = muster(&["init", made.place().to_str().unwrap()], &[]).with(1);
        assert!(third.stderr.contains("data/master.key"), "{}", third.stderr);
        assert_eq!(contents(&made.place()), before);
    }

    async fn a_database_in_use_is_refused_from_another_directory(made: FreshInstallation) {
        let other = made.directory.path().join("other");
        let arguments = ["init", other.to_str().unwrap(), "--database-url", &made.database];
        let refused = muster(&arguments, &[]).with(1);
        assert!(refused.stderr.contains("nothing is overwritten"), "{}", refused.stderr);
        assert!(!other.exists());
        made.run(&["doctor", "--offline"]).with(0);
    }
}

/// The key must outlive what is sealed under it, and a database server keeps what it was given.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_server_that_was_begun_keeps_its_key() {
    run_empty(Kind::Postgres, |db: TestDb| async move {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("muster");
        let arguments = ["init", directory.to_str().unwrap(), "--database-url", &db.url];
        // Noticed after the migrations.
        let ended = muster(&arguments, &[("MUSTER_PUSH_ROOTS", "/nowhere/roots.pem")]).with(1);
        assert!(ended.stderr.contains("The files were made, and the database was begun"), "{}", ended.stderr);
        assert!(directory.join("data/master.key").exists() && directory.join("muster.toml").exists());
    })
    .await;
}

#[test]
fn what_cannot_be_finished_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("muster");
    for (url, code) in [
        ("postgres://muster@127.0.0.1:1/muster", 1),
        // Its directory is not there, which shows only after the key was made.
        ("sqlite:/nowhere/at/all/muster.db", 1),
        ("mysql://muster@127.0.0.1/muster", 2),
    ] {
        let ended = muster(&["init", directory.to_str().unwrap(), "--database-url", url], &[]).with(code);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{url}: {}", ended.stderr);
        assert!(!directory.exists(), "{url}");
    }
    let late = muster(&["init", directory.to_str().unwrap()], &[("MUSTER_PUSH_ROOTS", "/nowhere/roots.pem")]).with(1);
    assert!(late.stderr.contains("push.roots: /nowhere/roots.pem"), "{}", late.stderr);
    assert!(!directory.exists());
    let wrong = muster(&["init", directory.to_str().unwrap(), "--public-url", "http://mdm.example.org"], &[]).with(2);
    assert!(wrong.stderr.contains("is not https, which devices demand"), "{}", wrong.stderr);
    assert!(!directory.exists());
}

#[test]
fn the_listener_and_the_names_follow_the_public_url() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("muster");
    let arguments = [
        "init",
        directory.to_str().unwrap(),
        "--public-url",
        "https://mdm.example.org",
        "--organization",
        "The \"Example\" School",
    ];
    let made = muster(&arguments, &[]).with(0);
    assert!(made.stdout.contains("connect to https://mdm.example.org; the server listens for them on 0.0.0.0:443"));
    assert!(made.stdout.contains("Ports below 1024"), "{}", made.stdout);
    let config = directory.join("muster.toml");
    let doctor = muster(&["doctor", "--offline", "--config", config.to_str().unwrap()], &[]).with(0);
    assert!(doctor.stdout.contains("ok    tls               CN=mdm.example.org holds until"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("\"The \\\"Example\\\" School Device CA\" issues"), "{}", doctor.stdout);
}

#[test]
fn a_master_key_of_the_environment_is_written_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("muster");
    let key = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=";
    let environment = [("MUSTER_MASTER_KEY", key)];
    muster(&["init", directory.to_str().unwrap()], &environment).with(0);
    assert!(!directory.join("data/master.key").exists());
    for (path, (_, content)) in contents(&directory) {
        assert!(!content.windows(key.len()).any(|window| window == key.as_bytes()), "{path}");
    }
    let config = directory.join("muster.toml");
    let arguments = ["doctor", "--offline", "--config", config.to_str().unwrap()];
    muster(&arguments, &environment).with(0);
    let without = muster(&arguments, &[]).with(1);
    assert!(without.stdout.contains("FAIL  master_key"), "{}", without.stdout);
}
