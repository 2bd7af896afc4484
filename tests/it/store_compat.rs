//! Commands by the names that tools chose, and enrollments that were taken over.

use muster::model::{CommandId, EnrollmentId};
use muster::store::{Standing, StoreError};
use uuid::Uuid;

use crate::support::db::TestDb;
use crate::support::rows::{ACCEPTED, HOUR, MINUTE, Phone, command};

both_databases! {
    async fn a_command_and_its_delivery_are_found_by_the_tools_name(db: TestDb) {
        let (one, two) = (Phone::enrolled(&db, "UDID-1").await, Phone::enrolled(&db, "UDID-2").await);
        let new = command(&db, "DeviceInformation");
        one.queue(&db, &new).await;
        let mut tx = db.write().await;
        assert!(tx.command_by_wire_uuid_for_update("CMD1").await.unwrap().is_none());
        tx.set_wire_uuid(new.id, "CMD1", b"digest").await.unwrap();
        tx.add_targets(new.id, 2).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.write().await;
        let row = tx.command_by_wire_uuid_for_update("CMD1").await.unwrap().unwrap();
        assert_eq!((row.id, row.wire_uuid.as_deref(), row.target_count), (new.id, Some("CMD1"), 3));
        assert_eq!(row.wire_sealed.as_deref(), Some(b"digest".as_slice()));
        drop(tx);
        let mut read = db.read().await;
        let of_one = read.delivery_by_wire_uuid(one.id, "CMD1").await.unwrap().unwrap();
        assert_eq!((of_one.command_id, of_one.enrollment_id), (new.id, one.id));
        assert!(read.delivery_by_wire_uuid(two.id, "CMD1").await.unwrap().is_none());
        assert!(read.delivery_by_wire_uuid(one.id, "cmd1").await.unwrap().is_none(), "names are compared as they are");
    }

    async fn a_name_is_given_once(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let (one, two) = (command(&db, "DeviceInformation"), command(&db, "SecurityInfo"));
        for new in [&one, &two] {
            phone.queue(&db, new).await;
        }
        let give = async |id: CommandId| {
            let mut tx = db.write().await;
            tx.set_wire_uuid(id, "CMD1", b"digest").await?;
            tx.commit().await
        };
        give(one.id).await.unwrap();
        assert!(matches!(give(two.id).await, Err(StoreError::Conflict(_))));
    }

    async fn only_what_was_taken_over_and_has_never_had_a_pin_is_without_one(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let is_without = async || db.read().await.is_migrated_without_pin(phone.id).await.unwrap();
        assert!(!is_without().await);
        let mut tx = db.write().await;
        tx.set_migrated(phone.id, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!is_without().await, "it has a pin");
        let mut tx = db.write().await;
        tx.revoke_pins(phone.id, None, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!is_without().await, "it has had one");
    }

    async fn the_end_of_a_push_says_for_which_request_it_was(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let request = async || {
            let mut tx = db.write().await;
            tx.request_wake(phone.id, db.now(), db.now().plus(HOUR)).await.unwrap();
            let row = tx.wake(phone.id).await.unwrap().unwrap();
            tx.commit().await.unwrap();
            row
        };
        let first = request().await;
        let mut tx = db.write().await;
        let due = tx.lease_wakes(&db.lease(MINUTE), 10).await.unwrap();
        tx.commit().await.unwrap();
        let second = request().await;
        assert!(second.revision > first.revision);
        let mut tx = db.write().await;
        assert!(tx.finish_wake(&due[0], &ACCEPTED, db.now()).await.unwrap());
        tx.commit().await.unwrap();
        let row = db.read().await.wake(phone.id).await.unwrap().unwrap();
        assert_eq!(row.last_revision, Some(first.revision));
        assert_eq!((row.leased_until, row.due_at), (None, Some(db.now())), "the second push is due");
    }

    async fn an_enrollment_is_awaited_until_something_of_it_is_heard_here(db: TestDb) {
        let standing = async |id| db.read().await.standing(id).await.unwrap();
        let own = Phone::enrolled(&db, "UDID-0").await;
        assert_eq!(standing(own.id).await, Standing::EnrolledHere);
        let later = db.now().plus(MINUTE);
        for (udid, heard) in [
            ("UDID-1", "UPDATE enrollments SET last_seen_at = {later}"),
            ("UDID-2", "UPDATE enrollments SET connection = 1"),
            ("UDID-3", "UPDATE enrollments SET disabled_at = {later}"),
        ] {
            let phone = Phone::enrolled(&db, udid).await;
            db.execute("UPDATE identities SET authority_id = NULL").await;
            let mut tx = db.write().await;
            tx.set_migrated_seen(phone.id, db.now().minus(HOUR), db.now()).await.unwrap();
            tx.commit().await.unwrap();
            db.execute("UPDATE enrollments SET connection = 0").await;
            assert_eq!(standing(phone.id).await, Standing::Awaited, "{udid}");
            db.execute(&heard.replace("{later}", &later.micros().to_string())).await;
            assert_eq!(standing(phone.id).await, Standing::CameHere, "{udid}");
            db.execute(&format!("UPDATE enrollments SET authenticated_at = {}", later.micros())).await;
            assert_eq!(standing(phone.id).await, Standing::EnrolledHere, "{udid}");
            db.execute(&format!("UPDATE enrollments SET authenticated_at = {}", db.now().micros())).await;
        }
    }

    async fn what_was_taken_over_and_not_handed_over_is_found_in_pages(db: TestDb) {
        let (one, two) = (Phone::enrolled(&db, "UDID-1").await, Phone::enrolled(&db, "UDID-2").await);
        let made = [(&one, command(&db, "ProfileList"), "CMD1"), (&two, command(&db, "UserList"), "CMD2")];
        for (phone, new, name) in &made {
            phone.queue(&db, new).await;
            let mut tx = db.write().await;
            tx.set_wire_uuid(new.id, name, b"digest").await.unwrap();
            tx.set_migrated(phone.id, db.now()).await.unwrap();
            tx.hold_command(new.id, db.now()).await.unwrap();
            tx.commit().await.unwrap();
        }
        let row = db.read().await.command_by_wire_uuid("CMD1").await.unwrap().unwrap();
        assert_eq!(row.held_at, Some(db.now()));
        let page = async |by: &str, after, limit| {
            let mut read = db.read().await;
            read.taken_over_and_queued(by, after, limit).await.unwrap()
        };
        let start = (EnrollmentId(Uuid::nil()), CommandId(Uuid::nil()));
        let first = page(&row.created_by, start, 1).await;
        let after = (first[0].enrollment_id, first[0].command_id);
        let second = page(&row.created_by, after, 1).await;
        let mut found = [&first[0], &second[0]].map(|row| (row.apple_id.as_str(), row.wire_uuid.as_str()));
        found.sort_unstable();
        assert_eq!(found, [("UDID-1", "CMD1"), ("UDID-2", "CMD2")]);
        assert!(page("somebody else", start, 10).await.is_empty());
        db.execute("UPDATE deliveries SET state = 'sent', attempts = 1").await;
        assert!(page(&row.created_by, start, 10).await.is_empty());
    }
}
