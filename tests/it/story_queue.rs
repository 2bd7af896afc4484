//! That the queue of a device goes on and wakes it, whatever is lost on the way: reports, answers, push tokens; and what is
//! said of a command of which nobody knows whether it was done.

use muster::model::DeliveryState;
use muster::service::commands::{self, Targets};
use muster::service::deliveries::wire_uuid;
use muster::service::{Actor, Error};
use plist::Value;
use serde_json::json;

use crate::support::edge::{Edge, REPORT};
use crate::support::rows::{HOUR, TOPIC};

fn code(error: &Error) -> &'static str {
    if let Error::Conflict { code, .. } = error { code } else { "other" }
}

/// Runs what the workers would run now.
async fn work(edge: &Edge) {
    muster::worker::run_due_jobs(&edge.t.app).await.unwrap();
}

both_databases! {
    async fn a_new_push_token_wakes_a_device_that_something_waits_for(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let token = async |token: u8, magic: &str| {
            let more = [
                ("Topic", Value::from(TOPIC)),
                ("Token", Value::Data(vec![token; 32])),
                ("PushMagic", Value::from(magic)),
            ];
            assert_eq!(phone.check_in("TokenUpdate", &more).await.status, 200);
        };
        token(8, "magic").await;
        assert_eq!(phone.wake_at().await, None, "nothing waits");

        for (token_of, magic, for_all) in [(9, "magic", false), (9, "spell", false), (10, "spell", true)] {
            if for_all {
                edge.command(Targets::All, json!({"type": "installed_apps"})).await.unwrap();
            } else {
                phone.ask_apps().await;
            }
            // APNs no longer knows the token: that wake-up is over.
            let mut tx = edge.t.db.write().await;
            assert!(tx.invalidate_push_token(phone.id().await, edge.t.now().plus(HOUR)).await.unwrap());
            tx.commit().await.unwrap();
            muster::service::wakes::send_due(&edge.t.app).await.unwrap();
            assert_eq!(phone.wake_at().await, None);
            token(token_of, magic).await;
            assert_eq!(phone.wake_at().await, Some(edge.t.now()));

            // The device came, and everything is done; the same token again says nothing new.
            assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
            phone.ask_apps().await;
            assert!(phone.idle().await.is_some());
            let later = phone.wake_at().await;
            token(token_of, magic).await;
            assert_eq!(phone.wake_at().await, later);
            assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
        }
    }

    async fn what_was_cancelled_after_it_was_handed_over_may_have_been_done(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let lock = phone.ask(json!({"type": "lock", "message": "Back, please"})).await;
        let offered = phone.idle().await.unwrap();
        let done = commands::cancel(&edge.t.app, &Actor::command_line(), lock).await.unwrap();
        assert_eq!((done.cancelled, done.not_cancelled), (0, 1));
        assert_eq!(phone.idle().await, None, "it is not handed over again");
        assert_eq!(phone.states(lock).await, ["queued", "sent", "unconfirmed"]);
        phone.acknowledge(&offered).await;
        assert_eq!(phone.delivery(lock).await.state, DeliveryState::Acknowledged, "the late report counts");

        // Put off, it was surely not done.
        let apps = phone.ask_apps().await;
        let offered = phone.idle().await.unwrap();
        phone.not_now(&offered).await;
        commands::cancel(&edge.t.app, &Actor::command_line(), apps).await.unwrap();
        assert_eq!(phone.states(apps).await, ["queued", "sent", "not_now", "cancelled"]);
    }

    async fn what_is_over_is_not_redelivered(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let until = edge.t.now().plus(HOUR);
        let restart = json!({"type": "restart"});
        let cancelled = phone.ask(restart.clone()).await;
        assert!(phone.idle().await.is_some());
        commands::cancel(&edge.t.app, &Actor::command_line(), cancelled).await.unwrap();
        assert_eq!(phone.idle().await, None);
        let target = phone.target().await;
        let expired = edge.command_with(target, restart, |new| new.expires_at = Some(until)).await.unwrap().id;
        assert!(phone.idle().await.is_some());
        edge.t.db.clock.advance(2 * HOUR);
        assert_eq!(phone.idle().await, None);
        for (command, why) in [(cancelled, "was cancelled at"), (expired, "time ran out at")] {
            assert_eq!(phone.states(command).await, ["queued", "sent", "unconfirmed"]);
            let refused = commands::redeliver(&edge.t.app, &Actor::command_line(), command, None).await.unwrap_err();
            assert_eq!(code(&refused), "nothing_unconfirmed");
            assert!(refused.to_string().contains(why), "{refused}");
            assert_eq!(phone.states(command).await, ["queued", "sent", "unconfirmed"]);
        }
        assert!(!edge.t.audited().await.contains(&"command.redelivered".to_owned()));
    }

    /// One job makes the deliveries of all commands for all; whether it wakes anybody is a matter of its own command.
    async fn each_command_for_all_wakes_its_own(edge: Edge) {
        let phones = [edge.enrolled("PHONE-1").await, edge.enrolled("PHONE-2").await];
        for silent_first in [true, false] {
            for silent in [silent_first, !silent_first] {
                let apps = json!({"type": "installed_apps"});
                edge.command_with(Targets::All, apps, |new| new.no_push = silent).await.unwrap();
            }
            work(&edge).await;
            for phone in &phones {
                assert!(phone.wake_at().await.is_some_and(|at| at <= edge.t.now()), "{silent_first}");
                assert_eq!(phone.finish_all().await.len(), 2);
            }
        }
        // Whoever has it by itself already is not woken, and neither is anybody by a silent one.
        edge.command(Targets::All, json!({"type": "installed_apps"})).await.unwrap();
        assert_eq!(phones[0].finish_all().await.len(), 1);
        work(&edge).await;
        assert_eq!(phones[0].wake_at().await, None);
        assert_eq!(phones[1].finish_all().await.len(), 1);
        edge.command_with(Targets::All, json!({"type": "profiles"}), |new| new.no_push = true).await.unwrap();
        work(&edge).await;
        assert_eq!(phones[1].wake_at().await, None);
    }

    async fn a_repeated_report_gets_what_the_lost_answer_held(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let (first, second, third) = (phone.ask_apps().await, phone.ask_apps().await, phone.ask_apps().await);
        let offered = phone.idle().await.unwrap();
        // The answers to NotNow, and then to Acknowledged, do not arrive.
        let lost = phone.not_now(&offered).await.unwrap();
        assert_eq!(lost.uuid, wire_uuid(second));
        for attempt in 2..4 {
            assert_eq!(phone.not_now(&offered).await.unwrap().uuid, lost.uuid);
            assert_eq!(phone.delivery(second).await.attempts, attempt);
        }
        assert_eq!(phone.states(first).await, ["queued", "sent", "not_now"], "one report, however often it came");
        let lost = phone.acknowledge(&lost).await.unwrap();
        assert_eq!(lost.uuid, wire_uuid(third));
        let again = phone.report_with("Acknowledged", Some(&wire_uuid(second)), &[]).await.unwrap();
        assert_eq!(again.uuid, lost.uuid);
        assert_eq!(phone.acknowledge(&again).await, None);
        // What is answered is not handed over again, and what was put off waits for the next connection.
        assert_eq!(phone.acknowledge(&again).await, None);
        assert_eq!(phone.idle().await.unwrap().uuid, wire_uuid(first));
    }

    async fn a_repeated_report_brings_no_second_restart(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        phone.ask_apps().await;
        let restart = phone.ask(json!({"type": "restart"})).await;
        let last = phone.ask(json!({"type": "profiles"})).await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(phone.acknowledge(&offered).await.unwrap().uuid, wire_uuid(restart));
        assert_eq!(phone.acknowledge(&offered).await.unwrap().uuid, wire_uuid(last));
        assert_eq!(phone.delivery(restart).await.attempts, 1);
    }

    async fn a_repeated_report_does_not_bring_again_what_was_cancelled(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        phone.ask_apps().await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        let offered = phone.idle().await.unwrap();
        let erase = phone.acknowledge(&offered).await.unwrap();
        commands::cancel(&edge.t.app, &Actor::command_line(), wipe).await.unwrap();
        assert_eq!(phone.acknowledge(&offered).await, None);
        assert_eq!(phone.states(wipe).await, ["queued", "sent"], "the device may have it");
        phone.acknowledge(&erase).await;
        assert_eq!(phone.states(wipe).await, ["queued", "sent", "acknowledged"]);
    }

    async fn a_report_that_cannot_be_read_does_not_hold_up_the_queue(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let report = |uuid: &str, status: &str, more: &str| {
            format!(
                "<plist><dict><key>CommandUUID</key><string>{uuid}</string>{more}<key>Status</key>\
                 <string>{status}</string><key>UDID</key><string>PHONE-1</string></dict></plist>"
            )
        };
        let deep = format!("<key>A</key>{}{}", "<array>".repeat(100), "</array>".repeat(100));
        let utf_16: fn(&str) -> Vec<u8> = |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        type Make<'a> = Box<dyn Fn(&str) -> Vec<u8> + Send + 'a>;
        let table: [(Make<'_>, &str); 5] = [
            (Box::new(|uuid| report(uuid, "Weird", "").into_bytes()), "unknown status"),
            (Box::new(|uuid| report(uuid, "Acknowledged", &deep).into_bytes()), "nested deeper"),
            (Box::new(|uuid| report(uuid, "Acknowledged", "<key>A</key><null/>").into_bytes()), "unknown element"),
            (Box::new(|uuid| report(uuid, "Acknowledged", "<key>A</key></b\0>").into_bytes()), "not a property list"),
            (Box::new(|uuid| utf_16(&report(uuid, "Acknowledged", ""))), "not a property list"),
        ];
        for (make, why) in table {
            let (first, second) = (phone.ask_apps().await, phone.ask(json!({"type": "profiles"})).await);
            let offered = phone.idle().await.unwrap();
            let body = make(&offered.uuid);
            let next = phone.put(REPORT, body.clone()).await.command().unwrap();
            assert_eq!(next.uuid, wire_uuid(second), "{why}");
            let delivery = phone.delivery(first).await;
            assert_eq!(delivery.state, DeliveryState::Error);
            let error = delivery.error.unwrap();
            assert!(error.contains("the report could not be read: ") && error.contains(why), "{error}");
            let kept = muster::service::history::report(&edge.t.app, first, phone.id().await).await.unwrap();
            assert_eq!((kept.status.as_str(), kept.raw.expose()), ("Unreadable", &body));
            assert_eq!(phone.acknowledge(&next).await, None);
            assert_eq!(phone.idle().await, None);
        }
        // Another device's certificate says nothing about this one.
        let (other, command) = (edge.enrolled("PHONE-2").await, phone.ask_apps().await);
        let body = report(&wire_uuid(command), "Weird", "");
        assert_eq!(other.put(REPORT, body).await.status, 403);
        assert_eq!(phone.delivery(command).await.state, DeliveryState::Queued);
    }

    async fn what_is_never_answered_comes_after_the_others(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let bad = phone.ask_apps().await;
        let good = phone.ask(json!({"type": "profiles"})).await;
        for _ in 0..3 {
            assert_eq!(phone.idle().await.unwrap().uuid, wire_uuid(bad));
            assert_eq!(phone.put(REPORT, b"hello".to_vec()).await.status, 400);
        }
        let offered = phone.idle().await.unwrap();
        assert_eq!(offered.uuid, wire_uuid(good), "the queue goes on");
        let last = phone.acknowledge(&offered).await.unwrap();
        assert_eq!(last.uuid, wire_uuid(bad), "and it is not given up");
        assert_eq!(phone.delivery(bad).await.attempts, 4);
        assert_eq!(phone.acknowledge(&last).await, None);
    }

    async fn a_long_history_shows_its_newest_steps(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask_apps().await;
        for step in 0..11 {
            let double = format!(
                "INSERT INTO delivery_transitions (enrollment_id, command_id, revision, state, at)
                 SELECT enrollment_id, command_id, revision + {}, 'not_now', at FROM delivery_transitions
                  WHERE command_id = (SELECT id FROM commands WHERE verb = 'installed_apps')",
                1 << step
            );
            edge.t.db.execute(&double).await;
        }
        let steps = edge.t.db.read().await.transitions(phone.id().await, command).await.unwrap();
        assert_eq!(steps.iter().map(|step| step.revision).collect::<Vec<_>>(), (1_049..=2_048).collect::<Vec<_>>());
    }
}
