//! What waits for webhooks: numbered as it was committed, leased as a line, and never lost between two of these.

use std::time::Duration;

use muster::model::{DeviceId, EventId, ProcessId, Timestamp, WebhookForm, WebhookId};
use muster::store::{ALIVE, DueLine, Key, Lease, NewEvent, Settled, Store, StoreError, WebhookRow};

use crate::support::db::TestDb;
use crate::support::rows::{MINUTE, Phone};

async fn webhook(db: &TestDb) -> WebhookId {
    let row = WebhookRow {
        id: db.id(WebhookId::new),
        name: "test".to_owned(),
        url: "https://hooks.example.org/".to_owned(),
        form: WebhookForm::CloudEvents,
        secret_sealed: Some(b"sealed".to_vec()),
        topics: "[]".to_owned(),
        idle: false,
        raw: false,
        revision: 1,
        paused_at: None,
        paused_reason: None,
        created_at: db.now(),
        created_by: "test".to_owned(),
        updated_at: db.now(),
        removed_at: None,
    };
    let mut tx = db.write().await;
    tx.insert_webhook(&row).await.unwrap();
    tx.commit().await.unwrap();
    row.id
}

fn event(db: &TestDb, phone: &Phone, webhook_id: WebhookId) -> NewEvent<'static> {
    NewEvent {
        device_id: phone.device,
        webhook_id,
        id: db.id(EventId::new),
        enrollment_id: phone.id,
        topic: "muster.device.enrolled",
        token_tally: None,
        content_sealed: b"content",
    }
}

async fn queue(db: &TestDb, phone: &Phone, webhook: WebhookId) -> EventId {
    let event = event(db, phone, webhook);
    let mut tx = db.write().await;
    tx.queue_event(&event, db.now()).await.unwrap();
    tx.commit().await.unwrap();
    event.id
}

async fn lease(store: &Store, webhook: WebhookId, lease: &Lease) -> Vec<DueLine> {
    let mut tx = store.begin_write().await.unwrap();
    let due = tx.lease_lines(webhook, lease, 10).await.unwrap();
    tx.commit().await.unwrap();
    due
}

async fn settle(db: &TestDb, line: &DueLine, sent: i64, dead: Option<(i64, i64, &str)>, due_at: Timestamp) -> bool {
    let settled = Settled { sent, dead, attempts: 0, due_at, waiting_since: db.now() };
    let mut tx = db.write().await;
    let is_settled = tx.settle_line(line, &settled, db.now()).await.unwrap();
    tx.commit().await.unwrap();
    is_settled
}

async fn waiting(db: &TestDb, device: DeviceId, webhook: WebhookId) -> Vec<(i64, EventId)> {
    let (mut found, mut after) = (Vec::new(), 0);
    while let Some(event) = db.read().await.next_event(device, webhook, after).await.unwrap() {
        after = event.number;
        found.push((event.number, event.id));
    }
    found
}

both_databases! {
    async fn events_of_a_device_are_numbered_in_their_order(db: TestDb) {
        let webhook = webhook(&db).await;
        let (phone, other) = (Phone::enrolled(&db, "A").await, Phone::enrolled(&db, "B").await);
        let first = queue(&db, &phone, webhook).await;
        let apart = queue(&db, &other, webhook).await;
        let second = queue(&db, &phone, webhook).await;
        assert_eq!(waiting(&db, phone.device, webhook).await, [(1, first), (2, second)]);
        assert_eq!(waiting(&db, other.device, webhook).await, [(1, apart)]);
        assert_eq!(db.read().await.waiting_for(webhook).await.unwrap(), (3, Some(db.now())));
    }

    async fn many_that_share_a_transaction_are_all_written(db: TestDb) {
        let (one, two) = (webhook(&db).await, webhook(&db).await);
        let mut phones = Vec::new();
        for n in 0..20 {
            phones.push(Phone::enrolled(&db, &format!("UDID-{n}")).await);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for phone in &phones {
            for _ in 0..3 {
                let (store, now) = (db.store.clone(), db.now());
                let (device, enrollment) = (phone.device, phone.id);
                let ids = [db.id(EventId::new), db.id(EventId::new)];
                tasks.spawn(async move {
                    let work = move |mut tx: muster::store::Write| -> futures_util::future::BoxFuture<'static, _> {
                        Box::pin(async move {
                            for (webhook_id, id) in [(one, ids[0]), (two, ids[1])] {
                                let event = NewEvent {
                                    device_id: device, webhook_id, id, enrollment_id: enrollment, topic: "t",
                                    token_tally: Some(1), content_sealed: b"content",
                                };
                                tx.queue_event(&event, now).await?;
                            }
                            tx.commit().await
                        })
                    };
                    store.together::<(), StoreError, _>(vec![Key::of(device)], work).await.unwrap();
                });
            }
        }
        tasks.join_all().await;
        for phone in &phones {
            for webhook in [one, two] {
                let numbers: Vec<_> = waiting(&db, phone.device, webhook).await.iter().map(|(n, _)| *n).collect();
                assert_eq!(numbers, [1, 2, 3]);
            }
        }
    }

    async fn a_line_is_leased_by_one_and_settled_by_whom_it_was_leased_to(db: TestDb) {
        let webhook = webhook(&db).await;
        let phone = Phone::enrolled(&db, "A").await;
        queue(&db, &phone, webhook).await;
        let second = queue(&db, &phone, webhook).await;
        let asked = db.lease(MINUTE);
        assert!(db.read().await.is_line_due(webhook, &asked).await.unwrap());
        let line = lease(&db.store, webhook, &asked).await.remove(0);
        assert_eq!((line.last, line.done, line.attempts), (2, 0, 0));
        assert!(!db.read().await.is_line_due(webhook, &asked).await.unwrap());
        assert!(lease(&db.store, webhook, &asked).await.is_empty());

        // One was sent, the other is put off.
        let later = db.now().plus(MINUTE);
        assert!(settle(&db, &line, 1, None, later).await);
        assert_eq!(waiting(&db, phone.device, webhook).await, [(2, second)]);
        assert!(lease(&db.store, webhook, &asked).await.is_empty(), "not due yet");
        assert!(!settle(&db, &line, 2, None, later).await, "it holds no lease any more");
        db.clock.advance(MINUTE);
        let line = lease(&db.store, webhook, &db.lease(MINUTE)).await.remove(0);

        // What comes meanwhile stays due.
        let third = queue(&db, &phone, webhook).await;
        assert!(settle(&db, &line, 2, None, db.now()).await);
        assert_eq!(waiting(&db, phone.device, webhook).await, [(3, third)]);
        let line = lease(&db.store, webhook, &db.lease(MINUTE)).await.remove(0);
        assert!(settle(&db, &line, 3, None, db.now()).await);
        assert!(lease(&db.store, webhook, &db.lease(MINUTE)).await.is_empty());
        assert_eq!(db.read().await.waiting_for(webhook).await.unwrap(), (0, None));
        assert!(db.read().await.waiting_events().await.unwrap().is_empty());
        assert_eq!(queue(&db, &phone, webhook).await, waiting(&db, phone.device, webhook).await[0].1);
        assert_eq!(waiting(&db, phone.device, webhook).await[0].0, 4, "numbers go on");
    }

    /// On PostgreSQL: the message's transaction holds the line's row when the line is settled.
    async fn an_event_that_is_being_written_while_its_line_is_settled_is_not_lost(db: TestDb) {
        let webhook = webhook(&db).await;
        let phone = Phone::enrolled(&db, "A").await;
        queue(&db, &phone, webhook).await;
        let line = lease(&db.store, webhook, &db.lease(MINUTE)).await.remove(0);
        let other = db.second_process().await;
        let event = event(&db, &phone, webhook);
        let mut tx = other.begin_write().await.unwrap();
        tx.queue_event(&event, db.now()).await.unwrap();
        let settling = tokio::spawn({
            let (db, line) = (db.clone(), line.clone());
            async move { settle(&db, &line, 1, None, db.now()).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        tx.commit().await.unwrap();
        assert!(settling.await.unwrap());
        assert_eq!(waiting(&db, phone.device, webhook).await, [(2, event.id)]);
        assert_eq!(lease(&db.store, webhook, &db.lease(MINUTE)).await.len(), 1);
        other.close().await;
    }

    async fn what_a_process_held_that_is_gone_is_free(db: TestDb) {
        let webhook = webhook(&db).await;
        let phone = Phone::enrolled(&db, "A").await;
        queue(&db, &phone, webhook).await;
        let gone = Lease { holder: ProcessId(uuid::Uuid::from_u128(7)), ..db.lease(60 * MINUTE) };
        let mut tx = db.write().await;
        tx.see_process(gone.holder, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        let line = lease(&db.store, webhook, &gone).await.remove(0);
        db.clock.advance(ALIVE);
        assert!(lease(&db.store, webhook, &db.lease(MINUTE)).await.is_empty());
        db.clock.advance(Duration::from_secs(1));
        assert!(db.read().await.is_line_due(webhook, &db.lease(MINUTE)).await.unwrap());
        assert_eq!(lease(&db.store, webhook, &db.lease(MINUTE)).await.len(), 1);
        assert!(!settle(&db, &line, 1, None, db.now()).await);
        assert_eq!(waiting(&db, phone.device, webhook).await.len(), 1);
    }

    async fn two_processes_never_lease_the_same_line(db: TestDb) {
        let webhook = webhook(&db).await;
        for n in 0..30 {
            queue(&db, &Phone::enrolled(&db, &format!("UDID-{n}")).await, webhook).await;
        }
        let other = db.second_process().await;
        let asked = db.lease(MINUTE);
        let worker = async |store: &Store| {
            let mut mine = Vec::new();
            loop {
                match lease(store, webhook, &asked).await {
                    batch if batch.is_empty() => break mine,
                    batch => mine.extend(batch.into_iter().map(|line| line.device_id)),
                }
            }
        };
        let (mut leased, more) = tokio::join!(worker(&db.store), worker(&other));
        leased.extend(more);
        leased.extend(worker(&db.store).await);
        leased.sort_unstable();
        let count = leased.len();
        leased.dedup();
        assert_eq!((leased.len(), count), (30, 30));
        other.close().await;
    }

    async fn what_was_given_up_is_passed_over_and_comes_back_at_the_end(db: TestDb) {
        let webhook = webhook(&db).await;
        let phone = Phone::enrolled(&db, "A").await;
        let first = queue(&db, &phone, webhook).await;
        let second = queue(&db, &phone, webhook).await;
        let line = lease(&db.store, webhook, &db.lease(MINUTE)).await.remove(0);
        assert!(settle(&db, &line, 0, Some((1, 50, "it answered 500")), db.now()).await);
        assert_eq!(waiting(&db, phone.device, webhook).await, [(2, second)]);
        assert_eq!(db.read().await.waiting_for(webhook).await.unwrap().0, 1);
        let mut read = db.read().await;
        assert_eq!(read.count_dead_events(webhook).await.unwrap(), 1);
        let dead = read.dead_events(webhook, None, 10).await.unwrap().remove(0);
        assert_eq!((dead.id, dead.attempts, dead.error.as_str()), (first, 50, "it answered 500"));
        assert!(read.dead_events(webhook, Some(first), 10).await.unwrap().is_empty());
        assert!(read.dead_event(webhook, second).await.unwrap().is_none());
        drop(read);
        for is_first in [true, false] {
            let mut tx = db.write().await;
            assert_eq!(tx.revive_event(webhook, &dead, db.now()).await.unwrap(), is_first);
            if is_first {
                tx.commit().await.unwrap();
            }
        }
        assert_eq!(waiting(&db, phone.device, webhook).await, [(2, second), (3, first)]);
        assert_eq!(db.read().await.count_dead_events(webhook).await.unwrap(), 0);
    }

    async fn old_events_that_were_given_up_go_and_nothing_else(db: TestDb) {
        let (webhook, other) = (webhook(&db).await, webhook(&db).await);
        let phone = Phone::enrolled(&db, "A").await;
        for id in [webhook, other] {
            queue(&db, &phone, id).await;
            queue(&db, &phone, id).await;
            let line = lease(&db.store, id, &db.lease(MINUTE)).await.remove(0);
            assert!(settle(&db, &line, 0, Some((1, 1, "no")), db.now()).await);
        }
        let mut tx = db.write().await;
        assert_eq!(tx.prune_dead_events(webhook, db.now(), 10).await.unwrap(), 0, "not older than now");
        let later = db.now().plus(MINUTE);
        assert_eq!(tx.prune_dead_events(webhook, later, 10).await.unwrap(), 1);
        assert_eq!(tx.prune_dead_events(webhook, later, 10).await.unwrap(), 0);
        tx.commit().await.unwrap();
        assert_eq!(db.read().await.count_dead_events(other).await.unwrap(), 1);
        assert_eq!(waiting(&db, phone.device, webhook).await.len(), 1);
    }

    async fn what_a_removed_webhook_leaves_goes_in_bits(db: TestDb) {
        let (webhook, other) = (webhook(&db).await, webhook(&db).await);
        for n in 0..7 {
            let phone = Phone::enrolled(&db, &format!("UDID-{n}")).await;
            queue(&db, &phone, webhook).await;
            if n % 2 == 0 {
                queue(&db, &phone, other).await;
            }
        }
        let mut tx = db.write().await;
        assert!(!tx.remove_webhook(webhook, 9, db.now()).await.unwrap(), "another revision");
        assert!(tx.remove_webhook(webhook, 1, db.now()).await.unwrap());
        assert!(tx.webhook(webhook).await.unwrap().is_none());
        let (mut after, mut rounds) = (DeviceId(uuid::Uuid::nil()), 0);
        while let Some(last) = tx.prune_lines(webhook, after, 3).await.unwrap() {
            (after, rounds) = (last, rounds + 1);
        }
        tx.forget_webhook(webhook).await.unwrap();
        tx.forget_webhook(other).await.unwrap();
        tx.commit().await.unwrap();
        assert!(rounds > 2, "{rounds}");
        assert_eq!(db.read().await.all_webhooks().await.unwrap().len(), 1, "one that is there is not forgotten");
        assert_eq!(db.read().await.waiting_for(webhook).await.unwrap().0, 0);
        assert_eq!(db.read().await.waiting_for(other).await.unwrap().0, 4);
        assert_eq!(db.texts("SELECT CAST(COUNT(*) AS TEXT) FROM webhook_events").await, ["4"]);
    }
}
