//! Devices: what a message does not tell stays as it was; history outlives removal.

use muster::model::{DeviceId, LinkId};
use muster::store::{DeviceFacts, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{MINUTE, Phone};

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

both_databases! {
    async fn an_authenticate_without_model_and_serial_makes_a_device_all_the_same(db: TestDb) {
        let phone = Phone::authenticated(&db, "any string: ümlaut/;--").await;
        let mut read = db.read().await;
        let device = read.device_by_udid("any string: ümlaut/;--").await.unwrap().unwrap();
        assert_eq!((device.id, device.platform.as_str()), (phone.device, "apple"));
        assert_eq!((device.serial, device.model, device.supervised), (None, None, None));
        assert_eq!((device.created_at, device.updated_at, device.removed_at), (db.now(), db.now(), None));
        assert_eq!(read.device(phone.device).await.unwrap().unwrap().udid, some("any string: ümlaut/;--"));
        assert!(read.device(db.id(DeviceId::new)).await.unwrap().is_none());
        assert!(read.device_by_udid("ANY STRING: ÜMLAUT/;--").await.unwrap().is_none(), "ids are compared exactly");
    }

    async fn every_fact_is_kept_until_a_later_message_tells_another(db: TestDb) {
        let id = db.id(DeviceId::new);
        let facts = DeviceFacts {
            udid: some("UDID-1"),
            apple_enrollment_id: some("ENROLLMENT-1"),
            serial: some("C02"),
            name: some("Front desk"),
            model: some("MTXR3"),
            model_name: some("iPhone"),
            product_name: some("iPhone15,2"),
            os_version: some("17.1"),
            build_version: some("21B74"),
            imei: some("35 000000 000000 0"),
            supervised: Some(true),
        };
        let mut tx = db.write().await;
        tx.insert_device(id, &facts, db.now()).await.unwrap();
        db.clock.advance(MINUTE);
        let update = DeviceFacts { os_version: some("17.2"), supervised: Some(false), ..DeviceFacts::default() };
        tx.update_device(id, &update, db.now()).await.unwrap();

        let device = tx.device(id).await.unwrap().unwrap();
        assert_eq!((device.os_version, device.supervised, device.updated_at), (some("17.2"), Some(false), db.now()));
        assert_eq!((device.udid, device.apple_enrollment_id), (facts.udid, facts.apple_enrollment_id));
        assert_eq!((device.serial, device.name, device.imei), (facts.serial, facts.name, facts.imei));
        assert_eq!((device.model, device.model_name), (facts.model, facts.model_name));
        assert_eq!((device.product_name, device.build_version), (facts.product_name, facts.build_version));
    }

    async fn one_udid_is_one_device(db: TestDb) {
        Phone::authenticated(&db, "UDID-1").await;
        let twin = DeviceFacts { udid: some("UDID-1"), ..DeviceFacts::default() };
        let refused = db.write().await.insert_device(db.id(DeviceId::new), &twin, db.now()).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))));
    }

    async fn a_serial_number_may_be_shared_and_finds_no_removed_device(db: TestDb) {
        let mut ids = Vec::new();
        let mut tx = db.write().await;
        for udid in ["UDID-1", "UDID-2", "UDID-3"] {
            ids.push(db.id(DeviceId::new));
            let facts = DeviceFacts { udid: some(udid), serial: some("C02"), ..DeviceFacts::default() };
            tx.insert_device(*ids.last().unwrap(), &facts, db.now()).await.unwrap();
        }
        assert_eq!(tx.devices_by_serial("C02").await.unwrap().len(), 2, "two are enough to see that it is not one");
        assert!(tx.remove_device(ids[0], db.now()).await.unwrap());
        assert!(tx.remove_device(ids[1], db.now()).await.unwrap());
        let left: Vec<_> = tx.devices_by_serial("C02").await.unwrap().iter().map(|d| d.id).collect();
        assert_eq!(left, [ids[2]]);
    }

    async fn a_removed_device_comes_back_by_a_link(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let mut tx = db.write().await;
        assert!(tx.remove_device(phone.device, db.now()).await.unwrap());
        assert!(!tx.remove_device(phone.device, db.now()).await.unwrap(), "removed already");
        assert_eq!(tx.device(phone.device).await.unwrap().unwrap().removed_at, Some(db.now()));

        let link = db.id(LinkId::new);
        tx.set_device_owner(phone.device, Some(link), Some("Desk"), Some("desk@example.org"), db.now()).await.unwrap();
        let back = tx.device(phone.device).await.unwrap().unwrap();
        assert_eq!((back.removed_at, back.link_id, back.user_name), (None, Some(link), some("Desk")));
        assert_eq!(back.user_email, some("desk@example.org"));

        // The next owner is whoever the next link names, nobody included.
        tx.set_device_owner(phone.device, None, None, None, db.now()).await.unwrap();
        let device = tx.device(phone.device).await.unwrap().unwrap();
        assert_eq!((device.link_id, device.user_name, device.user_email), (None, None, None));
    }
}
