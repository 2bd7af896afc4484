//! `muster serve` as a process: how it starts, how it ends, and what it does not share.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::db::{Kind, run_empty};
use crate::support::program::Installation;

both_fresh_databases! {
    async fn only_one_server_holds_a_sqlite_file_and_postgres_takes_several(made: Installation) {
        let first = made.serve();
        if made.database.starts_with("sqlite:") {
            let said = made.serve_in_vain();
            assert!(said.contains("another muster server uses the database"), "{said}");
            assert!(said.contains("several servers need PostgreSQL"), "{said}");
        } else {
            let second = made.serve();
            assert_eq!(second.get("/api/v1/tokens", &made.token()).await.0, 200);
        }
        assert_eq!(first.get("/api/v1/tokens", &made.token()).await.0, 200, "the first goes on");

        // After it there can be another one.
        first.terminate();
        assert!(first.ended().0.success());
        assert_eq!(made.serve().get("/healthz", "").await.0, 200);
    }

    async fn the_interface_of_nanomdm_is_on_the_admin_listener_when_it_has_a_key(made: Installation) {
        let without = made.serve();
        assert_eq!(without.get("/version", "").await.0, 404);
        without.terminate();
        assert!(without.ended().0.success());
        made.set("#nanomdm = \"a long random text\"", "nanomdm = \"0123456789abcdef\"");
        let with = made.serve();
        assert_eq!(with.get("/version", "").await.0, 200);
        assert_eq!(with.get("/v1/push/A", &made.token()).await.0, 401, "it has a key of its own");
        assert_eq!(with.get("/api/v1/tokens", &made.token()).await.0, 200);
        let mut socket = TcpStream::connect(&with.admin).await.unwrap();
        // nanomdm:0123456789abcdef
        let request = format!(
            "PUT /v1/enqueue/NOBODY?nopush=1 HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic \
             bmFub21kbTowMTIzNDU2Nzg5YWJjZGVm\r\nContent-Length: 4\r\nConnection: close\r\n\r\njunk",
            with.admin
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("command_error"), "{answer}");
        with.terminate();
        let (_, log) = with.ended();
        assert!(!log.contains("0123456789abcdef"), "{log}");
    }

    async fn a_request_in_flight_is_finished_after_the_signal_to_stop(made: Installation) {
        let server = made.serve();
        let body = r#"{"name": "made while stopping", "role": "viewer"}"#;
        let mut slow = TcpStream::connect(&server.admin).await.unwrap();
        let head = format!(
            "POST /api/v1/tokens HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            server.admin,
            made.token(),
            body.len()
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        slow.write_all(&body.as_bytes()[..10]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.terminate();
        // It takes nothing new from now on.
        for round in 0.. {
            if TcpStream::connect(&server.admin).await.is_err() {
                break;
            }
            assert!(round < 200, "new connections are still taken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        slow.write_all(&body.as_bytes()[10..]).await.unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        let (status, log) = server.ended();
        assert!(status.success(), "{log}");
        assert!(log.contains("\"dropped_connections\":0"), "{log}");
        assert!(made.run(&["token", "list"]).with(0).stdout.contains("made while stopping"));
    }

    async fn killed_and_started_again_it_has_what_it_acknowledged(made: Installation) {
        let server = made.serve();
        let created = made.run(&["token", "create", "--name", "kept", "--role", "admin"]).with(0);
        assert_eq!(server.get("/api/v1/tokens", created.stdout.trim()).await.0, 200);
        drop(server);
        let again = made.serve();
        assert_eq!(again.get("/api/v1/tokens", created.stdout.trim()).await.0, 200);
    }

    async fn a_server_without_its_master_key_does_not_start(made: Installation) {
        std::fs::rename(made.path("data/master.key"), made.path("data/away.key")).unwrap();
        let said = made.serve_in_vain();
        assert!(said.contains("cannot read the master key"), "{said}");
        // Nor with another one: it would find out device by device.
        std::fs::write(made.path("data/master.key"), "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=\n").unwrap();
        let said = made.serve_in_vain();
        assert!(said.contains("sealed under the master key"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_is_gone_is_not_made_anew() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        std::fs::rename(made.path("data/muster.db"), made.path("data/away.db")).unwrap();
        let said = made.serve_in_vain();
        assert!(said.contains("muster.db; restore the backup") && said.contains("`muster migrate` makes it"), "{said}");
        assert!(!made.path("data/muster.db").exists(), "none is made");
        made.run(&["migrate"]).with(0);
        assert_eq!(made.serve().get("/healthz", "").await.0, 200, "if that is meant");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_files_that_cannot_be_used_are_told_at_once() {
    run_empty(Kind::Sqlite, |made: Installation| async move {
        std::fs::rename(made.path("data/master.key"), made.path("data/away.key")).unwrap();
        made.set("#tls = \"own\"", "tls = \"files\"");
        made.set("#tls_certificate = \"tls/fullchain.pem\"", "tls_certificate = \"no-chain.pem\"");
        made.set("#tls_key = \"tls/privkey.pem\"", "tls_key = \"no-key.pem\"");
        made.set("#roots = \"push-roots.pem\"", "roots = \"no-roots.pem\"");
        let said = made.serve_in_vain();
        for (key, file) in [
            ("master_key.file: ", "master.key: cannot read the master key: No such file"),
            ("devices.tls_certificate: ", "no-chain.pem cannot be read: No such file"),
            ("devices.tls_key: ", "no-key.pem cannot be read: No such file"),
            ("push.roots: ", "no-roots.pem: No such file"),
        ] {
            assert!(said.lines().any(|line| line.contains(key) && line.contains(file)), "{key}{file}:\n{said}");
        }
    })
    .await;
}
