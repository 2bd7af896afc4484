//! Identities from the link to the renewal: SCEP and the device edge together.

use muster::model::{Role, Secret};
use muster::pki::Certificate;
use muster::pki::authority::make_device_ca;
use muster::pki::scep::client::Answer;
use muster::service::authorities::{self, Import};
use muster::service::enrollment::{self, CreatedLink, NewLink, profile_for_link};
use muster::service::renewal::renew_identities;

use muster::service::{devices, enrollment_profile, scep};
use plist::Value;
use serde_json::json;

use crate::support::app::actor;
use crate::support::applicant::{Applicant, challenge, issued, opened};
use crate::support::db::{Fixture, TestDb};
use crate::support::edge::{Edge, Phone, REPORT, YEAR, xml};
use crate::support::ready::{Ready, prepared, rsa};
use crate::support::rows::{DAY, HOUR, MINUTE, TOPIC};

/// The device edge of a server that issues.
pub struct Story {
    pub edge: Edge,
    pub ready: Ready,
}

impl Fixture for Story {
    async fn on(db: TestDb) -> Self {
        Self::with(db, "").await
    }
}

/// A server where nobody enrolls again without an approval.
struct Strict(Story);

impl Fixture for Strict {
    async fn on(db: TestDb) -> Self {
        Self(Story::with(db, "reenroll = \"approve\"").await)
    }
}

impl Story {
    async fn with(db: TestDb, devices: &str) -> Self {
        let edge = Edge::with_devices(db, devices, "").await;
        let ready = Ready { test: edge.t.clone(), admin: actor(Role::Admin) };
        authorities::ensure_with(&ready.app, prepared()).await.unwrap();
        let ca = make_device_ca(&rsa(0), "CA with a key", "", ready.now(), &*ready.db.random).unwrap();
        let import = Import {
            name: String::new(),
            certificate: ca.certificate.der().to_vec(),
            key: Some(Secret::new(ca.key.pkcs8_der().expose().clone())),
            password: None,
            issues_elsewhere: false,
            activate: true,
        };
        authorities::import(&ready.app, &ready.admin, import).await.unwrap();
        ready.put_push_certificate(2 * YEAR).await;
        Self { edge, ready }
    }

    /// A link for one device of the user with this address.
    async fn link_for(&self, email: &str) -> CreatedLink {
        let new = NewLink {
            name: "reception".to_owned(),
            uses: Some(1),
            user_email: Some(email.to_owned()),
            ..NewLink::default()
        };
        enrollment::create_link(&self.ready.app, &self.ready.admin, new).await.unwrap()
    }

    /// The challenge in a profile of a link.
    async fn fetched(&self, link: &CreatedLink) -> String {
        let code = link.url.expose().rsplit('/').next().unwrap().to_owned();
        let profile = opened(&profile_for_link(&self.ready.app, &code).await.unwrap());
        assert!(profile.roots.is_empty(), "behind a proxy the TLS certificate is not ours");
        challenge(&profile)
    }

    /// A certificate by a challenge, for one of the keys.
    async fn issued(&self, challenge: &str, key: usize) -> Certificate {
        issued(Applicant::new(&self.ready, key).ask(&self.ready, challenge).await)
    }

    /// The phone enrolls anew for another user, with an approval, and escrows a bootstrap token.
    async fn given_away(&self, udid: &str, key: usize) -> Phone {
        let device = self.phone(udid, self.edge.unrecorded_certificate("any")).device_id().await;
        devices::approve_reenrollment(&self.ready.app, &self.ready.admin, device, HOUR).await.unwrap();
        let link = self.link_for("sam@example.org").await;
        let phone = self.phone(udid, self.issued(&self.fetched(&link).await, key).await);
        phone.enroll().await;
        phone.finish_all().await;
        let token = [("BootstrapToken", Value::Data(b"of sam".to_vec()))];
        assert_eq!(phone.check_in("SetBootstrapToken", &token).await.status, 200);
        phone
    }

    fn phone(&self, udid: &str, certificate: Certificate) -> Phone {
        Phone { edge: self.edge.clone(), udid: udid.to_owned(), certificate }
    }

    /// A phone that enrolled by a link with the key 2.
    pub async fn enrolled(&self, udid: &str) -> (Phone, CreatedLink) {
        let link = self.link_for("desk@example.org").await;
        let phone = self.phone(udid, self.issued(&self.fetched(&link).await, 2).await);
        phone.enroll().await;
        phone.finish_all().await;
        (phone, link)
    }
}

/// The challenge in a profile that a command brings.
fn brought(payload: &Value) -> String {
    let profile = opened(payload.as_data().unwrap());
    assert_eq!(profile.mdm.topic, TOPIC);
    challenge(&profile)
}

/// Nothing is told to a certificate of an earlier enrollment, and it takes nothing over.
async fn require_shut_out(s: &Story, before: &Phone, now: &Phone) {
    let idle = xml(&[("Status", "Idle".into()), ("UDID", before.udid.as_str().into())]);
    assert_eq!(before.put(REPORT, idle).await.status, 403);
    let token = before.check_in("GetBootstrapToken", &[]).await;
    assert_eq!((token.status.as_u16(), token.body.len()), (403, 0));
    assert_eq!(before.authenticate().await.status, 403);
    let renewal = Applicant::new(&s.ready, 3).renew(&s.ready, &before.certificate, 6).await;
    assert!(matches!(renewal, Answer::Refused(_)), "{renewal:?}");
    assert_eq!(now.finish_all().await, Vec::<String>::new(), "the present enrollment goes on");
    assert_eq!(now.enrollment().await.generation, 2);
}

both_databases! {
    async fn a_renewed_certificate_ends_with_the_enrollment_that_it_was_for(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        let unused = issued(Applicant::new(&s.ready, 2).renew(&s.ready, &phone.certificate, 3).await);
        let now = s.given_away("PHONE-1", 4).await;
        require_shut_out(&s, &s.phone("PHONE-1", unused), &now).await;
    }

    async fn a_certificate_of_an_earlier_enrollment_takes_over_no_present_one(s: Story) {
        let (before, _) = s.enrolled("PHONE-1").await;
        let unused = issued(Applicant::new(&s.ready, 2).renew(&s.ready, &before.certificate, 3).await);
        // The same person enrolls the device anew: no matter for `same_user`.
        let link = s.link_for("desk@example.org").await;
        let now = s.phone("PHONE-1", s.issued(&s.fetched(&link).await, 4).await);
        now.enroll().await;
        for earlier in [before, s.phone("PHONE-1", unused)] {
            assert_eq!(earlier.authenticate().await.status, 403);
            assert_eq!(earlier.token_update(None).await.status, 403);
        }
        now.finish_all().await;
        assert_eq!(now.enrollment().await.generation, 2);
    }

    async fn a_profile_for_the_way_back_ends_with_the_enrollment_that_was_to_be_wiped(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        phone.ask(json!({"type": "wipe", "return_to_service": {"enabled": true}})).await;
        let mut codes = Vec::new();
        for _ in 0..2 {
            let command = phone.idle().await.unwrap();
            let back = command.payload.get("ReturnToService").unwrap().as_dictionary().unwrap();
            codes.push(brought(back.get("MDMProfileData").unwrap()));
            phone.not_now(&command).await;
        }
        let early = s.phone("PHONE-1", s.issued(&codes[0], 3).await);
        assert_eq!(early.token_update(None).await.status, 403, "it begins with an Authenticate");
        let now = s.given_away("PHONE-1", 4).await;
        let late = Applicant::new(&s.ready, 5).ask(&s.ready, &codes[1]).await;
        assert!(matches!(late, Answer::Refused(_)), "{late:?}");
        require_shut_out(&s, &early, &now).await;
    }

    async fn a_profile_that_renews_ends_with_the_enrollment_that_it_was_for(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        let mut codes = Vec::new();
        for _ in 0..2 {
            let (mut tx, row) = (s.ready.db.write().await, phone.enrollment().await);
            let profile = enrollment_profile::for_renewal(&s.ready.app, &mut tx, &row, s.ready.now()).await.unwrap();
            tx.commit().await.unwrap();
            codes.push(challenge(&opened(&profile.unwrap())));
        }
        let unused = s.issued(&codes[0], 3).await;
        let now = s.given_away("PHONE-1", 4).await;
        let late = Applicant::new(&s.ready, 5).ask(&s.ready, &codes[1]).await;
        assert!(matches!(late, Answer::Refused(_)), "{late:?}");
        require_shut_out(&s, &s.phone("PHONE-1", unused), &now).await;
    }

    async fn a_device_that_returned_to_service_may_authenticate_once_more(s: Strict) {
        let s = s.0;
        let (old, _) = s.enrolled("PHONE-1").await;
        old.ask(json!({"type": "wipe", "return_to_service": {"enabled": true}})).await;
        let command = old.idle().await.unwrap();
        let back = command.payload.get("ReturnToService").unwrap().as_dictionary().unwrap();
        let code = brought(back.get("MDMProfileData").unwrap());
        let new = s.phone("PHONE-1", s.issued(&code, 3).await);
        assert_eq!(new.authenticate().await.status, 200);
        new.enroll().await;
        let device = s.ready.db.read().await.device(new.device_id().await).await.unwrap().unwrap();
        assert_eq!(device.user_email.as_deref(), Some("desk@example.org"));
        let mut renewed = new.clone();
        renewed.certificate = issued(Applicant::new(&s.ready, 3).renew(&s.ready, &new.certificate, 4).await);
        renewed.finish_all().await;
        assert_eq!(renewed.enrollment().await.generation, 3);
    }

    async fn no_more_devices_enroll_than_a_link_has_uses(s: Story) {
        let link = s.link_for("desk@example.org").await;
        let (one, two) = (s.fetched(&link).await, s.fetched(&link).await);
        let one = s.phone("PHONE-1", s.issued(&one, 2).await);
        s.ready.db.clock.advance(16 * MINUTE);
        let two = s.phone("PHONE-2", s.issued(&two, 3).await);
        assert_eq!(one.authenticate().await.status, 403, "the only use is held for the other one");
        assert_eq!(two.authenticate().await.status, 200);
        s.ready.db.clock.advance(14 * MINUTE);
        assert_eq!(one.authenticate().await.status, 403, "it is held anew from then on");
        assert_eq!(two.authenticate().await.status, 200, "the same again");
        assert_eq!(two.token_update(None).await.status, 200);
        assert_eq!(one.authenticate().await.status, 403);
        two.enroll().await;
        let view = enrollment::get_link(&s.ready.app, link.link.link.id).await.unwrap();
        assert_eq!((view.link.uses_count, view.reserved), (1, 0));
        let refused = s.ready.db.texts("SELECT detail FROM audit WHERE action = 'enrollment.refused'").await;
        assert_eq!(refused.len(), 3);
        assert!(refused.iter().all(|detail| detail.contains("has been used up")), "{refused:?}");
    }

    async fn a_device_that_takes_its_time_does_not_enroll_by_a_use_that_another_took(s: Story) {
        let link = s.link_for("desk@example.org").await;
        let (one, two) = (s.fetched(&link).await, s.fetched(&link).await);
        let slow = s.phone("PHONE-1", s.issued(&one, 2).await);
        assert_eq!(slow.authenticate().await.status, 200);
        s.ready.db.clock.advance(16 * MINUTE);
        s.phone("PHONE-2", s.issued(&two, 3).await).enroll().await;
        assert_eq!(slow.token_update(None).await.status, 403);
        let view = enrollment::get_link(&s.ready.app, link.link.link.id).await.unwrap();
        assert_eq!(view.link.uses_count, 1);
    }

    async fn a_late_device_takes_a_use_that_came_free(s: Story) {
        let link = s.link_for("desk@example.org").await;
        let phone = s.phone("PHONE-1", s.issued(&s.fetched(&link).await, 2).await);
        s.ready.db.clock.advance(16 * MINUTE);
        assert_eq!(phone.authenticate().await.status, 200);
        let view = enrollment::get_link(&s.ready.app, link.link.link.id).await.unwrap();
        assert_eq!((view.link.uses_count, view.reserved), (0, 1));
    }

    async fn a_revoked_link_lets_in_nobody_who_is_not_enrolled(s: Story) {
        let (before, link) = s.enrolled("PHONE-1").await;
        let other = s.link_for("desk@example.org").await;
        let phone = s.phone("PHONE-2", s.issued(&s.fetched(&other).await, 3).await);
        for link in [&link, &other] {
            enrollment::revoke_link(&s.ready.app, &s.ready.admin, link.link.link.id).await.unwrap();
        }
        assert_eq!(phone.authenticate().await.status, 403);
        assert!(s.ready.db.read().await.enrollment_by_apple_id("PHONE-2").await.unwrap().is_none());
        assert!(s.ready.audited().await.contains(&"enrollment.refused".to_owned()));
        before.enroll().await;
    }

    async fn a_use_counts_when_the_device_has_enrolled(s: Story) {
        let (phone, link) = s.enrolled("PHONE-1").await;
        let view = enrollment::get_link(&s.ready.app, link.link.link.id).await.unwrap();
        assert_eq!((view.link.uses_count, view.reserved, view.state.as_str()), (1, 0, "used_up"));
        let device = s.ready.db.read().await.device(phone.device_id().await).await.unwrap().unwrap();
        assert_eq!((device.user_email.as_deref(), device.link_id), (Some("desk@example.org"), Some(view.link.id)));
        phone.token_update(None).await;
        let view = enrollment::get_link(&s.ready.app, link.link.link.id).await.unwrap();
        assert_eq!(view.link.uses_count, 1);
    }

    async fn a_wiped_device_returns_to_service_as_the_same_users(s: Strict) {
        let s = s.0;
        let (old, link) = s.enrolled("PHONE-1").await;
        enrollment::revoke_link(&s.ready.app, &s.ready.admin, link.link.link.id).await.unwrap();
        let wipe = old.ask(json!({"type": "wipe", "return_to_service": {"enabled": true}})).await;
        let command = old.idle().await.unwrap();
        let back = command.payload.get("ReturnToService").unwrap().as_dictionary().unwrap();
        let code = brought(back.get("MDMProfileData").unwrap());

        s.ready.db.clock.advance(7 * DAY);
        let certificate = issued(Applicant::new(&s.ready, 3).ask(&s.ready, &code).await);
        let stranger = s.phone("PHONE-2", certificate.clone());
        assert_eq!(stranger.authenticate().await.status, 403, "it is for this one device");
        let new = s.phone("PHONE-1", certificate);
        new.enroll().await;
        assert!(!new.finish_all().await.contains(&"EraseDevice".to_owned()), "not wiped again");
        assert_eq!(new.states(wipe).await.last().map(String::as_str), Some("presumed_done"));

        let enrollment = new.enrollment().await;
        assert_eq!((enrollment.generation, enrollment.link_id), (2, Some(link.link.link.id)));
        let device = s.ready.db.read().await.device(enrollment.device_id).await.unwrap().unwrap();
        assert_eq!(device.user_email.as_deref(), Some("desk@example.org"));
        let view = enrollment::get_link(&s.ready.app, link.link.link.id).await.unwrap();
        assert_eq!(view.link.uses_count, 1, "the link is not used once more");
        assert_eq!(old.token_update(None).await.status, 403);
        let other = s.phone("PHONE-1", s.edge.certificate("another").await);
        assert_eq!(other.authenticate().await.status, 403, "others need an approval still");
    }

    async fn apples_own_erase_command_brings_the_profile_too(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        let own = crate::story_profiles::with_payload("org.example.enrollment", "com.apple.mdm");
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &own);
        let table = [
            (json!({"Enabled": true}), true),
            (json!({"Enabled": false}), false),
            (json!({"Enabled": true, "MDMProfileData": {"$data": data}}), false),
        ];
        for (back, is_made) in table {
            let payload = json!({"ReturnToService": back});
            phone.ask(json!({"type": "apple", "request_type": "EraseDevice", "payload": payload})).await;
            let command = phone.idle().await.unwrap();
            let sent = command.payload.get("ReturnToService").unwrap().as_dictionary().unwrap();
            let profile = sent.get("MDMProfileData");
            match profile {
                Some(profile) if is_made => assert!(!brought(profile).is_empty()),
                Some(profile) => assert_eq!(profile.as_data(), Some(&own[..])),
                None => assert!(!is_made && back["Enabled"] == false),
            }
            assert!(phone.report_with("Error", Some(&command.uuid), &[]).await.is_none());
        }
    }

    async fn an_identity_is_renewed_by_the_server_before_it_ends(s: Story) {
        let (mut phone, _) = s.enrolled("PHONE-1").await;
        s.ready.db.clock.advance(YEAR / 2);
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 0);
        s.ready.db.clock.advance(YEAR / 4);
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 1);
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 0, "one is under way");
        let waiting = phone.ask_apps().await;
        let command = loop {
            let command = phone.idle().await.unwrap();
            if command.request_type == "InstallProfile" {
                break command;
            }
            phone.acknowledge(&command).await;
        };
        let code = brought(command.payload.get("Payload").unwrap());
        phone.certificate = issued(Applicant::new(&s.ready, 3).ask(&s.ready, &code).await);
        // Some clients send the two messages, and never report the command.
        phone.enroll().await;
        let enrollment = phone.enrollment().await;
        assert_eq!((enrollment.generation, enrollment.token_tally), (1, 2));
        assert!(s.ready.audited().await.contains(&"identity.renewed".to_owned()));
        phone.finish_all().await;
        assert_eq!(phone.states(waiting).await.last().map(String::as_str), Some("acknowledged"));
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 0);
    }

    async fn a_renewal_by_scep_alone_is_let_in_at_its_first_use(s: Story) {
        let (mut phone, _) = s.enrolled("PHONE-1").await;
        let applicant = Applicant::new(&s.ready, 2);
        phone.certificate = issued(applicant.renew(&s.ready, &phone.certificate, 3).await);
        assert_eq!(phone.idle().await, None);
        assert_eq!(phone.enrollment().await.generation, 1);
        let stranger = s.phone("PHONE-2", phone.certificate.clone());
        assert_eq!(stranger.authenticate().await.status, 403);
    }

    async fn a_profile_that_cannot_be_signed_takes_no_report_with_it(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        let db = &s.ready.db;
        let first = phone.ask_apps().await;
        let before = phone.idle().await.unwrap();
        let wipe = phone.ask(json!({"type": "wipe", "return_to_service": {"enabled": true}})).await;
        db.clock.advance(YEAR * 3 / 4);
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 1);
        let last = phone.ask(json!({"type": "restart"})).await;

        // Such as a key file that cannot be read any more.
        db.execute("UPDATE server_certificates SET name = 'away' WHERE name = 'profile_signer'").await;
        let next = phone.acknowledge(&before).await.unwrap();
        assert_eq!(phone.states(first).await, ["queued", "sent", "acknowledged"], "the report is kept");
        assert_eq!(next.request_type, "RestartDevice", "and the others are handed over");
        assert_eq!(phone.acknowledge(&next).await, None);
        assert_eq!(phone.states(last).await, ["queued", "sent", "acknowledged"]);
        assert!(phone.wake_at().await.unwrap() > s.ready.now(), "the device is woken again, later");
        let challenges = async || db.texts("SELECT name FROM challenges").await.len();
        let count = challenges().await;
        for _ in 0..3 {
            assert_eq!(phone.idle().await, None);
        }
        assert_eq!(challenges().await, count, "no challenge is made for nobody");
        let history = db.read().await.transitions(phone.id().await, wipe).await.unwrap();
        assert_eq!(history.len(), 2, "it is told once: {history:?}");
        assert!(history[1].detail.as_deref().unwrap().contains("could not make it ready"));

        db.execute("UPDATE server_certificates SET name = 'profile_signer' WHERE name = 'away'").await;
        let mut ready = Vec::new();
        let mut next = phone.idle().await;
        while let Some(command) = next {
            ready.push(command.request_type.clone());
            next = phone.not_now(&command).await;
        }
        ready.sort();
        assert_eq!(ready, ["EraseDevice", "InstallProfile"]);
        assert_eq!(phone.states(wipe).await, ["queued", "queued", "sent", "not_now"]);
    }

    async fn a_removed_device_does_not_come_back_by_an_earlier_profile(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        let mut tx = s.ready.db.write().await;
        let row = phone.enrollment().await;
        let profile = enrollment_profile::for_return_to_service(&s.ready.app, &mut tx, &row, s.ready.now()).await;
        tx.close_enrollment(row.id, "removed", s.ready.now()).await.unwrap();
        tx.commit().await.unwrap();
        let code = challenge(&opened(&profile.unwrap()));
        let ca = scep::ca_certificate(&s.ready.app).await.unwrap();
        let exchange = Applicant::new(&s.ready, 3).message(&s.ready, &ca, Some(&code));
        let answered = scep::pki_operation(&s.ready.app, exchange.message, None).await.unwrap();
        assert_eq!(answered.outcome, scep::Outcome::Refused);
    }
}
