//! The whole job on real connections: simulated phones against the server as the program runs it, woken through the
//! fake APNs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster::cli::server::Server;
use muster::config::Settings;
use muster::http::Shutdown;
use muster::model::{CommandId, DeliveryState, ReportStatus, Secret};
use muster::pki::authority::make_tls_root;
use muster::pki::push::issue_fake;
use muster::remote::apns::{ApnsClient, Roots};
use muster::service::authorities;
use muster::service::commands::{NewCommand, Targets, accept};
use muster::service::enrollment::{NewLink, create_link};
use muster::service::push_certificates::{self, NewCertificate};
use muster::service::{Actor, App, Parts, apps, profiles, renewal};
use muster::simulator::apns::{FakeApns, Options};
use muster::simulator::devices::{
    Authentication, Connection, Environment, HeaderForm, KeySource, Phone, PhoneError, PhoneOptions, Quirks, Trust,
    WakeService,
};
use serde_json::{Value, json};
use url::Url;

use crate::support::app::TestApp;
use crate::support::db::{Fixture, TestDb};
use crate::support::ipa::notes;
use crate::support::ready::{prepared, rsa};
use crate::support::rows::{DAY, TOPIC};

/// How long a push may take to come through.
const SOON: Duration = Duration::from_secs(20);

/// A server at work, and a fake APNs for it.
struct World {
    app: App,
    apns: FakeApns,
    devices: SocketAddr,
    shutdown: Shutdown,
    server: Option<Server>,
    test: TestApp,
}

impl Fixture for World {
    async fn on(db: TestDb) -> Self {
        Self::with(db, "", "").await
    }
}

impl World {
    /// With more settings: at the top, and tables.
    async fn with(db: TestDb, top: &str, tables: &str) -> Self {
        let test = TestApp::with(db.clone(), "").await;
        let root = make_tls_root("Fake Apple", "", db.now(), &*db.random).unwrap();
        let options = Options { client_authorities: vec![root.certificate.der().to_vec()], ..Options::default() };
        let apns = FakeApns::start(options, db.clock.clone(), db.random.clone()).await.unwrap();
        let text = format!(
            "public_url = \"https://mdm.example.org\"\ndata_dir = {:?}\n{top}\n[admin]\nlisten = \"127.0.0.1:0\"\n{}",
            test.directory.path(),
            if tables.is_empty() { "[devices]\nlisten = \"127.0.0.1:0\"\n" } else { tables },
        );
        let roots = Roots::Only(vec![apns.root_der()]);
        let pusher = ApnsClient::new(&apns.endpoint().parse().unwrap(), &roots, db.clock.clone()).unwrap();
        let app = App::new(Parts {
            store: db.store.clone(),
            settings: Settings::parse(Path::new("muster.toml"), &text, []).unwrap(),
            vault: test.app.vault().clone(),
            clock: db.clock.clone(),
            random: db.random.clone(),
            pusher: Arc::new(pusher),
        });
        authorities::ensure_with(&app, prepared()).await.unwrap();
        let push = issue_fake(&root, rsa(2), TOPIC, db.now(), 300 * DAY, &*db.random).unwrap();
        let pem = format!("{}{}", push.identity.chain_pem(), push.identity.key.to_pem().expose());
        let new =
            NewCertificate { file: Secret::new(pem.into_bytes()), password: None, default: Some(true), force: false };
        push_certificates::put(&app, &Actor::command_line(), new).await.unwrap();
        let shutdown = Shutdown::new();
        let server = Server::start(app.clone(), shutdown.clone()).await.unwrap();
        Self { app, apns, devices: server.devices, shutdown, server: Some(server), test }
    }

    async fn link(&self, uses: i64) -> Url {
        let new =
            NewLink { name: "story".to_owned(), uses: Some(uses), expires_at: None, user_name: None, user_email: None };
        let made = create_link(&self.app, &Actor::command_line(), new).await.unwrap();
        made.url.expose().parse().unwrap()
    }

    /// A phone that finds the server without DNS, and whose person taps the browser's warning away.
    fn phone(&self, number: usize, options: PhoneOptions) -> Phone {
        let environment = Environment {
            clock: self.app.clock.clone(),
            random: self.app.random.clone(),
            keys: KeySource::Given([rsa(3), rsa(4)].into()),
            wakes: WakeService::Local(self.apns.clone()),
        };
        let options = PhoneOptions { page_trust: Trust::Anyone, connect_to: Some(self.devices), ..options };
        Phone::new(number, options, environment)
    }

    async fn enrolled(&self, options: PhoneOptions) -> Phone {
        let mut phone = self.phone(1, options);
        phone.enroll(&self.link(1).await).await.unwrap();
        self.obey(&mut phone).await;
        phone
    }

    async fn ask(&self, phone: &Phone, command: Value) -> CommandId {
        self.test.db.clock.advance(Duration::from_millis(1));
        let udid = &phone.handset.facts.udid;
        let enrollment = self.test.db.read().await.enrollment_by_apple_id(udid).await.unwrap().unwrap();
        let new = NewCommand {
            targets: Targets::Devices(vec![enrollment.device_id]),
            command,
            confirm: None,
            expires_at: None,
            priority: None,
            no_push: false,
        };
        accept(&self.app, &Actor::command_line(), new).await.unwrap().id
    }

    /// Waits for the push, connects, and carries out what comes.
    async fn obey(&self, phone: &mut Phone) -> Connection {
        assert!(phone.wait_for_wake(SOON).await.unwrap(), "no push came");
        phone.connect().await.unwrap()
    }

    async fn state(&self, phone: &Phone, command: CommandId) -> DeliveryState {
        let udid = &phone.handset.facts.udid;
        let mut read = self.test.db.read().await;
        let enrollment = read.enrollment_by_apple_id(udid).await.unwrap().unwrap();
        read.delivery(enrollment.id, command).await.unwrap().unwrap().state
    }

    async fn end(mut self) {
        self.shutdown.stop();
        self.server.take().unwrap().stopped().await;
        self.apns.shut_down().await;
    }
}

fn types(connection: &Connection) -> Vec<&str> {
    connection.done.iter().map(|done| done.request_type.as_str()).collect()
}

async fn renews(world: World, quirks: Quirks) {
    let mut phone = world.enrolled(PhoneOptions { quirks, ..PhoneOptions::default() }).await;
    let first = phone.identity().unwrap().certificate.sha256;
    world.test.db.clock.advance(200 * DAY);
    assert_eq!(renewal::renew_identities(&world.app).await.unwrap(), 0, "it is too early");
    world.test.db.clock.advance(50 * DAY);
    assert_eq!(renewal::renew_identities(&world.app).await.unwrap(), 1);
    world.obey(&mut phone).await;
    assert_ne!(phone.identity().unwrap().certificate.sha256, first);
    assert_eq!(phone.poll().await.unwrap(), None, "the renewal is not offered again");
    assert_eq!(renewal::renew_identities(&world.app).await.unwrap(), 0, "the new one lasts");
    world.end().await;
}

both_databases! {
    async fn a_phone_enrolls_is_woken_and_obeys(world: World) {
        let mut phone = world.phone(1, PhoneOptions::default());
        phone.enroll(&world.link(1).await).await.unwrap();
        assert_eq!(types(&world.obey(&mut phone).await)[0], "DeviceInformation");

        let lock = world.ask(&phone, json!({"type": "lock", "message": "Found me?"})).await;
        world.obey(&mut phone).await;
        assert!(phone.handset.locked);
        assert_eq!(world.state(&phone, lock).await, DeliveryState::Acknowledged);

        let clear = world.ask(&phone, json!({"type": "clear_passcode"})).await;
        world.obey(&mut phone).await;
        assert!(!phone.handset.locked && !phone.handset.passcode);
        assert_eq!(world.state(&phone, clear).await, DeliveryState::Acknowledged);

        let odd = world.ask(&phone, json!({"type": "apple", "request_type": "Settings", "payload": {"Settings": []}})).await;
        world.obey(&mut phone).await;
        assert_eq!(world.state(&phone, odd).await, DeliveryState::Error);

        let wipe = world.ask(&phone, json!({"type": "wipe"})).await;
        let connection = world.obey(&mut phone).await;
        assert_eq!(types(&connection), ["EraseDevice"]);
        assert!(!phone.is_enrolled());
        assert_eq!(world.state(&phone, wipe).await, DeliveryState::Acknowledged);
        world.end().await;
    }

    async fn a_locked_phone_puts_off_what_needs_its_user(world: World) {
        let mut phone = world.enrolled(PhoneOptions::default()).await;
        phone.handset.locked = true;
        let certificates = world.ask(&phone, json!({"type": "certificates"})).await;
        let security = world.ask(&phone, json!({"type": "security_info"})).await;
        let connection = world.obey(&mut phone).await;
        assert_eq!(types(&connection), ["CertificateList", "SecurityInfo"]);
        assert_eq!(connection.done[0].status, ReportStatus::NotNow);
        assert_eq!(world.state(&phone, certificates).await, DeliveryState::NotNow);
        assert_eq!(world.state(&phone, security).await, DeliveryState::Acknowledged);
        phone.handset.locked = false;
        assert_eq!(types(&phone.connect().await.unwrap()), ["CertificateList"]);
        world.end().await;
    }

    async fn awkward_phones_enroll_and_obey(world: World) {
        let link = world.link(6).await;
        for number in 0..6 {
            let quirks = Quirks::awkward(number);
            let mut phone = world.phone(number, PhoneOptions { quirks, ..PhoneOptions::default() });
            phone.enroll(&link).await.unwrap_or_else(|error| panic!("{number} {quirks:?}: {error}"));
            let connection = world.obey(&mut phone).await;
            assert_eq!(types(&connection)[0], "DeviceInformation", "{number} {quirks:?}");
        }
        assert_eq!(world.phone(6, PhoneOptions::default()).enroll(&link).await.unwrap_err().status(), Some(410));
        world.end().await;
    }

    async fn a_phone_that_may_not_enroll_tells_what_the_page_says(world: World) {
        let phone = world.phone(1, PhoneOptions::default());
        let link = world.link(1).await;
        push_certificates::remove(&world.app, &Actor::command_line(), TOPIC, true).await.unwrap();
        let error = phone.fetch_profile(&link).await.unwrap_err().to_string();
        assert!(error.contains("no link to a profile; it says: \"Not ready yet"), "{error}");
        assert!(error.contains("push certificate is missing"), "{error}");
        let unknown = link.join("/enroll/abcd2345abcd2345abcd2345ab").unwrap();
        let error = phone.fetch_profile(&unknown).await.unwrap_err();
        assert_eq!(error.status(), Some(404));
        assert!(error.to_string().contains("404: This link is not known Please check"), "{error}");
        world.end().await;
    }

    async fn signatures_alone_and_certificates_alone_are_enough(world: World) {
        for authentication in [Authentication::SignatureOnly, Authentication::TlsOnly] {
            let phone = world.enrolled(PhoneOptions { authentication, ..PhoneOptions::default() }).await;
            assert_eq!(phone.poll().await.unwrap(), None);
        }
        world.end().await;
    }

    async fn identities_are_renewed_by_scep_and_a_wiped_phone_comes_back(world: World) {
        let mut phone = world.enrolled(PhoneOptions::default()).await;
        let first = phone.identity().unwrap().certificate.sha256;
        phone.renew_certificate().await.unwrap();
        assert_ne!(phone.identity().unwrap().certificate.sha256, first);
        assert_eq!(phone.poll().await.unwrap(), None, "the renewed certificate is the enrollment's own");

        let wipe = world.ask(&phone, json!({"type": "wipe"})).await;
        phone.handset.erase();
        phone.enroll(&world.link(1).await).await.unwrap();
        assert_eq!(world.state(&phone, wipe).await, DeliveryState::Cancelled, "it was wiped before it had the command");
        let again = world.obey(&mut phone).await;
        assert!(!types(&again).contains(&"EraseDevice"));
        world.end().await;
    }

    async fn profiles_and_apps_come_and_go(world: World) {
        let mut phone = world.enrolled(PhoneOptions::default()).await;
        let admin = Actor::command_line();
        let file = "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict>\
                    <key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>\
                    <key>PayloadIdentifier</key><string>org.example.wifi</string>\
                    <key>PayloadUUID</key><string>0B7C0B32-6A0C-4C1B-8B0E-1D1A3C1F7A10</string>\
                    <key>PayloadContent</key><array/></dict></plist>";
        let profile = profiles::create(&world.app, &admin, file.as_bytes()).await.unwrap();
        world.ask(&phone, json!({"type": "install_profile", "profile_id": profile.id})).await;
        world.obey(&mut phone).await;
        assert_eq!(phone.handset.profiles[0].identifier, "org.example.wifi");
        world.ask(&phone, json!({"type": "remove_profile", "identifier": "org.example.wifi"})).await;
        world.obey(&mut phone).await;
        assert!(phone.handset.profiles.is_empty());

        let package = notes(300_000);
        let size = package.len() as u64;
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(package))]);
        let kept = apps::upload(&world.app, &admin, None, body).await.unwrap();
        let install = world.ask(&phone, json!({"type": "install_app", "app_id": kept.app.id})).await;
        world.obey(&mut phone).await;
        assert_eq!(world.state(&phone, install).await, DeliveryState::Acknowledged);
        let bundle_id = kept.app.bundle_id.unwrap();
        assert_eq!(phone.handset.apps[&bundle_id].size, size);
        world.ask(&phone, json!({"type": "remove_app", "bundle_id": bundle_id})).await;
        world.obey(&mut phone).await;
        assert!(phone.handset.apps.is_empty());
        world.end().await;
    }

    async fn the_server_renews_an_identity(world: World) {
        renews(world, Quirks::default()).await;
    }

    async fn the_server_renews_the_identity_of_a_phone_that_does_not_report_it(world: World) {
        renews(world, Quirks { silent_renewal: true, ..Quirks::default() }).await;
    }

    async fn a_wiped_phone_returns_to_service(world: World) {
        let mut phone = world.enrolled(PhoneOptions::default()).await;
        let first = phone.identity().unwrap().certificate.sha256;
        let wipe = world.ask(&phone, json!({"type": "wipe", "return_to_service": {"enabled": true}})).await;
        world.obey(&mut phone).await;
        assert!(phone.is_enrolled());
        assert_ne!(phone.identity().unwrap().certificate.sha256, first);
        assert!(world.state(&phone, wipe).await.is_terminal());
        assert_eq!(types(&world.obey(&mut phone).await)[0], "DeviceInformation");
        world.end().await;
    }

    async fn behind_a_proxy_the_header_names_the_phone(db: TestDb) {
        let tables = "[devices]\nlisten = \"127.0.0.1:0\"\ntls = \"behind_proxy\"\n\
                      [proxy]\ntrusted = [\"127.0.0.1\"]\nidentity_header = \"Client-Cert\"\nidentity_form = \"rfc9440\"\n";
        let world = World::with(db, "", tables).await;
        let backend: Url = format!("http://{}", world.devices).parse().unwrap();
        let form = HeaderForm::Rfc9440;
        let authentication = Authentication::ProxyHeader { name: "Client-Cert".to_owned(), form };
        let mut phone = world.enrolled(PhoneOptions {
            authentication,
            backend: Some(backend),
            ..PhoneOptions::default()
        }).await;
        world.ask(&phone, json!({"type": "profiles"})).await;
        assert_eq!(types(&world.obey(&mut phone).await), ["ProfileList"]);
        phone.options.authentication = Authentication::TlsOnly;
        assert!(matches!(phone.poll().await, Err(PhoneError::Status { status: 400, .. })));
        world.end().await;
    }
}
