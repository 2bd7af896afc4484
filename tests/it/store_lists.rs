//! Lists with filters: what an index finds is found at once, and of the rest a page looks through a bounded part.

use muster::store::{CommandFilter, DeviceFilter, DeviceOrder};

use crate::support::db::TestDb;
use crate::support::rows::{Phone, command};

/// More than a page looks through.
const MANY: usize = 25_000;

/// Adds devices whose ids come after all others, and commands of admins.
async fn fill(db: &TestDb) {
    let id = if db.store.kind() == "postgres" {
        "CAST('ffffffff' || substr(md5(CAST(i AS TEXT)), 9) AS UUID)"
    } else {
        "unhex('ffffffff' || printf('%024x', i))"
    };
    let nothing = if db.store.kind() == "postgres" { "''" } else { "X''" };
    let numbers = format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})");
    db.execute(&format!(
        "INSERT INTO devices (id, platform, udid, serial, name, user_email, created_at, updated_at)
         {numbers} SELECT {id}, 'apple', 'UDID-' || i, 'SERIAL' || i, 'iPad', 'kim' || i || '@example.org', 1, 1 FROM n"
    ))
    .await;
    db.execute(&format!(
        "INSERT INTO commands (id, verb, request_type, payload_sealed, fills, summary, resend, priority, internal, target,
                               target_count, materialized, created_at, created_by)
         {numbers} SELECT {id}, 'lock', 'DeviceLock', {nothing}, '[]', '{{}}', 'freely', 1, FALSE, 'devices', 1, TRUE, 1, 'ada'
           FROM n"
    ))
    .await;
}

fn text(text: &str) -> DeviceFilter {
    DeviceFilter { text: Some(text.to_owned()), ..DeviceFilter::default() }
}

both_databases! {
    async fn a_page_of_devices_looks_through_a_bounded_part_and_says_where_to_go_on(db: TestDb) {
        let phone = Phone::enrolled(&db, "NEEDLE-1").await;
        fill(&db).await;
        for (order, is_descending) in [(DeviceOrder::Created, true), (DeviceOrder::Serial, true), (DeviceOrder::Name, false)] {
            let mut read = db.read().await;
            let filter = text("EEDLE");
            let (mut after, mut found, mut pages) = (None, Vec::new(), 0);
            loop {
                let place = after.as_ref().map(|(key, id): &(String, _)| (key.as_str(), *id));
                let slice = read.list_devices(&filter, order, is_descending, place, 10).await.unwrap();
                found.extend(slice.rows.into_iter().map(|row| row.device.id));
                pages += 1;
                match slice.more {
                    Some(more) => after = Some(more),
                    None => break,
                }
            }
            assert_eq!((found, pages), (vec![phone.device], 2), "{order:?}");
        }
    }

    async fn what_an_index_finds_is_found_at_once(db: TestDb) {
        fill(&db).await;
        let by = |change: fn(&mut DeviceFilter)| {
            let mut filter = DeviceFilter::default();
            change(&mut filter);
            filter
        };
        let filters = [
            by(|f| f.serial = Some("SERIAL777".to_owned())),
            by(|f| f.user = Some("KIM777@example.org".to_owned())),
            text("serial777"),
            text("udid-777"),
            text("Kim777@example.org"),
        ];
        let mut read = db.read().await;
        for filter in filters {
            let slice = read.list_devices(&filter, DeviceOrder::Created, true, None, 10).await.unwrap();
            let serials: Vec<_> = slice.rows.into_iter().map(|row| row.device.serial.unwrap()).collect();
            assert_eq!((serials, slice.more), (vec!["SERIAL777".to_owned()], None), "{filter:?}");
        }
        let named = by(|f| f.name = Some("iPad".to_owned()));
        let slice = read.list_devices(&named, DeviceOrder::Created, true, None, 10).await.unwrap();
        assert_eq!((slice.rows.len(), slice.more), (10, None), "many have the name");
    }

    async fn a_page_of_commands_looks_through_a_bounded_part(db: TestDb) {
        let phone = Phone::enrolled(&db, "PHONE-1").await;
        let wipe = phone.queue(&db, &command(&db, "EraseDevice")).await.command_id;
        fill(&db).await;
        let mut read = db.read().await;
        let by_type = CommandFilter { request_type: Some("EraseDevice".to_owned()), ..CommandFilter::default() };
        let first = read.list_commands(&by_type, true, None, 10).await.unwrap();
        assert!(first.rows.is_empty());
        let second = read.list_commands(&by_type, true, first.more, 10).await.unwrap();
        assert_eq!((second.rows.len(), second.rows[0].id, second.more), (1, wipe, None));
        let verb = second.rows[0].verb.clone();
        let by_verb = CommandFilter { verb: Some(verb), ..CommandFilter::default() };
        let slice = read.list_commands(&by_verb, true, None, 10).await.unwrap();
        assert_eq!((slice.rows.len(), slice.more), (1, None), "by its index");
    }
}
