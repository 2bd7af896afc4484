//! A fleet moves here out of the database of a NanoMDM server, and goes on without enrolling.
//!
//! The other server's database is a PostgreSQL; `scripts/mysql` runs the story that needs a MySQL.

use std::time::Duration;

use muster::service::Actor;
use muster::service::compat::import::{Options, Report, Watch, import};
use plist::Value;
use serde_json::json;

use crate::compat_devices::{authenticate, foreign, foreign_ca, token_update};
use crate::support::compat::{Tool, command};
use crate::support::db::{Kind, run};
use crate::support::edge::{CHECK_IN, Phone, xml};
use crate::support::nanomdm::Nanomdm;
use crate::support::program::Installation;
use crate::support::rows::{DAY, TOPIC};

/// Nobody looks.
struct Unwatched;

impl Watch for Unwatched {
    fn begin(&mut self, _: &'static str, _: u64) {}
    fn reach(&mut self, _: u64) {}
}

/// Takes over what is there, a second later than what was before.
async fn take(tool: &Tool, there: &Nanomdm, options: Options) -> Report {
    tool.edge.t.db.clock.advance(Duration::from_secs(1));
    let mut source = there.source().await;
    let mut report = Report::default();
    let app = &tool.edge.t.app;
    import(app, &Actor::import(), &mut source, &options, &mut Unwatched, &mut report).await.unwrap();
    source.close().await;
    tool.edge.t.db.clock.advance(Duration::from_secs(1));
    report
}

async fn take_all(tool: &Tool, there: &Nanomdm) -> Report {
    take(tool, there, Options::default()).await
}

/// A phone of the other server, with a certificate of that server's CA.
async fn phone(tool: &Tool, there: &Nanomdm, udid: &str) -> Phone {
    let phone = Phone { edge: tool.edge.clone(), udid: udid.to_owned(), certificate: foreign(tool, udid).await };
    there.device(udid, TOPIC, &authenticate(udid), &token_update(&[("UDID", udid.into())])).await;
    there.pin(udid, &phone.certificate.sha256.hex()).await;
    phone
}

/// Puts commands into the queue of a phone there, one in each minute.
async fn queue(there: &Nanomdm, id: &str, commands: &[(&str, &str, Option<&str>)]) {
    for (minute, (uuid, request_type, status)) in (0..).zip(commands) {
        there.command(uuid, request_type, &command(uuid, request_type, &[])).await;
        there.queue(id, uuid, minute, *status).await;
    }
}

fn reasons(report: &Report) -> Vec<(&'static str, &str, u64)> {
    report.skipped.iter().map(|skipped| (skipped.what, skipped.why.as_str(), skipped.count)).collect()
}

/// The whole way of a phone from one server to the other.
async fn move_a_fleet(tool: Tool, there: Nanomdm) {
    let phone = phone(&tool, &there, "PHONE-1").await;
    there.user("PHONE-1", "USER-1", TOPIC).await;
    there.execute("UPDATE {t}devices SET bootstrap_token_b64 = 'Ym9vdA==', unlock_token = 'unlock'").await;
    let commands = [
        ("CMD1", "ProfileList", None),
        ("CMD2", "InstalledApplicationList", Some("NotNow")),
        ("CMD3", "CertificateList", Some("Acknowledged")),
        ("CMD4", "EraseDevice", None),
        ("CMD5", "RestartDevice", Some("Error")),
    ];
    queue(&there, "PHONE-1", &commands).await;
    there.command("CMD6", "AvailableOSUpdates", &command("CMD6", "AvailableOSUpdates", &[])).await;
    there.queue("PHONE-1", "CMD6", 30, None).await;
    there.execute("UPDATE {t}enrollment_queue SET priority = 5 WHERE command_uuid = 'CMD6'").await;
    there.command("CMD7", "UserList", &command("CMD7", "UserList", &[])).await;
    there.queue("PHONE-1", "CMD7", 31, None).await;
    there.execute("UPDATE {t}enrollment_queue SET active = FALSE WHERE command_uuid = 'CMD7'").await;
    there.queue("PHONE-1:USER-1", "CMD1", 32, None).await;
    there.push_certificate(TOPIC, &tool.push_certificate(TOPIC, 365 * DAY)).await;

    let dry = take(&tool, &there, Options { dry_run: true, ..Options::default() }).await;
    assert!(tool.edge.t.db.texts("SELECT apple_id FROM enrollments").await.is_empty(), "nothing was changed");
    let ca = foreign_ca(&tool).certificate.to_pem().into_bytes();
    let report = take(&tool, &there, Options { authorities: vec![ca], ..Options::default() }).await;
    let counts = |report: &Report| {
        let of = [
            report.push_certificates,
            report.devices,
            report.users,
            report.pins,
            report.unlock_tokens,
            report.bootstrap_tokens,
            report.queue,
        ];
        of.map(|tally| (tally.added, tally.updated, tally.unchanged, tally.skipped))
    };
    let new = |count| (count, 0, 0, 0);
    assert_eq!(counts(&report), [new(1), new(1), new(1), new(1), new(1), new(1), new(5)], "{report:?}");
    assert_eq!(counts(&dry), counts(&report), "that is what the dry run said");
    assert_eq!((report.held, report.without_pin, report.authorities.unchanged), (1, 0, 1));

    let again = take_all(&tool, &there).await;
    let same = |count| (0, 0, count, 0);
    assert_eq!(counts(&again), [same(1), same(1), same(1), same(1), same(1), same(1), same(5)], "{again:?}");

    let row = phone.enrollment().await;
    assert_eq!((row.state.as_str(), row.topic.as_deref(), row.generation), ("enabled", Some(TOPIC), 1));
    assert!(row.last_seen_at < tool.edge.t.now(), "the other server heard of it last");
    let stranger = Phone { certificate: foreign(&tool, "PHONE-9").await, ..phone.clone() };
    assert_eq!(stranger.put("", xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())])).await.status, 403);
    let first = phone.idle().await.unwrap();
    assert_eq!((first.uuid.as_str(), first.request_type.as_str()), ("CMD6", "AvailableOSUpdates"));
    assert_eq!(phone.acknowledge(&first).await.unwrap().uuid, "CMD1", "in the order of their age");
    let rest = phone.finish_all().await;
    assert_eq!(rest[..2], ["ProfileList", "InstalledApplicationList"]);
    assert!(!rest.contains(&"EraseDevice".to_owned()), "it may have been done: {rest:?}");
    phone.ask(json!({"type": "clear_passcode"})).await;
    assert_eq!(phone.idle().await.unwrap().payload["UnlockToken"].as_data(), Some(b"unlock".as_slice()));
    let asked = xml(&[("MessageType", "GetBootstrapToken".into()), ("UDID", "PHONE-1".into())]);
    let answer = phone.put(CHECK_IN, asked).await;
    assert_eq!(
        plist::from_bytes::<Value>(&answer.body).unwrap().as_dictionary().unwrap()["BootstrapToken"].as_data(),
        Some(b"boot".as_slice())
    );
    let user = xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into()), ("UserID", "USER-1".into())]);
    assert_eq!(phone.put("", user).await.command().unwrap().uuid, "CMD1");

    // What it tells from here on counts, whatever the other server says.
    there.execute("UPDATE {t}enrollments SET push_magic = 'old'").await;
    let after = take_all(&tool, &there).await;
    assert_eq!((after.devices.skipped, after.devices.updated), (1, 0), "{after:?}");
    assert_eq!(after.queue.unchanged, 5, "what was answered here does not come again: {after:?}");
    assert_eq!(phone.enrollment().await.push_magic.as_deref(), Some("magic"));
    there.drop_database().await;
}

both_databases! {
    async fn a_fleet_moves_and_goes_on_without_enrolling(tool: Tool) {
        move_a_fleet(tool, Nanomdm::on_postgres().await).await;
    }

    async fn what_changes_there_until_the_switch_is_taken_again(tool: Tool) {
        let there = Nanomdm::on_postgres().await;
        let (one, two) = (phone(&tool, &there, "PHONE-1").await, phone(&tool, &there, "PHONE-2").await);
        there.command("CMD1", "ProfileList", &command("CMD1", "ProfileList", &[])).await;
        for id in ["PHONE-1", "PHONE-2"] {
            there.queue(id, "CMD1", 1, None).await;
        }
        assert_eq!(take_all(&tool, &there).await.queue.added, 2);

        there.execute("UPDATE {t}enrollments SET push_magic = 'new' WHERE id = 'PHONE-1'").await;
        there.answer("PHONE-1", "CMD1", "Acknowledged").await;
        there.execute("UPDATE {t}enrollments SET enabled = FALSE WHERE id = 'PHONE-2'").await;
        let report = take_all(&tool, &there).await;
        assert_eq!((report.devices.updated, report.queue.updated), (2, 1), "{report:?}");
        assert_eq!(one.enrollment().await.push_magic.as_deref(), Some("new"));
        assert_eq!(two.enrollment().await.state, "disabled");
        let done = one.finish_all().await;
        assert_eq!(done[0], "DeviceInformation", "what was answered there is not done again: {done:?}");

        // It enrolled there anew.
        there.execute("UPDATE {t}enrollments SET enabled = TRUE WHERE id = 'PHONE-2'").await;
        assert_eq!(take_all(&tool, &there).await.devices.updated, 1);
        let row = two.enrollment().await;
        assert_eq!((row.state.as_str(), row.generation), ("enabled", 2));
        assert!(two.idle().await.is_some());
        there.drop_database().await;
    }

    async fn what_is_this_servers_own_is_left_alone(tool: Tool) {
        let there = Nanomdm::on_postgres().await;
        let (own, removed) = (tool.phone("PHONE-1").await, tool.phone("PHONE-2").await);
        tool.api.delete(&format!("/api/v1/devices/{}", removed.device_id().await)).await.expect(204);
        for udid in ["PHONE-1", "PHONE-2"] {
            phone(&tool, &there, udid).await;
        }
        there.user("PHONE-1", "USER-1", TOPIC).await;
        queue(&there, "PHONE-1", &[("CMD1", "ProfileList", None)]).await;
        let pins = async || tool.edge.t.db.texts("SELECT 'pin' FROM identities").await.len();
        let (row, before) = (own.enrollment().await, pins().await);
        let report = take_all(&tool, &there).await;
        let expected = [
            ("device", "it has enrolled here", 1),
            ("device", "it was removed from management here", 1),
            ("user", "its device has enrolled here", 1),
            ("queued command", "its device has enrolled here", 1),
        ];
        assert_eq!(reasons(&report), expected);
        assert_eq!(report.skipped[0].examples, ["PHONE-1"]);
        let after = own.enrollment().await;
        assert_eq!((after.push_token, after.updated_at), (row.push_token, row.updated_at));
        assert_eq!(pins().await, before);

        // One that was taken over, and left here, does not come back by an import.
        let leaving = phone(&tool, &there, "PHONE-3").await;
        assert_eq!(take_all(&tool, &there).await.devices.added, 1);
        let gone = [("MessageType", Value::from("CheckOut")), ("UDID", "PHONE-3".into()), ("Topic", TOPIC.into())];
        assert_eq!(leaving.put(CHECK_IN, xml(&gone)).await.status, 200);
        take_all(&tool, &there).await;
        assert_eq!(leaving.enrollment().await.state, "disabled");
        there.drop_database().await;
    }

    async fn what_cannot_be_taken_is_told_and_the_rest_is_taken(tool: Tool) {
        let there = Nanomdm::on_postgres().await;
        let good = phone(&tool, &there, "PHONE-1").await;
        for udid in ["BAD:ID", "NO-TOKEN", "ODD", "PINNED", "TERSE", "ZOMBIE"] {
            there.device(udid, TOPIC, b"junk", b"junk").await;
        }
        there.pin("PINNED", &good.certificate.sha256.hex()).await;
        there.pin("TERSE", "junk").await;
        there
            .execute(
                "UPDATE {t}enrollments SET token_hex = 'xyz' WHERE id = 'NO-TOKEN';
                 UPDATE {t}enrollments SET type = 'Toaster' WHERE id = 'ODD';
                 UPDATE {t}enrollments SET enabled = FALSE WHERE id = 'ZOMBIE'",
            )
            .await;
        there.user("ZOMBIE", "USER-1", TOPIC).await;
        there.command("JUNK", "ProfileList", b"<?xml junk").await;
        there.queue("PHONE-1", "JUNK", 1, None).await;
        there.command("OTHER", "ProfileList", &command("NAME", "ProfileList", &[])).await;
        there.queue("PHONE-1", "OTHER", 1, None).await;
        queue(&there, "ZOMBIE", &[("CMD1", "ProfileList", None)]).await;
        let report = take_all(&tool, &there).await;
        let told = reasons(&report);
        for expected in [
            ("device", "its id cannot be kept", 1),
            ("device", "its push token is none", 1),
            ("device", "its type is none of a device channel", 1),
            ("device", "it is not enrolled there any more, or has not finished", 1),
            ("pin", "the certificate belongs to another device", 1),
            ("pin", "it is no SHA-256 digest", 1),
            ("user", "its device was not taken over", 1),
            ("queued command", "its enrollment was not taken over", 1),
            ("queued command", "the command has another CommandUUID in itself", 1),
        ] {
            assert!(told.contains(&expected), "{expected:?} in {told:?}");
        }
        assert!(told.iter().any(|(_, why, _)| why.starts_with("the command cannot be read")), "{told:?}");
        assert_eq!((report.devices.added, report.devices.skipped, report.without_pin), (3, 4, 2), "{report:?}");
        assert!(good.idle().await.is_some());
        let serials = tool.edge.t.db.texts("SELECT serial FROM devices WHERE udid = 'TERSE'").await;
        assert_eq!(serials, ["SNTERSE"], "what the columns say is enough");
        there.drop_database().await;
    }
}

both_fresh_databases! {
    async fn the_program_reports_and_shows_no_password(made: Installation) {
        let there = Nanomdm::on_postgres().await;
        there.device("PHONE-1", TOPIC, b"junk", b"junk").await;
        let authority = made.path("other-ca.pem");
        std::fs::write(&authority, "junk").unwrap();
        let from = [("NANOMDM_DATABASE_URL", there.url.as_str())];
        let wrong = made.run_with(&["import", "nanomdm", "--authority", authority.to_str().unwrap()], &from).with(1);
        assert!(!wrong.stderr.is_empty());

        let dry = made.run_with(&["import", "nanomdm", "--dry-run"], &from).with(0).stdout;
        assert!(dry.contains("nothing was changed") && dry.contains("devices"), "{dry}");
        let done = made.run_with(&["import", "nanomdm", "--json", "--wake"], &from).with(0).stdout;
        let report: serde_json::Value = serde_json::from_str(&done).unwrap();
        assert_eq!((&report["devices"]["added"], &report["without_pin"]), (&json!(1), &json!(1)), "{done}");
        let again = made.run(&["import", "nanomdm", "--from", &there.url]).with(0).stdout;
        assert!(again.contains("devices.pin_on_first_use"), "{again}");
        there.drop_database().await;

        let empty = Nanomdm::empty().await;
        let none = made.run(&["import", "nanomdm", "--from", &empty.url]).with(1).stderr;
        assert!(none.contains("there are no tables of NanoMDM"), "{none}");
        empty.execute("CREATE TABLE enrollments (id TEXT)").await;
        let old = made.run(&["import", "nanomdm", "--from", &empty.url]).with(1).stderr;
        assert!(old.contains("missing: devices.id") && !old.contains("enrollments.id"), "{old}");
        empty.drop_database().await;

        for url in ["postgres://muster:hunter2@127.0.0.1:1/x", "mysql://muster:hunter2@127.0.0.1:1/x", "hunter2"] {
            let ended = made.run(&["import", "nanomdm", "--from", url]).with(1);
            assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("hunter2"), "{}", ended.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a MySQL: scripts/mysql cargo test --test it import_nanomdm -- --include-ignored"]
async fn a_fleet_moves_from_mysql() {
    run(Kind::Sqlite, async |tool: Tool| move_a_fleet(tool, Nanomdm::on_mysql().await).await).await;
}
