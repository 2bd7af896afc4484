//! A fleet of enrolled devices on a database of its own, with the server that is asked by them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use muster::cli::SystemRandomness;
use muster::model::{CaId, ChallengeId, Role, Secret, Sha256, Timestamp};
use muster::pki::authority::issue_device_certificate;
use muster::pki::request::Subject;
use muster::pki::{Authority, Certificate, CertificateRequest, PrivateKey};
use muster::service::authorities::issuing_authority;
use muster::service::enrollment::{NewLink, create_link};
use muster::service::tokens::{self, NewToken};
use muster::service::{Actor, App};
use muster::store::{CertificateRow, NewChallenge};
use serde_json::json;

use crate::bulk::{self, Driven, Names};
use crate::database::{Database, Kind};
use crate::installation::{Front, Installation};
use crate::load::Meter;
use crate::process::Process;
use crate::sql::Sql;
use crate::wire::{Answer, Wire, request};
use crate::{Result, parallel, tell, template};

/// How long the certificates hold.
const VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// Rows in one transaction.
const BATCH: usize = 500;
/// Most targets that the API takes for one command.
const MAX_TARGETS: usize = 10_000;
/// How long the challenges hold.
const CHALLENGE: Duration = Duration::from_secs(86_400);

/// How large a fleet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// As it was asked for, such as `100k`.
    pub label: String,
    pub count: usize,
    /// Answered commands of each device.
    pub commands: usize,
}

/// A fleet. The devices that are driven are spread evenly over it.
pub struct Fleet {
    pub shape: Shape,
    pub installation: Installation,
    pub driven: Vec<Driven>,
    /// The key of all of them: what tells devices apart is the certificate.
    pub key: PrivateKey,
    pub names: Names,
    /// An admin's token.
    pub token: Secret<String>,
    front: Front,
    database: Option<Database>,
    server: Option<Process>,
    /// How many certificates for enrollments were made.
    enrollees: usize,
}

/// A device that is to enroll.
pub struct Enrollee {
    pub number: usize,
    pub certificate: Certificate,
}

impl Fleet {
    /// Makes it. At most `driven` of its devices are driven.
    pub async fn make(place: &Path, kind: Kind, shape: &Shape, driven: usize, tables: &str) -> Result<Self> {
        tell(&format!("{}: {} devices are put into the database", kind.name(), shape.label));
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(Database::make(&shape.label.replace('-', "_")).await?),
        };
        let installation = Installation::make(place, database.as_ref().map(|d| d.url.as_str()))?.with(tables);
        let front = Front::Proxy;
        let app = installation.open(front).await?;
        let now = app.clock.now();
        let names = Names::before(now, shape.count)?;
        let key = PrivateKey::generate_p256()?;
        let (ca_id, ca) = issuing_authority(&app).await?;
        let driven = driven.min(shape.count);
        let numbers: Vec<_> = (1..=driven).map(|place| place * shape.count / driven).collect();
        let udids: Vec<_> = std::iter::once(0).chain(numbers.iter().copied()).map(Names::udid).collect();
        let mut certificates = issue(&ca, &key, &udids, now)?.into_iter();
        let first = certificates.next().ok_or("no certificate")?;
        template::put(&app, &Names::udid(0), row(ca_id, &first, now), now).await?;
        let driven: Vec<_> =
            numbers.into_iter().zip(certificates).map(|(number, certificate)| Driven { number, certificate }).collect();
        let new = NewToken { name: "benchmark".to_owned(), role: Role::Admin, expires_at: None };
        let token = tokens::create(&app, &Actor::command_line(), new).await?.text;
        let file = app.store.sqlite_file();
        app.store.close().await;
        let mut sql = open(&database, file.as_deref()).await?;
        bulk::copy(&mut sql, names, shape.count, shape.commands, &driven).await?;
        sql.close().await?;
        Ok(Self {
            shape: shape.clone(),
            installation,
            driven,
            key,
            names,
            token,
            front,
            database,
            server: None,
            enrollees: 0,
        })
    }

    /// Starts the server, if it does not run.
    pub async fn start(&mut self) -> Result<()> {
        if self.server.is_none() {
            let settings = self.installation.settle(self.front)?;
            self.server = Some(Process::muster(&settings, self.installation.admin).await?);
        }
        Ok(())
    }

    /// Stops the server, if it runs.
    pub async fn stop(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }

    /// Has the server speak TLS with devices, or the proxy before it, from its next start on.
    pub const fn front(&mut self, front: Front) {
        self.front = front;
    }

    /// The server that runs.
    pub fn server(&self) -> Result<&Process> {
        self.server.as_ref().ok_or_else(|| "the server does not run".into())
    }

    /// Whose processor time counts.
    pub fn meter(&self) -> Result<Meter> {
        Ok(Meter { server: self.server()?.id(), postmaster: self.database.as_ref().map(|d| d.postmaster) })
    }

    /// Ends all that belongs to it.
    pub async fn end(mut self) -> Result<()> {
        self.stop().await?;
        match self.database.take() {
            Some(database) => database.drop().await,
            None => Ok(()),
        }
    }

    /// The domain, in this process. The server must not run.
    pub async fn app(&self) -> Result<App> {
        self.installation.open(self.front).await
    }

    /// Past the server.
    pub async fn sql(&self) -> Result<Sql> {
        open(&self.database, Some(&self.installation.sqlite_file())).await
    }

    /// Sends a command to these devices by the API, without waking them.
    pub async fn send(&self, verb: &str, devices: &[Driven]) -> Result<()> {
        let ids = devices.iter().map(|one| self.names.device(one.number)).collect::<Result<Vec<_>>>()?;
        for ids in ids.chunks(MAX_TARGETS) {
            let body = json!({"targets": {"devices": ids}, "command": {"type": verb}, "no_push": true});
            let answer = self.call("POST /api/v1/commands", body.to_string().as_bytes()).await?;
            if answer.status != 202 {
                return Err(answer.unexpected());
            }
        }
        Ok(())
    }

    /// Asks the API.
    pub async fn call(&self, line: &str, body: &[u8]) -> Result<Answer> {
        Wire::connect(self.installation.admin).await?.ask(&self.request(line, body)).await
    }

    /// A request to the API.
    pub fn request(&self, line: &str, body: &[u8]) -> Bytes {
        let bearer = format!("Bearer {}", self.token.expose());
        let mut headers = vec![("Authorization", bearer.as_str())];
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        request(line, &headers, body)
    }

    /// Issues certificates to so many new devices, by a link that any number may use. The server must not run.
    pub async fn enrollees(&mut self, count: usize) -> Result<Vec<Enrollee>> {
        let app = self.app().await?;
        let outcome = self.issue_by_link(&app, count).await;
        app.store.close().await;
        let mut sql = self.sql().await?;
        bulk::finish(&mut sql).await?;
        sql.close().await?;
        outcome
    }

    async fn issue_by_link(&mut self, app: &App, count: usize) -> Result<Vec<Enrollee>> {
        let now = app.clock.now();
        let (ca_id, ca) = issuing_authority(app).await?;
        let link = NewLink { name: "benchmark".to_owned(), ..NewLink::default() };
        let link = create_link(app, &Actor::command_line(), link).await?.link.link.id;
        let begin = 1 + self.shape.count + self.enrollees;
        self.enrollees += count;
        let numbers: Vec<_> = (begin..begin + count).collect();
        let names: Vec<_> = numbers.iter().copied().map(Names::udid).collect();
        let certificates = issue(&ca, &self.key, &names, now)?;
        let enrollees: Vec<_> = numbers
            .into_iter()
            .zip(certificates)
            .map(|(number, certificate)| Enrollee { number, certificate })
            .collect();
        for batch in enrollees.chunks(BATCH) {
            let mut tx = app.store.begin_write().await?;
            for one in batch {
                let mut row = row(ca_id, &one.certificate, now);
                let id = ChallengeId::new(now, &*app.random);
                let challenge = NewChallenge {
                    id,
                    hash: Sha256::of(id.to_string().as_bytes()),
                    purpose: "link",
                    name: "benchmark",
                    link_id: Some(link),
                    enrollment_id: None,
                    generation: None,
                    terms: None,
                    uses_allowed: 1,
                    created_by: "benchmark",
                    expires_at: now.plus(CHALLENGE),
                };
                tx.insert_challenge(&challenge, now).await?;
                row.challenge_id = Some(id);
                tx.insert_certificate(&row).await?;
            }
            tx.commit().await?;
        }
        Ok(enrollees)
    }
}

async fn open(database: &Option<Database>, file: Option<&Path>) -> Result<Sql> {
    match database {
        Some(database) => Sql::postgres(&database.url).await,
        None => Sql::sqlite(file.ok_or("SQLite has no file")?).await,
    }
}

/// The issuing record of a certificate.
fn row(authority_id: CaId, certificate: &Certificate, now: Timestamp) -> CertificateRow {
    CertificateRow {
        sha256: certificate.sha256,
        authority_id,
        serial: certificate.serial.clone(),
        subject: certificate.subject.clone(),
        public_key_sha256: certificate.public_key_sha256,
        der: certificate.der().to_vec(),
        challenge_id: None,
        enrollment_id: None,
        generation: None,
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        issued_at: now,
        revoked_at: None,
        revoked_reason: None,
    }
}

/// Issues a certificate for each name, on all cores.
fn issue(ca: &Authority, key: &PrivateKey, names: &[String], now: Timestamp) -> Result<Vec<Certificate>> {
    let request = CertificateRequest::make(key, &Subject::common_name("device"), None)?;
    let one = |name: &String| {
        let subject = Subject::common_name(name);
        issue_device_certificate(ca, &request, Some(&subject), now, VALIDITY, &SystemRandomness)
    };
    parallel::on_all_cores(names, one)
}
