//! What is held after a restore, and what is ended.

use muster::model::{CommandId, EnrollmentId};
use muster::store::{CommandFilter, NewCommand};
use uuid::Uuid;

use crate::support::db::TestDb;
use crate::support::rows::{HOUR, MINUTE, Phone, challenge, command, link};

/// The request types that are held here.
const TYPES: [&str; 4] = ["erasedevice", "devicelock", "clearpasscode", "x"];

async fn held(db: &TestDb) -> Vec<CommandId> {
    let filter = CommandFilter { only_held: true, ..CommandFilter::default() };
    db.read().await.list_commands(&filter, false, None, 100).await.unwrap().rows.into_iter().map(|row| row.id).collect()
}

both_databases! {
    async fn what_is_open_and_hurts_is_held_until_it_is_released(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let wipe = phone.queue(&db, &command(&db, "EraseDevice")).await.command_id;
        db.clock.advance(MINUTE);
        let odd = phone.queue(&db, &command(&db, " devicelock ")).await.command_id;
        db.clock.advance(MINUTE);
        let unenroll = NewCommand { destruction: Some("unenroll"), ..command(&db, "RemoveProfile") };
        let unenroll = phone.queue(&db, &unenroll).await.command_id;
        db.clock.advance(MINUTE);
        let mut tx = db.write().await;
        let number = tx.fleet_number_for_command().await.unwrap();
        let all = NewCommand { fleet_number: Some(number), ..command(&db, "ClearPasscode") };
        tx.insert_command(&all, db.now()).await.unwrap();
        // Nobody gets these any more.
        tx.insert_command(&command(&db, "EraseDevice"), db.now()).await.unwrap();
        tx.commit().await.unwrap();
        let over = phone.queue(&db, &command(&db, "EraseDevice")).await.command_id;
        let mut tx = db.write().await;
        tx.cancel_command(over, db.now()).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = db.write().await;
        assert_eq!(tx.hold_commands(TYPES, db.now()).await.unwrap(), 4);
        assert_eq!(tx.hold_commands(TYPES, db.now()).await.unwrap(), 0, "again it does nothing");
        tx.commit().await.unwrap();
        assert_eq!(held(&db).await, [wipe, odd, unenroll, all.id]);
        assert_eq!(db.read().await.count_held_commands().await.unwrap(), 4);
        assert_eq!(db.read().await.command(wipe).await.unwrap().unwrap().held_at, Some(db.now()));
        let nobody = EnrollmentId(Uuid::nil());
        assert_eq!(db.read().await.open_for(wipe, nobody, 10).await.unwrap(), [phone.id]);
        assert_eq!(db.read().await.open_for(wipe, phone.id, 10).await.unwrap(), []);

        let mut tx = db.write().await;
        tx.cancel_command(odd, db.now()).await.unwrap();
        assert!(tx.release_command(wipe).await.unwrap());
        assert!(!tx.release_command(wipe).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(held(&db).await, [unenroll, all.id]);
    }

    async fn what_is_held_counts_as_nothing_to_deliver(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        assert!(!db.read().await.has_deliverable(phone.id).await.unwrap());
        let wipe = phone.queue(&db, &command(&db, "EraseDevice")).await.command_id;
        assert!(db.read().await.has_deliverable(phone.id).await.unwrap());
        let mut tx = db.write().await;
        tx.hold_commands(TYPES, db.now()).await.unwrap();
        assert!(!tx.has_deliverable(phone.id).await.unwrap());
        assert_eq!(tx.unfinished_deliveries(phone.id).await.unwrap().len(), 1, "it is open still");
        tx.release_command(wipe).await.unwrap();
        assert!(tx.has_deliverable(phone.id).await.unwrap());
    }

    async fn links_and_challenges_end_at_once(db: TestDb) {
        let (open, tool) = (link(&db, None), challenge(&db, None));
        let mut tx = db.write().await;
        tx.insert_link(&open).await.unwrap();
        tx.insert_challenge(&tool, db.now()).await.unwrap();
        db.clock.advance(MINUTE);
        assert_eq!((tx.revoke_all_links(db.now()).await.unwrap(), tx.end_all_challenges(db.now()).await.unwrap()), (1, 1));
        let ended = db.now();
        db.clock.advance(HOUR);
        assert_eq!((tx.revoke_all_links(db.now()).await.unwrap(), tx.end_all_challenges(db.now()).await.unwrap()), (0, 0));
        assert_eq!(tx.link(open.id).await.unwrap().unwrap().revoked_at, Some(ended));
        assert_eq!(tx.challenge(tool.id).await.unwrap().unwrap().expires_at, ended);
    }

    async fn a_backup_is_known_until_it_is_marked(db: TestDb) {
        let copy = db.restored().await;
        let is_sqlite = db.store.sqlite_file().is_some();
        assert_eq!((db.store.is_backup().await.unwrap(), copy.store.is_backup().await.unwrap()), (false, is_sqlite));
        assert_eq!(db.store.size_bytes().await.unwrap() > 0, is_sqlite);
        let mut tx = copy.write().await;
        tx.end_backup().await.unwrap();
        tx.commit().await.unwrap();
        assert!(!copy.store.is_backup().await.unwrap());
        assert_eq!(copy.store.damage().await.unwrap(), [""; 0]);
        copy.store.close().await;
    }
}
