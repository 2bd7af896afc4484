//! Enrollments: generations, push data, the idle poll, escrow and check-ins.

use futures_util::future::join_all;
use muster::model::{ChallengeId, EnrollmentId, EnrollmentKind, LinkId};
use muster::store::{NewCommand, PushFacts, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{HOUR, MINUTE, Phone, TOPIC, command, device_channel, push, user_channel};

/// The channel of a user on a Mac, enabled.
async fn user_of(db: &TestDb, mac: &Phone, user: &str) -> EnrollmentId {
    let id = db.id(EnrollmentId::new);
    let mut tx = db.write().await;
    tx.insert_enrollment(id, mac.device, Some(mac.id), &user_channel(&mac.udid, user), db.now()).await.unwrap();
    tx.set_push(id, &push(TOPIC), db.now()).await.unwrap();
    tx.commit().await.unwrap();
    id
}

both_databases! {
    async fn an_authenticate_leaves_an_enrollment_that_is_not_enabled(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let row = db.read().await.enrollment_by_apple_id("UDID-1").await.unwrap().unwrap();
        assert_eq!((row.id, row.device_id, row.parent_id), (phone.id, phone.device, None));
        assert_eq!((row.kind, row.state.as_str(), row.generation), (EnrollmentKind::Device, "authenticated", 1));
        assert_eq!((row.token_tally, row.connection, row.fleet_cursor), (0, 0, None));
        assert_eq!((row.authenticated_at, row.enabled_at, row.last_seen_at), (db.now(), None, db.now()));
        assert!(!row.is_enabled() && !row.awaiting_configuration);
        let mut tx = db.write().await;
        assert!(tx.enrollment_for_update("UDID-2").await.unwrap().is_none());
        assert_eq!(tx.enrollment_for_update("UDID-1").await.unwrap().unwrap().id, phone.id);
        let twin = db.id(EnrollmentId::new);
        let refused = tx.insert_enrollment(twin, phone.device, None, &device_channel("UDID-1"), db.now()).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))));
    }

    async fn a_token_update_enables_and_counts(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let enabled_at = db.now();
        assert_eq!(phone.token_update(&db).await, 1, "one is a fresh enrollment");
        db.clock.advance(MINUTE);
        let second = PushFacts { topic: "topic", token: b"new", magic: "new magic", awaiting_configuration: true };
        let mut tx = db.write().await;
        assert_eq!(tx.set_push(phone.id, &second, db.now()).await.unwrap(), 2);
        let row = tx.enrollment_by_id_for_update(phone.id).await.unwrap().unwrap();
        assert!(row.is_enabled() && row.awaiting_configuration);
        assert_eq!((row.push_token.as_deref(), row.push_magic.as_deref()), (Some(&b"new"[..]), Some("new magic")));
        assert_eq!((row.topic.as_deref(), row.token_at), (Some("topic"), Some(db.now())));
        assert_eq!(row.enabled_at, Some(enabled_at));
    }

    async fn a_new_generation_forgets_all_of_the_earlier_enrollment(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        tx.set_enrollment_origin(phone.id, Some(db.id(LinkId::new)), Some(db.id(ChallengeId::new))).await.unwrap();
        tx.approve_reenrollment(phone.id, db.now().plus(HOUR)).await.unwrap();
        tx.begin_connection(phone.id, db.now()).await.unwrap();
        db.clock.advance(HOUR);
        tx.begin_generation(phone.id, db.now()).await.unwrap();
        tx.commit().await.unwrap();

        let row = phone.row(&db).await;
        assert_eq!((row.generation, row.state.as_str(), row.token_tally), (2, "authenticated", 0));
        assert_eq!((row.topic, row.push_token, row.push_magic, row.token_at), (None, None, None, None));
        assert_eq!((row.fleet_cursor, row.link_id, row.challenge_id), (None, None, None));
        assert_eq!((row.reenroll_approved_until, row.enabled_at, row.disabled_at), (None, None, None));
        assert_eq!((row.authenticated_at, row.last_seen_at), (db.now(), db.now()));
        assert_eq!(row.connection, 1, "connections are never counted twice");
        assert_eq!(phone.token_update(&db).await, 1);
    }

    async fn an_enrollment_knows_its_link_and_who_approved_its_successor(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let (link, challenge) = (db.id(LinkId::new), db.id(ChallengeId::new));
        let mut tx = db.write().await;
        tx.set_enrollment_origin(phone.id, Some(link), Some(challenge)).await.unwrap();
        tx.approve_reenrollment(phone.id, db.now().plus(HOUR)).await.unwrap();
        tx.commit().await.unwrap();
        let row = phone.row(&db).await;
        assert_eq!((row.link_id, row.challenge_id), (Some(link), Some(challenge)));
        assert_eq!(row.reenroll_approved_until, Some(db.now().plus(HOUR)));
    }

    async fn a_checked_out_enrollment_is_closed_until_the_next_token_update(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        tx.close_enrollment(phone.id, "disabled", db.now()).await.unwrap();
        tx.commit().await.unwrap();
        let row = phone.row(&db).await;
        assert_eq!((row.state.as_str(), row.fleet_cursor, row.disabled_at), ("disabled", None, Some(db.now())));
        assert!(!row.is_enabled());
        phone.token_update(&db).await;
        let row = phone.row(&db).await;
        assert!(row.is_enabled() && row.disabled_at.is_none());
    }

    async fn the_channels_of_a_mac_are_listed_device_first(db: TestDb) {
        let mac = Phone::authenticated(&db, "MAC").await;
        let stranger = Phone::authenticated(&db, "STRANGER").await;
        db.clock.advance(MINUTE);
        let (anna, ben) = (user_of(&db, &mac, "501").await, user_of(&db, &mac, "502").await);
        user_of(&db, &stranger, "501").await;
        let mut tx = db.write().await;
        tx.set_channel_user(anna, Some("anna"), Some("Anna")).await.unwrap();
        tx.set_channel_user(anna, None, Some("Anna B.")).await.unwrap();

        let all = tx.enrollments_of_device(mac.device).await.unwrap();
        assert_eq!((all.len(), all[0].id), (3, mac.id));
        let users = tx.user_channels_for_update(mac.id).await.unwrap();
        let mut ids: Vec<_> = users.iter().map(|u| u.id).collect();
        assert!(ids.is_sorted(), "rows are locked in one order");
        ids.sort_by_key(|id| *id != anna);
        assert_eq!(ids, [anna, ben]);
        let row = users.iter().find(|u| u.id == anna).unwrap();
        assert_eq!((row.kind, row.apple_id.as_str()), (EnrollmentKind::User, "MAC:501"));
        assert_eq!((row.user_short_name.as_deref(), row.user_long_name.as_deref()), (Some("anna"), Some("Anna B.")));
    }

    async fn connections_count_up_and_last_seen_never_moves_backwards(db: TestDb) {
        let (a, b) = (Phone::enrolled(&db, "UDID-1").await, Phone::enrolled(&db, "UDID-2").await);
        let start = db.now();
        db.clock.advance(MINUTE);
        let mut tx = db.write().await;
        assert_eq!(tx.begin_connection(a.id, db.now()).await.unwrap(), 1);
        assert_eq!(tx.begin_connection(a.id, db.now()).await.unwrap(), 2);
        tx.touch_enrollments(&[(a.id, start), (b.id, db.now())]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(a.row(&db).await.last_seen_at, db.now());
        assert_eq!(b.row(&db).await.last_seen_at, db.now());
        assert_eq!(b.row(&db).await.connection, 0);
    }

    async fn enabled_enrollments_are_counted_by_topic(db: TestDb) {
        let a = Phone::enrolled(&db, "UDID-1").await;
        Phone::enrolled(&db, "UDID-2").await;
        Phone::authenticated(&db, "UDID-3").await;
        let mut tx = db.write().await;
        tx.set_push(a.id, &push("com.apple.mgmt.External.other"), db.now()).await.unwrap();
        let counted = tx.enabled_by_topic().await.unwrap();
        assert_eq!(counted, [(Some(TOPIC.to_owned()), 1), (Some("com.apple.mgmt.External.other".to_owned()), 1)]);
        assert_eq!(tx.count_enabled().await.unwrap(), counted);
    }

    async fn an_idle_poll_of_an_unknown_device_finds_nothing(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        assert!(db.store.poll("UDID-2", phone.pin).await.unwrap().is_none());
    }

    async fn an_idle_poll_tells_whether_the_certificate_is_pinned(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let stranger = Phone::enrolled(&db, "UDID-2").await;
        let poll = db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap();
        assert_eq!((poll.id, poll.state.as_str()), (phone.id, "enabled"));
        assert_eq!((poll.pinned, poll.revoked, poll.has_work), (true, false, false));
        let foreign = db.store.poll("UDID-1", stranger.pin).await.unwrap().unwrap();
        assert_eq!((foreign.pinned, foreign.revoked), (false, false));
        let mut tx = db.write().await;
        tx.revoke_pins(phone.id, None, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        let revoked = db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap();
        assert_eq!((revoked.pinned, revoked.revoked), (true, true));
    }

    async fn a_user_channel_polls_with_the_certificate_of_its_mac(db: TestDb) {
        let mac = Phone::enrolled(&db, "MAC").await;
        let user = user_of(&db, &mac, "501").await;
        let poll = db.store.poll("MAC:501", mac.pin).await.unwrap().unwrap();
        assert_eq!((poll.id, poll.pinned, poll.has_work), (user, true, false));
    }

    async fn an_open_delivery_is_work_and_a_finished_one_is_not(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let bystander = Phone::enrolled(&db, "UDID-2").await;
        let mut delivery = phone.queue(&db, &command(&db, "DeviceInformation")).await;
        use muster::model::DeliveryState as S;
        for (state, work) in
            [(S::Sent, true), (S::NotNow, true), (S::Unconfirmed, false), (S::Queued, true), (S::Acknowledged, false)]
        {
            delivery.revision += 1;
            delivery.state = state;
            let mut tx = db.write().await;
            assert!(tx.update_delivery(&delivery, None).await.unwrap());
            tx.commit().await.unwrap();
            assert_eq!(db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().has_work, work, "{state}");
            assert!(!db.store.poll("UDID-2", bystander.pin).await.unwrap().unwrap().has_work);
        }
    }

    async fn a_command_for_all_is_work_until_it_was_looked_at(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let work = async || db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().has_work;
        let mut tx = db.write().await;
        let enrolled = tx.fleet_number_for_enrollment().await.unwrap();
        tx.set_fleet_cursor(phone.id, enrolled).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!work().await);
        let mut tx = db.write().await;
        let number = tx.fleet_number_for_command().await.unwrap();
        let new = NewCommand { fleet_number: Some(number), target_count: 1, ..command(&db, "RestartDevice") };
        tx.insert_command(&new, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(work().await);
        let mut tx = db.write().await;
        tx.set_fleet_cursor(phone.id, number).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!work().await);
    }

    async fn many_polls_at_once_each_get_their_own_answer(db: TestDb) {
        let mut phones = Vec::new();
        for number in 0..5 {
            phones.push(Phone::enrolled(&db, &format!("UDID-{number}")).await);
        }
        phones[3].queue(&db, &command(&db, "DeviceInformation")).await;
        let polls = (0..500).map(|number| {
            let (store, which) = (db.store.clone(), number % 6);
            let pin = phones[number % 4].pin;
            tokio::spawn(async move { (which, number % 4, store.poll(&format!("UDID-{which}"), pin).await.unwrap()) })
        });
        for poll in futures_util::future::join_all(polls).await {
            let (which, pin, poll) = poll.unwrap();
            let expected = phones.get(which).map(|phone| (phone.id, which == pin, which == 3));
            assert_eq!(poll.map(|poll| (poll.id, poll.pinned, poll.has_work)), expected);
        }
    }

    async fn a_poll_that_nobody_waits_for_holds_up_no_other(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        for _ in 0..50 {
            let given_up = db.store.poll("UDID-1", phone.pin);
            let _ = tokio::time::timeout(std::time::Duration::ZERO, given_up).await;
        }
        assert_eq!(db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().id, phone.id);
    }

    async fn escrow_belongs_to_one_generation(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        tx.put_escrow(phone.id, 1, "unlock_token", b"first", db.now()).await.unwrap();
        tx.put_escrow(phone.id, 1, "unlock_token", b"second", db.now()).await.unwrap();
        tx.put_escrow(phone.id, 1, "bootstrap_token", b"bootstrap", db.now()).await.unwrap();
        tx.put_escrow(phone.id, 2, "unlock_token", b"other", db.now()).await.unwrap();
        assert_eq!(tx.escrow(phone.id, 1, "unlock_token").await.unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(tx.escrow(phone.id, 2, "bootstrap_token").await.unwrap(), None);
        tx.clear_escrow(phone.id, 1, "bootstrap_token").await.unwrap();
        assert_eq!(tx.escrow(phone.id, 1, "bootstrap_token").await.unwrap(), None);
        assert!(tx.escrow(phone.id, 1, "unlock_token").await.unwrap().is_some());
        assert!(tx.escrow(phone.id, 2, "unlock_token").await.unwrap().is_some());
    }

    async fn the_last_check_in_of_each_type_is_kept(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        tx.put_check_in(phone.id, "Authenticate", b"one", db.now()).await.unwrap();
        tx.put_check_in(phone.id, "TokenUpdate", b"two", db.now()).await.unwrap();
        db.clock.advance(MINUTE);
        tx.put_check_in(phone.id, "TokenUpdate", b"three", db.now()).await.unwrap();
        let last = tx.check_in(phone.id, "TokenUpdate").await.unwrap();
        assert_eq!(last, Some((b"three".to_vec(), db.now())));
        assert!(tx.check_in(phone.id, "Authenticate").await.unwrap().is_some());
        assert!(tx.check_in(phone.id, "CheckOut").await.unwrap().is_none());
    }

    /// Every process notes now and then whom it heard of, in the order in which it heard of them.
    async fn processes_that_note_last_seen_at_once_do_not_wait_in_a_ring(db: TestDb) {
        let mut seen = Vec::new();
        for n in 0..30 {
            seen.push((Phone::authenticated(&db, &format!("UDID-{n}")).await.id, db.now()));
        }
        let note = async |mut seen: Vec<_>, after: u32, backwards: bool| {
            if backwards {
                seen.reverse();
            }
            seen.iter_mut().for_each(|(_, at)| *at = db.now().plus(after * MINUTE));
            let mut tx = db.write().await;
            tx.touch_enrollments(&seen).await.unwrap();
            tx.commit().await.unwrap();
        };
        join_all((1..20).map(|n| note(seen.clone(), n, n % 2 == 0))).await;
        // On PostgreSQL a row that another holds is passed over; on SQLite there is one writer.
        let last = db.read().await.enrollment(seen[0].0).await.unwrap().unwrap().last_seen_at;
        assert!(last > db.now());
        assert!(last == db.now().plus(19 * MINUTE) || db.store.kind() == "postgres");
    }

    /// Two messages of one device at once: the second waits for the row and sees what the first did.
    async fn two_messages_of_one_device_never_interleave(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let count = async || {
            let mut tx = db.write().await;
            let row = tx.enrollment_for_update("UDID-1").await.unwrap().unwrap();
            tokio::task::yield_now().await;
            let tally = tx.set_push(phone.id, &push(TOPIC), db.now()).await.unwrap();
            assert_eq!(tally, row.token_tally + 1);
            tx.commit().await.unwrap();
            tally
        };
        let (a, b, c, d) = tokio::join!(count(), count(), count(), count());
        let mut tallies = [a, b, c, d];
        tallies.sort_unstable();
        assert_eq!(tallies, [1, 2, 3, 4]);
    }
}
