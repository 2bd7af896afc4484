//! `muster backup`, `restore` and `held`, as an operator runs them.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::program::Installation;

/// The rest of the files whose names begin with that of the database.
fn beside_database(made: &Installation) -> Vec<String> {
    let names = fs::read_dir(made.path("data")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter_map(|name| Some(name.strip_prefix("muster.db.")?.to_owned())).collect();
    names.sort();
    names
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Puts an open wipe into the database.
const WIPE: &str = "INSERT INTO commands (id, verb, request_type, payload_sealed, fills, summary, resend, destruction,
         priority, internal, target, target_count, fleet_number, materialized, created_at, created_by)
     SELECT X'01A201FC3A55718999AEAEBAC094FE79', 'wipe', 'EraseDevice', key_sealed, '[]', '{}', 'same_generation', 'erase',
         100, FALSE, 'all', 3, 9, FALSE, 1, 'ada' FROM authorities WHERE purpose = 'tls'";
const ID: &str = "01a201fc-3a55-7189-99ae-aebac094fe79";

both_fresh_databases! {
    async fn a_backup_is_made_beside_a_server_and_restored(made: Installation) {
        let file = made.directory.path().join("backup.db");
        if !made.database.starts_with("sqlite:") {
            let refused = made.run(&["backup", text(&file)]).with(1);
            assert!(refused.stderr.contains("pg_dump"), "{}", refused.stderr);
            let refused = made.run(&["restore", text(&file)]).with(1);
            assert!(refused.stderr.contains("pg_restore") && refused.stderr.contains("--mark"), "{}", refused.stderr);
            let marked = made.run(&["restore", "--mark"]).with(0).stdout;
            assert!(marked.contains("0 commands are held"), "{marked}");
            assert_eq!(made.run(&["restore", "--mark"]).with(0).stdout, marked, "again it does the same");
            return;
        }
        let server = made.serve();
        let create = ["token", "create", "--name", "before", "--role", "admin"];
        let token = made.run(&create).with(0).stdout;
        let said = made.run(&["backup", text(&file)]).with(0).stdout;
        assert!(said.starts_with(&format!("{}: ", file.display())) && said.contains("master key"), "{said}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = made.run(&["backup", text(&file)]).with(1);
        assert!(refused.stderr.contains("is there already; nothing was changed"), "{}", refused.stderr);
        made.run(&["token", "create", "--name", "after", "--role", "admin"]).with(0);
        assert!(!made.directory.path().join("backup.db.partial").exists());

        let refused = made.run(&["restore", "--force", text(&file)]).with(1);
        assert!(refused.stderr.contains("another muster server uses the database"), "{}", refused.stderr);
        drop(server);
        let refused = made.run(&["restore", text(&file)]).with(1);
        assert!(refused.stderr.contains("is there already") && refused.stderr.contains("--force"), "{}", refused.stderr);
        let restored = made.run(&["restore", "--force", text(&file)]).with(0).stdout;
        assert!(restored.contains("is kept as ") && restored.contains("0 commands are held"), "{restored}");
        let listed = made.run(&["token", "list"]).with(0).stdout;
        assert!(listed.contains("before") && !listed.contains("after"), "{listed}");
        let beside = beside_database(&made);
        assert!(beside.iter().any(|name| name.starts_with("replaced-")), "{beside:?}");
        assert!(!beside.iter().any(|name| name.starts_with("restoring")), "{beside:?}");
        assert_eq!(fs::metadata(made.path("data/muster.db")).unwrap().permissions().mode() & 0o777, 0o600);
        let server = made.serve();
        assert_eq!(server.get("/api/v1/tokens", token.trim_end()).await.0, 200);
        drop(server);

        // With nothing in its place it needs no force.
        fs::remove_file(made.path("data/muster.db")).unwrap();
        let restored = made.run(&["restore", text(&file)]).with(0).stdout;
        assert!(restored.contains("marked as restored"), "{restored}");
        made.run(&["doctor", "--offline"]).with(0);
    }

    async fn a_backup_that_was_put_in_place_by_hand_is_not_served(made: Installation) {
        if !made.database.starts_with("sqlite:") {
            return;
        }
        made.execute(WIPE).await;
        let file = made.directory.path().join("backup.db");
        made.run(&["backup", text(&file)]).with(0);
        for name in ["muster.db-wal", "muster.db-shm"] {
            let _ = fs::remove_file(made.path("data").join(name));
        }
        fs::copy(&file, made.path("data/muster.db")).unwrap();
        let said = made.serve_in_vain();
        assert!(said.contains("muster restore --mark"), "{said}");
        let doctor = made.run(&["doctor", "--offline"]).with(1).stdout;
        assert!(doctor.contains("FAIL  restored"), "{doctor}");

        let marked = made.run(&["restore", "--mark"]).with(0).stdout;
        assert!(marked.contains("1 commands are held") && marked.contains("muster held list"), "{marked}");
        let doctor = made.run(&["doctor", "--offline"]).with(0).stdout;
        assert!(doctor.contains("warn  held_commands"), "{doctor}");
        let listed = made.run(&["held", "list"]).with(0).stdout;
        assert!(listed.contains(ID) && listed.contains("EraseDevice") && listed.contains("ada"), "{listed}");
        let json: serde_json::Value = serde_json::from_str(&made.run(&["held", "list", "--json"]).stdout).unwrap();
        assert_eq!((&json[0]["id"], &json[0]["targets"]), (&ID.into(), &3.into()));
        assert!(json[0]["held_at"].is_string());
        let server = made.serve();
        assert_eq!(made.run(&["held", "release", ID]).with(0).stdout, "1 commands go on\n");
        assert!(made.run(&["held", "release", ID]).with(1).stderr.contains("is not held"));
        assert_eq!(made.run(&["held", "release", "--all"]).with(0).stdout, "0 commands go on\n");
        let cancelled = made.run(&["held", "cancel", ID]).with(0).stdout;
        assert!(cancelled.starts_with(&format!("{ID}: withdrawn from 0 devices")), "{cancelled}");
        assert_eq!(made.run(&["held", "list"]).with(0).stdout, "nothing is held\n");
        drop(server);
    }

    async fn what_cannot_take_the_place_is_refused_and_changes_nothing(made: Installation) {
        if !made.database.starts_with("sqlite:") {
            return;
        }
        let file = made.directory.path().join("backup.db");
        made.run(&["backup", text(&file)]).with(0);
        let database = fs::read(made.path("data/muster.db")).unwrap();
        let refuse = |file: &PathBuf, why: &str| {
            let refused = made.run(&["restore", "--force", text(file)]).with(1);
            assert!(refused.stderr.contains(why), "{why}: {}", refused.stderr);
            assert_eq!(fs::read(made.path("data/muster.db")).unwrap(), database, "{why}");
            assert_eq!(beside_database(&made), ["server-lock"], "{why}");
        };
        let other = made.directory.path().join("other.db");
        refuse(&other, "cannot read");
        fs::write(&other, "no database at all, but some text that is longer than a header of a database would be, so that it is read").unwrap();
        refuse(&other, "not a database");
        fs::write(&other, "").unwrap();
        refuse(&other, "no database of Muster");

        // A page in the middle is overwritten.
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 8192 * 4096;
        bytes[middle..middle + 4096].fill(0x5a);
        fs::write(&other, &bytes).unwrap();
        refuse(&other, "damaged");
        fs::copy(&file, &other).unwrap();
        fs::write(made.directory.path().join("other.db-wal"), "x").unwrap();
        refuse(&other, "write-ahead log");
        fs::remove_file(made.directory.path().join("other.db-wal")).unwrap();
        let url = format!("sqlite:{}", other.display());
        crate::support::db::execute(&url, "INSERT INTO _sqlx_migrations VALUES (9999, 'x', 'now', TRUE, X'00', 1)").await;
        refuse(&other, "newer version");

        // Another key than the one that the backup is under.
        let key = made.path("data/master.key");
        let old = fs::read(&key).unwrap();
        fs::remove_file(&key).unwrap();
        made.run(&["rotate-key", "--make", text(&key)]).with(0);
        refuse(&file, "the master key of the settings does not belong to it");
        fs::write(&key, old).unwrap();
        made.run(&["restore", "--force", text(&file)]).with(0);
    }

    async fn two_backups_of_one_name_and_a_directory_that_is_closed(made: Installation) {
        if !made.database.starts_with("sqlite:") {
            return;
        }
        let file = made.directory.path().join("backup.db");
        let partial = made.directory.path().join("backup.db.partial");
        let other = OpenOptions::new().write(true).create(true).truncate(true).open(&partial).unwrap();
        other.lock().unwrap();
        let refused = made.run(&["backup", text(&file)]).with(1);
        assert!(refused.stderr.contains("another backup is writing"), "{}", refused.stderr);
        drop(other);
        // What one that was broken off left is taken over.
        fs::write(&partial, vec![1; 100_000]).unwrap();
        fs::set_permissions(&partial, Permissions::from_mode(0o644)).unwrap();
        made.run(&["backup", text(&file)]).with(0);
        assert!(!partial.exists());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = made.run(&["backup", "/nowhere/backup.db"]).with(1);
        assert!(refused.stderr.contains("cannot make /nowhere/backup.db.partial"), "{}", refused.stderr);
    }
}
