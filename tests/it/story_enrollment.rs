//! Enrolling, enrolling again, leaving: in the protocol's words, over the device edge.

use muster::model::{DeliveryState, EnrollmentId};
use plist::Value;
use serde_json::json;

use crate::support::db::TestDb;
use crate::support::edge::{Edge, REPORT, YEAR, xml};
use crate::support::rows::{DAY, HOUR, TOPIC};

/// What a user of the Mac MAC-1 sends in a TokenUpdate; the first member alone names them.
fn user() -> [(&'static str, Value); 5] {
    [
        ("UserID", Value::from("501-EXAMPLE")),
        ("UserShortName", "kim".into()),
        ("Topic", TOPIC.into()),
        ("Token", Value::Data(vec![9; 32])),
        ("PushMagic", "user magic".into()),
    ]
}

/// A report of that user.
fn user_report(status: &str) -> Vec<u8> {
    xml(&[("Status", status.into()), ("UDID", "MAC-1".into()), ("UserID", "501-EXAMPLE".into())])
}

both_databases! {
    async fn a_phone_enrolls_and_tells_what_it_is(edge: Edge) {
        let phone = edge.phone("PHONE-1").await;
        assert_eq!(phone.authenticate().await.status, 200);
        let before = phone.enrollment().await;
        assert_eq!((before.state.as_str(), before.token_tally), ("authenticated", 0));
        assert_eq!(phone.idle().await, None, "nothing is handed over before the TokenUpdate");

        assert_eq!(phone.token_update(Some(b"unlock")).await.status, 200);
        assert!(phone.enrollment().await.is_enabled());
        assert_eq!(phone.wake_at().await, Some(edge.t.now()));
        let inventory = phone.idle().await.unwrap();
        assert_eq!(inventory.request_type, "DeviceInformation");
        let answers: plist::Dictionary =
            [("OSVersion".to_owned(), Value::from("18.2")), ("IsSupervised".to_owned(), Value::from(true))]
                .into_iter()
                .collect();
        let answers = [("QueryResponses", Value::Dictionary(answers))];
        let next = phone.report_with("Acknowledged", Some(&inventory.uuid), &answers).await.unwrap();
        assert_eq!(next.request_type, "SecurityInfo");
        assert_eq!(phone.acknowledge(&next).await, None);

        let device = edge.t.db.read().await.device(phone.device_id().await).await.unwrap().unwrap();
        assert_eq!(device.os_version.as_deref(), Some("18.2"));
        assert_eq!(device.supervised, Some(true));
        assert_eq!(device.serial.as_deref(), Some("SNPHONE-1"));
        assert_eq!(edge.t.audited().await, ["enrollment.began", "enrollment.completed"]);
    }

    async fn nothing_to_do_is_200_with_an_empty_body(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let body = crate::support::edge::xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())]);
        // No content type, as some clients send reports.
        let answer = phone.put("", body).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    }

    async fn a_token_update_without_unlock_token_keeps_the_stored_one(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        assert_eq!(phone.token_update(None).await.status, 200);
        phone.ask(json!({"type": "clear_passcode"})).await;
        let command = phone.idle().await.unwrap();
        assert_eq!(command.payload.get("UnlockToken").unwrap().as_data(), Some(&b"unlock"[..]));
    }

    async fn a_token_update_before_any_authenticate_is_refused(edge: Edge) {
        let phone = edge.phone("PHONE-1").await;
        assert_eq!(phone.token_update(None).await.status, 403);
        assert!(edge.t.db.read().await.enrollment_by_apple_id("PHONE-1").await.unwrap().is_none());
    }

    async fn the_same_certificate_again_begins_a_new_generation(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let waiting = phone.ask_apps().await;
        phone.check_in("SetBootstrapToken", &[("BootstrapToken", Value::Data(b"boot".to_vec()))]).await;
        phone.enroll().await;
        let enrollment = phone.enrollment().await;
        assert_eq!((enrollment.generation, enrollment.token_tally), (2, 1));
        assert_eq!(phone.states(waiting).await, ["queued", "cancelled"]);
        let token = phone.check_in("GetBootstrapToken", &[]).await;
        assert_eq!((token.status.as_u16(), token.body.len()), (200, 0));
        assert_eq!(edge.t.audited().await.iter().filter(|action| *action == "enrollment.completed").count(), 2);
        assert!(edge.t.audited().await.contains(&"enrollment.replaced_active".to_owned()));
    }

    async fn a_new_certificate_takes_the_place_of_the_old_one(edge: Edge) {
        let old = edge.enrolled("PHONE-1").await;
        let new = edge.phone("PHONE-1").await;
        assert_eq!(new.token_update(None).await.status, 403, "another certificate needs an Authenticate first");
        new.enroll().await;
        new.finish_all().await;
        assert_eq!(old.put("", crate::support::edge::xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())])).await.status, 403);
        assert_eq!(old.token_update(None).await.status, 403);
    }

    async fn one_certificate_is_for_one_device(edge: Edge) {
        let one = edge.enrolled("PHONE-1").await;
        let mut other = edge.phone("PHONE-2").await;
        other.certificate = one.certificate.clone();
        assert_eq!(other.authenticate().await.status, 403);
        let body = crate::support::edge::xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())]);
        let stranger = edge.enrolled("PHONE-3").await;
        assert_eq!(stranger.put("", body).await.status, 403, "a device speaks for itself only");
    }

    async fn a_certificate_without_issuing_record_is_refused(edge: Edge) {
        let mut phone = edge.phone("PHONE-1").await;
        phone.certificate = edge.unrecorded_certificate("PHONE-1");
        assert_eq!(phone.authenticate().await.status, 403);
    }

    async fn a_revoked_certificate_is_refused_at_once(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let mut tx = edge.t.db.write().await;
        assert!(tx.revoke_certificate(phone.certificate.sha256, "lost", edge.t.now()).await.unwrap());
        tx.commit().await.unwrap();
        let body = crate::support::edge::xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())]);
        assert_eq!(phone.put("", body).await.status, 403);
        assert_eq!(phone.authenticate().await.status, 403);
    }

    async fn an_expired_identity_has_a_time_of_grace(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        edge.t.db.clock.advance(YEAR + 30 * DAY);
        assert_eq!(phone.idle().await, None, "within 90 days of grace");
        edge.t.db.clock.advance(90 * DAY);
        let body = crate::support::edge::xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())]);
        assert_eq!(phone.put("", body).await.status, 403);
    }

    async fn a_scep_renewal_changes_the_pin_without_a_message(edge: Edge) {
        let mut phone = edge.enrolled("PHONE-1").await;
        let renewed = edge.unrecorded_certificate("PHONE-1 renewed");
        let id: EnrollmentId = phone.id().await;
        edge.record(&renewed, |row| (row.enrollment_id, row.generation) = (Some(id), Some(1))).await;
        let command = phone.ask_apps().await;
        phone.certificate = renewed;
        assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
        assert_eq!(phone.states(command).await, ["queued", "sent", "acknowledged"]);
    }

    async fn a_phone_that_checks_out_is_left_alone(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let waiting = phone.ask_apps().await;
        let unenroll = phone.ask(json!({"type": "unenroll"})).await;
        let first = phone.idle().await.unwrap();
        let second = phone.acknowledge(&first).await.unwrap();
        assert_eq!((first.request_type.as_str(), second.request_type.as_str()), ("InstalledApplicationList", "RemoveProfile"));
        assert_eq!(phone.check_in("CheckOut", &[("Topic", "t".into())]).await.status, 200);
        assert_eq!(phone.enrollment().await.state, "disabled");
        assert_eq!(phone.wake_at().await, None);
        assert_eq!(phone.states(waiting).await, ["queued", "sent", "acknowledged"]);
        assert_eq!(phone.states(unenroll).await, ["queued", "sent", "presumed_done"], "the check-out proves it");
        assert_eq!(phone.token_update(None).await.status, 403);
        assert_eq!(phone.check_in("CheckOut", &[]).await.status, 200, "the same again");
    }

    async fn a_mac_user_has_a_channel_of_its_own(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        assert_eq!(mac.check_in("TokenUpdate", &user()).await.status, 200);
        let channel = edge.t.db.read().await.enrollment_by_apple_id("MAC-1:501-EXAMPLE").await.unwrap().unwrap();
        assert!(channel.is_enabled());
        assert_eq!(channel.parent_id, Some(mac.id().await));
        let target = muster::service::commands::Targets::Enrollments(vec![channel.id]);
        edge.command(target, json!({"type": "profiles"})).await.unwrap();
        assert_eq!(mac.idle().await, None, "it is not for the device channel");
        assert_eq!(mac.put("", user_report("Idle")).await.command().unwrap().request_type, "ProfileList");

        mac.enroll().await;
        let channel = edge.t.db.read().await.enrollment(channel.id).await.unwrap().unwrap();
        assert_eq!(channel.state, "disabled", "the user's channel ends with the device's enrollment");
    }

    async fn what_a_mac_user_left_unconfirmed_is_void_when_they_come_back(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        assert_eq!(mac.check_in("TokenUpdate", &user()).await.status, 200);
        let channel = edge.t.db.read().await.enrollment_by_apple_id("MAC-1:501-EXAMPLE").await.unwrap().unwrap();
        let target = muster::service::commands::Targets::Enrollments(vec![channel.id]);
        let command = edge.command(target, json!({"type": "profiles"})).await.unwrap().id;
        assert!(mac.put(REPORT, user_report("Idle")).await.command().is_some());
        let state = async || edge.t.db.read().await.delivery(channel.id, command).await.unwrap().unwrap().state;
        assert_eq!(mac.check_in("CheckOut", &user()[..1]).await.status, 200);
        assert_eq!(state().await, DeliveryState::Unconfirmed);
        assert_eq!(mac.check_in("TokenUpdate", &user()).await.status, 200);
        assert_eq!(state().await, DeliveryState::Cancelled);
        assert_eq!(mac.put(REPORT, user_report("Idle")).await.command(), None);
    }

    async fn a_user_channel_waits_for_its_device_channel(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        assert_eq!(mac.check_in("TokenUpdate", &user()).await.status, 200);
        let id = mac.id().await;
        // A certificate that the device renewed by itself: its first use changes the rows of all channels.
        let renewed = edge.certificate("MAC-1 renewed").await;
        let mut tx = edge.t.db.write().await;
        tx.link_certificate(renewed.sha256, id).await.unwrap();
        tx.commit().await.unwrap();
        let mac = crate::support::edge::Phone { certificate: renewed, ..mac };

        // A check-in that holds the device's row, and takes those of its users next.
        let mut tx = edge.t.db.write().await;
        tx.enrollment_by_id_for_update(id).await.unwrap().unwrap();
        let poll = {
            let mac = mac.clone();
            tokio::spawn(async move { mac.put(REPORT, user_report("Idle")).await.status })
        };
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let users = tokio::time::timeout(std::time::Duration::from_secs(10), tx.user_channels_for_update(id)).await;
        assert_eq!(users.expect("nobody holds them").unwrap().len(), 1);
        tx.commit().await.unwrap();
        assert_eq!(poll.await.unwrap(), 200);
    }

    async fn a_bootstrap_token_is_escrowed_and_given_back(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        assert!(mac.check_in("GetBootstrapToken", &[]).await.body.is_empty());
        let token = [("BootstrapToken", Value::Data(b"secret boot".to_vec()))];
        assert_eq!(mac.check_in("SetBootstrapToken", &token).await.status, 200);
        let answer = mac.check_in("GetBootstrapToken", &[]).await;
        let value = plist::Value::from_reader_xml(&answer.body[..]).unwrap();
        let value = value.as_dictionary().unwrap().get("BootstrapToken").unwrap();
        assert_eq!(value.as_data(), Some(&b"secret boot"[..]));
        assert_eq!(mac.check_in("SetBootstrapToken", &[]).await.status, 200);
        assert!(mac.check_in("GetBootstrapToken", &[]).await.body.is_empty());
    }

    async fn what_is_not_there_says_so(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        assert_eq!(mac.check_in("DeclarativeManagement", &[("Endpoint", "tokens".into())]).await.status, 404);
        assert_eq!(mac.check_in("GetToken", &[("TokenServiceType", "com.apple.maid".into())]).await.status, 404);
        let user = [("UserID", Value::from("501")), ("UserShortName", "kim".into())];
        assert_eq!(mac.check_in("UserAuthenticate", &user).await.status, 410);
    }

    async fn a_network_user_gets_a_channel_where_the_settings_say_so(db: TestDb) {
        let edge = Edge::with_devices(db, "network_users = true", "").await;
        let mac = edge.enrolled("MAC-1").await;
        let user = [("UserID", Value::from("501")), ("UserShortName", "kim".into())];
        let challenge = mac.check_in("UserAuthenticate", &user).await;
        let value = plist::Value::from_reader_xml(&challenge.body[..]).unwrap();
        assert_eq!(value.as_dictionary().unwrap().get("DigestChallenge"), Some(&Value::from("")));
        let answered = [&user[..], &[("DigestResponse", Value::from("x"))]].concat();
        let done = mac.check_in("UserAuthenticate", &answered).await;
        assert_eq!((done.status.as_u16(), done.body.is_empty()), (200, true));
    }

    async fn another_user_needs_an_approval(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let mut tx = edge.t.db.write().await;
        let device = phone.device_id().await;
        tx.set_device_owner(device, None, Some("Kim"), Some("kim@example.org"), edge.t.now()).await.unwrap();
        tx.commit().await.unwrap();
        let (link, challenge) = link_for(&edge, None, Some("sam@example.org")).await;
        let certificate = edge.unrecorded_certificate("PHONE-1 again");
        edge.record(&certificate, |row| row.challenge_id = Some(challenge)).await;
        let mut again = phone.clone();
        again.certificate = certificate;
        assert_eq!(again.authenticate().await.status, 403);
        assert_eq!(edge.t.audited().await.last().map(String::as_str), Some("enrollment.refused"));
        assert_eq!(phone.finish_all().await, Vec::<String>::new(), "the active enrollment goes on");

        let mut tx = edge.t.db.write().await;
        tx.approve_reenrollment(phone.id().await, edge.t.now().plus(HOUR)).await.unwrap();
        tx.commit().await.unwrap();
        again.enroll().await;
        let device = edge.t.db.read().await.device(device).await.unwrap().unwrap();
        assert_eq!(device.user_email.as_deref(), Some("sam@example.org"));
        let link = edge.t.db.read().await.link(link).await.unwrap().unwrap();
        assert_eq!(link.uses_count, 1, "a use is counted at the first TokenUpdate");
    }

    async fn a_user_may_have_a_name_alone(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let again = |challenge| {
            let (edge, phone) = (edge.clone(), phone.clone());
            async move {
                let certificate = edge.unrecorded_certificate("PHONE-1 again");
                edge.record(&certificate, |row| row.challenge_id = Some(challenge)).await;
                crate::support::edge::Phone { certificate, ..phone }.authenticate().await.status.as_u16()
            }
        };
        let mut tx = edge.t.db.write().await;
        let device = phone.device_id().await;
        tx.set_device_owner(device, None, Some("Kim"), None, edge.t.now()).await.unwrap();
        tx.commit().await.unwrap();
        let (_, sams) = link_for(&edge, Some("Sam"), None).await;
        assert_eq!(again(sams).await, 403);
        let (_, kims) = link_for(&edge, Some("kim"), Some("kim@example.org")).await;
        assert_eq!(again(kims).await, 200);
        phone.token_update(None).await;
    }

    async fn requests_of_a_new_device_at_once_are_told_to_come_again(edge: Edge) {
        for round in 0..10 {
            let phone = edge.phone(&format!("PHONE-{round}")).await;
            let all = futures_util::future::join_all((0..4).map(|_| {
                let phone = phone.clone();
                tokio::spawn(async move { phone.authenticate().await.status.as_u16() })
            }));
            let all: Vec<_> = all.await.into_iter().map(Result::unwrap).collect();
            assert!(all.contains(&200) && all.iter().all(|status| [200, 503].contains(status)), "{all:?}");
            phone.enroll().await;
        }
    }

    async fn approval_may_be_asked_for_always(db: TestDb) {
        let edge = Edge::with_devices(db, "reenroll = \"approve\"", "").await;
        let phone = edge.enrolled("PHONE-1").await;
        let again = edge.phone("PHONE-1").await;
        assert_eq!(again.authenticate().await.status, 403);
        assert_eq!(phone.authenticate().await.status, 200, "its own certificate is proof enough");
    }
}

/// A link for a user, with a challenge of it.
async fn link_for(
    edge: &Edge,
    name: Option<&str>,
    email: Option<&str>,
) -> (muster::model::LinkId, muster::model::ChallengeId) {
    let db = &edge.t.db;
    let mut link = crate::support::rows::link(db, Some(5));
    link.user_name = name.map(str::to_owned);
    link.user_email = email.map(str::to_owned);
    let challenge = muster::store::NewChallenge {
        id: db.id(muster::model::ChallengeId::new),
        hash: db.digest(),
        purpose: "link",
        name: "link",
        link_id: Some(link.id),
        enrollment_id: None,
        generation: None,
        terms: None,
        uses_allowed: 1,
        created_by: "ci",
        expires_at: db.now().plus(HOUR),
    };
    let mut tx = db.write().await;
    tx.insert_link(&link).await.unwrap();
    tx.insert_challenge(&challenge, db.now()).await.unwrap();
    tx.commit().await.unwrap();
    (link.id, challenge.id)
}
