//! Enrollment links: made, shown once, opened by people and by scanners, ended.

use muster::model::LinkId;
use muster::service::Error;
use muster::service::enrollment::{self, CreatedLink, LinkError, LinkState, NewLink, open_link, profile_for_link};

use crate::support::applicant::{Applicant, challenge, issued, opened};
use crate::support::ready::{Ready, SCHOOL};
use crate::support::rows::{DAY, HOUR, MINUTE, TOPIC};

pub async fn link(t: &Ready, uses: Option<i64>) -> (CreatedLink, String) {
    let new = NewLink { name: "reception".to_owned(), uses, expires_at: Some(t.now().plus(DAY)), ..NewLink::default() };
    let made = enrollment::create_link(&t.app, &t.admin, new).await.unwrap();
    let code = made.url.expose().rsplit('/').next().unwrap().to_owned();
    (made, code)
}

both_databases! {
    async fn a_link_shows_its_code_once(t: Ready) {
        let (made, code) = link(&t, Some(3)).await;
        assert_eq!(*made.url.expose(), format!("https://mdm.example.org/enroll/{code}"));
        assert!(code.len() >= 26, "at least 128 bits in base32");
        assert!(made.qr_svg.expose().contains("<svg") && made.qr_png.expose().starts_with(b"\x89PNG"));
        let view = enrollment::get_link(&t.app, made.link.link.id).await.unwrap();
        assert_eq!((view.link.uses_allowed, view.link.uses_count, view.state), (Some(3), 0, LinkState::Open));
        assert_ne!(view.link.code_hash.hex(), code);
        assert!(!format!("{made:?}").contains(&code));
        let stored = t.db.texts("SELECT name || created_by FROM enrollment_links").await;
        let audited = t.db.texts("SELECT detail FROM audit").await;
        assert!(!stored.iter().chain(&audited).any(|text| text.contains(&code)));
        assert!(t.audited().await.contains(&"enrollment_link.created".to_owned()));
    }

    async fn all_faults_of_a_link_are_named(t: Ready) {
        let wrong = NewLink {
            name: " ".to_owned(),
            uses: Some(0),
            expires_at: Some(t.now()),
            user_name: Some("x".repeat(300)),
            user_email: Some("nobody".to_owned()),
        };
        let Err(Error::Invalid { faults, .. }) = enrollment::create_link(&t.app, &t.admin, wrong).await else { panic!() };
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/user_name", "/user_email", "/uses", "/expires_at"]);
    }

    async fn links_are_listed_newest_first_in_pages(t: Ready) {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(link(&t, None).await.0.link.link.id);
            t.db.clock.advance(MINUTE);
        }
        let ids_of = async |before, limit| -> Vec<LinkId> {
            let page = enrollment::list_links(&t.app, before, limit).await.unwrap();
            page.into_iter().map(|view| view.link.id).collect()
        };
        assert_eq!(ids_of(None, 2).await, [ids[2], ids[1]]);
        assert_eq!(ids_of(Some(ids[1]), 2).await, [ids[0]]);
    }

    async fn opening_the_page_uses_nothing_up(t: Ready) {
        let (made, code) = link(&t, Some(1)).await;
        for _ in 0..20 {
            let page = open_link(&t.app, &code.to_uppercase()).await.unwrap();
            assert_eq!((page.organization.as_str(), page.ready), ("Example School", true));
        }
        assert_eq!(t.db.texts("SELECT name FROM challenges").await, [""; 0]);
        assert_eq!(enrollment::get_link(&t.app, made.link.link.id).await.unwrap().link.uses_count, 0);
    }

    async fn a_dead_link_says_why(t: Ready) {
        assert!(matches!(open_link(&t.app, "nonsense").await, Err(LinkError::Unknown)));
        assert!(matches!(profile_for_link(&t.app, "").await, Err(LinkError::Unknown)));
        let (made, code) = link(&t, Some(1)).await;
        t.db.clock.advance(DAY);
        assert!(matches!(open_link(&t.app, &code).await, Err(LinkError::Expired)));
        assert!(matches!(profile_for_link(&t.app, &code).await, Err(LinkError::Expired)));
        t.db.execute("UPDATE enrollment_links SET uses_count = 1").await;
        assert!(matches!(profile_for_link(&t.app, &code).await, Err(LinkError::UsedUp)));
        for _ in 0..2 {
            let view = enrollment::revoke_link(&t.app, &t.admin, made.link.link.id).await.unwrap();
            assert_eq!(view.state, LinkState::Revoked);
        }
        assert!(matches!(open_link(&t.app, &code).await, Err(LinkError::Revoked)));
        assert_eq!(t.audited().await.iter().filter(|action| *action == "enrollment_link.revoked").count(), 1);
        let nobody = enrollment::revoke_link(&t.app, &t.admin, t.db.id(LinkId::new)).await;
        assert!(matches!(nobody, Err(Error::NotFound(_))));
    }

    async fn the_profile_brings_all_that_a_device_needs(t: Ready) {
        let (_, code) = link(&t, Some(1)).await;
        let profile = opened(&profile_for_link(&t.app, &code).await.unwrap());
        assert_eq!(profile.scep.url, "https://mdm.example.org/scep");
        assert_eq!((profile.scep.key_bits, profile.scep.key_usage), (2048, 5));
        assert_eq!(profile.mdm.topic, TOPIC);
        assert_eq!(profile.mdm.server_url, "https://mdm.example.org/mdm");
        assert_eq!(profile.mdm.checkin_url, "https://mdm.example.org/checkin");
        assert!(profile.mdm.sign_message && profile.mdm.check_out_when_removed);
        assert_eq!(profile.mdm.access_rights, 8191);
        let root = muster::service::authorities::tls_root(&t.app).await.unwrap();
        assert_eq!(profile.roots, [root.der().to_vec()]);
        let ca = muster::service::scep::ca_certificate(&t.app).await.unwrap();
        assert!(ca.has_fingerprint(profile.scep.ca_fingerprint.as_ref().unwrap()));
        assert_eq!(challenge(&profile).len(), 32);
    }

    async fn settings_reach_the_profile(t: Ready) {
        let settings = format!(
            "[enrollment]\nsign_message = false\naccess_rights = 1\n[pages]\npublic_url = \"https://enroll.example.org\"\n{SCHOOL}"
        );
        let other = t.second_process(&settings).await;
        let (made, code) = link(&other, None).await;
        assert!(made.url.expose().starts_with("https://enroll.example.org/enroll/"));
        let profile = opened(&profile_for_link(&other.app, &code).await.unwrap());
        assert!(!profile.mdm.sign_message);
        assert_eq!(profile.mdm.access_rights, 1);
        assert_eq!(profile.scep.url, "https://enroll.example.org/scep");
        assert_eq!(profile.mdm.server_url, "https://mdm.example.org/mdm");
    }

    async fn without_a_valid_push_certificate_no_challenge_is_made(t: Ready) {
        let (_, code) = link(&t, Some(1)).await;
        t.put_push_certificate(HOUR).await;
        t.db.clock.advance(HOUR);
        assert!(!open_link(&t.app, &code).await.unwrap().ready);
        assert!(matches!(profile_for_link(&t.app, &code).await, Err(LinkError::NotReady)));
        assert_eq!(t.db.texts("SELECT name FROM challenges").await, [""; 0]);
    }

    async fn open_challenges_are_bounded_by_the_remaining_uses(t: Ready) {
        let (_, code) = link(&t, Some(2)).await;
        let mut challenges = Vec::new();
        for _ in 0..10 {
            challenges.push(challenge(&opened(&profile_for_link(&t.app, &code).await.unwrap())));
        }
        assert!(matches!(profile_for_link(&t.app, &code).await, Err(LinkError::Busy { .. })));
        assert!(open_link(&t.app, &code).await.is_ok(), "the page can be read all the same");

        issued(Applicant::new(&t, 2).ask(&t, &challenges[0]).await);
        issued(Applicant::new(&t, 3).ask(&t, &challenges[1]).await);
        t.db.clock.advance(2 * MINUTE);
        assert!(matches!(profile_for_link(&t.app, &code).await, Err(LinkError::Busy { .. })), "both uses are held");
        t.db.clock.advance(HOUR);
        profile_for_link(&t.app, &code).await.unwrap();
    }

    async fn of_many_requests_at_once_no_more_than_allowed_get_a_challenge(t: Ready) {
        let (_, code) = link(&t, Some(1)).await;
        let all = futures_util::future::join_all((0..12).map(|_| profile_for_link(&t.app, &code))).await;
        assert_eq!(all.iter().filter(|profile| profile.is_ok()).count(), 5);
    }
}
