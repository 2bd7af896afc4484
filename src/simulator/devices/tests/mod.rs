//! Phones against a small server that follows the protocol, over TLS and as if behind a proxy.

mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plist::{Dictionary, Value};
use tokio_util::sync::CancellationToken;

use super::fleet::{self, FleetOptions, What};
use super::*;
use crate::model::ReportStatus;
use server::Server;

fn dictionary(pairs: Vec<(&str, Value)>) -> Dictionary {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn text(members: &Dictionary, key: &str) -> String {
    members.get(key).and_then(Value::as_string).unwrap_or_default().to_owned()
}

fn statuses(connection: &Connection) -> Vec<(&str, ReportStatus)> {
    connection.done.iter().map(|done| (done.request_type.as_str(), done.status)).collect()
}

#[tokio::test]
async fn a_phone_enrolls_by_mutual_tls_and_carries_out_commands() {
    let server = Server::start().await;
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    let log = server.check_ins();
    assert_eq!(text(&log[0], "MessageType"), "Authenticate");
    assert_eq!(text(&log[0], "SerialNumber"), phone.handset.facts.serial_number);
    assert_eq!(text(&log[1], "MessageType"), "TokenUpdate");
    let unlock_token = log[1].get("UnlockToken").unwrap().clone();

    let queries = Value::Array(vec![Value::from("SerialNumber")]);
    server.queue("DeviceInformation", vec![("Queries", queries)]);
    server.queue("InstallProfile", vec![("Payload", Value::Data(server.plain_profile("org.example.wifi")))]);
    server.queue("ProfileList", vec![]);
    server.queue("DeviceLock", vec![]);
    server.queue("ClearPasscode", vec![("UnlockToken", unlock_token)]);
    server.queue("CertificateList", vec![]);
    server.queue("MakeCoffee", vec![]);
    let connection = phone.connect().await.unwrap();
    use ReportStatus::{Acknowledged, Error};
    assert_eq!(
        statuses(&connection),
        [
            ("DeviceInformation", Acknowledged),
            ("InstallProfile", Acknowledged),
            ("ProfileList", Acknowledged),
            ("DeviceLock", Acknowledged),
            ("ClearPasscode", Acknowledged),
            ("CertificateList", Acknowledged),
            ("MakeCoffee", Error),
        ]
    );
    let reports = server.reports();
    let listed = reports[3].get("ProfileList").unwrap().as_array().unwrap();
    assert_eq!(text(listed[1].as_dictionary().unwrap(), "PayloadIdentifier"), "org.example.wifi");

    phone.token_update().await.unwrap();
    assert!(!server.check_ins()[2].contains_key("UnlockToken"), "it is sent once");
}

#[tokio::test]
async fn every_way_to_prove_identity_works() {
    let server = Server::start().await;
    let header = |form| Authentication::ProxyHeader { name: "Client-Cert".to_owned(), form };
    for (authentication, backend) in [
        (Authentication::TlsOnly, None),
        (Authentication::SignatureOnly, None),
        (Authentication::SignatureOnly, Some(server.plain_url())),
        (header(HeaderForm::Rfc9440), Some(server.plain_url())),
        (header(HeaderForm::Pem), Some(server.plain_url())),
    ] {
        let mut phone = server.phone(1, PhoneOptions { authentication, backend, ..PhoneOptions::default() });
        phone.enroll(&server.link()).await.unwrap();
        assert_eq!(phone.poll().await.unwrap(), None);
    }
    let mut nobody = server.phone(1, PhoneOptions::default());
    nobody.options.authentication = header(HeaderForm::Rfc9440);
    let error = nobody.enroll(&server.link()).await.unwrap_err();
    assert_eq!(error.status(), Some(400), "{error}");
    assert!(error.to_string().contains("no identity"), "{error}");
}

#[tokio::test]
async fn awkward_phones_get_through() {
    let server = Server::start().await;
    for number in 0..6 {
        let mut phone =
            server.phone(number, PhoneOptions { quirks: Quirks::awkward(number), ..PhoneOptions::default() });
        phone.enroll(&server.link()).await.unwrap_or_else(|error| panic!("{number}: {error}"));
        server.queue("SecurityInfo", vec![]);
        let connection = phone.connect().await.unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(connection.done.len(), 1);
    }
    let both = server.check_ins().iter().filter(|message| message.contains_key("EnrollmentID")).count();
    assert_eq!(both, 2);
}

#[tokio::test]
async fn trust_comes_from_the_profile_alone() {
    let server = Server::start().await;
    let mut careful = server.phone(1, PhoneOptions::default());
    careful.options.page_trust = Trust::Roots(Vec::new());
    let error = careful.enroll(&server.link()).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");

    let mut tapper = server.phone(1, PhoneOptions { page_trust: Trust::Anyone, ..PhoneOptions::default() });
    tapper.enroll(&server.link()).await.unwrap();
    server.set(|world| world.roots_in_profile = false);
    let error = tapper.enroll(&server.link()).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_wrong_challenge_ends_with_scep_failure() {
    let server = Server::start().await;
    server.set(|world| world.challenge = "another".to_owned());
    let mut phone = server.phone(1, PhoneOptions::default());
    let profile = phone.fetch_profile(&server.link()).await.unwrap();
    server.set(|world| world.challenge = "changed".to_owned());
    phone.accept_profile(&profile).unwrap();
    let error = phone.obtain_certificate().await.unwrap_err();
    assert!(matches!(&error, PhoneError::Scep(reason) if reason.contains("BadRequest")), "{error}");
    assert!(matches!(phone.authenticate().await, Err(PhoneError::NotReady(_))));
}

#[tokio::test]
async fn identities_are_renewed_both_ways() {
    let server = Server::start().await;
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    let first = phone.identity().unwrap().certificate.clone();
    phone.renew_certificate().await.unwrap();
    let second = phone.identity().unwrap().certificate.clone();
    assert_ne!(first, second);
    assert_eq!(phone.poll().await.unwrap(), None);

    for (silent, reports) in [(false, 2), (true, 1)] {
        phone.options.quirks.silent_renewal = silent;
        let before = server.reports().len();
        server.queue("InstallProfile", vec![("Payload", Value::Data(server.enrollment_profile()))]);
        phone.connect().await.unwrap();
        assert_eq!(server.reports().len() - before, reports, "Idle and the report, or Idle alone");
        server.set(|world| world.queue.clear());
    }
    assert_eq!(server.check_ins().len(), 6, "two for the enrollment and two for each renewal");
    assert_ne!(phone.identity().unwrap().certificate, second);
}

#[tokio::test]
async fn a_wipe_forgets_everything_and_may_return_to_service() {
    let server = Server::start().await;
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    let service = vec![("Enabled", Value::from(true)), ("MDMProfileData", Value::Data(server.enrollment_profile()))];
    server.queue("EraseDevice", vec![("ReturnToService", Value::Dictionary(dictionary(service)))]);
    phone.connect().await.unwrap();
    assert!(phone.is_enrolled());
    assert_eq!(server.check_ins().len(), 4);

    server.queue("EraseDevice", vec![]);
    let connection = phone.connect().await.unwrap();
    assert_eq!(statuses(&connection), [("EraseDevice", ReportStatus::Acknowledged)]);
    assert!(!phone.is_enrolled() && phone.identity().is_none() && phone.handset.unlock_token.is_none());
    assert!(matches!(phone.poll().await, Err(PhoneError::NotReady(_))));
    phone.enroll(&server.link()).await.unwrap();
}

#[tokio::test]
async fn removing_the_enrollment_profile_checks_out() {
    let server = Server::start().await;
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    server.queue("RemoveProfile", vec![("Identifier", Value::from("org.example.enrollment"))]);
    phone.connect().await.unwrap();
    assert_eq!(text(server.check_ins().last().unwrap(), "MessageType"), "CheckOut");
    assert!(!phone.is_enrolled());
}

#[tokio::test]
async fn whom_the_server_does_not_know_leaves_and_comes_no_more() {
    let server = Server::start().await;
    let gone = String::from_utf8(crate::protocol::unrecognized::unrecognized_device("gone")).unwrap();
    server.set(|world| world.broken_answer = Some((403, gone)));
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    assert_eq!(phone.connect().await.unwrap(), Connection::default());
    assert!(!phone.is_enrolled() && phone.handset.enrollment.is_none());
    assert_eq!(text(server.check_ins().last().unwrap(), "MessageType"), "TokenUpdate", "there is no CheckOut");

    let options = FleetOptions {
        count: 2,
        phone: PhoneOptions { page_trust: Trust::Anyone, ..PhoneOptions::default() },
        comes_unasked: Some(Duration::from_millis(50)),
        ..FleetOptions::default()
    };
    let progress: fleet::Progress = Arc::new(|_| ());
    let life = fleet::run(options, server.environment(), server.link(), progress, CancellationToken::new());
    let summary = tokio::time::timeout(Duration::from_secs(60), life).await.unwrap();
    assert_eq!((summary.enrolled, summary.left, summary.troubles), (2, 2, 0), "{summary:?}");

    // Any other 403 is no reason to leave.
    server.set(|world| world.broken_answer = Some((403, "no".to_owned())));
    phone.enroll(&server.link()).await.unwrap();
    assert_eq!(phone.connect().await.unwrap_err().status(), Some(403));
    assert!(phone.is_enrolled());
}

#[tokio::test]
async fn tokens_and_users_have_their_messages() {
    let server = Server::start().await;
    let mut mac = server.phone(1, PhoneOptions::default());
    mac.enroll(&server.link()).await.unwrap();
    assert_eq!(mac.get_bootstrap_token().await.unwrap(), None);
    mac.set_bootstrap_token(Some(b"boot")).await.unwrap();
    assert_eq!(mac.get_bootstrap_token().await.unwrap().unwrap().expose(), b"boot");

    let user = User { id: "U-1".to_owned(), short_name: "kim".to_owned(), long_name: "Kim".to_owned() };
    mac.user_token_update(&user).await.unwrap();
    let message = server.check_ins().pop().unwrap();
    assert_eq!((text(&message, "UserID"), text(&message, "UserShortName")), ("U-1".to_owned(), "kim".to_owned()));
    server.queue("ProfileList", vec![]);
    let command = mac.user_poll(&user).await.unwrap().unwrap();
    let next = mac.user_report(&user, &command, ReportStatus::Acknowledged, Dictionary::new()).await.unwrap();
    assert_eq!(next, None);
    assert_eq!(mac.declarative_management("tokens", None).await.unwrap().status, 404);
}

#[tokio::test]
async fn what_the_server_does_wrong_is_said() {
    let server = Server::start().await;
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    server.set(|world| world.repeats_after_not_now = true);
    server.queue("CertificateList", vec![]);
    phone.handset.locked = true;
    let error = phone.connect().await.unwrap_err();
    assert!(error.to_string().contains("offered again"), "{error}");

    server.set(|world| world.broken_answer = Some((500, "the database is gone".to_owned())));
    let error = phone.connect().await.unwrap_err();
    assert_eq!(error.to_string(), "report: unexpected status 500: the database is gone");
    server.set(|world| world.broken_answer = Some((200, "<plist><dict/></plist>".to_owned())));
    assert!(phone.poll().await.unwrap_err().to_string().contains("no command"));
    server.stop().await;
    assert!(matches!(phone.poll().await, Err(PhoneError::Unreachable { .. })));
}

#[tokio::test]
async fn an_app_comes_by_its_manifest_in_pieces() {
    let server = Server::start().await;
    let mut phone = server.phone(1, PhoneOptions::default());
    phone.enroll(&server.link()).await.unwrap();
    server.queue("InstallApplication", vec![("ManifestURL", Value::from(server.url("/manifest.plist").as_str()))]);
    let connection = phone.connect().await.unwrap();
    assert_eq!(statuses(&connection), [("InstallApplication", ReportStatus::Acknowledged)]);
    let app = &phone.handset.apps["org.example.app"];
    assert_eq!((app.size, app.managed), (server::PACKAGE_BYTES as u64, true));

    server.queue("InstallApplication", vec![("ManifestURL", Value::from(server.url("/nothing").as_str()))]);
    assert_eq!(statuses(&phone.connect().await.unwrap()), [("InstallApplication", ReportStatus::Error)]);
}

#[tokio::test]
async fn fleets_of_every_behavior_get_their_work_done() {
    futures_util::future::join_all(Behavior::ALL.map(a_fleet_gets_its_work_done)).await;
}

async fn a_fleet_gets_its_work_done(behavior: Behavior) {
    let server = Server::start().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let options = FleetOptions {
        count: 4,
        behavior,
        phone: PhoneOptions { page_trust: Trust::Anyone, ..PhoneOptions::default() },
        comes_unasked: Some(Duration::from_millis(100)),
        person: Duration::from_millis(50),
        ..FleetOptions::default()
    };
    server.set(|world| world.for_each_device = vec!["SecurityInfo", "EraseDevice"]);
    let progress: fleet::Progress = Arc::new(move |event| seen.lock().unwrap().push(event.clone()));
    let life = fleet::run(options, server.environment(), server.link(), progress, CancellationToken::new());
    let summary = tokio::time::timeout(Duration::from_secs(120), life).await.unwrap();
    assert_eq!((summary.enrolled, summary.erased, summary.failed), (4, 4, 0), "{behavior:?}: {summary:?}");
    assert_eq!(summary.troubles, 0, "{behavior:?}: {summary:?}");
    assert!(summary.devices.values().all(|handset| handset.identity.is_none()));
    let not_now = summary.reports.get("NotNow").copied().unwrap_or(0);
    assert_eq!(not_now > 0, behavior == Behavior::Busy, "{behavior:?}: {summary:?}");
    let events = events.lock().unwrap();
    assert!(events.iter().any(|event| matches!(event.what, What::CertificateIssued)));
}

#[tokio::test]
async fn a_fleet_wakes_by_push_and_ends_when_told() {
    let server = Server::start().await;
    let apns = server.with_push().await;
    let options = FleetOptions {
        count: 3,
        phone: PhoneOptions { page_trust: Trust::Anyone, ..PhoneOptions::default() },
        ..FleetOptions::default()
    };
    let environment = Environment { wakes: WakeService::Local(apns.clone()), ..server.environment() };
    let stop = CancellationToken::new();
    let woken = Arc::new(tokio::sync::Semaphore::new(0));
    let signal = Arc::clone(&woken);
    let progress: fleet::Progress = Arc::new(move |event| {
        if matches!(event.what, What::Enrolled | What::Reported(_)) {
            signal.add_permits(1);
        }
    });
    let life = tokio::spawn(fleet::run(options, environment, server.link(), progress, stop.clone()));
    woken.acquire_many(3).await.unwrap().forget();
    server.set(|world| world.for_each_device = vec!["SecurityInfo"]);
    server.push_to_all(&apns).await;
    woken.acquire_many(3).await.unwrap().forget();
    stop.cancel();
    let summary = life.await.unwrap();
    assert_eq!((summary.enrolled, summary.reports["Acknowledged"]), (3, 3));
}
