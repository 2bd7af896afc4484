//! Profiles, apps and packages: edited under a revision, packages in chunks.

use muster::model::{AppId, PackageId, ProfileId};
use muster::store::{AppRow, PackageRow, ProfileFilter, ProfileRow, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE};

fn profile(db: &TestDb) -> ProfileRow {
    ProfileRow {
        id: db.id(ProfileId::new),
        identifier: "org.example.wifi".to_owned(),
        name: "Wi-Fi".to_owned(),
        payload_uuid: "uuid-1".to_owned(),
        organization: Some("Example".to_owned()),
        scope: "System".to_owned(),
        payload_types: r#"["com.apple.wifi.managed"]"#.to_owned(),
        content_sealed: b"content".to_vec(),
        sha256: db.digest(),
        size_bytes: 7,
        signed: true,
        revision: 1,
        created_at: db.now(),
        created_by: "ci".to_owned(),
        updated_at: db.now(),
    }
}

fn app(db: &TestDb, package: Option<PackageId>) -> AppRow {
    AppRow {
        id: db.id(AppId::new),
        kind: if package.is_some() { "package" } else { "store" }.to_owned(),
        name: "Notes".to_owned(),
        bundle_id: Some("org.example.notes".to_owned()),
        version: Some("1.0".to_owned()),
        display_version: None,
        minimum_os: None,
        store_id: Some(361_309_726),
        manifest_url: None,
        package_id: package,
        revision: 1,
        created_at: db.now(),
        created_by: "ci".to_owned(),
        updated_at: db.now(),
    }
}

fn package(db: &TestDb, slug: &str) -> PackageRow {
    PackageRow {
        id: db.id(PackageId::new),
        slug: slug.to_owned(),
        size_bytes: 0,
        chunk_bytes: 4,
        sha256: None,
        created_at: db.now(),
        ready_at: None,
    }
}

both_databases! {
    async fn a_profile_reads_back_and_its_identifier_is_taken(db: TestDb) {
        let row = profile(&db);
        let mut tx = db.write().await;
        tx.insert_profile(&row).await.unwrap();
        let found = tx.profile(row.id).await.unwrap().unwrap();
        assert_eq!((&found.identifier, &found.name, &found.scope), (&row.identifier, &row.name, &row.scope));
        assert_eq!((&found.organization, &found.payload_types), (&row.organization, &row.payload_types));
        assert_eq!((found.sha256, found.size_bytes, found.signed), (row.sha256, 7, true));
        assert_eq!((found.revision, found.updated_at, found.content_sealed), (1, db.now(), row.content_sealed.clone()));
        assert!(tx.profile(db.id(ProfileId::new)).await.unwrap().is_none());
        let twin = ProfileRow { id: db.id(ProfileId::new), ..row };
        assert!(matches!(tx.insert_profile(&twin).await, Err(StoreError::Conflict(_))));
    }

    async fn profiles_are_listed_newest_first_page_by_page(db: TestDb) {
        let mut rows = Vec::new();
        let mut tx = db.write().await;
        for (identifier, types) in [
            ("org.example.wifi", r#"["com.apple.wifi.managed","com.apple.mail.managed"]"#),
            ("org.example.mail", r#"["com.apple.mail.managed"]"#),
            ("org.example.more", r#"["com.apple.mail.managed.more"]"#),
        ] {
            let row = ProfileRow { identifier: identifier.to_owned(), payload_types: types.to_owned(), ..profile(&db) };
            tx.insert_profile(&row).await.unwrap();
            rows.insert(0, row.facts());
            db.clock.advance(MINUTE);
        }
        let all = ProfileFilter::default();
        assert_eq!(tx.profiles(&all, None, 10).await.unwrap(), rows);
        assert_eq!(tx.profiles(&all, None, 2).await.unwrap(), rows[..2]);
        assert_eq!(tx.profiles(&all, Some(rows[1].id), 2).await.unwrap(), rows[2..]);

        let mail = ProfileFilter { payload_type: Some("com.apple.mail.managed".to_owned()), identifier: None };
        assert_eq!(tx.profiles(&mail, None, 10).await.unwrap(), rows[1..], "whole types only");
        let one = ProfileFilter { identifier: Some("org.example.mail".to_owned()), ..mail };
        assert_eq!(tx.profiles(&one, None, 10).await.unwrap(), rows[1..2]);
        assert!(tx.profiles(&one, Some(rows[2].id), 10).await.unwrap().is_empty());

        assert_eq!(tx.profile_facts(rows[0].id).await.unwrap().as_ref(), Some(&rows[0]));
        assert!(tx.profile_facts(db.id(ProfileId::new)).await.unwrap().is_none());
        assert_eq!(tx.profile_by_identifier("org.example.wifi").await.unwrap(), Some(rows[2].id));
        assert!(tx.profile_by_identifier("org.example").await.unwrap().is_none());
    }

    async fn of_two_edits_of_one_revision_the_first_wins(db: TestDb) {
        let row = profile(&db);
        let mut tx = db.write().await;
        tx.insert_profile(&row).await.unwrap();
        db.clock.advance(MINUTE);
        let first = ProfileRow { name: "Office Wi-Fi".to_owned(), signed: false, organization: None, ..row.clone() };
        assert!(tx.replace_profile(&first, db.now()).await.unwrap());
        assert!(!tx.replace_profile(&ProfileRow { name: "late".to_owned(), ..row.clone() }, db.now()).await.unwrap());
        let found = tx.profile(row.id).await.unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.revision, found.signed), ("Office Wi-Fi", 2, false));
        assert_eq!((found.created_at, found.updated_at, found.organization), (row.created_at, db.now(), None));
        assert!(!tx.delete_profile(row.id, 1).await.unwrap(), "edited since");
        assert!(tx.delete_profile(row.id, 2).await.unwrap());
        assert!(tx.profile(row.id).await.unwrap().is_none());
    }

    async fn an_app_reads_back_and_is_deleted_under_its_revision(db: TestDb) {
        let row = app(&db, None);
        let mut tx = db.write().await;
        tx.insert_app(&row).await.unwrap();
        let found = tx.app(row.id).await.unwrap().unwrap();
        assert_eq!((found.kind, found.name, found.bundle_id), (row.kind, row.name, row.bundle_id));
        assert_eq!((found.store_id, found.package_id, found.revision), (Some(361_309_726), None, 1));
        assert!(!tx.delete_app(row.id, 2).await.unwrap());
        assert!(tx.delete_app(row.id, 1).await.unwrap());
        assert!(tx.app(row.id).await.unwrap().is_none());
    }

    async fn a_package_is_served_only_when_it_is_complete(db: TestDb) {
        let row = PackageRow { size_bytes: 6, ..package(&db, "slug") };
        let owner = app(&db, Some(row.id));
        let mut tx = db.write().await;
        tx.insert_package(&row).await.unwrap();
        for (number, bytes) in [(0, &b"abcd"[..]), (1, b"ef")] {
            tx.insert_package_chunk(row.id, number, bytes).await.unwrap();
        }
        assert_eq!(tx.package_bytes().await.unwrap(), 6);
        assert!(tx.package_by_slug("slug").await.unwrap().is_none());

        let digest = db.digest();
        assert!(tx.finish_package(row.id, digest, db.now()).await.unwrap());
        tx.insert_app(&owner).await.unwrap();
        let served = tx.package_by_slug("slug").await.unwrap().unwrap();
        assert_eq!((served.id, served.size_bytes, served.chunk_bytes), (row.id, 6, 4));
        assert_eq!((served.sha256, served.ready_at), (Some(digest), Some(db.now())));
        assert_eq!(tx.package_chunk(row.id, 1).await.unwrap().as_deref(), Some(&b"ef"[..]));
        assert!(tx.package_chunk(row.id, 2).await.unwrap().is_none());
        assert_eq!(tx.app_of_package(row.id).await.unwrap().unwrap().id, owner.id);
        assert!(tx.package_by_slug("guess").await.unwrap().is_none());
    }

    async fn a_chunk_is_stored_once(db: TestDb) {
        let row = package(&db, "slug");
        let mut tx = db.write().await;
        tx.insert_package(&row).await.unwrap();
        tx.insert_package_chunk(row.id, 0, b"abcd").await.unwrap();
        assert!(matches!(tx.insert_package_chunk(row.id, 0, b"abcd").await, Err(StoreError::Conflict(_))));
    }

    async fn abandoned_uploads_are_found_and_forgotten(db: TestDb) {
        let (abandoned, complete) = (package(&db, "a"), PackageRow { size_bytes: 4, ..package(&db, "b") });
        let mut tx = db.write().await;
        for row in [&abandoned, &complete] {
            tx.insert_package(row).await.unwrap();
            tx.insert_package_chunk(row.id, 0, b"abcd").await.unwrap();
        }
        tx.finish_package(complete.id, db.digest(), db.now()).await.unwrap();
        db.clock.advance(DAY);
        tx.insert_package(&package(&db, "under way")).await.unwrap();
        assert_eq!(tx.abandoned_packages(db.now()).await.unwrap(), [abandoned.id]);
        while tx.delete_package_part(abandoned.id, 1).await.unwrap() {}
        assert!(tx.package(abandoned.id).await.unwrap().is_none());
        assert!(tx.package_chunk(abandoned.id, 0).await.unwrap().is_none());
        assert!(tx.package(complete.id).await.unwrap().is_some());
        assert_eq!(tx.package_bytes().await.unwrap(), 4);

        // One that is not served any more may be taken away at once.
        tx.retire_package(complete.id).await.unwrap();
        assert!(tx.package_by_slug("b").await.unwrap().is_none());
        assert_eq!(tx.abandoned_packages(db.now().minus(30 * DAY)).await.unwrap(), [complete.id]);
    }

    async fn a_package_goes_in_parts(db: TestDb) {
        let row = package(&db, "slug");
        let mut tx = db.write().await;
        tx.insert_package(&row).await.unwrap();
        for number in 0..3 {
            tx.insert_package_chunk(row.id, number, b"abcd").await.unwrap();
        }
        assert!(tx.delete_package_part(row.id, 2).await.unwrap());
        assert!(tx.package_chunk(row.id, 1).await.unwrap().is_none());
        assert!(tx.package_chunk(row.id, 2).await.unwrap().is_some());
        assert!(tx.delete_package_part(row.id, 2).await.unwrap());
        assert!(tx.package(row.id).await.unwrap().is_some());
        assert!(!tx.delete_package_part(row.id, 2).await.unwrap());
        assert!(tx.package(row.id).await.unwrap().is_none());
        assert!(!tx.finish_package(row.id, db.digest(), db.now()).await.unwrap());
    }
}
