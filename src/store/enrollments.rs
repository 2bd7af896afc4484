use sqlx::FromRow;

use super::hot::Statement;
use super::{Read, StoreError, Write};
use crate::model::{AppleId, ChallengeId, DeviceId, EnrollmentId, EnrollmentKind, LinkId, Sha256, Timestamp};

/// An enrollment's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Enrollment {
    pub id: EnrollmentId,
    pub device_id: DeviceId,
    pub parent_id: Option<EnrollmentId>,
    pub apple_id: String,
    pub kind: EnrollmentKind,
    pub state: String,
    pub generation: i64,
    pub topic: Option<String>,
    pub push_token: Option<Vec<u8>>,
    pub push_magic: Option<String>,
    pub token_at: Option<Timestamp>,
    pub token_tally: i64,
    pub awaiting_configuration: bool,
    pub user_short_name: Option<String>,
    pub user_long_name: Option<String>,
    pub connection: i64,
    pub fleet_cursor: Option<i64>,
    pub link_id: Option<LinkId>,
    pub challenge_id: Option<ChallengeId>,
    pub terms: Option<Sha256>,
    pub authenticated_at: Timestamp,
    pub enabled_at: Option<Timestamp>,
    pub disabled_at: Option<Timestamp>,
    pub reenroll_approved_until: Option<Timestamp>,
    pub last_seen_at: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

columns!(Enrollment, enrollment_columns: id, device_id, parent_id, apple_id, kind, state, generation, topic, push_token, push_magic, token_at, token_tally, awaiting_configuration, user_short_name, user_long_name, connection, fleet_cursor, link_id, challenge_id, terms, authenticated_at, enabled_at, disabled_at, reenroll_approved_until, last_seen_at, created_at, updated_at);

impl Enrollment {
    /// Whether it may be pushed to and gets commands.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.state == "enabled"
    }
}

/// What a TokenUpdate brings.
#[derive(Clone, Debug)]
pub struct PushFacts<'a> {
    /// The APNs topic.
    pub topic: &'a str,
    /// The device token.
    pub token: &'a [u8],
    /// The push magic.
    pub magic: &'a str,
    /// Whether the device waits in Setup Assistant.
    pub awaiting_configuration: bool,
}

impl Read {
    /// The enrollment that Apple's id names.
    pub async fn enrollment_by_apple_id(&mut self, apple_id: &str) -> Result<Option<Enrollment>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM enrollments WHERE apple_id = $1", apple_id))
    }

    /// The enrollment with this id.
    pub async fn enrollment(&mut self, id: EnrollmentId) -> Result<Option<Enrollment>, StoreError> {
        hot!(self, first, concat!("SELECT ", enrollment_columns!(), " FROM enrollments WHERE id = $1"), id)
    }

    /// All channels of a device, the device channel first.
    pub async fn enrollments_of_device(&mut self, device: DeviceId) -> Result<Vec<Enrollment>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM enrollments WHERE device_id = $1 ORDER BY (parent_id IS NOT NULL), created_at, id LIMIT 1000",
                device
            )
        )
    }

    /// How many enrollments are enabled, by topic.
    pub async fn enabled_by_topic(&mut self) -> Result<Vec<(Option<String>, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT topic, COUNT(*) FROM enrollments WHERE state = 'enabled' GROUP BY topic ORDER BY topic")
        )
    }
}

impl Write {
    /// The enrollment that Apple's id names, locked until the end of the transaction.
    pub async fn enrollment_for_update(&mut self, apple_id: &str) -> Result<Option<Enrollment>, StoreError> {
        if self.must_not_wait() {
            let free: Option<Enrollment> = hot!(
                self,
                first,
                concat!(
                    "SELECT ",
                    enrollment_columns!(),
                    " FROM enrollments WHERE apple_id = $1 FOR UPDATE SKIP LOCKED"
                ),
                apple_id
            )?;
            if free.is_none()
                && hot!(self, one, "SELECT EXISTS (SELECT 1 FROM enrollments WHERE apple_id = $1)", apple_id)?
            {
                return Err(self.held_by_another());
            }
            return Ok(free);
        }
        hot!(
            self,
            first,
            concat!("SELECT ", enrollment_columns!(), " FROM enrollments WHERE apple_id = $1 FOR UPDATE"),
            apple_id
        )
    }

    /// The enrollment with this id, locked until the end of the transaction.
    pub async fn enrollment_by_id_for_update(&mut self, id: EnrollmentId) -> Result<Option<Enrollment>, StoreError> {
        hot!(self, first, concat!("SELECT ", enrollment_columns!(), " FROM enrollments WHERE id = $1 FOR UPDATE"), id)
    }

    /// The user channels of a device channel, locked until the end of the transaction.
    pub async fn user_channels_for_update(&mut self, parent: EnrollmentId) -> Result<Vec<Enrollment>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT * FROM enrollments WHERE parent_id = $1 ORDER BY id LIMIT 10000 FOR UPDATE", parent)
        )
    }

    /// A new enrollment, authenticated and not yet enabled. Generation 1. A user channel has the terms of its device.
    pub async fn insert_enrollment(
        &mut self,
        id: EnrollmentId,
        device: DeviceId,
        parent: Option<EnrollmentId>,
        apple_id: &AppleId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO enrollments (id, device_id, parent_id, apple_id, kind, state, generation, token_tally,
                                      awaiting_configuration, connection, terms, authenticated_at, last_seen_at,
                                      created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, 'authenticated', 1, 0, FALSE, 0,
                     (SELECT p.terms FROM enrollments p WHERE p.id = $3), $6, $6, $6, $6)",
            id,
            device,
            parent,
            apple_id.id.as_str(),
            apple_id.kind,
            now
        )
        .map(drop)
    }

    /// Begins a new generation: nothing of the earlier enrollment can be pushed to or delivered any more, and it is not
    /// woken.
    pub async fn begin_generation(&mut self, id: EnrollmentId, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE enrollments
                SET generation = generation + 1, state = 'authenticated', topic = NULL, push_token = NULL,
                    push_magic = NULL, token_at = NULL, token_tally = 0, awaiting_configuration = FALSE,
                    fleet_cursor = NULL, link_id = NULL, challenge_id = NULL, authenticated_at = $2,
                    enabled_at = NULL, disabled_at = NULL, reenroll_approved_until = NULL, last_seen_at = $2,
                    updated_at = $2
              WHERE id = $1",
            id,
            now
        )?;
        self.stop_wakes(id).await
    }

    /// Notes by which link and challenge the present generation came.
    pub async fn set_enrollment_origin(
        &mut self,
        id: EnrollmentId,
        link: Option<LinkId>,
        challenge: Option<ChallengeId>,
    ) -> Result<(), StoreError> {
        hot!(self, change, "UPDATE enrollments SET link_id = $2, challenge_id = $3 WHERE id = $1", id, link, challenge)
            .map(drop)
    }

    /// Stores token, magic and topic, enables the enrollment and counts the update. Returns the new count.
    pub async fn set_push(
        &mut self,
        id: EnrollmentId,
        push: &PushFacts<'_>,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        hot!(
            self,
            one,
            "UPDATE enrollments
                    SET push_token = $2, push_magic = $3, topic = $4, awaiting_configuration = $5, token_at = $6,
                        state = 'enabled', enabled_at = COALESCE(enabled_at, $6), disabled_at = NULL,
                        token_tally = token_tally + 1, last_seen_at = $6, updated_at = $6
                  WHERE id = $1
              RETURNING token_tally",
            id,
            push.token,
            push.magic,
            push.topic,
            push.awaiting_configuration,
            now
        )
    }

    /// Who the user of a user channel is.
    pub async fn set_channel_user(
        &mut self,
        id: EnrollmentId,
        short_name: Option<&str>,
        long_name: Option<&str>,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE enrollments
                SET user_short_name = COALESCE($2, user_short_name), user_long_name = COALESCE($3, user_long_name)
              WHERE id = $1",
            id,
            short_name,
            long_name
        )
        .map(drop)
    }

    /// Ends an enrollment: `disabled` (it left, was wiped or superseded) or `removed` (by an admin). It is not woken any
    /// more.
    pub async fn close_enrollment(
        &mut self,
        id: EnrollmentId,
        state: &'static str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE enrollments SET state = $2, fleet_cursor = NULL, disabled_at = $3, updated_at = $3 WHERE id = $1",
            id,
            state,
            now
        )?;
        self.stop_wakes(id).await
    }

    /// Lets another certificate or user take over an enabled enrollment until `until`.
    pub async fn approve_reenrollment(&mut self, id: EnrollmentId, until: Timestamp) -> Result<(), StoreError> {
        run!(self, "UPDATE enrollments SET reenroll_approved_until = $2 WHERE id = $1", id, until).map(drop)
    }

    /// Begins the next connection of an enrollment; returns its number.
    pub async fn begin_connection(&mut self, id: EnrollmentId, now: Timestamp) -> Result<i64, StoreError> {
        hot!(
            self,
            one,
            "UPDATE enrollments SET connection = connection + 1, last_seen_at = $2 WHERE id = $1 RETURNING connection",
            id,
            now
        )
    }

    /// Notes when enrollments were last heard of; never moves a time backwards. On PostgreSQL a row that another transaction
    /// holds is passed over: that one notes a time of its own, as a rule, and all that is lost is some seconds.
    pub async fn touch_enrollments(&mut self, seen: &[(EnrollmentId, Timestamp)]) -> Result<(), StoreError> {
        // In one order of rows everywhere, so that two processes never wait for each other in a ring.
        let mut seen = seen.to_vec();
        seen.sort_unstable();
        // Whoever holds a row is about to note a time that is later: it is passed over, so that nobody waits.
        static TOUCH: Statement = Statement::with_many(
            "UPDATE enrollments SET last_seen_at = $2 WHERE id = $1 AND last_seen_at < $2",
            "UPDATE enrollments SET last_seen_at = seen.at
               FROM (SELECT e.id, a.p2 AS at FROM {a} JOIN enrollments e ON e.id = a.p1 WHERE e.last_seen_at < a.p2
                      ORDER BY e.id FOR UPDATE OF e SKIP LOCKED) seen
              WHERE enrollments.id = seen.id",
        );
        let each = seen.into_iter().map(|(id, at)| vec![id.into(), at.into()]).collect();
        self.ask_many(&TOUCH, each).await.map(drop)
    }

    /// Keeps something entrusted to us for the enrollment's present generation; replaces what was there.
    pub async fn put_escrow(
        &mut self,
        id: EnrollmentId,
        generation: i64,
        kind: &'static str,
        sealed: &[u8],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO escrow (enrollment_id, generation, kind, value_sealed, stored_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (enrollment_id, generation, kind)
             DO UPDATE SET value_sealed = excluded.value_sealed, stored_at = excluded.stored_at",
            id,
            generation,
            kind,
            sealed,
            now
        )
        .map(drop)
    }

    /// Forgets an entrusted value.
    pub async fn clear_escrow(
        &mut self,
        id: EnrollmentId,
        generation: i64,
        kind: &'static str,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "DELETE FROM escrow WHERE enrollment_id = $1 AND generation = $2 AND kind = $3",
            id,
            generation,
            kind
        )
        .map(drop)
    }

    /// Keeps the last check-in message of a type as it came.
    pub async fn put_check_in(
        &mut self,
        id: EnrollmentId,
        message_type: &'static str,
        sealed: &[u8],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO check_ins (enrollment_id, message_type, raw_sealed, received_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (enrollment_id, message_type)
             DO UPDATE SET raw_sealed = excluded.raw_sealed, received_at = excluded.received_at",
            id,
            message_type,
            sealed,
            now
        )
        .map(drop)
    }
}

impl Read {
    /// What was entrusted to us for this generation, sealed.
    pub async fn escrow(
        &mut self,
        id: EnrollmentId,
        generation: i64,
        kind: &'static str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        hot!(
            self,
            first,
            "SELECT value_sealed FROM escrow WHERE enrollment_id = $1 AND generation = $2 AND kind = $3",
            id,
            generation,
            kind
        )
    }

    /// The last check-in message of a type, sealed, and when it came.
    pub async fn check_in(
        &mut self,
        id: EnrollmentId,
        message_type: &'static str,
    ) -> Result<Option<(Vec<u8>, Timestamp)>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as(
                "SELECT raw_sealed, received_at FROM check_ins WHERE enrollment_id = $1 AND message_type = $2",
                id,
                message_type
            )
        )
    }
}
