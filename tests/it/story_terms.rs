//! What an enrollment profile laid down holds for its device, whatever the settings say later.

use muster::model::{DeliveryState, Secret};
use muster::pki::authority::make_device_ca;
use muster::service::authorities::{self, Import};
use muster::service::commands::Targets;
use muster::service::renewal::renew_identities;
use muster::service::{Error, outlook};
use plist::{Dictionary, Value};
use serde_json::json;

use crate::story_identity::Story;
use crate::support::applicant::{Applicant, challenge, issued, opened};
use crate::support::edge::{Edge, Phone, YEAR};
use crate::support::ready::{Ready, rsa};
use crate::support::rows::{DAY, HOUR, MINUTE};

const OTHER: &str = "[enrollment]\nprofile_identifier = \"other.enrollment\"\n";

impl Edge {
    /// A phone that enrolled by a profile with this identifier, or by one that was made elsewhere.
    async fn enrolled_by(&self, udid: &str, identifier: Option<&str>) -> Phone {
        let certificate = self.certificate_by(udid, identifier).await;
        let phone = Phone { edge: self.clone(), udid: udid.to_owned(), certificate };
        phone.enroll().await;
        phone
    }

    async fn removal(&self, targets: &Targets, identifier: &str) -> Result<u64, Error> {
        let command = json!({"type": "remove_profile", "identifier": identifier});
        self.command(targets.clone(), command).await.map(|accepted| accepted.targets)
    }
}

async fn devices(phones: &[&Phone]) -> Targets {
    let mut ids = Vec::new();
    for phone in phones {
        ids.push(phone.device_id().await);
    }
    Targets::Devices(ids)
}

fn asks(result: &Result<u64, Error>) -> bool {
    matches!(result, Err(Error::Conflict { code: "confirmation_needed", .. }))
}

/// What a list of profiles tells of one.
fn listed(identifier: &str, payload: &str) -> Value {
    let payload = Dictionary::from_iter([("PayloadType", Value::from(payload))]);
    Value::Dictionary(Dictionary::from_iter([
        ("PayloadIdentifier", Value::from(identifier)),
        ("PayloadContent", Value::Array(vec![Value::Dictionary(payload)])),
    ]))
}

/// The profile of the renewal that a phone is offered, opened.
async fn renewal(phone: &Phone) -> muster::protocol::enrollment_profile::EnrollmentProfile {
    let mut next = phone.idle().await;
    loop {
        let command = next.expect("a renewal is offered");
        if command.request_type == "InstallProfile" {
            return opened(command.payload.get("Payload").unwrap().as_data().unwrap());
        }
        next = phone.acknowledge(&command).await;
    }
}

both_databases! {
    async fn a_changed_identifier_loosens_no_guard(edge: Edge) {
        let one = edge.enrolled("PHONE-1").await;
        let two = edge.enrolled("PHONE-2").await;
        let edge = edge.restarted("https://mdm.example.org", OTHER);
        let (one, two) = (one.on(&edge).await, two.on(&edge).await);
        let old = devices(&[&one, &two]).await;
        assert!(asks(&edge.removal(&old, "muster.enrollment").await));
        assert!(asks(&edge.removal(&Targets::All, " Muster.Enrollment ").await));
        assert_eq!(edge.removal(&old, "other.enrollment").await.unwrap(), 2, "no device has that one");

        let three = edge.enrolled_by("PHONE-3", Some("other.enrollment")).await;
        for identifier in ["muster.enrollment", "other.enrollment"] {
            assert!(asks(&edge.removal(&devices(&[&one, &three]).await, identifier).await), "it is that of one of them");
            assert!(asks(&edge.removal(&Targets::All, identifier).await));
        }
        assert_eq!(edge.removal(&Targets::All, "org.example.wifi").await.unwrap(), 3);
        assert!(asks(&edge.command(Targets::All, json!({"type": "unenroll"})).await.map(|accepted| accepted.targets)));
    }

    async fn unenroll_removes_the_profile_that_each_device_has(edge: Edge) {
        let one = edge.enrolled("PHONE-1").await;
        let edge = edge.restarted("https://mdm.example.org", OTHER);
        let one = one.on(&edge).await;
        let two = edge.enrolled_by("PHONE-2", Some("other.enrollment")).await;
        two.finish_all().await;
        edge.command_with(Targets::All, json!({"type": "unenroll"}), |new| new.confirm = Some(2)).await.unwrap();
        for (phone, expected) in [(&one, "muster.enrollment"), (&two, "other.enrollment")] {
            let command = phone.idle().await.unwrap();
            assert_eq!(command.request_type, "RemoveProfile");
            assert_eq!(command.payload.get("Identifier"), Some(&Value::from(expected)));
        }
        // Enrolled anew by another profile, it has that one.
        let again = edge.enrolled_by("PHONE-1", Some("other.enrollment")).await;
        again.finish_all().await;
        again.ask(json!({"type": "unenroll"})).await;
        assert_eq!(again.idle().await.unwrap().payload.get("Identifier"), Some(&Value::from("other.enrollment")));
        // The same certificate once more means the same profile.
        again.enroll().await;
        again.finish_all().await;
        again.ask(json!({"type": "unenroll"})).await;
        assert_eq!(again.idle().await.unwrap().payload.get("Identifier"), Some(&Value::from("other.enrollment")));
    }

    async fn the_users_of_a_mac_have_the_terms_of_their_mac(edge: Edge) {
        let mac = edge.enrolled("MAC-1").await;
        let user = [
            ("UserID", Value::from("501")), ("UserShortName", "sam".into()), ("Topic", "t".into()),
            ("Token", Value::Data(vec![1; 32])), ("PushMagic", "m".into()),
        ];
        assert_eq!(mac.check_in("TokenUpdate", &user).await.status, 200);
        let terms = async || {
            let channels = edge.t.db.read().await.enrollments_of_device(mac.device_id().await).await.unwrap();
            channels.iter().map(|channel| channel.terms).collect::<Vec<_>>()
        };
        let before = terms().await;
        assert!(before.len() == 2 && before[0].is_some() && before[0] == before[1]);
        edge.enrolled_by("MAC-1", Some("other.enrollment")).await;
        let after = terms().await;
        assert!(after[0].is_some() && after[0] == after[1] && after != before);
    }

    async fn a_profile_from_elsewhere_is_unknown_until_the_device_lists_it(edge: Edge) {
        let one = edge.enrolled_by("PHONE-1", None).await;
        let two = edge.enrolled_by("PHONE-2", None).await;
        let both = devices(&[&one, &two]).await;
        assert!(asks(&edge.removal(&both, "org.example.wifi").await), "it may be the one");
        two.finish_all().await;
        let unenroll = two.ask(json!({"type": "unenroll"})).await;
        assert_eq!(two.idle().await, None);
        let failed = two.delivery(unenroll).await;
        assert_eq!(failed.state, DeliveryState::Error);
        assert!(failed.error.unwrap().contains("made elsewhere"));

        // The server asks by itself, once, when the device has enrolled.
        let mut next = one.idle().await;
        let mut asked = Vec::new();
        while let Some(command) = next {
            asked.push(command.request_type.clone());
            let list = vec![
                listed("org.example.wifi", "com.apple.wifi.managed"),
                listed("org.example.mdm", "com.apple.mdm"),
            ];
            next = one.report_with("Acknowledged", Some(&command.uuid), &[("ProfileList", Value::Array(list))]).await;
        }
        assert_eq!(asked, ["DeviceInformation", "SecurityInfo", "ProfileList"]);
        one.ask(json!({"type": "unenroll"})).await;
        assert_eq!(one.idle().await.unwrap().payload.get("Identifier"), Some(&Value::from("org.example.mdm")));
        assert!(asks(&edge.removal(&both, "org.example.wifi").await), "that of the other is not known");
        edge.t.db.clock.advance(YEAR - 30 * DAY);
        assert_eq!(renew_identities(&edge.t.app).await.unwrap(), 0, "no profile of ours can replace theirs");
    }

    async fn what_was_learned_of_a_profile_is_forgotten_when_the_device_enrolls_anew(edge: Edge) {
        // Takes all commands; where the list of profiles is asked for, the device has this enrollment profile.
        async fn finish(phone: &Phone, identifier: &str) -> usize {
            let (mut next, mut lists) = (phone.idle().await, 0);
            while let Some(command) = next {
                lists += usize::from(command.request_type == "ProfileList");
                let list = [("ProfileList", Value::Array(vec![listed(identifier, "com.apple.mdm")]))];
                next = phone.report_with("Acknowledged", Some(&command.uuid), &list).await;
            }
            lists
        }
        let one = edge.enrolled_by("PHONE-1", None).await;
        let two = edge.enrolled_by("PHONE-2", None).await;
        let both = devices(&[&one, &two]).await;
        for phone in [&one, &two] {
            assert_eq!(finish(phone, "first.mdm").await, 1);
        }
        assert!(asks(&edge.removal(&both, "first.mdm").await));
        assert_eq!(edge.removal(&both, "second.mdm").await.unwrap(), 2);
        for phone in [&one, &two] {
            finish(phone, "first.mdm").await;
        }

        // The same certificates, under another profile.
        for phone in [&one, &two] {
            phone.enroll().await;
            assert_eq!(phone.enrollment().await.terms, None);
        }
        for targets in [&both, &Targets::All] {
            assert!(asks(&edge.removal(targets, "second.mdm").await));
            assert!(asks(&edge.removal(targets, "org.example.wifi").await), "until it is known again");
        }
        for phone in [&one, &two] {
            assert_eq!(finish(phone, "second.mdm").await, 1, "the list is asked for again");
        }
        assert!(asks(&edge.removal(&both, "second.mdm").await));
        assert_eq!(edge.removal(&both, "first.mdm").await.unwrap(), 2);

        // Whatever a list says later holds, too.
        one.ask(json!({"type": "profiles"})).await;
        finish(&one, "third.mdm").await;
        assert!(asks(&edge.removal(&both, "third.mdm").await));
        // A profile that was made here is not learned.
        let ours = edge.enrolled("PHONE-3").await;
        let before = ours.enrollment().await.terms;
        ours.ask(json!({"type": "profiles"})).await;
        finish(&ours, "fourth.mdm").await;
        assert_eq!(ours.enrollment().await.terms, before);
    }

    async fn a_renewal_says_what_the_profile_on_the_device_says(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        let narrow = "[enrollment]\nprofile_identifier = \"other.enrollment\"\naccess_rights = 3\n";
        let edge = s.edge.restarted("https://new.example.org", narrow);
        let mut phone = phone.on(&edge).await;
        edge.t.db.clock.advance(YEAR * 3 / 4);
        assert_eq!(renew_identities(&edge.t.app).await.unwrap(), 1);
        let profile = renewal(&phone).await;
        assert_eq!(profile.identifier, "muster.enrollment");
        assert_eq!(profile.mdm.server_url, "https://mdm.example.org/mdm");
        assert_eq!(profile.mdm.checkin_url, "https://mdm.example.org/checkin");
        assert_eq!(profile.mdm.access_rights, 3);
        assert_eq!(profile.scep.url, "https://new.example.org/scep", "that may change");
        let ready = Ready { test: edge.t.clone(), admin: s.ready.admin.clone() };
        phone.certificate = issued(Applicant::new(&ready, 3).ask(&ready, &challenge(&profile)).await);
        phone.enroll().await;

        // What was taken away does not come back.
        let edge = s.edge.restarted("https://new.example.org", "");
        let phone = phone.on(&edge).await;
        edge.t.db.clock.advance(YEAR * 3 / 4);
        assert_eq!(renew_identities(&edge.t.app).await.unwrap(), 1);
        assert_eq!(renewal(&phone).await.mdm.access_rights, 3);
        let found = muster::service::terms::differing(&edge.t.app).await.unwrap();
        assert_eq!((found.devices, found.url, found.identifier, found.rights), (1, 1, 0, 1));
    }

    async fn a_renewal_that_fails_is_repeated_ever_less_often(s: Story) {
        let (mut phone, _) = s.enrolled("PHONE-1").await;
        let app = &s.ready.app;
        s.ready.db.clock.advance(YEAR * 3 / 4);
        let mut tries = Vec::new();
        for hour in 0..40 {
            if renew_identities(app).await.unwrap() == 1 {
                tries.push(hour);
                let offered = phone.idle().await.unwrap();
                let chain = [("ErrorCode", Value::from(4001)), ("USEnglishDescription", "Profile refused".into())];
                let chain = Value::Array(vec![Value::Dictionary(Dictionary::from_iter(chain))]);
                phone.report_with("Error", Some(&offered.uuid), &[("ErrorChain", chain)]).await;
            }
            s.ready.db.clock.advance(HOUR);
        }
        assert_eq!(tries, [0, 1, 3, 7, 15, 31]);
        let row = s.ready.db.read().await.renewal(phone.id().await).await.unwrap().unwrap();
        assert_eq!((row.attempts, row.error.as_deref()), (6, Some("Profile refused")));
        let counts = s.ready.db.read().await.failed_renewals().await.unwrap();
        assert_eq!((counts.failed, counts.last_error.as_deref()), (1, Some("Profile refused")));

        s.ready.db.clock.advance(32 * HOUR);
        assert_eq!(renew_identities(app).await.unwrap(), 1);
        let code = challenge(&renewal(&phone).await);
        phone.certificate = issued(Applicant::new(&s.ready, 3).ask(&s.ready, &code).await);
        phone.enroll().await;
        assert_eq!(s.ready.db.read().await.renewal(phone.id().await).await.unwrap(), None);
    }

    async fn a_renewal_without_effect_is_repeated_ever_less_often(s: Story) {
        let (phone, _) = s.enrolled("PHONE-1").await;
        s.ready.db.clock.advance(YEAR * 3 / 4);
        let mut tries = Vec::new();
        for hour in 0..12 {
            if renew_identities(&s.ready.app).await.unwrap() == 1 {
                tries.push(hour);
                assert_eq!(phone.finish_all().await, ["InstallProfile"]);
            }
            s.ready.db.clock.advance(HOUR);
        }
        assert_eq!(tries, [0, 1, 3, 7]);
        let counts = s.ready.db.read().await.failed_renewals().await.unwrap();
        assert_eq!(counts.failed, 0, "none was refused");
    }

    async fn a_certificate_that_ends_with_its_authority_is_renewed_under_the_next(s: Story) {
        let db = &s.ready.db;
        db.clock.advance(YEAR * 14 + YEAR / 2);
        s.ready.put_push_certificate(2 * YEAR).await;
        s.enrolled("PHONE-1").await;
        db.clock.advance(YEAR / 4);
        let ends: Vec<_> = outlook::concerns(&s.ready.app).await.unwrap().into_iter().map(|c| c.found).collect();
        assert!(ends.iter().any(|found| found.starts_with("the authority \"CA with a key\" ends at")), "{ends:?}");
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 0, "another would end no later");
        let next = make_device_ca(&rsa(4), "Next CA", "", s.ready.now(), &*db.random).unwrap();
        let import = Import {
            name: String::new(),
            certificate: next.certificate.der().to_vec(),
            key: Some(Secret::new(next.key.pkcs8_der().expose().clone())),
            password: None,
            issues_elsewhere: false,
            activate: true,
        };
        authorities::import(&s.ready.app, &s.ready.admin, import).await.unwrap();
        assert_eq!(renew_identities(&s.ready.app).await.unwrap(), 1);
    }

    async fn the_identifier_of_handed_out_profiles_stays_taken(s: Story) {
        s.enrolled("PHONE-1").await;
        let edge = s.edge.restarted("https://mdm.example.org", OTHER);
        let wifi = include_str!("../fixtures/plists/profile-wifi.mobileconfig");
        let profile = |identifier: &str| wifi.replace("org.example.wifi", identifier).into_bytes();
        for identifier in ["muster.enrollment", "other.enrollment"] {
            let refused = muster::service::profiles::create(&edge.t.app, &s.ready.admin, &profile(identifier)).await;
            assert!(matches!(refused, Err(Error::Invalid { code: "invalid_profile", .. })), "{identifier}: {refused:?}");
        }
        s.ready.db.clock.advance(MINUTE);
    }
}
