//! Commands and deliveries: one command, a delivery for each enrollment, and the history of each.

use muster::model::{CommandId, DeliveryState, EnrollmentId, ReportId, Resend, Transition};
use muster::store::{Delivery, NewCommand, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{HOUR, MINUTE, Phone, command, delivery};

const NOBODY: EnrollmentId = EnrollmentId(uuid::Uuid::nil());

/// The request types of what is open for a phone, in the order of delivery.
async fn open(db: &TestDb, phone: &Phone) -> Vec<String> {
    let mut read = db.read().await;
    let mut types = Vec::new();
    for delivery in read.offerable_deliveries(phone.id, 1, 3, 10).await.unwrap() {
        types.push(read.command(delivery.command_id).await.unwrap().unwrap().request_type);
    }
    types
}

/// Brings a delivery into a state.
async fn step(db: &TestDb, delivery: &mut Delivery, state: DeliveryState) {
    delivery.revision += 1;
    delivery.state = state;
    delivery.updated_at = db.now();
    let mut tx = db.write().await;
    assert!(tx.update_delivery(delivery, None).await.unwrap());
    tx.commit().await.unwrap();
}

fn ids(found: Vec<(EnrollmentId, String)>) -> Vec<EnrollmentId> {
    found.into_iter().map(|(id, _)| id).collect()
}

both_databases! {
    async fn a_command_for_named_devices_reads_back(db: TestDb) {
        let new = NewCommand {
            verb: "lock",
            payload_sealed: b"pin",
            fills: r#"["unlock_token"]"#,
            summary: r#"{"message":"lost"}"#,
            resend: Resend::ByAdminOnly,
            destruction: Some("lock_with_pin"),
            priority: -5,
            internal: true,
            target_count: 3,
            expires_at: Some(db.now().plus(HOUR)),
            ..command(&db, "DeviceLock")
        };
        let mut tx = db.write().await;
        tx.insert_command(&new, db.now()).await.unwrap();
        let row = tx.command_for_update(new.id).await.unwrap().unwrap();
        assert_eq!((row.verb.as_str(), row.request_type.as_str()), ("lock", "DeviceLock"));
        assert_eq!((row.target.as_str(), row.destruction.as_deref()), ("devices", Some("lock_with_pin")));
        assert_eq!((row.payload_sealed.as_slice(), row.fills.as_str()), (new.payload_sealed, new.fills));
        assert_eq!((row.summary.as_str(), row.resend, row.priority), (new.summary, Resend::ByAdminOnly, -5));
        assert_eq!((row.internal, row.target_count, row.fleet_number), (true, 3, None));
        assert_eq!((row.created_at, row.expires_at, row.cancelled_at), (db.now(), new.expires_at, None));
        assert!(row.materialized, "named devices get their deliveries at once");
        assert!(tx.command(db.id(CommandId::new)).await.unwrap().is_none());
        assert!(matches!(tx.insert_command(&new, db.now()).await, Err(StoreError::Conflict(_))));
    }

    async fn a_command_for_all_is_given_out_page_by_page(db: TestDb) {
        let mut phones = Vec::new();
        for udid in ["UDID-1", "UDID-2", "UDID-3"] {
            phones.push(Phone::enrolled(&db, udid).await.id);
            db.clock.advance(MINUTE);
        }
        Phone::authenticated(&db, "NOT YET").await;
        let mut tx = db.write().await;
        let number = tx.fleet_number_for_command().await.unwrap();
        let new = NewCommand { fleet_number: Some(number), target_count: 3, ..command(&db, "EraseDevice") };
        tx.insert_command(&new, db.now()).await.unwrap();
        let row = tx.command(new.id).await.unwrap().unwrap();
        assert_eq!((row.target.as_str(), row.fleet_number, row.materialized), ("all", Some(number), false));
        assert_eq!(tx.count_not_materialized(number).await.unwrap(), 3);

        assert_eq!(ids(tx.enrollments_before_fleet_number(number, None, NOBODY, 2).await.unwrap()), phones[..2]);
        assert_eq!(ids(tx.enrollments_before_fleet_number(number, None, phones[1], 2).await.unwrap()), phones[2..]);
        for id in &phones {
            tx.set_fleet_cursor(*id, number).await.unwrap();
        }
        assert_eq!(tx.count_not_materialized(number).await.unwrap(), 0);
        tx.set_materialized(new.id).await.unwrap();
        assert!(tx.command(new.id).await.unwrap().unwrap().materialized);
    }

    async fn commands_for_all_come_oldest_first_with_cancelled_ones(db: TestDb) {
        let mut tx = db.write().await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let number = tx.fleet_number_for_command().await.unwrap();
            let new = NewCommand { fleet_number: Some(number), ..command(&db, "RestartDevice") };
            tx.insert_command(&new, db.now()).await.unwrap();
            ids.push((number, new.id));
        }
        tx.cancel_command(ids[1].1, db.now()).await.unwrap();
        let all = tx.commands_for_all_after(0).await.unwrap();
        assert_eq!(all.iter().map(|c| c.id).collect::<Vec<_>>(), ids.iter().map(|(_, id)| *id).collect::<Vec<_>>());
        assert_eq!(all[1].cancelled_at, Some(db.now()));
        assert_eq!(tx.commands_for_all_after(ids[1].0).await.unwrap().len(), 1);
    }

    async fn a_command_is_cancelled_once(db: TestDb) {
        let new = command(&db, "RestartDevice");
        let mut tx = db.write().await;
        tx.insert_command(&new, db.now()).await.unwrap();
        tx.cancel_command(new.id, db.now()).await.unwrap();
        tx.cancel_command(new.id, db.now().plus(HOUR)).await.unwrap();
        assert_eq!(tx.command(new.id).await.unwrap().unwrap().cancelled_at, Some(db.now()));
    }

    async fn deliveries_come_by_priority_then_by_age(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        phone.queue(&db, &NewCommand { priority: 10, ..command(&db, "InstalledApplicationList") }).await;
        db.clock.advance(MINUTE);
        phone.queue(&db, &command(&db, "InstallProfile")).await;
        db.clock.advance(MINUTE);
        phone.queue(&db, &command(&db, "RestartDevice")).await;
        db.clock.advance(MINUTE);
        phone.queue(&db, &NewCommand { priority: -10, ..command(&db, "DeviceLock") }).await;
        let order = ["DeviceLock", "InstallProfile", "RestartDevice", "InstalledApplicationList"];
        assert_eq!(open(&db, &phone).await, order);
        let first = db.read().await.offerable_deliveries(phone.id, 1, 3, 1).await.unwrap();
        assert_eq!((first.len(), first[0].priority), (1, -10));
    }

    async fn commands_of_the_same_moment_have_one_order(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(phone.queue(&db, &command(&db, "ProfileList")).await.command_id);
        }
        ids.sort();
        let read = async || {
            let deliveries = db.read().await.offerable_deliveries(phone.id, 1, 3, 10).await.unwrap();
            deliveries.iter().map(|d| d.command_id).collect::<Vec<_>>()
        };
        assert_eq!(read().await, ids);
        assert_eq!(read().await, ids);
    }

    async fn what_is_open_and_what_is_unfinished(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        Phone::enrolled(&db, "UDID-2").await.queue(&db, &command(&db, "ProfileList")).await;
        for state in DeliveryState::ALL {
            db.clock.advance(MINUTE);
            let mut made = phone.queue(&db, &command(&db, "ProfileList")).await;
            step(&db, &mut made, state).await;
        }
        use DeliveryState as S;
        let mut read = db.read().await;
        let open = read.offerable_deliveries(phone.id, 1, 3, 100).await.unwrap();
        assert_eq!(open.iter().map(|d| d.state).collect::<Vec<_>>(), [S::Queued, S::Sent, S::NotNow]);
        let unfinished = read.unfinished_deliveries(phone.id).await.unwrap();
        let states: Vec<_> = unfinished.iter().map(|d| d.state).collect();
        assert_eq!(states, [S::Queued, S::Sent, S::NotNow, S::Unconfirmed]);
        assert!(states.iter().all(|s| !s.is_terminal()));
    }

    async fn what_was_offered_in_this_connection_is_left_out(db: TestDb) {
        use DeliveryState as S;
        let phone = Phone::enrolled(&db, "UDID-1").await;
        for state in [S::Sent, S::NotNow, S::Queued] {
            let mut made = phone.queue(&db, &command(&db, "ProfileList")).await;
            made.connection = 7;
            step(&db, &mut made, state).await;
        }
        let mut read = db.read().await;
        assert!(read.offerable_deliveries(phone.id, 7, 3, 100).await.unwrap().is_empty());
        assert_eq!(read.offerable_deliveries(phone.id, 8, 3, 100).await.unwrap().len(), 3);
        assert!(read.has_deliverable(phone.id).await.unwrap());
    }

    async fn a_delivery_is_left_out_of_a_connection_without_a_step(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let made = phone.queue(&db, &command(&db, "ProfileList")).await;
        let mut tx = db.write().await;
        assert_eq!(tx.delivery_detail(&made).await.unwrap(), None);
        tx.leave_delivery(&made, 7).await.unwrap();
        let left = tx.delivery(phone.id, made.command_id).await.unwrap().unwrap();
        assert_eq!((left.state, left.connection, left.revision), (made.state, 7, made.revision));
        assert!(tx.offerable_deliveries(phone.id, 7, 3, 10).await.unwrap().is_empty());
        assert_eq!(tx.offerable_deliveries(phone.id, 8, 3, 10).await.unwrap().len(), 1);
        let noted = Delivery { revision: left.revision + 1, ..left };
        assert!(tx.update_delivery(&noted, Some("why")).await.unwrap());
        assert_eq!(tx.delivery_detail(&noted).await.unwrap().as_deref(), Some("why"));
    }

    async fn what_the_device_may_have_does_not_expire(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut expected = Vec::new();
        for (minutes, state) in (1..).zip(DeliveryState::ALL) {
            let new = command(&db, "ProfileList");
            let expires_at = Some(db.now().plus(minutes * MINUTE));
            let mut made = Delivery { expires_at, ..delivery(&db, &phone, new.id) };
            let mut tx = db.write().await;
            tx.insert_command(&new, db.now()).await.unwrap();
            tx.insert_delivery(&made).await.unwrap();
            tx.commit().await.unwrap();
            step(&db, &mut made, state).await;
            if state.after(Transition::Expire).is_some() {
                expected.push(made.command_id);
            }
        }
        phone.queue(&db, &command(&db, "ProfileList")).await;
        let mut read = db.read().await;
        assert!(read.expired_deliveries(db.now(), 10).await.unwrap().is_empty());
        let expired = read.expired_deliveries(db.now().plus(HOUR), 10).await.unwrap();
        assert_eq!(expired.iter().map(|d| d.command_id).collect::<Vec<_>>(), expected, "in the order of their times");
        assert_eq!(read.expired_deliveries(db.now().plus(HOUR), 1).await.unwrap().len(), 1);
        let first = db.now().plus(MINUTE);
        assert_eq!(read.expired_deliveries(first, 10).await.unwrap().len(), 1, "the moment itself is too late");
    }

    async fn a_delivery_is_made_once(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let lock = NewCommand { resend: Resend::ByAdminOnly, ..command(&db, "DeviceLock") };
        let new = Delivery {
            resend: Resend::ByAdminOnly,
            expires_at: Some(db.now().plus(HOUR)),
            generation: 3,
            ..delivery(&db, &phone, lock.id)
        };
        let mut tx = db.write().await;
        tx.insert_command(&lock, db.now()).await.unwrap();
        assert!(tx.insert_delivery(&new).await.unwrap());
        assert!(!tx.insert_delivery(&new).await.unwrap());
        let made = tx.delivery(phone.id, lock.id).await.unwrap().unwrap();
        assert_eq!((made.state, made.attempts, made.revision, made.generation), (DeliveryState::Queued, 0, 1, 3));
        assert_eq!((made.resend, made.expires_at, made.sent_at), (Resend::ByAdminOnly, new.expires_at, None));
        assert_eq!(tx.transitions(phone.id, lock.id).await.unwrap().len(), 1);
        assert!(tx.delivery(NOBODY, lock.id).await.unwrap().is_none());
    }

    async fn every_step_of_a_delivery_is_written_with_its_time(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut made = phone.queue(&db, &command(&db, "InstallProfile")).await;
        let queued = db.now();
        db.clock.advance(MINUTE);
        let sent = db.now();
        made = Delivery { sent_at: Some(sent), connection: 7, attempts: 1, ..made };
        step(&db, &mut made, DeliveryState::Sent).await;
        db.clock.advance(MINUTE);
        let failed = Delivery {
            revision: 3,
            state: DeliveryState::Error,
            answered_at: Some(db.now()),
            updated_at: db.now(),
            error: Some(r#"[{"code":4001}]"#.to_owned()),
            report_id: Some(db.id(ReportId::new)),
            ..made
        };
        let mut tx = db.write().await;
        assert!(tx.update_delivery(&failed, Some("profile installation failed")).await.unwrap());

        let row = tx.delivery(phone.id, failed.command_id).await.unwrap().unwrap();
        assert_eq!((row.state, row.connection, row.attempts), (DeliveryState::Error, 7, 1));
        assert_eq!((row.queued_at, row.sent_at, row.answered_at), (queued, Some(sent), Some(db.now())));
        assert_eq!((row.error, row.report_id), (failed.error, failed.report_id));
        let history = tx.transitions(phone.id, failed.command_id).await.unwrap();
        let steps: Vec<_> = history.iter().map(|t| (t.revision, t.state, t.at)).collect();
        let (one, two, three) = (DeliveryState::Queued, DeliveryState::Sent, DeliveryState::Error);
        assert_eq!(steps, [(1, one, queued), (2, two, sent), (3, three, db.now())]);
        assert_eq!(history[2].detail.as_deref(), Some("profile installation failed"));
    }

    /// Who decided from an older state of the row writes nothing: a report and a cancel at once have one winner.
    async fn the_revision_guards_a_delivery_that_moved_on(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let made = phone.queue(&db, &command(&db, "ProfileList")).await;
        let reported = Delivery { revision: 2, state: DeliveryState::Acknowledged, ..made.clone() };
        let cancelled = Delivery { revision: 2, state: DeliveryState::Cancelled, ..made };
        let write = async |next: &Delivery| {
            let mut tx = db.write().await;
            let written = tx.update_delivery(next, None).await.unwrap();
            tx.commit().await.unwrap();
            written
        };
        let (a, b) = tokio::join!(write(&reported), write(&cancelled));
        assert!(a != b, "one of them: {a} {b}");
        let mut read = db.read().await;
        let row = read.delivery(phone.id, reported.command_id).await.unwrap().unwrap();
        assert_eq!(row.state, if a { DeliveryState::Acknowledged } else { DeliveryState::Cancelled });
        assert_eq!(read.transitions(phone.id, reported.command_id).await.unwrap().len(), 2);
    }

    async fn the_deliveries_of_a_command_are_counted_and_paged_by_state(db: TestDb) {
        let mut phones = Vec::new();
        for udid in ["UDID-1", "UDID-2", "UDID-3", "UDID-4"] {
            phones.push(Phone::enrolled(&db, udid).await);
            db.clock.advance(MINUTE);
        }
        let new = command(&db, "ProfileList");
        let mut made = Vec::new();
        let mut tx = db.write().await;
        tx.insert_command(&new, db.now()).await.unwrap();
        for phone in &phones {
            made.push(delivery(&db, phone, new.id));
            tx.insert_delivery(made.last().unwrap()).await.unwrap();
        }
        tx.commit().await.unwrap();
        use DeliveryState as S;
        step(&db, &mut made[0], S::Acknowledged).await;
        step(&db, &mut made[1], S::NotNow).await;

        let mut read = db.read().await;
        let counts = read.count_deliveries(new.id).await.unwrap();
        let expected = [("acknowledged", 1), ("not_now", 1), ("queued", 2)];
        assert_eq!(counts, expected.map(|(state, n)| (state.to_owned(), n)));
        let page = read.deliveries_in(new.id, [S::Queued, S::NotNow], NOBODY, 2).await.unwrap();
        assert_eq!(page.iter().map(|d| d.enrollment_id).collect::<Vec<_>>(), [phones[1].id, phones[2].id]);
        let rest = read.deliveries_in(new.id, [S::Queued, S::NotNow], phones[2].id, 2).await.unwrap();
        assert_eq!(rest.iter().map(|d| d.enrollment_id).collect::<Vec<_>>(), [phones[3].id]);
        assert!(read.count_deliveries(db.id(CommandId::new)).await.unwrap().is_empty());
    }
}
