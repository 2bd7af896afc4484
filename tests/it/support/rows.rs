//! Rows for the stories of the store: whole and plain, to be changed where a story needs it.

use std::time::Duration;

use muster::model::{
    AppleId, CaId, ChallengeId, CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, LinkId, Resend, Role,
    Sha256, TokenId,
};
use muster::store::{
    AuthorityRow, CertificateRow, Delivery, DeviceFacts, Enrollment, Link, NewChallenge, NewCommand, PushFacts,
    PushResult, TermsRow, TokenRow,
};

use super::db::TestDb;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

/// The topic that phones enroll under unless a story says otherwise.
pub const TOPIC: &str = "com.apple.mgmt.External.7f3a";

/// An admin's token.
pub fn token(db: &TestDb) -> TokenRow {
    TokenRow {
        id: db.id(TokenId::new),
        name: "ci".to_owned(),
        hash: db.digest(),
        role: Role::Admin,
        scope: None,
        created_at: db.now(),
        created_by: "init".to_owned(),
        expires_at: None,
        last_used_at: None,
        revoked_at: None,
    }
}

/// The device CA that issues.
pub fn device_ca(db: &TestDb) -> AuthorityRow {
    AuthorityRow {
        id: db.id(CaId::new),
        purpose: "device".to_owned(),
        slot: Some("active".to_owned()),
        name: "Muster Device CA".to_owned(),
        certificate: b"certificate".to_vec(),
        sha256: db.digest(),
        key_sealed: Some(b"key".to_vec()),
        issues_elsewhere: false,
        not_after: db.now().plus(3650 * DAY),
        created_at: db.now(),
        retired_at: None,
    }
}

/// An enrollment link, for `uses` uses.
pub fn link(db: &TestDb, uses: Option<i64>) -> Link {
    Link {
        id: db.id(LinkId::new),
        name: "reception".to_owned(),
        code_hash: db.digest(),
        uses_allowed: uses,
        uses_count: 0,
        user_name: None,
        user_email: None,
        expires_at: Some(db.now().plus(DAY)),
        created_at: db.now(),
        created_by: "ci".to_owned(),
        revoked_at: None,
    }
}

/// A challenge for one certificate, open for an hour.
pub fn challenge(db: &TestDb, link: Option<LinkId>) -> NewChallenge<'static> {
    NewChallenge {
        id: db.id(ChallengeId::new),
        hash: db.digest(),
        purpose: if link.is_some() { "link" } else { "api" },
        name: "",
        link_id: link,
        enrollment_id: None,
        generation: None,
        terms: None,
        uses_allowed: 1,
        created_by: "server",
        expires_at: db.now().plus(HOUR),
    }
}

/// A link without a limit, and challenges of it.
pub async fn link_with_challenges(db: &TestDb, count: usize) -> (LinkId, Vec<ChallengeId>) {
    let link = link(db, None);
    let mut tx = db.write().await;
    tx.insert_link(&link).await.unwrap();
    let mut challenges = Vec::new();
    for _ in 0..count {
        let challenge = challenge(db, Some(link.id));
        tx.insert_challenge(&challenge, db.now()).await.unwrap();
        challenges.push(challenge.id);
    }
    tx.commit().await.unwrap();
    (link.id, challenges)
}

/// What a profile with this identifier lays down.
pub fn terms(identifier: &str) -> TermsRow {
    TermsRow {
        sha256: Sha256::of(identifier.as_bytes()),
        identifier: identifier.to_owned(),
        server_url: Some("https://mdm.example.org/mdm".to_owned()),
        checkin_url: Some("https://mdm.example.org/checkin".to_owned()),
        access_rights: Some(8191),
    }
}

/// A device certificate for a year.
pub fn certificate(db: &TestDb, ca: CaId) -> CertificateRow {
    CertificateRow {
        sha256: db.digest(),
        authority_id: ca,
        serial: "0a1b2c".to_owned(),
        subject: "CN=device".to_owned(),
        public_key_sha256: db.digest(),
        der: b"der".to_vec(),
        challenge_id: None,
        enrollment_id: None,
        generation: None,
        not_before: db.now(),
        not_after: db.now().plus(365 * DAY),
        issued_at: db.now(),
        revoked_at: None,
        revoked_reason: None,
    }
}

/// A command for named devices.
pub fn command(db: &TestDb, request_type: &'static str) -> NewCommand<'static> {
    NewCommand {
        id: db.id(CommandId::new),
        verb: "apple",
        request_type,
        payload_sealed: b"payload",
        fills: "[]",
        summary: "{}",
        resend: Resend::Freely,
        destruction: None,
        priority: 0,
        internal: false,
        target_count: 1,
        fleet_number: None,
        created_by: "ci",
        expires_at: None,
    }
}

/// A delivery of `command` to a phone, queued now.
pub fn delivery(db: &TestDb, phone: &Phone, command: CommandId) -> Delivery {
    Delivery {
        enrollment_id: phone.id,
        command_id: command,
        generation: 1,
        state: DeliveryState::Queued,
        priority: 0,
        resend: Resend::Freely,
        connection: 0,
        attempts: 0,
        revision: 1,
        queued_at: db.now(),
        sent_at: None,
        answered_at: None,
        updated_at: db.now(),
        expires_at: None,
        error: None,
        report_id: None,
    }
}

/// A push that APNs took.
pub const ACCEPTED: PushResult<'static> =
    PushResult { result: "accepted", reason: None, apns_id: Some("6f1c"), retry_at: None };

/// The id of a device channel.
pub fn device_channel(udid: &str) -> AppleId {
    AppleId { id: udid.to_owned(), parent: None, kind: EnrollmentKind::Device }
}

/// The id of a Mac user's channel.
pub fn user_channel(udid: &str, user: &str) -> AppleId {
    AppleId { id: format!("{udid}:{user}"), parent: Some(udid.to_owned()), kind: EnrollmentKind::User }
}

/// A device channel in the database, and the certificate that is pinned to it.
#[derive(Clone, Debug)]
pub struct Phone {
    pub device: DeviceId,
    pub id: EnrollmentId,
    pub udid: String,
    pub pin: Sha256,
}

impl Phone {
    /// What Authenticate leaves: device, enrollment and pin; not enabled.
    pub async fn authenticated(db: &TestDb, udid: &str) -> Self {
        let phone = Self {
            device: db.id(DeviceId::new),
            id: db.id(EnrollmentId::new),
            udid: udid.to_owned(),
            pin: db.digest(),
        };
        let facts = DeviceFacts { udid: Some(udid.to_owned()), ..DeviceFacts::default() };
        let mut tx = db.write().await;
        tx.insert_device(phone.device, &facts, db.now()).await.unwrap();
        tx.insert_enrollment(phone.id, phone.device, None, &device_channel(udid), db.now()).await.unwrap();
        tx.put_pin(phone.id, phone.pin, None, Some(db.now().plus(365 * DAY)), db.now()).await.unwrap();
        tx.commit().await.unwrap();
        phone
    }

    /// What the first TokenUpdate leaves: enabled, with a fleet number and a wake-up row.
    pub async fn enrolled(db: &TestDb, udid: &str) -> Self {
        let phone = Self::authenticated(db, udid).await;
        phone.token_update(db).await;
        phone
    }

    /// A TokenUpdate; returns the tally.
    pub async fn token_update(&self, db: &TestDb) -> i64 {
        let mut tx = db.write().await;
        let tally = tx.set_push(self.id, &push(TOPIC), db.now()).await.unwrap();
        if tally == 1 {
            let number = tx.fleet_number_for_enrollment().await.unwrap();
            tx.set_fleet_cursor(self.id, number).await.unwrap();
        }
        tx.commit().await.unwrap();
        tally
    }

    /// The enrollment's row.
    pub async fn row(&self, db: &TestDb) -> Enrollment {
        db.read().await.enrollment(self.id).await.unwrap().unwrap()
    }

    /// Queues a command for it; returns the delivery.
    pub async fn queue(&self, db: &TestDb, command: &NewCommand<'_>) -> Delivery {
        let mut tx = db.write().await;
        tx.insert_command(command, db.now()).await.unwrap();
        let made = Delivery { priority: command.priority, ..delivery(db, self, command.id) };
        assert!(tx.insert_delivery(&made).await.unwrap());
        tx.commit().await.unwrap();
        made
    }
}

/// What a TokenUpdate brings.
pub fn push(topic: &str) -> PushFacts<'_> {
    PushFacts { topic, token: b"token", magic: "magic", awaiting_configuration: false }
}
