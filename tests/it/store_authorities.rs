//! Certificate authorities and the server's own certificates.

use muster::model::CaId;
use muster::store::{AuthorityRow, ServerCertificateRow};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, Phone, device_ca};

/// A CA made elsewhere: accepted, but it issues nothing here.
fn imported_ca(db: &TestDb) -> AuthorityRow {
    AuthorityRow { slot: None, key_sealed: None, issues_elsewhere: true, ..device_ca(db) }
}

fn tls_leaf(db: &TestDb) -> ServerCertificateRow {
    ServerCertificateRow {
        name: "tls".to_owned(),
        chain_pem: "pem".to_owned(),
        key_sealed: b"key".to_vec(),
        names: r#"["mdm.example.org"]"#.to_owned(),
        not_after: db.now().plus(90 * DAY),
        created_at: db.now(),
    }
}

both_databases! {
    async fn device_cas_are_a_list_oldest_first(db: TestDb) {
        let own = device_ca(&db);
        db.clock.advance(MINUTE);
        let imported = imported_ca(&db);
        let tls = AuthorityRow { purpose: "tls".to_owned(), ..device_ca(&db) };
        let mut tx = db.write().await;
        for row in [&imported, &own, &tls] {
            assert!(tx.insert_authority(row).await.unwrap());
        }
        let listed = tx.authorities("device").await.unwrap();
        assert_eq!(listed.iter().map(|ca| ca.id).collect::<Vec<_>>(), [own.id, imported.id]);
        assert!(!listed[0].issues_elsewhere && listed[0].key_sealed.is_some());
        assert!(listed[1].issues_elsewhere && listed[1].key_sealed.is_none());
        assert_eq!(tx.authorities("tls").await.unwrap().len(), 1);
        assert!(tx.authority(db.id(CaId::new)).await.unwrap().is_none());
    }

    async fn two_servers_that_start_on_an_empty_database_make_one_ca(db: TestDb) {
        let mut tx = db.write().await;
        let (first, second) = (device_ca(&db), device_ca(&db));
        assert!(tx.insert_authority(&first).await.unwrap());
        assert!(!tx.insert_authority(&second).await.unwrap());
        assert!(tx.authority(second.id).await.unwrap().is_none());
    }

    async fn the_same_certificate_is_imported_once(db: TestDb) {
        let mut tx = db.write().await;
        let row = imported_ca(&db);
        assert!(tx.insert_authority(&row).await.unwrap());
        assert!(!tx.insert_authority(&AuthorityRow { id: db.id(CaId::new), ..row }).await.unwrap());
    }

    async fn an_imported_ca_can_be_retired_and_the_issuing_one_cannot(db: TestDb) {
        let (own, imported) = (device_ca(&db), imported_ca(&db));
        let mut tx = db.write().await;
        tx.insert_authority(&own).await.unwrap();
        tx.insert_authority(&imported).await.unwrap();
        assert!(!tx.retire_authority(own.id, db.now()).await.unwrap());
        assert!(tx.retire_authority(imported.id, db.now()).await.unwrap());
        assert!(!tx.retire_authority(imported.id, db.now()).await.unwrap(), "retired already");
        assert_eq!(tx.authorities("device").await.unwrap().len(), 1);
        assert_eq!(tx.authority(imported.id).await.unwrap().unwrap().retired_at, Some(db.now()));
    }

    async fn a_retired_ca_that_is_imported_again_is_found_and_restored(db: TestDb) {
        let row = AuthorityRow { key_sealed: Some(b"key".to_vec()), ..imported_ca(&db) };
        let mut tx = db.write().await;
        tx.insert_authority(&row).await.unwrap();
        tx.retire_authority(row.id, db.now()).await.unwrap();
        let found = tx.authority_by_sha256("device", row.sha256).await.unwrap().unwrap();
        assert_eq!((found.id, found.retired_at), (row.id, Some(db.now())));
        assert!(tx.authority_by_sha256("tls", row.sha256).await.unwrap().is_none());
        assert!(tx.authority_by_sha256("device", db.digest()).await.unwrap().is_none());

        let again = AuthorityRow { name: "again".to_owned(), key_sealed: None, issues_elsewhere: false, ..row };
        tx.restore_authority(&again).await.unwrap();
        let back = tx.authority(row.id).await.unwrap().unwrap();
        assert_eq!((back.name.as_str(), back.retired_at, back.issues_elsewhere), ("again", None, false));
        assert_eq!(back.key_sealed.as_deref(), Some(&b"key"[..]), "the key that is known stays");
    }

    async fn another_device_ca_issues_from_now_on(db: TestDb) {
        let (own, imported) = (device_ca(&db), imported_ca(&db));
        let tls = AuthorityRow { purpose: "tls".to_owned(), ..device_ca(&db) };
        let mut tx = db.write().await;
        for row in [&own, &imported, &tls] {
            tx.insert_authority(row).await.unwrap();
        }
        for _ in 0..2 {
            tx.activate_authority(imported.id).await.unwrap();
            assert_eq!(tx.authority(imported.id).await.unwrap().unwrap().slot.as_deref(), Some("active"));
            assert_eq!(tx.authority(own.id).await.unwrap().unwrap().slot, None);
            assert_eq!(tx.authority(tls.id).await.unwrap().unwrap().slot.as_deref(), Some("active"));
        }
        assert!(tx.retire_authority(own.id, db.now()).await.unwrap(), "it does not issue any more");
    }

    async fn the_devices_that_retiring_a_ca_would_lock_out_are_counted(db: TestDb) {
        let (enabled, authenticated) =
            (Phone::enrolled(&db, "UDID-1").await, Phone::authenticated(&db, "UDID-2").await);
        let (ca, other) = (db.id(CaId::new), db.id(CaId::new));
        let mut tx = db.write().await;
        for (phone, by) in [(&enabled, ca), (&enabled, ca), (&enabled, other), (&authenticated, ca)] {
            tx.put_pin(phone.id, db.digest(), Some(by), None, db.now()).await.unwrap();
        }
        assert_eq!(tx.count_pins_of_authority(ca).await.unwrap(), 1, "a device with two certificates counts once");
        tx.revoke_pins(enabled.id, None, db.now()).await.unwrap();
        assert_eq!(tx.count_pins_of_authority(ca).await.unwrap(), 0);
    }

    async fn a_server_certificate_is_renewed_by_one_of_two_processes(db: TestDb) {
        let first = tls_leaf(&db);
        let mut tx = db.write().await;
        assert!(tx.server_certificate("tls").await.unwrap().is_none());
        assert!(tx.put_server_certificate(&first, None).await.unwrap());
        assert!(!tx.put_server_certificate(&first, None).await.unwrap(), "another process was first");

        db.clock.advance(60 * DAY);
        let renewed = ServerCertificateRow { chain_pem: "renewed".to_owned(), ..tls_leaf(&db) };
        assert!(tx.put_server_certificate(&renewed, Some(first.created_at)).await.unwrap());
        let late = ServerCertificateRow { chain_pem: "late".to_owned(), ..tls_leaf(&db) };
        assert!(!tx.put_server_certificate(&late, Some(first.created_at)).await.unwrap());

        let kept = tx.server_certificate("tls").await.unwrap().unwrap();
        assert_eq!((kept.chain_pem.as_str(), kept.created_at), ("renewed", renewed.created_at));
        assert_eq!(kept.names, first.names);
    }
}
