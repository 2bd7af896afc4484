//! That SQLite finds what is open for a device, and what a poll asks for, by an index: neither reads a history.

use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use super::connect::Connection;
use super::device_list::Narrow;
use super::{DeviceOrder, Options, Store, deliveries, device_list, held, outbox, polls, push_certificates, retention};

async fn migrated() -> (Store, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("muster.db").display());
    let store = Store::connect(Options { url, direct_url: None, max_connections: 2 }, true).await.unwrap();
    store.migrate().await.unwrap();
    (store, directory)
}

/// The steps by which SQLite would run a statement.
async fn plan(store: &Store, sql: &str) -> Vec<String> {
    let mut read = store.begin_read().await.unwrap();
    let Connection::Sqlite(connection) = read.connection() else { panic!("not SQLite") };
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(connection).await.unwrap();
    rows.into_iter().map(|(_, _, _, step)| step).collect()
}

#[tokio::test]
async fn what_is_open_is_found_by_its_index() {
    let (store, _directory) = migrated().await;
    let open = "USING INDEX deliveries_open (enrollment_id=?)";
    let unconfirmed = "USING INDEX deliveries_unconfirmed (enrollment_id=?)";
    let table: [(&str, &[&str]); 8] = [
        (deliveries::OFFERABLE, &[open]),
        (deliveries::UNANSWERED, &[open]),
        (deliveries::OFFERED, &[open]),
        (held::HAS_DELIVERABLE, &[open]),
        (deliveries::SENT_BY_ADMIN_ONLY, &[open]),
        (deliveries::SENT_OF_VERB, &[open]),
        (deliveries::UNFINISHED, &[open, unconfirmed]),
        (push_certificates::TO_WAKE, &["INDEX enrollments_enabled (topic=? AND id>?)", open]),
    ];
    for (sql, expected) in table {
        let steps = plan(&store, sql).await;
        for index in expected {
            assert!(steps.iter().any(|step| step.ends_with(index)), "{sql}: {steps:#?}");
        }
        let history = steps.iter().find(|step| step.contains("PRIMARY KEY") || step.contains("TEMP B-TREE"));
        assert_eq!(history, None, "{sql}");
    }
}

#[tokio::test]
async fn what_is_old_or_held_is_found_by_its_index() {
    let (store, _directory) = migrated().await;
    let table = [
        (retention::ENDED, "INDEX deliveries_ended (updated_at<?)"),
        (retention::OLD_REPORTS, "INDEX reports_by_time (received_at<?)"),
        (retention::FOR_ALL, "INDEX commands_for_all (fleet_number>?)"),
        (retention::FOR_ALL, "INDEX deliveries_by_command (command_id=?)"),
        (retention::OLD_AUDIT, "INDEX sqlite_autoindex_audit_1 (id<?)"),
        (retention::CUT_AUDIT, "INDEX sqlite_autoindex_audit_1 (id>? AND id<?)"),
        (retention::TRANSITIONS, "PRIMARY KEY (enrollment_id=? AND command_id=?)"),
        (retention::REPORTS_OF, "INDEX reports_by_command (command_id=? AND enrollment_id=?)"),
        (held::HELD, "INDEX commands_held"),
    ];
    for (sql, expected) in table {
        let steps = plan(&store, sql).await;
        assert!(steps.iter().any(|step| step.ends_with(expected)), "{sql}: {steps:#?}");
        let bad = |step: &&String| {
            step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && !step.contains("commands_held"))
        };
        assert_eq!(steps.iter().find(bad), None, "{sql}");
    }
}

#[tokio::test]
async fn what_waits_for_webhooks_is_found_by_its_index() {
    let (store, _directory) = migrated().await;
    let table: [(&str, &str); 7] = [
        (outbox::LEASE, "INDEX webhook_lines_due (webhook_id=? AND due_at<?)"),
        (outbox::LEASE, "PRIMARY KEY (device_id=? AND webhook_id=?)"),
        (outbox::DUE, "INDEX webhook_lines_due (webhook_id=? AND due_at<?)"),
        (outbox::NEXT, "INDEX sqlite_autoindex_webhook_events_1 (device_id=? AND webhook_id=? AND number>?)"),
        (outbox::WAITING, "INDEX webhook_lines_due"),
        (outbox::DEAD, "INDEX webhook_events_dead (webhook_id=?)"),
        (outbox::PRUNE_DEAD, "INDEX webhook_events_dead (webhook_id=? AND id<?)"),
    ];
    for (sql, expected) in table {
        let steps = plan(&store, sql).await;
        assert!(steps.iter().any(|step| step.contains(expected)), "{sql}: {steps:#?}");
        let bad = |step: &&String| step.contains("TEMP B-TREE FOR ORDER") || step.as_str() == "SCAN webhook_events";
        assert_eq!(steps.iter().find(bad), None, "{sql}");
    }
}

#[tokio::test]
async fn devices_that_an_index_finds_are_found_by_it() {
    let (store, _directory) = migrated().await;
    let table: [(Narrow, &[&str]); 4] = [
        (Narrow::Serial, &["devices_by_serial"]),
        (Narrow::Name, &["devices_by_name"]),
        (Narrow::User, &["devices_by_user_name", "devices_by_user_email"]),
        (Narrow::Text, &["devices_by_serial", "devices_by_user_email"]),
    ];
    for (narrow, indexes) in table {
        for (order, is_descending) in
            [(DeviceOrder::Created, true), (DeviceOrder::Name, false), (DeviceOrder::Serial, true)]
        {
            let steps = plan(&store, device_list::text_of(order, is_descending, Some(narrow))).await;
            for index in indexes {
                assert!(steps.iter().any(|step| step.contains(index)), "{narrow:?} {order:?}: {steps:#?}");
            }
            let scan = steps.iter().find(|step| step.starts_with("SCAN") && step.contains("devices"));
            assert_eq!(scan, None, "{narrow:?} {order:?}: {steps:#?}");
            assert!(
                steps.iter().any(|step| step.starts_with("SEARCH d USING") && step.contains("(id=?)")),
                "{steps:#?}"
            );
        }
    }
}

#[tokio::test]
async fn a_poll_looks_up_what_it_asks_for() {
    let (store, _directory) = migrated().await;
    let steps = plan(&store, polls::POLL.sqlite()).await;
    let scans: Vec<_> = steps.iter().filter(|step| step.starts_with("SCAN")).collect();
    assert!(scans.is_empty(), "{steps:#?}");
    for index in ["deliveries_open", "commands_for_all", "sqlite_autoindex_enrollments", "PRIMARY KEY"] {
        let uses = steps.iter().any(|step| step.starts_with("SEARCH") && step.contains(index));
        assert!(uses, "{index} is not used: {steps:#?}");
    }
}

#[tokio::test]
async fn a_plan_tells_the_history_from_what_is_open() {
    let (store, _directory) = migrated().await;
    let sql = "SELECT EXISTS (SELECT 1 FROM deliveries
                               WHERE enrollment_id = $1 AND state IN ('queued', 'sent', 'not_now'))";
    let steps = plan(&store, sql).await;
    assert!(steps.iter().any(|step| step.contains("PRIMARY KEY")), "{steps:#?}");
}
