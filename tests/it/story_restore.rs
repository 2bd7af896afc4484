//! A database comes back from a backup, and the fleet goes on.

use muster::model::{DeliveryState, Role};
use muster::service::enrollment::{self, LinkError, open_link, profile_for_link};
use muster::service::{Actor, held, scep};
use muster::worker::run_due_jobs;
use serde_json::json;

use crate::enrollment_links::link;
use crate::support::api::{Api, Fleet};
use crate::support::applicant::{Applicant, challenge, opened};
use crate::support::db::TestDb;
use crate::support::edge::Edge;
use crate::support::ready::Ready;

/// The server on the database as it is now, after a restore from a backup of this moment.
async fn backed_up(fleet: &Fleet) -> Edge {
    let mut edge = fleet.edge.clone();
    edge.t.db = edge.t.db.restored().await;
    edge.restarted("https://mdm.example.org", "")
}

/// Marks a restored server's database, and gives the server.
async fn marked(edge: &Edge) -> Fleet {
    edge.t.app.reload_trust().await.unwrap();
    held::mark(&edge.t.app, &Actor::command_line()).await.unwrap();
    Fleet { api: Api::of(edge.t.clone()).await, edge: edge.clone() }
}

async fn end(db: &TestDb) {
    db.store.close().await;
}

both_databases! {
    async fn what_hurts_waits_for_an_admin_and_the_rest_goes_on(fleet: Fleet) {
        let (phone, _) = fleet.phone("PHONE-1").await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        let clear = phone.ask(json!({"type": "clear_passcode"})).await;
        let apps = phone.ask_apps().await;
        let backup = backed_up(&fleet).await;

        // After the backup an admin withdraws the wipe, and the phone does the rest.
        fleet.api.delete(&format!("/api/v1/commands/{wipe}")).await.expect(200);
        assert_eq!(phone.finish_all().await, ["ClearPasscode", "InstalledApplicationList"]);
        fleet.phone("PHONE-2").await;
        let late = fleet.edge.phone("PHONE-3").await;
        late.enroll().await;

        let restored = marked(&backup).await;
        let (api, phone) = (&restored.api, phone.on(&restored.edge).await);
        assert_eq!(phone.finish_all().await, ["InstalledApplicationList"], "what does no harm comes again");
        assert_eq!(phone.delivery(apps).await.state, DeliveryState::Acknowledged);
        assert_eq!(phone.wake_at().await, None, "what is held wakes nobody");
        assert_eq!(phone.idle().await, None);
        // Whoever enrolled since is not known, and is not told to leave.
        let unknown = late.on(&restored.edge).await.token_update(None).await;
        assert!(unknown.status.is_client_error(), "{unknown:?}");
        assert!(!String::from_utf8_lossy(&unknown.body).contains("unrecognized"), "{unknown:?}");

        let shown = api.get(&format!("/api/v1/commands/{wipe}")).await.expect(200);
        assert!(shown["held_at"].is_string() && shown["done"] == false, "{shown}");
        let list = api.get("/api/v1/commands?held=true").await.expect(200);
        let ids: Vec<_> = list["items"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
        assert_eq!(ids, [json!(clear), json!(wipe)]);
        let page = api.get("/api/v1/commands?held=true&sort=created_at").await.expect(200);
        assert_eq!(page["items"][0]["id"], json!(wipe));

        let release = format!("/api/v1/commands/{clear}/release");
        api.json(Role::Operator, "POST", &release, &json!(null)).await.problem(403, "forbidden");
        assert_eq!(api.post(&release, &json!(null)).await.expect(200)["released"], 1);
        api.post(&release, &json!(null)).await.problem(409, "not_held");
        run_due_jobs(&restored.edge.t.app).await.unwrap();
        assert_eq!(phone.wake_at().await, Some(restored.edge.t.now()));
        assert_eq!(phone.finish_all().await, ["ClearPasscode"]);
        let cancelled = api.delete(&format!("/api/v1/commands/{wipe}")).await.expect(200);
        assert_eq!(cancelled["cancelled"], 1);
        assert_eq!(api.get("/api/v1/commands?held=true").await.expect(200)["items"], json!([]));
        assert_eq!(phone.finish_all().await, [""; 0]);
        let audited = restored.edge.t.audited().await;
        for action in ["database.restored", "command.released"] {
            assert!(audited.contains(&action.to_owned()), "{action}: {audited:?}");
        }
        end(&restored.edge.t.db).await;
    }

    async fn what_was_handed_over_before_the_backup_is_held_too(fleet: Fleet) {
        let (phone, _) = fleet.phone("PHONE-1").await;
        let lock = phone.ask(json!({"type": "lock"})).await;
        assert_eq!(phone.idle().await.unwrap().request_type, "DeviceLock");
        let backup = backed_up(&fleet).await;
        let restored = marked(&backup).await;
        let phone = phone.on(&restored.edge).await;
        assert_eq!(phone.idle().await, None, "a lost report, and yet it is not offered again");
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.delivery(lock).await.state, DeliveryState::Sent);
        // A report that comes late counts.
        let uuid = muster::service::deliveries::wire_uuid(lock);
        assert_eq!(phone.report_with("Acknowledged", Some(&uuid), &[]).await, None);
        assert_eq!(phone.delivery(lock).await.state, DeliveryState::Acknowledged);
        end(&restored.edge.t.db).await;
    }

    async fn what_is_for_all_is_held_before_and_after_its_deliveries_are_made(fleet: Fleet) {
        let (first, _) = fleet.phone("PHONE-1").await;
        let (second, _) = fleet.phone("PHONE-2").await;
        let all = json!({"targets": {"all": true}, "command": {"type": "lock"}});
        let lock = fleet.api.post("/api/v1/commands", &all).await.expect(202)["id"].clone();
        let restored = marked(&backed_up(&fleet).await).await;
        let (first, second) = (first.on(&restored.edge).await, second.on(&restored.edge).await);
        assert_eq!(first.idle().await, None, "its delivery is made, and held");
        run_due_jobs(&restored.edge.t.app).await.unwrap();
        assert_eq!((first.wake_at().await, second.wake_at().await), (None, None));
        assert_eq!(second.idle().await, None);

        let api = &restored.api;
        let wrong = api.post("/api/v1/commands/release-held?confirm=7", &json!(null)).await;
        let wrong = wrong.problem(409, "confirmation_needed");
        assert!(wrong["detail"].as_str().unwrap().starts_with("1 commands are held"), "{wrong}");
        let again = api.post(&format!("/api/v1/commands/{}/redeliver", lock.as_str().unwrap()), &json!(null)).await;
        again.problem(409, "command_held");
        assert_eq!(api.post("/api/v1/commands/release-held?confirm=1", &json!(null)).await.expect(200)["released"], 1);
        run_due_jobs(&restored.edge.t.app).await.unwrap();
        let now = Some(restored.edge.t.now());
        assert_eq!((first.wake_at().await, second.wake_at().await), (now, now));
        assert_eq!(first.finish_all().await, ["DeviceLock"]);
        assert_eq!(second.finish_all().await, ["DeviceLock"]);
        end(&restored.edge.t.db).await;
    }

    async fn nobody_enrolls_by_what_was_issued_before(t: Ready) {
        let (made, code) = link(&t, Some(5)).await;
        let used = challenge(&opened(&profile_for_link(&t.app, &code).await.unwrap()));
        let new = scep::NewApiChallenge { name: "tool".to_owned(), uses: Some(5), expires_at: None };
        let tool = scep::mint_challenge(&t.app, &t.admin, new).await.unwrap().challenge.expose().clone();
        let marked = held::mark(&t.app, &Actor::command_line()).await.unwrap();
        assert_eq!((marked.held, marked.links, marked.challenges), (0, 1, 2));
        assert!(matches!(open_link(&t.app, &code).await, Err(LinkError::Revoked)));
        assert!(matches!(profile_for_link(&t.app, &code).await, Err(LinkError::Revoked)));
        for (key, text) in [(2, &used), (3, &tool)] {
            let answer = Applicant::new(&t, key).ask(&t, text).await;
            assert!(matches!(answer, muster::pki::scep::client::Answer::Refused(_)), "{answer:?}");
        }
        assert!(enrollment::get_link(&t.app, made.link.link.id).await.unwrap().link.revoked_at.is_some());
        // What is issued from now on counts, and another mark ends that too, and no more.
        let (_, fresh) = link(&t, None).await;
        assert!(open_link(&t.app, &fresh).await.is_ok());
        let again = held::mark(&t.app, &Actor::command_line()).await.unwrap();
        assert_eq!((again.held, again.links, again.challenges), (0, 1, 0));
        assert!(matches!(open_link(&t.app, &fresh).await, Err(LinkError::Revoked)));
    }
}
