//! History goes when it is old, and nothing that is not finished ever does.

use futures_util::future::join;
use muster::model::DeliveryState;
use muster::service::App;
use muster::service::retention::{Pruned, Sweep, next_batch};
use serde_json::json;

use crate::support::api::Api;
use crate::support::db::TestDb;
use crate::support::edge::Edge;
use crate::support::rows::{DAY, MINUTE, Phone, command, delivery};

const SETTINGS: &str = "[retention]\ncommands = \"30d\"\nreports = \"10d\"\naudit = \"60d\"\n";

/// One sweep to its end: what it took, and the most deliveries and reports that one bit of it took.
async fn sweep(app: &App) -> (Pruned, u64) {
    let (mut all, mut most) = (Pruned::default(), 0);
    let mut sweep = Sweep::default();
    while let Some(bit) = next_batch(app, &mut sweep).await.unwrap() {
        most = most.max(bit.deliveries).max(bit.reports);
        all.reports += bit.reports;
        all.deliveries += bit.deliveries;
        all.commands += bit.commands;
        all.audit += bit.audit;
    }
    (all, most)
}

async fn count(db: &TestDb, table: &str) -> usize {
    db.texts(&format!("SELECT CAST(COUNT(*) AS TEXT) FROM {table}")).await[0].parse().unwrap()
}

/// A delivery of a new command that was acknowledged at once, so many times.
async fn answered(db: &TestDb, phones: &[Phone], commands: usize) {
    for _ in 0..commands {
        let new = command(db, "InstalledApplicationList");
        let mut tx = db.write().await;
        tx.insert_command(&new, db.now()).await.unwrap();
        for phone in phones {
            let made = delivery(db, phone, new.id);
            tx.insert_delivery(&made).await.unwrap();
            let done = muster::store::Delivery { state: DeliveryState::Acknowledged, revision: 2, ..made };
            assert!(tx.update_delivery(&done, None).await.unwrap());
        }
        tx.commit().await.unwrap();
    }
}

both_databases! {
    async fn what_is_finished_goes_when_it_is_old_and_nothing_else(db: TestDb) {
        let edge = Edge::with(db, SETTINGS).await;
        let (db, app) = (edge.t.db.clone(), edge.t.app.clone());
        let api = Api::of(edge.t.clone()).await;
        let (phone, other) = (edge.enrolled("PHONE-1").await, edge.enrolled("PHONE-2").await);
        let mut tx = db.write().await;
        tx.put_inventory(phone.device_id().await, "security_info", "{}", db.now()).await.unwrap();
        tx.commit().await.unwrap();
        let done = phone.ask_apps().await;
        assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
        let restart = phone.ask(json!({"type": "restart"})).await;
        assert!(phone.idle().await.is_some());
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.delivery(restart).await.state, DeliveryState::Unconfirmed);
        let later = phone.ask(json!({"type": "profiles"})).await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(phone.not_now(&offered).await, None);
        // One of two has done it.
        let both = muster::service::commands::Targets::Devices(vec![phone.device_id().await, other.device_id().await]);
        let shared = edge.command(both, json!({"type": "certificates"})).await.unwrap().id;
        let mut next = phone.idle().await;
        while let Some(command) = next {
            next = match command.request_type.as_str() {
                "ProfileList" => phone.not_now(&command).await,
                _ => phone.acknowledge(&command).await,
            };
        }
        assert_eq!(sweep(&app).await.0, Pruned::default(), "nothing is old yet");

        db.clock.advance(11 * DAY);
        let reports = count(&db, "reports").await as u64;
        assert_eq!(sweep(&app).await.0, Pruned { reports, ..Pruned::default() });
        assert_eq!(count(&db, "reports").await, 0);
        let known = db.read().await.inventory(phone.device_id().await).await.unwrap();
        assert!(!known.is_empty(), "what is known of the device stays");
        let path = format!("/api/v1/commands/{done}/deliveries/{}", phone.id().await);
        assert_eq!(api.get(&path).await.expect(200)["has_report"], false);
        let gone = api.get(&format!("{path}/report")).await.problem(404, "not_found");
        assert!(gone["detail"].as_str().unwrap().contains("retention.reports"), "{gone}");

        db.clock.advance(20 * DAY);
        let (pruned, _) = sweep(&app).await;
        assert!(pruned.deliveries > 3 && pruned.commands > 2, "{pruned:?}");
        assert_eq!((pruned.reports, pruned.audit), (0, 0));
        assert_eq!(sweep(&app).await.0, Pruned::default(), "again it does nothing");
        api.get(&format!("/api/v1/commands/{done}")).await.problem(404, "not_found");
        assert_eq!(phone.delivery(restart).await.state, DeliveryState::Unconfirmed);
        assert_eq!(phone.delivery(later).await.state, DeliveryState::NotNow);
        assert_eq!(phone.states(restart).await, ["queued", "sent", "unconfirmed"]);
        let shown = api.get(&format!("/api/v1/commands/{shared}")).await.expect(200);
        assert_eq!(shown["states"], json!({"queued": 1}), "the other device may get it still");
        let left: Vec<_> = db.texts("SELECT DISTINCT state FROM deliveries ORDER BY state").await;
        assert_eq!(left, ["not_now", "queued", "unconfirmed"]);
        let orphans = "SELECT state FROM delivery_transitions t WHERE NOT EXISTS (SELECT 1 FROM deliveries d
                        WHERE d.enrollment_id = t.enrollment_id AND d.command_id = t.command_id)";
        assert_eq!(db.texts(orphans).await, [""; 0]);

        // The fleet goes on.
        assert_eq!(other.finish_all().await, ["CertificateList"]);
        let mut next = phone.idle().await;
        assert_eq!(next.as_ref().unwrap().request_type, "ProfileList");
        while let Some(command) = next {
            next = phone.acknowledge(&command).await;
        }
        db.clock.advance(31 * DAY);
        assert!(sweep(&app).await.0.audit > 0);
        assert_eq!(db.texts("SELECT state FROM deliveries").await, ["unconfirmed"]);
        assert_eq!(count(&db, "audit").await, 0);
    }

    async fn without_a_setting_the_audit_log_stays(db: TestDb) {
        let edge = Edge::with(db, "").await;
        edge.enrolled("PHONE-1").await.ask_apps().await;
        let audit = count(&edge.t.db, "audit").await;
        edge.t.db.clock.advance(DAY * 3650);
        let (pruned, _) = sweep(&edge.t.app).await;
        assert!(pruned.deliveries > 0 && pruned.reports > 0, "{pruned:?}");
        assert_eq!(count(&edge.t.db, "audit").await, audit);
        let open = edge.t.db.texts("SELECT state FROM deliveries").await;
        assert_eq!(open, ["queued"], "even after ten years");
    }

    async fn forever_keeps_all(db: TestDb) {
        let settings = "[retention]\ncommands = \"forever\"\nreports = \"forever\"\n";
        let edge = Edge::with(db, settings).await;
        edge.enrolled("PHONE-1").await;
        edge.t.db.clock.advance(DAY * 3650);
        assert_eq!(sweep(&edge.t.app).await.0, Pruned::default());
    }

    async fn much_goes_in_small_bits(db: TestDb) {
        let edge = Edge::with(db, SETTINGS).await;
        let db = edge.t.db.clone();
        let phone = Phone::enrolled(&db, "UDID-1").await;
        answered(&db, &[phone.clone()], 250).await;
        // One that was put off for months.
        let long = phone.queue(&db, &command(&db, "ProfileList")).await;
        let mut next = long.clone();
        let mut tx = db.write().await;
        for _ in 0..1250 {
            for state in [DeliveryState::Sent, DeliveryState::NotNow] {
                next = muster::store::Delivery { state, revision: next.revision + 1, ..next };
                assert!(tx.update_delivery(&next, None).await.unwrap());
            }
        }
        next = muster::store::Delivery { state: DeliveryState::Expired, revision: next.revision + 1, ..next };
        assert!(tx.update_delivery(&next, None).await.unwrap());
        tx.commit().await.unwrap();
        db.clock.advance(31 * DAY);
        let (mut bits, mut before) = (0, count(&db, "delivery_transitions").await);
        let mut walk = Sweep::default();
        while next_batch(&edge.t.app, &mut walk).await.unwrap().is_some() {
            let now = count(&db, "delivery_transitions").await;
            assert!(before - now <= 1000, "{} rows in one bit", before - now);
            (bits, before) = (bits + 1, now);
        }
        assert!(bits >= 5, "{bits}");
        assert_eq!((before, count(&db, "deliveries").await, count(&db, "commands").await), (0, 0, 0));
    }

    async fn a_command_for_all_goes_with_the_last_of_it_or_when_it_was_for_nobody(db: TestDb) {
        let edge = Edge::with(db, SETTINGS).await;
        let db = edge.t.db.clone();
        let all = muster::service::commands::Targets::All;
        let nobody = edge.command(all.clone(), json!({"type": "certificates"})).await.unwrap().id;
        muster::worker::run_due_jobs(&edge.t.app).await.unwrap();
        let phone = edge.enrolled("PHONE-1").await;
        let asked = edge.command(all.clone(), json!({"type": "profiles"})).await.unwrap().id;
        assert_eq!(phone.finish_all().await, ["ProfileList"]);
        // Its deliveries are not all made, as far as the server knows: the job has not run.
        db.clock.advance(31 * DAY);
        assert_eq!(sweep(&edge.t.app).await.1, 3, "the inventory, too");
        let left = async || {
            let mut read = db.read().await;
            (read.command(nobody).await.unwrap().is_some(), read.command(asked).await.unwrap().is_some())
        };
        assert_eq!(left().await, (false, true));
        muster::worker::run_due_jobs(&edge.t.app).await.unwrap();
        assert_eq!(sweep(&edge.t.app).await.0.commands, 1);
        assert_eq!(left().await, (false, false));
        // One that is cancelled just now may be on its way still.
        let late = edge.command(all, json!({"type": "profiles"})).await.unwrap().id;
        muster::worker::run_due_jobs(&edge.t.app).await.unwrap();
        assert_eq!(phone.finish_all().await, ["ProfileList"]);
        db.clock.advance(31 * DAY);
        muster::service::commands::cancel(&edge.t.app, &muster::service::Actor::command_line(), late).await.unwrap();
        db.clock.advance(MINUTE);
        assert_eq!(sweep(&edge.t.app).await.0.commands, 0);
        db.clock.advance(31 * DAY);
        assert_eq!(sweep(&edge.t.app).await.0.commands, 1);
    }

    async fn two_at_once_take_all_of_it_once(db: TestDb) {
        let edge = Edge::with(db, SETTINGS).await;
        let db = edge.t.db.clone();
        let mut phones = Vec::new();
        for n in 0..60 {
            phones.push(Phone::enrolled(&db, &format!("UDID-{n}")).await);
        }
        answered(&db, &phones, 5).await;
        db.clock.advance(31 * DAY);
        let ((one, _), (other, _)) = join(sweep(&edge.t.app), sweep(&edge.t.app)).await;
        assert_eq!((one.deliveries + other.deliveries, one.commands + other.commands), (300, 5));
        for table in ["deliveries", "delivery_transitions", "commands"] {
            assert_eq!(count(&db, table).await, 0, "{table}");
        }
    }

    async fn devices_and_a_sweep_do_not_wait_for_each_other(db: TestDb) {
        let edge = Edge::with(db, SETTINGS).await;
        let phone = edge.enrolled("PHONE-1").await;
        let rows = Phone { device: phone.device_id().await, id: phone.id().await, udid: "PHONE-1".to_owned(), pin: edge.t.db.digest() };
        answered(&edge.t.db, &[rows], 300).await;
        edge.t.db.clock.advance(31 * DAY);
        let asked = async {
            for _ in 0..20 {
                phone.ask_apps().await;
                assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
            }
        };
        let ((pruned, most), ()) = join(sweep(&edge.t.app), asked).await;
        assert!(pruned.deliveries >= 300 && most <= 100, "{pruned:?} {most}");
        assert_eq!(sweep(&edge.t.app).await.0, Pruned::default());
    }
}
