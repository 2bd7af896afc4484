//! Commands by the names that tools chose, and enrollments that were taken over.

use muster::model::CommandId;
use muster::store::StoreError;

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
}
