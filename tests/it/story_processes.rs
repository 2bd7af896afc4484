//! Several server processes on one database: what one of them takes back, the others do not let in for long.

use muster::model::Role;
use muster::service::certificates;

use crate::support::app::actor;
use crate::support::edge::{Edge, Phone, REPORT, xml};

/// What another process answers when the phone comes there.
async fn at(other: &Edge, phone: &Phone) -> u16 {
    let phone = Phone { edge: other.clone(), ..phone.clone() };
    let idle = xml(&[("Status", "Idle".into()), ("UDID", phone.udid.as_str().into())]);
    phone.put(REPORT, idle).await.status.as_u16()
}

/// Another process, which has met the phone.
async fn another(edge: &Edge, phone: &Phone) -> Edge {
    let other = edge.restarted("https://mdm.example.org", "");
    other.t.app.reload_trust().await.unwrap();
    for _ in 0..2 {
        assert_eq!(at(&other, phone).await, 200);
    }
    other
}

both_databases! {
    /// That the chain of a certificate was verified is remembered; whether it is revoked is asked for with each message.
    async fn a_certificate_that_one_process_revokes_no_other_lets_in(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let other = another(&edge, &phone).await;
        certificates::revoke(&edge.t.app, &actor(Role::Admin), phone.certificate.sha256, "lost").await.unwrap();
        assert_eq!(at(&other, &phone).await, 403, "at once");
        assert_eq!(at(&edge, &phone).await, 403);
    }

    /// Which authorities are accepted is known in memory, and read anew by the schedule, every ten seconds.
    async fn an_authority_that_one_process_retires_another_lets_in_until_it_has_looked(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let other = another(&edge, &phone).await;
        edge.t.db.execute("UPDATE authorities SET slot = NULL, retired_at = 1").await;
        edge.t.app.reload_trust().await.unwrap();
        assert_eq!(at(&edge, &phone).await, 403, "the one that did it: at once");
        assert_eq!(at(&other, &phone).await, 200);
        // What the schedule does.
        other.t.app.reload_trust().await.unwrap();
        assert_eq!(at(&other, &phone).await, 403, "what was verified before counts no more");
    }
}
