//! What the answers of the push service do to a wake-up, and when it is tried again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use muster::model::{Role, Secret};
use muster::pki::PrivateKey;
use muster::pki::authority::make_tls_root;
use muster::pki::push::issue_fake;
use muster::remote::apns::{ApnsIdentity, Push, PushOutcome, Pusher};
use muster::service::push_certificates::{NewCertificate, put};
use muster::service::wakes::send_due;
use muster::service::{App, Parts};
use muster::store::{PushFacts, WakeRow};
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, actor};
use crate::support::rows::{DAY, HOUR, MINUTE, Phone, TOPIC, push};

/// A phone that should be woken, on a server with a push certificate.
async fn waiting(t: &TestApp) -> Phone {
    upload_certificate(t).await;
    let phone = Phone::enrolled(&t.db, "A").await;
    wake(t, &phone).await;
    phone
}

async fn upload_certificate(t: &TestApp) {
    let (now, random) = (t.now(), &*t.db.random);
    let apple = make_tls_root("Fake Apple", "", now, random).unwrap();
    let made =
        issue_fake(&apple, PrivateKey::generate_p256().unwrap(), TOPIC, now, 365 * DAY, random).unwrap().identity;
    let file = format!("{}{}", made.certificate.to_pem(), made.key.to_pem().expose()).into_bytes();
    let new = NewCertificate { file: Secret::new(file), password: None, default: None, force: false };
    put(&t.app, &actor(Role::Admin), new).await.unwrap();
}

async fn wake(t: &TestApp, phone: &Phone) {
    let mut tx = t.db.write().await;
    tx.request_wake(phone.id, t.now(), t.now().plus(HOUR)).await.unwrap();
    tx.commit().await.unwrap();
}

/// Sends what is due; how it ended, and the wake-up's row.
async fn sent(t: &TestApp, phone: &Phone) -> (Vec<&'static str>, WakeRow) {
    let results = send_due(&t.app).await.unwrap().results;
    (results, t.db.read().await.wake(phone.id).await.unwrap().unwrap())
}

fn gone(t: &TestApp, before: Duration) -> PushOutcome {
    PushOutcome::Refused { status: 410, reason: "Unregistered".to_owned(), at: Some(t.now().minus(before)) }
}

/// Answers, when the story has come to both barriers, that the token `gone` is.
struct SlowPusher {
    pushing: Barrier,
    answered: Barrier,
}

impl Pusher for SlowPusher {
    fn push<'a>(&'a self, _: &'a ApnsIdentity, push: &'a Push) -> BoxFuture<'a, PushOutcome> {
        async move {
            if push.token != b"gone" {
                return PushOutcome::Accepted { apns_id: None };
            }
            self.pushing.wait().await;
            self.answered.wait().await;
            PushOutcome::Refused { status: 410, reason: "Unregistered".to_owned(), at: None }
        }
        .boxed()
    }
}

/// The same server with a slow push service.
fn slowly(t: &TestApp) -> (App, Arc<SlowPusher>) {
    let pusher = Arc::new(SlowPusher { pushing: Barrier::new(2), answered: Barrier::new(2) });
    let app = App::new(Parts {
        store: t.db.store.clone(),
        settings: t.app.settings.clone(),
        vault: t.app.vault().clone(),
        clock: t.db.clock.clone(),
        random: t.db.random.clone(),
        pusher: pusher.clone(),
    });
    (app, pusher)
}

both_databases! {
    /// As a command for both is accepted: it holds their enrollments, and asks for their wake-ups then.
    async fn an_invalid_token_and_a_command_do_not_wait_for_each_other(t: TestApp) {
        let first = waiting(&t).await;
        t.db.clock.advance(MINUTE);
        let second = Phone::enrolled(&t.db, "B").await;
        let mut tx = t.db.write().await;
        tx.set_push(second.id, &PushFacts { token: b"gone", ..push(TOPIC) }, t.now()).await.unwrap();
        tx.commit().await.unwrap();
        wake(&t, &second).await;
        t.db.clock.advance(MINUTE);
        assert!(first.id < second.id);

        let (app, pusher) = slowly(&t);
        let sending = tokio::spawn(async move { send_due(&app).await });
        pusher.pushing.wait().await;
        let mut tx = t.db.write().await;
        for phone in [&first, &second] {
            tx.enrollment_by_id_for_update(phone.id).await.unwrap().unwrap();
        }
        pusher.answered.wait().await;
        // Time for the answers to be written, as far as they can.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for phone in [&first, &second] {
            tx.request_wake(phone.id, t.now(), t.now().plus(HOUR)).await.unwrap();
        }
        tx.commit().await.unwrap();
        let mut results = sending.await.unwrap().unwrap().results;
        results.sort_unstable();
        assert_eq!(results, ["accepted", "token_invalid"]);
        assert!(second.row(&t.db).await.push_token.is_none());
    }

    async fn a_slow_push_holds_up_no_other(t: TestApp) {
        let quick = waiting(&t).await;
        let slow = Phone::enrolled(&t.db, "B").await;
        let mut tx = t.db.write().await;
        tx.set_push(slow.id, &PushFacts { token: b"gone", ..push(TOPIC) }, t.now()).await.unwrap();
        tx.commit().await.unwrap();
        wake(&t, &slow).await;
        let (app, pusher) = slowly(&t);
        let (stop, results) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let told = results.clone();
        let pushed = Arc::new(move |result| told.lock().unwrap().push(result));
        let observers = muster::worker::Observers { pushed, ..Default::default() };
        let worker = tokio::spawn(muster::worker::run(app.clone(), stop.clone(), observers));
        pusher.pushing.wait().await;

        // While that is under way, others are pushed to and settled, one after the other.
        for count in 1..4 {
            let is_done = async || {
                let row = t.db.read().await.wake(quick.id).await.unwrap().unwrap();
                row.due_at.is_none() && results.lock().unwrap().len() == count
            };
            tokio::time::timeout(Duration::from_secs(10), async {
                while !is_done().await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .expect("the wake-up is settled");
            if count < 3 {
                wake(&t, &quick).await;
                app.signals.push.notify_one();
            }
        }
        assert!(t.db.read().await.wake(slow.id).await.unwrap().unwrap().due_at.is_some(), "it is under way");
        stop.cancel();
        pusher.answered.wait().await;
        worker.await.unwrap();
        assert_eq!(*results.lock().unwrap(), ["accepted", "accepted", "accepted", "token_invalid"]);
    }

    async fn a_token_that_came_while_the_push_was_under_way_is_kept(t: TestApp) {
        upload_certificate(&t).await;
        let phone = Phone::enrolled(&t.db, "A").await;
        let mut tx = t.db.write().await;
        tx.set_push(phone.id, &PushFacts { token: b"gone", ..push(TOPIC) }, t.now()).await.unwrap();
        tx.commit().await.unwrap();
        wake(&t, &phone).await;
        let (app, pusher) = slowly(&t);
        let sending = tokio::spawn(async move { send_due(&app).await });
        pusher.pushing.wait().await;
        t.db.clock.advance(MINUTE);
        phone.token_update(&t.db).await;
        wake(&t, &phone).await;
        t.db.clock.advance(MINUTE);
        pusher.answered.wait().await;
        assert_eq!(sending.await.unwrap().unwrap().results, ["token_invalid"]);
        assert_eq!(phone.row(&t.db).await.push_token.as_deref(), Some(&b"token"[..]));
        assert_eq!(sent(&t, &phone).await.0, ["accepted"], "the request for it stays due");
    }

    async fn an_accepted_push_ends_the_wake_up(t: TestApp) {
        let phone = waiting(&t).await;
        t.pusher.answer(PushOutcome::Accepted { apns_id: Some("6f1c".to_owned()) });
        let (results, row) = sent(&t, &phone).await;
        assert_eq!((results, row.due_at), (vec!["accepted"], None));
        assert_eq!((row.last_at, row.last_apns_id.as_deref()), (Some(t.now()), Some("6f1c")));
        let pushed = t.pusher.take();
        assert_eq!((pushed.len(), pushed[0].token.as_slice(), pushed[0].magic.as_str()), (1, &b"token"[..], "magic"));
        assert!(sent(&t, &phone).await.0.is_empty());
    }

    async fn a_token_that_was_gone_before_it_came_is_another_one(t: TestApp) {
        let phone = waiting(&t).await;
        t.pusher.answer(gone(&t, HOUR));
        let (results, row) = sent(&t, &phone).await;
        assert_eq!(results, ["later"]);
        assert!(row.due_at > Some(t.now()));
        assert!(phone.row(&t.db).await.push_token.is_some());

        // From then on it is this one.
        t.db.clock.advance(HOUR);
        t.pusher.answer(gone(&t, MINUTE));
        let (results, row) = sent(&t, &phone).await;
        assert_eq!((results, row.due_at), (vec!["token_invalid"], None));
        assert!(phone.row(&t.db).await.push_token.is_none());

        // Nothing is sent to it, until a TokenUpdate brings another.
        wake(&t, &phone).await;
        assert_eq!(sent(&t, &phone).await.0, ["not_possible"]);
        t.pusher.take();
        phone.token_update(&t.db).await;
        wake(&t, &phone).await;
        assert_eq!(sent(&t, &phone).await.0, ["accepted"]);
    }

    async fn a_busy_service_is_asked_again_when_it_said(t: TestApp) {
        let phone = waiting(&t).await;
        let after = Some(10 * MINUTE);
        t.pusher.answer(PushOutcome::Later { after, reason: "TooManyRequests".to_owned() });
        let (results, row) = sent(&t, &phone).await;
        assert_eq!((results, row.due_at), (vec!["later"], Some(t.now().plus(10 * MINUTE))));
        assert_eq!(row.last_reason.as_deref(), Some("TooManyRequests"));
        t.db.clock.advance(9 * MINUTE);
        assert!(sent(&t, &phone).await.0.is_empty());
        t.db.clock.advance(MINUTE);
        assert_eq!(sent(&t, &phone).await.0, ["accepted"]);
    }

    async fn pauses_grow_while_the_service_is_away(t: TestApp) {
        let phone = waiting(&t).await;
        let mut longest = Duration::ZERO;
        for _ in 0..6 {
            t.pusher.answer(PushOutcome::Unreachable { reason: "connection refused".to_owned() });
            let (results, row) = sent(&t, &phone).await;
            assert_eq!(results, ["unreachable"]);
            let pause = row.due_at.unwrap().since(t.now());
            assert!(pause * 2 > longest && pause <= HOUR, "{pause:?} after {longest:?}");
            longest = longest.max(pause);
            t.db.clock.advance(pause);
        }
        assert!(longest > MINUTE, "{longest:?}");
        assert_eq!(sent(&t, &phone).await.0, ["accepted"]);
    }

    async fn another_certificate_ends_the_pause_that_the_first_one_brought(t: TestApp) {
        let phone = waiting(&t).await;
        muster::worker::run_due_jobs(&t.app).await.unwrap();
        let refused = || PushOutcome::Refused { status: 403, reason: "BadCertificate".to_owned(), at: None };
        for came_by_itself in [false, true] {
            t.pusher.answer(refused());
            assert_eq!(sent(&t, &phone).await.0, ["refused"]);
            if came_by_itself {
                let mut tx = t.db.write().await;
                tx.put_off_wake(phone.id, None).await.unwrap();
                tx.commit().await.unwrap();
            } else {
                wake(&t, &phone).await;
            }
            assert!(sent(&t, &phone).await.0.is_empty(), "the certificate is the same still");
            upload_certificate(&t).await;
            muster::worker::run_due_jobs(&t.app).await.unwrap();
            assert_eq!(sent(&t, &phone).await.0, ["accepted"]);
            wake(&t, &phone).await;
        }
    }

    async fn what_is_wrong_with_the_certificate_is_not_the_devices_fault(t: TestApp) {
        let phone = waiting(&t).await;
        t.pusher.answer(PushOutcome::Refused { status: 403, reason: "BadCertificate".to_owned(), at: None });
        let (results, row) = sent(&t, &phone).await;
        assert_eq!(results, ["refused"]);
        assert!(row.due_at >= Some(t.now().plus(10 * MINUTE)), "{row:?}");

        t.db.clock.advance(HOUR);
        t.pusher.answer(PushOutcome::Refused { status: 400, reason: "BadDeviceToken".to_owned(), at: None });
        let (results, row) = sent(&t, &phone).await;
        assert_eq!((results, row.due_at), (vec!["refused"], None));
        assert_eq!(row.last_reason.as_deref(), Some("400 BadDeviceToken"));
    }
}
