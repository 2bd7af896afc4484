//! Enrollment links and SCEP challenges: a use is held from the certificate on and counts once.

use muster::model::{ChallengeId, EnrollmentId, LinkId};
use muster::store::{Challenge, Link, NewChallenge, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, HOUR, MINUTE, challenge, link};

async fn minted(db: &TestDb, new: &NewChallenge<'_>) -> ChallengeId {
    let mut tx = db.write().await;
    tx.insert_challenge(new, db.now()).await.unwrap();
    tx.commit().await.unwrap();
    new.id
}

async fn made(db: &TestDb, link: &Link) -> LinkId {
    let mut tx = db.write().await;
    tx.insert_link(link).await.unwrap();
    tx.commit().await.unwrap();
    link.id
}

both_databases! {
    async fn a_link_reads_back_by_code_and_by_id(db: TestDb) {
        let new = Link {
            user_name: Some("Reception".to_owned()),
            user_email: Some("desk@example.org".to_owned()),
            ..link(&db, Some(3))
        };
        made(&db, &new).await;
        let mut read = db.read().await;
        let found = read.link_by_code(new.code_hash).await.unwrap().unwrap();
        assert_eq!((found.id, found.uses_allowed, found.uses_count), (new.id, Some(3), 0));
        assert_eq!((found.user_email, found.expires_at), (new.user_email.clone(), new.expires_at));
        assert_eq!(read.link(new.id).await.unwrap().unwrap().name, new.name);
        assert!(read.link_by_code(db.digest()).await.unwrap().is_none());
        drop(read);

        let twin = Link { id: db.id(LinkId::new), ..new };
        assert!(matches!(db.write().await.insert_link(&twin).await, Err(StoreError::Conflict(_))));
    }

    async fn links_are_listed_newest_first_page_by_page(db: TestDb) {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.insert(0, made(&db, &link(&db, None)).await);
            db.clock.advance(MINUTE);
        }
        let mut read = db.read().await;
        let mut page = async |before, limit| {
            read.links(before, limit).await.unwrap().iter().map(|l| l.id).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 10).await, ids);
        assert_eq!(page(None, 2).await, ids[..2]);
        assert_eq!(page(Some(ids[1]), 2).await, ids[2..]);
    }

    async fn a_link_ends_once(db: TestDb) {
        let id = made(&db, &link(&db, None)).await;
        let mut tx = db.write().await;
        assert!(tx.revoke_link(id, db.now()).await.unwrap());
        assert!(!tx.revoke_link(id, db.now().plus(MINUTE)).await.unwrap());
        assert!(!tx.revoke_link(db.id(LinkId::new), db.now()).await.unwrap());
        assert_eq!(tx.link_for_update(id).await.unwrap().unwrap().revoked_at, Some(db.now()));
    }

    async fn a_challenge_reads_back(db: TestDb) {
        let new = NewChallenge {
            purpose: "renewal",
            name: "renewal of a phone",
            enrollment_id: Some(db.id(EnrollmentId::new)),
            uses_allowed: 2,
            ..challenge(&db, None)
        };
        minted(&db, &new).await;
        let mut tx = db.write().await;
        let Challenge { id, purpose, enrollment_id, uses_allowed, uses_count, counted_at, .. } =
            tx.challenge_for_update(new.hash).await.unwrap().unwrap();
        assert_eq!((id, purpose.as_str(), enrollment_id), (new.id, "renewal", new.enrollment_id));
        assert_eq!((uses_allowed, uses_count, counted_at), (2, 0, None));
        assert_eq!(tx.challenge(new.id).await.unwrap().unwrap().hash, new.hash);
        assert_eq!(tx.challenge_by_hash(new.hash).await.unwrap().unwrap().id, new.id);
        assert!(tx.challenge_for_update(db.digest()).await.unwrap().is_none());
    }

    async fn a_use_is_held_from_the_certificate_on_and_counts_once_at_the_first_token_update(db: TestDb) {
        let reception = made(&db, &link(&db, Some(1))).await;
        let opened = minted(&db, &challenge(&db, Some(reception))).await;
        let mut tx = db.write().await;
        assert_eq!(tx.reserved_uses(reception, db.now()).await.unwrap(), 0, "reading the profile uses nothing up");

        tx.use_challenge(opened, Some(db.now().plus(HOUR))).await.unwrap();
        assert_eq!(tx.reserved_uses(reception, db.now()).await.unwrap(), 1);
        assert_eq!(tx.link(reception).await.unwrap().unwrap().uses_count, 0);

        assert!(tx.count_link_use(opened, db.now()).await.unwrap());
        assert!(!tx.count_link_use(opened, db.now()).await.unwrap(), "a second TokenUpdate");
        assert_eq!(tx.reserved_uses(reception, db.now()).await.unwrap(), 0);
        assert_eq!(tx.link(reception).await.unwrap().unwrap().uses_count, 1);
    }

    async fn a_use_held_by_a_phone_that_never_enrolled_comes_free(db: TestDb) {
        let reception = made(&db, &link(&db, Some(1))).await;
        let opened = minted(&db, &challenge(&db, Some(reception))).await;
        let mut tx = db.write().await;
        tx.use_challenge(opened, Some(db.now().plus(HOUR))).await.unwrap();
        db.clock.advance(HOUR);
        assert_eq!(tx.reserved_uses(reception, db.now()).await.unwrap(), 0);
        // It may still come late: then it counts all the same.
        assert!(tx.count_link_use(opened, db.now()).await.unwrap());
    }

    async fn a_challenge_made_for_a_tool_counts_for_no_link(db: TestDb) {
        let opened = minted(&db, &challenge(&db, None)).await;
        let mut tx = db.write().await;
        tx.use_challenge(opened, None).await.unwrap();
        assert!(!tx.count_link_use(opened, db.now()).await.unwrap());
        assert!(!tx.count_link_use(db.id(ChallengeId::new), db.now()).await.unwrap());
    }

    async fn only_unused_challenges_within_their_time_are_open(db: TestDb) {
        let reception = made(&db, &link(&db, Some(1))).await;
        let other = made(&db, &link(&db, Some(1))).await;
        minted(&db, &NewChallenge { expires_at: db.now().plus(MINUTE), ..challenge(&db, Some(reception)) }).await;
        let used = minted(&db, &challenge(&db, Some(reception))).await;
        minted(&db, &challenge(&db, Some(reception))).await;
        minted(&db, &challenge(&db, Some(other))).await;
        let mut tx = db.write().await;
        assert_eq!(tx.open_challenges(reception, db.now()).await.unwrap(), 3);
        tx.use_challenge(used, None).await.unwrap();
        assert_eq!(tx.open_challenges(reception, db.now()).await.unwrap(), 2);
        db.clock.advance(MINUTE);
        assert_eq!(tx.open_challenges(reception, db.now()).await.unwrap(), 1);
    }

    async fn expired_challenges_are_forgotten_unless_they_gave_a_certificate(db: TestDb) {
        let unused = minted(&db, &challenge(&db, None)).await;
        let used = minted(&db, &challenge(&db, None)).await;
        let open = minted(&db, &NewChallenge { expires_at: db.now().plus(3 * DAY), ..challenge(&db, None) }).await;
        let mut tx = db.write().await;
        tx.use_challenge(used, None).await.unwrap();
        db.clock.advance(DAY);
        assert_eq!(tx.delete_expired_challenges(db.now()).await.unwrap(), 1);
        assert!(tx.challenge(unused).await.unwrap().is_none());
        assert!(tx.challenge(used).await.unwrap().is_some());
        assert!(tx.challenge(open).await.unwrap().is_some());
    }

    /// Two requests with one challenge at once: the row is locked from reading to commit, so one of them sees it used.
    async fn of_two_requests_with_one_challenge_one_gets_the_use(db: TestDb) {
        let new = challenge(&db, None);
        minted(&db, &new).await;
        let take = async || {
            let mut tx = db.write().await;
            let seen = tx.challenge_for_update(new.hash).await.unwrap().unwrap();
            let free = seen.uses_count < seen.uses_allowed;
            if free {
                tx.use_challenge(new.id, None).await.unwrap();
            }
            tx.commit().await.unwrap();
            free
        };
        let (a, b, c) = tokio::join!(take(), take(), take());
        assert_eq!([a, b, c].iter().filter(|free| **free).count(), 1);
        assert_eq!(db.read().await.challenge(new.id).await.unwrap().unwrap().uses_count, 1);
    }
}
