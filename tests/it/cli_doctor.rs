//! `muster doctor`: an installation that is well, and each way in which one is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use muster::cli::{SystemClock, SystemRandomness};
use muster::model::{Clock, ManualClock, SeededRandomness};
use muster::pki::authority::{issue_server_certificate, make_tls_root};

use crate::support::db::{Kind, TestDb, connect, run_empty};
use crate::support::program::{Ended, Installation};
use crate::support::rows::{Phone, terms};

const DAY: Duration = Duration::from_secs(86_400);

impl Installation {
    fn doctor(&self) -> Ended {
        self.run(&["doctor", "--offline"])
    }

    /// Sees to it that doctor finds this fault, and fails.
    #[track_caller]
    fn fails(&self, check: &str, found: &str) {
        let doctor = self.doctor().with(1);
        let line = format!("FAIL  {check:<17} ");
        let is_there = doctor.stdout.lines().any(|one| one.starts_with(&line) && one.contains(found));
        assert!(is_there, "no {line:?} with {found:?}:\n{}", doctor.stdout);
        assert!(doctor.stderr.contains("failed"), "{}", doctor.stderr);
    }

    /// Sees to it that doctor warns of this and finds no fault.
    #[track_caller]
    fn warns(&self, check: &str, found: &str) {
        self.says_warning(check, found).with(0);
    }

    /// Sees to it that doctor warns of this, whatever else it finds.
    #[track_caller]
    fn says_warning(&self, check: &str, found: &str) -> Ended {
        let doctor = self.doctor();
        let line = format!("warn  {check:<17} ");
        let is_there = doctor.stdout.lines().any(|one| one.starts_with(&line) && one.contains(found));
        assert!(is_there, "no {line:?} with {found:?}:\n{}", doctor.stdout);
        doctor
    }

    /// Puts a push certificate of that topic there, by its columns alone.
    async fn push_certificate(&self, topic: &str, days: i64) {
        let day = 86_400_000_000;
        let now = SystemClock.now().micros();
        let zeros = "00".repeat(32);
        let (yes, bytes) = if self.database.starts_with("sqlite:") {
            ("1", format!("X'{zeros}'"))
        } else {
            ("TRUE", format!("'\\x{zeros}'"))
        };
        self.execute(&format!(
            "INSERT INTO push_certificates (topic, chain_pem, key_sealed, sha256, subject, not_before, not_after,
                                            is_default, created_at, created_by)
             VALUES ('{topic}', '', {bytes}, {bytes}, 'CN=push', {}, {}, {yes}, {now}, 'test')",
            now - 400 * day,
            now + days * day
        ))
        .await;
    }
}

/// The installation's database, for rows of devices.
async fn rows(made: &Installation) -> TestDb {
    TestDb {
        store: connect(&made.database).await,
        clock: Arc::new(ManualClock::new(SystemClock.now())),
        random: Arc::new(SeededRandomness::new(11)),
        url: made.database.clone(),
    }
}

both_fresh_databases! {
    async fn an_installation_that_is_well(made: Installation) {
        let doctor = made.doctor().with(0);
        for check in [
            "settings", "data_directory", "disk_space", "master_key", "database", "migrations", "database_write", "jobs",
            "admin_tokens", "clock", "secrets", "device_ca", "tls", "profile_signer", "identities", "profiles", "proxy",
            "admin",
        ] {
            let line = format!("ok    {check:<17} ");
            assert!(doctor.stdout.lines().any(|one| one.starts_with(&line)), "{check}:\n{}", doctor.stdout);
        }
        assert!(doctor.stdout.contains("warn  push_certificate  there is none"), "{}", doctor.stdout);
        assert!(!doctor.stdout.contains(&made.token()) && !doctor.stdout.contains("postgres://"), "{}", doctor.stdout);

        let json = made.run(&["doctor", "--offline", "--json"]).with(0);
        let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(json["faults"], 0);
        assert_eq!(json["checks"][0]["check"], "settings");
    }

    async fn it_works_beside_a_running_server(made: Installation) {
        let server = made.serve();
        let doctor = made.doctor().with(0);
        if made.database.starts_with("sqlite:") {
            assert!(doctor.stdout.contains("a server is running on this file"), "{}", doctor.stdout);
        }
        drop(server);
        assert!(!made.doctor().stdout.contains("a server is running"));
    }

    async fn another_master_key(made: Installation) {
        fs::write(made.path("data/master.key"), "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=\n").unwrap();
        made.fails("secrets", "does not open: sealed under the master key");
        made.fails("secrets", "which is not configured; name the file of that key in master_key.older");
    }

    async fn an_older_master_key_is_still_in_use(made: Installation) {
        fs::rename(made.path("data/master.key"), made.path("data/older.key")).unwrap();
        fs::write(made.path("data/master.key"), "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=\n").unwrap();
        fs::set_permissions(made.path("data/master.key"), Permissions::from_mode(0o600)).unwrap();
        made.set("#older = []", "older = [\"older.key\"]");
        made.warns("secrets", "sealed under an older master key");
    }

    async fn a_public_url_that_the_certificate_is_not_for(made: Installation) {
        made.set("https://localhost:8443", "https://mdm.example.org:8443");
        made.fails("tls", "CN=localhost is for localhost, not for mdm.example.org");
        // The server puts that right when it starts.
        drop(made.serve());
        assert!(made.doctor().with(0).stdout.contains("CN=mdm.example.org holds until"));
    }

    async fn a_database_of_a_newer_version(made: Installation) {
        made.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of tomorrow', TRUE, '', 0)",
        )
        .await;
        made.fails("migrations", "by a newer version");
    }

    async fn work_that_does_not_go_on(made: Installation) {
        let now = SystemClock.now().micros();
        let id = if made.database.starts_with("sqlite:") { "X'000102030405060708090A0B0C0D0E0F'" } else { "'00010203-0405-0607-0809-0a0b0c0d0e0f'" };
        made.execute(&format!(
            "INSERT INTO jobs (id, kind, payload, run_at, attempts, revision, last_error, dead_at, created_at)
             VALUES ({id}, 'materialize', '{{}}', {now}, 9, 9, 'no luck', {now}, {now})"
        ))
        .await;
        made.warns("jobs", "1 were given up; the latest, materialize: no luck");
    }

    async fn a_push_certificate_that_ends_or_has_ended(made: Installation) {
        made.push_certificate("com.apple.mgmt.External.one", 20).await;
        let found = made.doctor().with(1).stdout;
        assert!(found.contains("warn  push_certificate  com.apple.mgmt.External.one, the default: 0 enabled"), "{found}");
        assert!(found.contains("FAIL  secrets           the key of the push certificate"), "{found}");
        made.execute("DELETE FROM push_certificates").await;
        made.push_certificate("com.apple.mgmt.External.one", -3).await;
        made.fails("push_certificate", "ended 3 days ago; renew it under the same Apple Account");
        made.execute("UPDATE push_certificates SET is_default = FALSE").await;
        let found = made.doctor().stdout;
        assert!(found.contains("warn  push_certificate  none is the default"), "{found}");
    }

    async fn devices_that_are_bound_to_whatever_they_come_with(made: Installation) {
        made.set("#pin_on_first_use = false", "pin_on_first_use = true");
        made.warns("settings", "devices.pin_on_first_use is on");
    }

    async fn authorities_that_end_soon(made: Installation) {
        let in_days = |days: u32| SystemClock.now().plus(DAY * days).micros();
        made.execute(&format!("UPDATE authorities SET not_after = {} WHERE purpose = 'device'", in_days(700))).await;
        made.warns("device_ca", "import a successor and activate it");
        made.execute(&format!("UPDATE authorities SET not_after = {} WHERE purpose = 'tls'", in_days(400))).await;
        assert!(made.doctor().stdout.contains("ok    tls               under the own root"));
        made.execute(&format!("UPDATE authorities SET not_after = {} WHERE purpose = 'tls'", in_days(300))).await;
        made.warns("tls", "give it a publicly trusted certificate before");
        let server = made.serve();
        let (_, log) = {
            server.terminate();
            server.ended()
        };
        assert!(log.contains("import a successor and activate it"), "{log}");
    }

    async fn devices_whose_profile_differs_from_the_settings(made: Installation) {
        let db = rows(&made).await;
        let (one, two) = (Phone::enrolled(&db, "ONE").await, Phone::enrolled(&db, "TWO").await);
        assert!(made.doctor().stdout.contains("those of 2 were made elsewhere"));
        let terms = terms("muster.enrollment");
        let mut tx = db.write().await;
        tx.put_terms(&terms, db.now()).await.unwrap();
        for id in [one.id, two.id] {
            tx.set_terms(id, Some(terms.sha256)).await.unwrap();
        }
        tx.commit().await.unwrap();
        made.says_warning("profiles", "2 of 2 enabled devices send their messages to another URL than public_url says");
        made.set("https://localhost:8443", "https://mdm.example.org");
        let found = made.doctor().stdout;
        assert!(found.contains("ok    profiles          those of 2 enabled devices agree with the settings"), "{found}");
        made.set("#profile_identifier = \"muster.enrollment\"", "profile_identifier = \"other.enrollment\"");
        let found = made.doctor().stdout;
        assert!(found.contains("warn  profiles          2 of 2 enabled devices have a profile with another"), "{found}");
    }

    async fn identities_that_are_not_renewed(made: Installation) {
        let db = rows(&made).await;
        // A year is left when they enroll.
        db.clock.set(SystemClock.now().minus(DAY * 300));
        let phone = Phone::enrolled(&db, "ELSEWHERE").await;
        made.says_warning("identities", "of 1 enabled devices have ended or end within 90 days, and the server does not renew");
        let mut tx = db.write().await;
        tx.put_renewal(phone.id, 3, db.now(), db.now()).await.unwrap();
        tx.fail_renewal(phone.id, "Profile refused", db.now(), db.now()).await.unwrap();
        tx.commit().await.unwrap();
        made.says_warning("identities", "1 enabled devices refused the renewal of their certificate, the latest: Profile refused");
    }

    async fn files_that_others_can_read(made: Installation) {
        let mode = |name: &str, mode| fs::set_permissions(made.path(name), Permissions::from_mode(mode)).unwrap();
        mode("data/master.key", 0o640);
        made.fails("master_key", "can be read by others (mode 0640)");
        mode("data/master.key", 0o600);
        mode("data", 0o770);
        made.fails("data_directory", "can be changed by others (mode 0770)");
        mode("data", 0o755);
        made.warns("data_directory", "is open to others (mode 0755)");
        mode("data", 0o700);
        mode("muster.toml", 0o644);
        if made.database.starts_with("sqlite:") {
            assert!(made.doctor().with(0).stdout.contains("ok    settings"), "no secret in it");
            made.set("#nanomdm = \"a long", "nanomdm = \"a long");
            made.warns("settings", "there are secrets in the settings");
        } else {
            made.warns("settings", "there are secrets in the settings");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        fs::rename(made.path("data/muster.db"), made.path("data/away.db")).unwrap();
        made.fails("database", "there is no such file; restore the backup");
        assert!(!made.path("data/muster.db").exists(), "none is made");
        let url = "postgres://muster:hunter2@127.0.0.1:1/muster";
        let doctor = made.run_with(&["doctor", "--offline"], &[("MUSTER_DATABASE_URL", url)]).with(1);
        assert!(doctor.stdout.contains("FAIL  database          PostgreSQL, 127.0.0.1/muster: cannot connect"));
        assert!(!doctor.stdout.contains("hunter2"), "{}", doctor.stdout);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_url_is_tried() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let environment = [("MUSTER_PUBLIC_URL", url.as_str()), ("MUSTER_PUSH_ENDPOINT", "https://127.0.0.1:1")];
        let found = made.run_with(&["doctor"], &environment).with(0).stdout;
        assert!(found.contains(&format!("ok    public_url        {url} answers at ")), "{found}");
        assert!(found.contains("leads to this machine only"), "{found}");
        assert!(found.contains("and the server listens on port 8443"), "{found}");
        assert!(found.contains("warn  push_service      127.0.0.1:1 cannot be reached"), "{found}");
        drop(listener);
        let found = made.run_with(&["doctor"], &environment).with(0).stdout;
        assert!(found.contains("cannot be reached from here"), "{found}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificates_of_a_proxy_are_its_own() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        made.set("#tls = \"own\"", "tls = \"behind_proxy\"");
        made.set("#trusted = []", "trusted = [\"10.0.0.0/8\"]");
        made.set("#sign_message = true", "sign_message = false");
        let found = made.doctor().with(0).stdout;
        for line in [
            "ok    tls               a proxy speaks TLS for devices",
            "warn  proxy             every machine in 10.0.0.0/8 can pose as any device",
            "warn  proxy             devices do not sign their messages",
        ] {
            assert!(found.contains(line), "{line}\n{found}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_in_files() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        let now = SystemClock.now();
        let root = make_tls_root("Elsewhere", "Example", now, &SystemRandomness).unwrap();
        let issue = |name: &str, days: u32| {
            issue_server_certificate(&root, &[name.to_owned()], now, DAY * days, &SystemRandomness).unwrap()
        };
        let (right, other) = (issue("localhost", 90), issue("mdm.example.org", 90));
        let write = |name: &str, text: &str| {
            fs::write(made.path(name), text).unwrap();
            fs::set_permissions(made.path(name), Permissions::from_mode(0o600)).unwrap();
        };
        made.set("#tls = \"own\"", "tls = \"files\"");
        made.set("#tls_certificate = \"tls/fullchain.pem\"", "tls_certificate = \"chain.pem\"");
        made.set("#tls_key = \"tls/privkey.pem\"", "tls_key = \"key.pem\"");
        made.fails("tls", "chain.pem: No such file");
        write("chain.pem", &right.certificate.to_pem());
        write("key.pem", other.key.to_pem().expose());
        made.fails("tls", "the private key does not belong to the certificate");
        write("key.pem", right.key.to_pem().expose());
        made.warns("tls", "not publicly trusted: issued by CN=Elsewhere");
        fs::set_permissions(made.path("key.pem"), Permissions::from_mode(0o604)).unwrap();
        made.fails("tls", "can be read by everyone on this machine");
        write("chain.pem", &other.certificate.to_pem());
        write("key.pem", other.key.to_pem().expose());
        made.fails("tls", "is for mdm.example.org, not for localhost");
        let ending = issue("localhost", 5);
        write("chain.pem", &ending.certificate.to_pem());
        write("key.pem", ending.key.to_pem().expose());
        made.warns("tls", "CN=localhost ends in 4 days; renew");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_for_pushes() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        made.set("#roots = \"push-roots.pem\"", "roots = \"nope.pem\"");
        made.set("#certificate = \"vendor/chain.pem\"", "certificate = \"chain.pem\"");
        made.set("#key = \"vendor/key.pem\"", "key = \"key.pem\"");
        made.fails("push_roots", "nope.pem: No such file");
        made.fails("vendor", "vendor.certificate: ");
        made.fails("vendor", "key.pem cannot be read: No such file");
        let root = make_tls_root("Elsewhere", "Example", SystemClock.now(), &SystemRandomness).unwrap();
        fs::write(made.path("nope.pem"), root.certificate.to_pem()).unwrap();
        fs::write(made.path("chain.pem"), root.certificate.to_pem()).unwrap();
        fs::write(made.path("key.pem"), root.key.to_pem().expose()).unwrap();
        assert!(made.doctor().stdout.contains("ok    push_roots"));
        made.fails("vendor", "the vendor's key must be RSA");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_turned_back() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        let later = SystemClock.now().plus(DAY).micros();
        made.execute(&format!("UPDATE audit SET at = {later}")).await;
        made.fails("clock", "though the audit log was written to at");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_use_the_api() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        made.execute("UPDATE api_tokens SET role = 'viewer'").await;
        made.warns("admin_tokens", "nobody can use the API");
    })
    .await;
}
