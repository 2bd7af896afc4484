//! `muster token` and `muster migrate`, beside a server that runs.

use crate::support::program::{Installation, muster};

both_fresh_databases! {
    async fn a_token_is_made_listed_and_ended_beside_a_running_server(made: Installation) {
        let server = made.serve();
        assert_eq!(server.get("/api/v1/tokens", &made.token()).await.0, 200, "the token of init");

        let arguments = ["token", "create", "--name", "inventory script", "--role", "admin", "--expires", "90d"];
        let created = made.run(&arguments).with(0);
        let token = created.stdout.trim_end();
        assert!(token.starts_with("muster_") && created.stdout.lines().count() == 1, "{}", created.stdout);
        let (status, body) = server.get("/api/v1/tokens", token).await;
        assert_eq!(status, 200);
        assert!(body.contains("inventory script") && !body.contains(token), "{body}");

        let listed = made.run(&["token", "list"]).with(0).stdout;
        assert!(listed.contains("inventory script") && listed.contains("first admin"), "{listed}");
        let json: serde_json::Value = serde_json::from_str(&made.run(&["token", "list", "--json"]).stdout).unwrap();
        assert_eq!((&json[0]["name"], &json[0]["role"]), (&"inventory script".into(), &"admin".into()));
        assert!(json[0].get("hash").is_none());

        let id = json[0]["id"].as_str().unwrap();
        made.run(&["token", "revoke", id]).with(0);
        assert_eq!(server.get("/api/v1/tokens", token).await.0, 401);
        assert!(made.run(&["token", "list"]).stdout.contains("revoked "), "it stays for the record");
        for action in ["token.created", "token.revoked"] {
            let rows = made.texts(&format!("SELECT actor_kind FROM audit WHERE action = '{action}' ORDER BY id DESC")).await;
            assert_eq!(rows[0], "command_line", "{action}");
        }
    }

    async fn wrong_requests_say_what_was_expected(made: Installation) {
        let wrong = made.run(&["token", "create", "--name", "x", "--role", "king"]).with(2);
        assert!(wrong.stderr.contains("admin, operator or viewer"), "{}", wrong.stderr);
        let wrong = made.run(&["token", "create", "--name", "x", "--role", "viewer", "--expires", "soon"]).with(2);
        assert!(wrong.stderr.contains("90d"), "{}", wrong.stderr);
        let past = made.run(&["token", "create", "--name", "x", "--role", "viewer", "--expires", "2020-01-01"]).with(1);
        assert!(past.stderr.contains("past"), "{}", past.stderr);
        let unknown = made.run(&["token", "revoke", "01a201fc-3a55-7189-99ae-aebac094fe79"]).with(1);
        assert!(unknown.stderr.contains("there is no token 01a201fc"), "{}", unknown.stderr);
    }

    async fn migrating_again_does_nothing_even_beside_a_server(made: Installation) {
        let _server = made.serve();
        let ended = made.run(&["migrate"]).with(0);
        assert_eq!(ended.stdout, "nothing to do: the database is up to date\n");
    }

    async fn what_needs_tables_says_that_they_are_missing(made: Installation) {
        let other = made.fresh().await;
        let environment = [("MUSTER_DATABASE_URL", other.as_str())];
        let refused = made.run_with(&["token", "list"], &environment).with(1);
        assert!(refused.stderr.contains("run `muster migrate`"), "{}", refused.stderr);
        let doctor = made.run_with(&["doctor", "--offline"], &environment).with(1);
        assert!(doctor.stdout.contains("FAIL  migrations"), "{}", doctor.stdout);
        let migrated = made.run_with(&["migrate"], &environment).with(0);
        assert!(migrated.stdout.starts_with("migrated: "), "{}", migrated.stdout);
        assert_eq!(made.run_with(&["token", "list"], &environment).with(0).stdout, "there are no tokens\n");
    }
}

#[test]
fn no_database_is_made_by_asking_for_tokens() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("muster.toml");
    std::fs::write(&file, "public_url = \"https://mdm.example.org\"\n").unwrap();
    let ended = muster(&["token", "list", "--config", file.to_str().unwrap()], &[]).with(1);
    assert!(ended.stderr.contains("there is no file"), "{}", ended.stderr);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}
