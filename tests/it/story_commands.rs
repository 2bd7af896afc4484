//! What becomes of commands: order, NotNow, lost reports, generations, all devices; over the device edge.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use muster::model::{CommandId, DeliveryState, Randomness};
use muster::service::commands::{self, PushNote, Targets};
use muster::service::deliveries::wire_uuid;
use muster::service::{Actor, App, Error, Parts};
use plist::Value;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::edge::{Edge, REPORT, xml};
use crate::support::rows::{HOUR, MINUTE};

fn code(error: &Error) -> &'static str {
    match error {
        Error::Conflict { code, .. } | Error::Invalid { code, .. } => code,
        Error::Denied(_) => "denied",
        _ => "other",
    }
}

/// Randomness that has something happen when it is first asked by a verb, in a task beside: as far as that gets in half a
/// second happens before, the rest after.
struct Meanwhile {
    random: Arc<dyn Randomness>,
    armed: AtomicBool,
    what: Mutex<Option<BoxFuture<'static, ()>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Meanwhile {
    fn new(random: Arc<dyn Randomness>, what: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { random, armed: AtomicBool::new(false), what: Mutex::new(Some(what.boxed())), task: Mutex::new(None) }
    }

    async fn ended(&self) {
        let task = self.task.lock().unwrap().take();
        task.expect("it has begun").await.unwrap();
    }
}

impl Randomness for Meanwhile {
    fn fill(&self, bytes: &mut [u8]) {
        if self.armed.load(Ordering::Relaxed)
            && let Some(what) = self.what.lock().unwrap().take()
        {
            let (done, ended) = std::sync::mpsc::channel();
            *self.task.lock().unwrap() = Some(tokio::spawn(what.map(move |()| {
                let _ = done.send(());
            })));
            let _ = tokio::task::block_in_place(|| ended.recv_timeout(Duration::from_millis(500)));
        }
        self.random.fill(bytes);
    }
}

/// The same server with other randomness.
fn with_random(edge: &Edge, random: &Arc<Meanwhile>) -> App {
    let app = App::new(Parts {
        store: edge.t.db.store.clone(),
        settings: edge.t.app.settings.clone(),
        vault: edge.t.app.vault().clone(),
        clock: edge.t.db.clock.clone(),
        random: random.clone(),
        pusher: edge.t.pusher.clone(),
    });
    // Its own start needs some, too.
    random.armed.store(true, Ordering::Relaxed);
    app
}

/// Runs what the workers would run now.
async fn work(edge: &Edge) {
    muster::worker::run_due_jobs(&edge.t.app).await.unwrap();
}

both_databases! {
    async fn commands_come_by_priority_then_age(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        phone.ask(json!({"type": "profiles"})).await;
        edge.t.db.clock.advance(MINUTE);
        phone.ask(json!({"type": "certificates"})).await;
        edge.t.db.clock.advance(MINUTE);
        let urgent = json!({"type": "lock"});
        edge.command_with(phone.target().await, urgent, |new| new.priority = Some(1)).await.unwrap();
        assert_eq!(phone.finish_all().await, ["DeviceLock", "ProfileList", "CertificateList"]);
    }

    async fn after_not_now_the_others_are_offered_and_it_again_next_time(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let first = phone.ask(json!({"type": "profiles"})).await;
        edge.t.db.clock.advance(MINUTE);
        let second = phone.ask(json!({"type": "certificates"})).await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(offered.uuid, wire_uuid(first));
        let next = phone.not_now(&offered).await.unwrap();
        assert_eq!(next.uuid, wire_uuid(second));
        assert_eq!(phone.acknowledge(&next).await, None, "what was put off is not offered again in this connection");
        let wake = phone.wake_at().await.unwrap();
        assert!(wake > edge.t.now(), "the device is woken again, later");

        let again = phone.idle().await.unwrap();
        assert_eq!(again.uuid, wire_uuid(first));
        assert_eq!(phone.acknowledge(&again).await, None);
        assert_eq!(phone.states(first).await, ["queued", "sent", "not_now", "sent", "acknowledged"]);
        assert_eq!(phone.wake_at().await, None);
    }

    async fn nothing_hides_behind_what_was_put_off(edge: Edge) {
        const MANY: usize = 220;
        let phone = edge.enrolled("PHONE-1").await;
        for _ in 0..MANY {
            phone.ask(json!({"type": "profiles"})).await;
        }
        let mut next = phone.idle().await;
        for _ in 1..MANY {
            next = phone.not_now(&next.unwrap()).await;
        }
        edge.t.db.clock.advance(MINUTE);
        let behind = phone.ask(json!({"type": "certificates"})).await;
        let next = phone.not_now(&next.unwrap()).await.unwrap();
        assert_eq!(next.uuid, wire_uuid(behind), "it comes in this connection still");
        assert_eq!(phone.acknowledge(&next).await, None);
        assert!(phone.wake_at().await.unwrap() > edge.t.now());
        assert_eq!(phone.finish_all().await.len(), MANY);
    }

    async fn all_that_must_not_be_run_twice_waits_for_an_admin(edge: Edge) {
        const MANY: usize = 60;
        let phone = edge.enrolled("PHONE-1").await;
        let mut asked = Vec::new();
        for _ in 0..MANY {
            asked.push(phone.ask(json!({"type": "restart"})).await);
        }
        assert!(phone.idle().await.is_some());
        for _ in 1..MANY {
            // About nothing known: the next is handed over, and no report comes.
            assert!(phone.report_with("Acknowledged", Some("nothing"), &[]).await.is_some());
        }
        assert_eq!(phone.idle().await, None);
        for command in asked {
            assert_eq!(phone.delivery(command).await.state, DeliveryState::Unconfirmed);
        }
    }

    async fn what_was_handed_over_before_a_phone_left_is_not_called_cancelled(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        let restart = phone.ask(json!({"type": "restart"})).await;
        assert_eq!(phone.idle().await.unwrap().request_type, "EraseDevice");
        assert!(phone.report_with("Acknowledged", Some("nothing"), &[]).await.is_some());
        let waiting = phone.ask_apps().await;
        assert_eq!(phone.check_in("CheckOut", &[]).await.status, 200);
        for sent in [wipe, restart] {
            assert_eq!(phone.states(sent).await, ["queued", "sent", "unconfirmed"]);
            let again = commands::redeliver(&edge.t.app, &Actor::command_line(), sent, None).await.unwrap_err();
            assert_eq!(code(&again), "nothing_unconfirmed", "the device has left");
        }
        assert_eq!(phone.states(waiting).await, ["queued", "cancelled"]);

        phone.enroll().await;
        assert_eq!(phone.states(wipe).await, ["queued", "sent", "unconfirmed"], "nothing shows that it was erased");
        assert_eq!(phone.delivery(restart).await.state, DeliveryState::Cancelled);
        assert_eq!(phone.finish_all().await, ["DeviceInformation", "SecurityInfo"], "and nothing of it is run again");
    }

    async fn a_wipe_before_the_device_left_is_never_called_done(edge: Edge) {
        let app = &edge.t.app;
        for (udid, is_removed) in [("PHONE-1", false), ("PHONE-2", true)] {
            let phone = edge.enrolled(udid).await;
            let wipe = phone.ask(json!({"type": "wipe"})).await;
            let offered = phone.idle().await.unwrap();
            if is_removed {
                muster::service::devices::remove(app, &Actor::command_line(), phone.device_id().await).await.unwrap();
                let late = [
                    ("Status", "Acknowledged".into()), ("UDID", udid.into()), ("CommandUUID", offered.uuid.as_str().into()),
                ];
                assert_eq!(phone.put(REPORT, xml(&late)).await.status, 403, "it is told to leave, whatever it says");
            } else {
                assert_eq!(phone.check_in("CheckOut", &[]).await.status, 200);
            }
            assert_eq!(phone.states(wipe).await, ["queued", "sent", "unconfirmed"]);
            let is_done = async || muster::service::history::command(app, wipe).await.unwrap().is_done;
            assert!(is_removed || !is_done().await, "a report may come still");

            // Enrolled anew, and once more: never was it erased.
            for _ in 0..2 {
                let again = edge.phone(udid).await;
                again.enroll().await;
                assert_eq!(again.finish_all().await, ["DeviceInformation", "SecurityInfo"]);
                assert_eq!(again.states(wipe).await, ["queued", "sent", "unconfirmed"]);
                assert!(is_done().await, "it is not shown as open");
                let refused = commands::redeliver(app, &Actor::command_line(), wipe, None).await.unwrap_err();
                assert_eq!(code(&refused), "nothing_unconfirmed");
                // What the device says of it late counts, and ends nothing of the enrollment that it has now.
                assert_eq!(again.not_now(&offered).await, None);
                assert_eq!(again.states(wipe).await, ["queued", "sent", "unconfirmed"]);
            }
            let again = edge.phone(udid).await;
            again.enroll().await;
            again.finish_all().await;
            assert_eq!(again.acknowledge(&offered).await, None);
            assert_eq!(again.delivery(wipe).await.state, DeliveryState::Acknowledged);
            assert!(again.enrollment().await.is_enabled());
        }
    }

    async fn a_report_that_comes_after_the_check_out_counts(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(phone.check_in("CheckOut", &[]).await.status, 200);
        assert_eq!(phone.acknowledge(&offered).await, None);
        assert_eq!(phone.delivery(wipe).await.state, DeliveryState::Acknowledged);
    }

    async fn what_was_handed_over_before_an_admin_removed_the_device_is_unconfirmed(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let (sent, queued) = (phone.ask(json!({"type": "wipe"})).await, phone.ask_apps().await);
        assert!(phone.idle().await.is_some());
        muster::service::devices::remove(&edge.t.app, &Actor::command_line(), phone.device_id().await).await.unwrap();
        assert_eq!(phone.states(sent).await, ["queued", "sent", "unconfirmed"]);
        assert_eq!(phone.states(queued).await, ["queued", "cancelled"]);
    }

    async fn a_lost_report_makes_the_command_be_offered_again(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask_apps().await;
        let once = phone.idle().await.unwrap();
        assert!(phone.wake_at().await.unwrap() > edge.t.now());
        let twice = phone.idle().await.unwrap();
        assert_eq!(once.uuid, twice.uuid);
        assert_eq!(phone.delivery(command).await.attempts, 2);
        assert_eq!(phone.acknowledge(&twice).await, None);
    }

    async fn a_lock_with_a_pin_is_not_repeated_by_itself(edge: Edge) {
        let phone = edge.enrolled("MAC-1").await;
        let lock = phone.ask(json!({"type": "lock", "pin": "123456"})).await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(offered.payload.get("PIN").and_then(Value::as_string), Some("123456"));
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.states(lock).await, ["queued", "sent", "unconfirmed"]);

        assert_eq!(commands::redeliver(&edge.t.app, &Actor::command_line(), lock, None).await.unwrap(), 1);
        let again = phone.idle().await.unwrap();
        assert_eq!(again.uuid, offered.uuid);
        assert_eq!(phone.acknowledge(&again).await, None);
        assert_eq!(phone.delivery(lock).await.state, DeliveryState::Acknowledged);
        let nothing = commands::redeliver(&edge.t.app, &Actor::command_line(), lock, None).await.unwrap_err();
        assert_eq!(code(&nothing), "nothing_unconfirmed");
    }

    async fn a_redelivery_is_for_those_that_were_counted(edge: Edge) {
        let (one, two) = (edge.enrolled("MAC-1").await, edge.enrolled("MAC-2").await);
        let both = Targets::Devices(vec![one.device_id().await, two.device_id().await]);
        let lock = json!({"type": "lock", "pin": "123456"});
        let lock = edge.command_with(both, lock, |new| new.confirm = Some(2)).await.unwrap().id;
        for mac in [&one, &two] {
            assert!(mac.idle().await.is_some());
        }
        assert_eq!(one.idle().await, None);
        // The other comes without a report while the redelivery is under way, and has been counted.
        let meanwhile = two.clone();
        let random = Arc::new(Meanwhile::new(edge.t.db.random.clone(), async move {
            assert_eq!(meanwhile.idle().await, None);
        }));
        let app = with_random(&edge, &random);
        assert_eq!(commands::redeliver(&app, &Actor::command_line(), lock, None).await.unwrap(), 1);
        random.ended().await;
        assert_eq!(one.states(lock).await, ["queued", "sent", "unconfirmed", "queued"]);
        assert_eq!(two.states(lock).await, ["queued", "sent", "unconfirmed"], "nobody asked for another lock");
        let recorded = edge.t.db.texts("SELECT detail FROM audit WHERE action = 'command.redelivered'").await;
        assert_eq!(recorded, [r#"{"deliveries":1}"#]);
        let refused = commands::redeliver(&edge.t.app, &Actor::command_line(), lock, Some(2)).await.unwrap_err();
        assert_eq!(code(&refused), "confirmation_needed", "only one is left to count");
        assert_eq!(commands::redeliver(&edge.t.app, &Actor::command_line(), lock, Some(1)).await.unwrap(), 1);
    }

    async fn a_redelivery_that_changes_nothing_is_not_recorded(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        let lock = mac.ask(json!({"type": "lock", "pin": "123456"})).await;
        let offered = mac.idle().await.unwrap();
        assert_eq!(mac.idle().await, None);
        // The report comes after it was counted; on SQLite, which has one writer, after it was handed over again.
        let meanwhile = mac.clone();
        let random = Arc::new(Meanwhile::new(edge.t.db.random.clone(), async move {
            meanwhile.acknowledge(&offered).await;
        }));
        let done = commands::redeliver(&with_random(&edge, &random), &Actor::command_line(), lock, None).await;
        random.ended().await;
        assert_eq!(done.is_ok(), edge.t.db.store.kind() == "sqlite", "{done:?}");
        assert_eq!(done.is_ok(), edge.t.audited().await.contains(&"command.redelivered".to_owned()));
        assert_eq!(mac.delivery(lock).await.state, DeliveryState::Acknowledged);
    }

    async fn a_late_report_settles_what_was_unconfirmed(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let restart = phone.ask(json!({"type": "restart"})).await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(phone.idle().await, None);
        phone.acknowledge(&offered).await;
        assert_eq!(phone.states(restart).await, ["queued", "sent", "unconfirmed", "acknowledged"]);
    }

    async fn a_wiped_phone_that_comes_back_is_not_wiped_again(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        edge.t.db.clock.advance(MINUTE);
        let behind = phone.ask_apps().await;
        assert_eq!(phone.idle().await.unwrap().request_type, "EraseDevice");
        // The report is lost; in the same generation it is offered again, since an Idle proves that nothing was erased.
        assert_eq!(phone.idle().await.unwrap().request_type, "EraseDevice");
        let as_new = edge.phone("PHONE-1").await;
        as_new.enroll().await;
        assert_eq!(as_new.finish_all().await, ["DeviceInformation", "SecurityInfo"]);
        assert_eq!(phone.states(wipe).await, ["queued", "sent", "sent", "presumed_done"]);
        assert_eq!(phone.states(behind).await, ["queued", "cancelled"]);
    }

    async fn a_wipe_that_was_acknowledged_ends_the_enrollment(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        edge.t.db.clock.advance(MINUTE);
        let behind = phone.ask_apps().await;
        let erase = phone.idle().await.unwrap();
        assert_eq!(phone.acknowledge(&erase).await, None, "nothing more for a phone that erases itself");
        assert_eq!(phone.delivery(wipe).await.state, DeliveryState::Acknowledged);
        assert_eq!(phone.delivery(behind).await.state, DeliveryState::Cancelled);
        assert_eq!(phone.enrollment().await.state, "disabled");
        assert_eq!(phone.wake_at().await, None);
    }

    async fn all_means_those_that_were_enrolled_when_it_was_accepted(edge: Edge) {
        let one = edge.enrolled("PHONE-1").await;
        let two = edge.enrolled("PHONE-2").await;
        let gone = edge.enrolled("PHONE-3").await;
        gone.check_in("CheckOut", &[]).await;
        let wrong = edge.command(Targets::All, json!({"type": "wipe"})).await.unwrap_err();
        assert_eq!(code(&wrong), "confirmation_needed");
        let wrong = edge.command_with(Targets::All, json!({"type": "wipe"}), |new| new.confirm = Some(3)).await;
        assert!(wrong.unwrap_err().to_string().contains("\"confirm\": 2"));
        let wipe =
            edge.command_with(Targets::All, json!({"type": "wipe"}), |new| new.confirm = Some(2)).await.unwrap();
        assert_eq!(wipe.targets, 2);

        let late = edge.enrolled("PHONE-4").await;
        gone.enroll().await;
        // One polls before the job makes the deliveries, the other after.
        assert_eq!(one.idle().await.unwrap().request_type, "EraseDevice");
        work(&edge).await;
        assert_eq!(two.idle().await.unwrap().request_type, "EraseDevice");
        assert_eq!(gone.finish_all().await, ["DeviceInformation", "SecurityInfo"]);
        assert_eq!(late.finish_all().await, Vec::<String>::new());
        // A phone that was among them and enrolls again before it polls is not wiped either.
        let again = edge.phone("PHONE-2").await;
        again.enroll().await;
        assert_eq!(again.finish_all().await, ["DeviceInformation", "SecurityInfo"]);
        work(&edge).await;
        assert_eq!(again.finish_all().await, Vec::<String>::new());
    }

    async fn a_cancelled_command_for_all_reaches_nobody_any_more(edge: Edge) {
        let one = edge.enrolled("PHONE-1").await;
        let two = edge.enrolled("PHONE-2").await;
        let all = edge.command(Targets::All, json!({"type": "installed_apps"})).await.unwrap();
        let taken = one.idle().await.unwrap();
        let cancelled = commands::cancel(&edge.t.app, &Actor::command_line(), all.id).await.unwrap();
        assert_eq!((cancelled.cancelled, cancelled.not_cancelled), (0, 1));
        work(&edge).await;
        assert_eq!(two.idle().await, None);
        assert_eq!(one.acknowledge(&taken).await, None);
        assert_eq!(one.delivery(all.id).await.state, DeliveryState::Acknowledged);
    }

    async fn what_is_not_sent_can_be_cancelled(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask_apps().await;
        commands::cancel(&edge.t.app, &Actor::command_line(), command).await.unwrap();
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.states(command).await, ["queued", "cancelled"]);
        let missing = CommandId(uuid_of(1));
        assert!(matches!(
            commands::cancel(&edge.t.app, &Actor::command_line(), missing).await,
            Err(Error::NotFound(_))
        ));
    }

    async fn a_cancelled_wipe_whose_report_was_lost_is_not_handed_over_again(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let wipe = phone.ask(json!({"type": "wipe"})).await;
        assert_eq!(phone.idle().await.unwrap().request_type, "EraseDevice");
        commands::cancel(&edge.t.app, &Actor::command_line(), wipe).await.unwrap();
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.states(wipe).await, ["queued", "sent", "cancelled"], "that it came shows that it was not erased");
    }

    async fn a_wipe_whose_time_ran_out_is_not_handed_over_again(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let until = edge.t.now().plus(HOUR);
        let wipe = json!({"type": "wipe"});
        let wipe = edge.command_with(phone.target().await, wipe, |new| new.expires_at = Some(until)).await.unwrap();
        assert_eq!(phone.idle().await.unwrap().request_type, "EraseDevice");
        edge.t.db.clock.advance(2 * HOUR);
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.states(wipe.id).await, ["queued", "sent", "cancelled"], "it was not erased: it came");
    }

    async fn a_command_expires(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let until = edge.t.now().plus(HOUR);
        let target = phone.target().await;
        let apps = json!({"type": "installed_apps"});
        let one = edge.command_with(target.clone(), apps.clone(), |new| new.expires_at = Some(until)).await.unwrap();
        edge.t.db.clock.advance(2 * HOUR);
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.states(one.id).await, ["queued", "expired"]);
        let past = edge.command_with(target, apps, |new| new.expires_at = Some(until)).await;
        assert_eq!(code(&past.unwrap_err()), "invalid_command");
    }

    async fn a_command_expires_on_a_phone_that_never_comes(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let until = edge.t.now().plus(HOUR);
        let apps = json!({"type": "installed_apps"});
        let one = edge.command_with(phone.target().await, apps, |new| new.expires_at = Some(until)).await.unwrap();
        assert_eq!(commands::expire_deliveries(&edge.t.app).await.unwrap(), 0);
        edge.t.db.clock.advance(2 * HOUR);
        assert_eq!(commands::expire_deliveries(&edge.t.app).await.unwrap(), 1);
        assert_eq!(phone.states(one.id).await, ["queued", "expired"]);
    }

    async fn an_error_keeps_apples_chain(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask_apps().await;
        let offered = phone.idle().await.unwrap();
        let link: plist::Dictionary = [
            ("ErrorCode".to_owned(), Value::from(12021)),
            ("ErrorDomain".to_owned(), "MCMDMErrorDomain".into()),
            ("LocalizedDescription".to_owned(), "Unbekannt".into()),
            ("USEnglishDescription".to_owned(), "Unknown".into()),
        ]
        .into_iter()
        .collect();
        let chain = [("ErrorChain", Value::Array(vec![Value::Dictionary(link)]))];
        assert_eq!(phone.report_with("Error", Some(&offered.uuid), &chain).await, None);
        let delivery = phone.delivery(command).await;
        assert_eq!(delivery.state, DeliveryState::Error);
        let error: serde_json::Value = serde_json::from_str(delivery.error.as_deref().unwrap()).unwrap();
        assert_eq!(error[0]["code"], 12021);
        assert_eq!(error[0]["us_english"], "Unknown");
        assert!(delivery.report_id.is_some());
    }

    async fn reports_about_nothing_known_are_answered_like_any_other(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let other = edge.enrolled("PHONE-2").await;
        let command = phone.ask_apps().await;
        let foreign = wire_uuid(other.ask_apps().await);
        for uuid in ["no uuid at all", "00000000-0000-0000-0000-000000000000", foreign.as_str()] {
            let next = phone.report_with("Acknowledged", Some(uuid), &[]).await.unwrap();
            assert_eq!(next.uuid, wire_uuid(command));
            // Handed over in this connection already: the same report again gets nothing more.
            assert_eq!(phone.report_with("Acknowledged", Some(uuid), &[]).await, None);
            // A new connection offers it again.
            assert!(phone.idle().await.is_some());
            let mut tx = edge.t.db.write().await;
            let delivery = tx.delivery(phone.id().await, command).await.unwrap().unwrap();
            let revision = delivery.revision + 1;
            let queued =
                muster::store::Delivery { state: DeliveryState::Queued, revision, connection: 0, ..delivery };
            assert!(tx.update_delivery(&queued, Some("reset by the story")).await.unwrap());
            tx.commit().await.unwrap();
        }
        assert_eq!(other.delivery(foreign.parse().unwrap()).await.state, DeliveryState::Queued);
    }

    async fn the_same_report_twice_changes_nothing_more(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask_apps().await;
        let offered = phone.idle().await.unwrap();
        assert_eq!(phone.acknowledge(&offered).await, None);
        let before = phone.delivery(command).await;
        assert_eq!(phone.acknowledge(&offered).await, None);
        assert_eq!(phone.report_with("Error", Some(&offered.uuid), &[]).await, None);
        let after = phone.delivery(command).await;
        assert_eq!((before.revision, before.report_id), (after.revision, after.report_id));
    }

    async fn a_report_with_nul_and_broken_text_is_kept_and_read(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask(json!({"type": "device_information"})).await;
        let offered = phone.idle().await.unwrap();
        let mut body = format!(
            "<plist><dict><key>Status</key><string>Acknowledged</string><key>UDID</key><string>PHONE-1</string>\
             <key>CommandUUID</key><string>{}</string><key>QueryResponses</key><dict><key>DeviceName</key><string>K\0im \
             ",
            offered.uuid
        )
        .into_bytes();
        body.extend_from_slice(b"\xff\xfe</string></dict></dict></plist>");
        assert_eq!(phone.put(REPORT, body).await.command(), None);
        assert_eq!(phone.delivery(command).await.state, DeliveryState::Acknowledged);
        let device = edge.t.db.read().await.device(phone.device_id().await).await.unwrap().unwrap();
        assert!(device.name.unwrap().starts_with('K'));
    }

    async fn the_guard_looks_at_the_request_and_not_at_the_verb(edge: Edge) {
        let one = edge.enrolled("PHONE-1").await;
        let two = edge.enrolled("PHONE-2").await;
        let both = Targets::Devices(vec![one.device_id().await, two.device_id().await]);
        let dangerous = [
            json!({"type": "wipe"}),
            json!({"type": "lock", "pin": "123456"}),
            json!({"type": "unenroll"}),
            json!({"type": "remove_profile", "identifier": "muster.enrollment"}),
            json!({"type": "apple", "request_type": "EraseDevice", "payload": {}}),
            json!({"type": "apple", "request_type": "DeviceLock", "payload": {"PIN": "123456"}}),
            json!({"type": "apple", "request_type": "RemoveProfile", "payload": {"Identifier": "muster.enrollment"}}),
        ];
        for command in dangerous {
            let refused = edge.command(both.clone(), command.clone()).await.unwrap_err();
            assert_eq!(code(&refused), "confirmation_needed", "{command}");
            assert!(refused.to_string().contains("\"confirm\": 2"), "{refused}");
            let new = commands::NewCommand {
                targets: both.clone(),
                command: command.clone(),
                confirm: Some(2),
                expires_at: None,
                priority: None,
                no_push: false,
            };
            let operator = crate::support::app::actor(muster::model::Role::Operator);
            let denied = commands::accept(&edge.t.app, &operator, new).await.unwrap_err();
            assert_eq!(code(&denied), "denied", "{command}");
        }
        edge.command(both, json!({"type": "lock"})).await.unwrap();
        assert_eq!(one.finish_all().await, ["DeviceLock"]);
    }

    async fn a_command_that_cannot_be_sent_names_all_its_faults(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = json!({"type": "lock", "pin": "12", "mesage": "hello"});
        let Err(Error::Invalid { faults, .. }) = edge.command(phone.target().await, command).await else { panic!() };
        let places: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert!(places.contains(&"/command/pin") && places.contains(&"/command/mesage"), "{places:?}");
        assert_eq!(phone.idle().await, None);
    }

    async fn targets_that_do_not_get_it_are_named(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let gone = edge.enrolled("PHONE-2").await;
        gone.check_in("CheckOut", &[]).await;
        let both = Targets::Devices(vec![phone.device_id().await, gone.device_id().await]);
        let accepted = edge.command(both, json!({"type": "profiles"})).await.unwrap();
        assert_eq!((accepted.targets, accepted.skipped.len()), (1, 1));
        assert!(accepted.skipped[0].reason.contains("disabled"));
        let PushNote::NotPossible(why) = accepted.push else { panic!("{:?}", accepted.push) };
        assert!(why.contains("no push certificate for topic"), "{why}");
        let mut tx = edge.t.db.write().await;
        tx.invalidate_push_token(phone.id().await, edge.t.now().plus(HOUR)).await.unwrap();
        tx.commit().await.unwrap();
        edge.enrolled("PHONE-3").await;
        for (targets, of) in [(phone.target().await, "1 of 1"), (Targets::All, "1 of 2")] {
            let accepted = edge.command(targets, json!({"type": "profiles"})).await.unwrap();
            let PushNote::NotPossible(why) = accepted.push else { panic!("{:?}", accepted.push) };
            assert!(why.contains(&format!("{of} devices cannot be woken: APNs no longer knows")), "{why}");
        }
        let none = edge.command(gone.target().await, json!({"type": "profiles"})).await.unwrap_err();
        assert_eq!(code(&none), "no_target");
    }

    async fn clearing_a_passcode_without_its_token_fails_with_the_reason(edge: Edge) {
        let phone = edge.phone("PHONE-1").await;
        phone.authenticate().await;
        phone.token_update(None).await;
        phone.finish_all().await;
        let command = phone.ask(json!({"type": "clear_passcode"})).await;
        edge.t.db.clock.advance(MINUTE);
        phone.ask_apps().await;
        assert_eq!(phone.finish_all().await, ["InstalledApplicationList"], "the queue goes on");
        let delivery = phone.delivery(command).await;
        assert_eq!(delivery.state, DeliveryState::Error);
        assert!(delivery.error.unwrap().contains("no unlock token"));
    }

    async fn a_command_that_cannot_be_read_holds_up_nothing_else(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let broken = phone.ask(json!({"type": "profiles"})).await;
        edge.t.db.clock.advance(MINUTE);
        let fine = phone.ask_apps().await;
        // Sealed for another place, it opens nowhere else.
        let other = "(SELECT o.payload_sealed FROM commands o WHERE o.verb = 'installed_apps')";
        edge.t.db.execute(&format!("UPDATE commands SET payload_sealed = {other} WHERE verb = 'profiles'")).await;
        assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
        assert_eq!(phone.delivery(fine).await.state, DeliveryState::Acknowledged);
        assert_eq!(phone.states(broken).await, ["queued", "queued"]);
    }

    async fn a_full_disk_is_503_and_nothing_is_half_written(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let command = phone.ask_apps().await;
        edge.t.db.store.limit_growth(Some(0)).await.unwrap();
        let big = vec![("InstalledApplicationList", Value::String("x".repeat(300_000)))];
        let mut members = vec![
            ("Status", Value::from("Acknowledged")),
            ("UDID", "PHONE-1".into()),
            ("CommandUUID", wire_uuid(command).into()),
        ];
        members.extend(big);
        let status = phone.put(REPORT, xml(&members)).await.status.as_u16();
        if edge.t.db.store.kind() == "sqlite" {
            assert_eq!(status, 503);
            assert_eq!(phone.delivery(command).await.state, DeliveryState::Queued);
            edge.t.db.store.limit_growth(None).await.unwrap();
            assert_eq!(phone.put(REPORT, xml(&members)).await.status, 200, "it recovers by itself");
        }
        assert_eq!(phone.delivery(command).await.state, DeliveryState::Acknowledged);
    }

    async fn a_database_that_is_gone_is_503_and_never_makes_a_device_leave(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        edge.t.app.store.close().await;
        let poll = xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())]);
        assert_eq!(phone.put(REPORT, poll).await.status, 503);
        assert_eq!(phone.token_update(None).await.status, 503);
        assert_eq!(phone.authenticate().await.status, 503);
    }

    async fn messages_that_are_none_are_refused(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let nested = format!("<plist>{}{}</plist>", "<array>".repeat(10_000), "</array>".repeat(10_000));
        let unknown = xml(&[("MessageType", "Sing".into()), ("UDID", "PHONE-1".into())]);
        let table: [(&str, Vec<u8>, u16); 6] = [
            ("not a plist", b"hello".to_vec(), 400),
            ("binary", b"bplist00\xd1\x01\x02".to_vec(), 400),
            ("10,000 levels", nested.into_bytes(), 400),
            ("an unknown message", unknown, 400),
            ("too large", vec![b' '; 2 << 20], 413),
            ("nothing", Vec::new(), 400),
        ];
        for (what, body, status) in table {
            let answer = phone.put(crate::support::edge::CHECK_IN, body).await;
            assert_eq!(answer.status, status, "{what}");
            assert!(answer.body.is_empty());
        }
        assert_eq!(phone.put(REPORT, b"hello".to_vec()).await.status, 400);
        assert_eq!(phone.idle().await, None, "and nothing is lost");
    }
}

/// A UUID of one digit.
fn uuid_of(digit: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(digit)
}
