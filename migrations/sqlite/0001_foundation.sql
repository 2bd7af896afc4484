-- The tables that everything hangs on. The same names and columns stand in both databases; only the types differ
-- (BIGINT/INTEGER, BYTEA/BLOB, UUID/BLOB, BOOLEAN/INTEGER).
--
-- Times are microseconds since the epoch, UTC. Ids are UUIDv7 of our own; Apple's ids stand beside them and are never
-- keys of ours. Columns that end in _sealed are encrypted and authenticated under the master key. Rows of devices
-- and enrollments are never deleted, only closed; commands and what belongs to them are pruned in batches when they are
-- old. Hence no cascading foreign keys.

-- Who may use the API. Only the hash of a token is kept.
CREATE TABLE api_tokens (
    id              BLOB    NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    hash            BLOB    NOT NULL UNIQUE,
    role            TEXT    NOT NULL,
    scope           TEXT,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    expires_at      INTEGER,
    last_used_at    INTEGER,
    revoked_at      INTEGER
) STRICT;

-- Certificate authorities: those whose device certificates are accepted (purpose 'device'), and the root of our own
-- TLS certificates ('tls'). One of each purpose has slot 'active' and issues; others have none.
CREATE TABLE authorities (
    id              BLOB    NOT NULL PRIMARY KEY,
    purpose         TEXT    NOT NULL,
    slot            TEXT,
    name            TEXT    NOT NULL,
    certificate     BLOB    NOT NULL,
    sha256          BLOB    NOT NULL,
    key_sealed      BLOB,
    -- TRUE: certificates of it are issued elsewhere and are pinned at Authenticate without an issuing record here.
    issues_elsewhere INTEGER NOT NULL,
    not_after       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    retired_at      INTEGER,
    UNIQUE (purpose, slot),
    UNIQUE (purpose, sha256)
) STRICT;

-- Leaf certificates of the server itself, by use ('tls', 'profile_signer'); replaced when they are renewed.
CREATE TABLE server_certificates (
    name            TEXT    NOT NULL PRIMARY KEY,
    chain_pem       TEXT    NOT NULL,
    key_sealed      BLOB    NOT NULL,
    names           TEXT    NOT NULL,
    not_after       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

-- Push certificates, one for each topic.
CREATE TABLE push_certificates (
    topic           TEXT    NOT NULL PRIMARY KEY,
    chain_pem       TEXT    NOT NULL,
    key_sealed      BLOB    NOT NULL,
    sha256          BLOB    NOT NULL,
    subject         TEXT    NOT NULL,
    not_before      INTEGER NOT NULL,
    not_after       INTEGER NOT NULL,
    is_default      INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL
) STRICT;
-- New devices enroll by one of them.
CREATE UNIQUE INDEX push_certificates_default ON push_certificates (is_default) WHERE is_default = TRUE;

-- Keys that wait for Apple's answer to their certificate request.
CREATE TABLE push_requests (
    id              BLOB    NOT NULL PRIMARY KEY,
    csr_pem         TEXT    NOT NULL,
    public_key_sha256 BLOB  NOT NULL,
    key_sealed      BLOB    NOT NULL,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    answered_at     INTEGER
) STRICT;
CREATE INDEX push_requests_by_key ON push_requests (public_key_sha256);

-- Links that people open to enroll. Only the hash of the code is kept.
CREATE TABLE enrollment_links (
    id              BLOB    NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    code_hash       BLOB    NOT NULL UNIQUE,
    uses_allowed    INTEGER,
    uses_count      INTEGER NOT NULL,
    user_name       TEXT,
    user_email      TEXT,
    expires_at      INTEGER,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    revoked_at      INTEGER
) STRICT;

-- What enrollment profiles laid down that may not change on a device: each combination once, named by its hash. URLs and
-- rights are NULL where the profile was made elsewhere and only its identifier is known.
CREATE TABLE enrollment_terms (
    sha256          BLOB    NOT NULL PRIMARY KEY,
    identifier      TEXT    NOT NULL,
    server_url      TEXT,
    checkin_url     TEXT,
    access_rights   INTEGER,
    created_at      INTEGER NOT NULL
) STRICT;

-- SCEP challenges. Only the hash is kept. purpose: 'link', 'renewal' (of one device), 'return_to_service' (of one device
-- that is wiped), 'api' (made for tools).
CREATE TABLE challenges (
    id              BLOB    NOT NULL PRIMARY KEY,
    hash            BLOB    NOT NULL UNIQUE,
    purpose         TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    link_id         BLOB,
    enrollment_id   BLOB,
    -- The enrollment's generation that it was made in, and with which it ends.
    generation      INTEGER,
    -- What the profile that holds it lays down; NULL where that is made elsewhere.
    terms           BLOB,
    uses_allowed    INTEGER NOT NULL,
    uses_count      INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    expires_at      INTEGER NOT NULL,
    -- A use of the link is held from the first certificate until this time, or until it is counted.
    reserved_until  INTEGER,
    counted_at      INTEGER
) STRICT;
CREATE INDEX challenges_by_link ON challenges (link_id, expires_at) WHERE link_id IS NOT NULL;

-- The issuing record: each certificate that was issued here.
CREATE TABLE certificates (
    sha256          BLOB    NOT NULL PRIMARY KEY,
    authority_id    BLOB    NOT NULL,
    serial          TEXT    NOT NULL,
    subject         TEXT    NOT NULL,
    public_key_sha256 BLOB  NOT NULL,
    der             BLOB    NOT NULL,
    challenge_id    BLOB,
    -- The device channel that it was issued for, known at once for a renewal, else from Authenticate on.
    enrollment_id   BLOB,
    -- The enrollment's generation in which it may be pinned without an Authenticate, or that it authenticated last.
    generation      INTEGER,
    not_before      INTEGER NOT NULL,
    not_after       INTEGER NOT NULL,
    issued_at       INTEGER NOT NULL,
    revoked_at      INTEGER,
    revoked_reason  TEXT
) STRICT;
CREATE INDEX certificates_by_challenge ON certificates (challenge_id, public_key_sha256) WHERE challenge_id IS NOT NULL;
CREATE INDEX certificates_by_time ON certificates (issued_at, sha256);
CREATE INDEX certificates_by_enrollment ON certificates (enrollment_id) WHERE enrollment_id IS NOT NULL;

CREATE TABLE devices (
    id              BLOB    NOT NULL PRIMARY KEY,
    platform        TEXT    NOT NULL,
    udid            TEXT    UNIQUE,
    apple_enrollment_id TEXT UNIQUE,
    serial          TEXT,
    name            TEXT,
    model           TEXT,
    model_name      TEXT,
    product_name    TEXT,
    os_version      TEXT,
    build_version   TEXT,
    imei            TEXT,
    supervised      INTEGER,
    user_name       TEXT,
    user_email      TEXT,
    link_id         BLOB,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    removed_at      INTEGER
) STRICT;
CREATE INDEX devices_by_serial ON devices (COALESCE(serial, ''), id);
CREATE INDEX devices_by_name ON devices (lower(COALESCE(name, '')), id);
CREATE INDEX devices_by_user_name ON devices (lower(user_name), id) WHERE user_name IS NOT NULL;
CREATE INDEX devices_by_user_email ON devices (lower(user_email), id) WHERE user_email IS NOT NULL;

-- Management channels. state: 'authenticated', 'awaiting_approval', 'enabled', 'disabled' (checked out or superseded),
-- 'removed' (by an admin). Only an enabled one is pushed to and gets commands.
CREATE TABLE enrollments (
    id              BLOB    NOT NULL PRIMARY KEY,
    device_id       BLOB    NOT NULL,
    -- The device channel that a user channel belongs to.
    parent_id       BLOB,
    apple_id        TEXT    NOT NULL UNIQUE,
    kind            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    -- Raised by each new enrollment (not by a renewal); commands, tokens and escrow belong to one.
    generation      INTEGER NOT NULL,
    topic           TEXT,
    push_token      BLOB,
    push_magic      TEXT,
    token_at        INTEGER,
    token_tally     INTEGER NOT NULL,
    awaiting_configuration INTEGER NOT NULL,
    user_short_name TEXT,
    user_long_name  TEXT,
    -- Counts connections that got work (one begins with Idle); marks of deliveries refer to it.
    connection      INTEGER NOT NULL,
    -- The fleet number when it was enabled, or of the last command for all that was made a delivery here.
    fleet_cursor    INTEGER,
    link_id         BLOB,
    challenge_id    BLOB,
    -- What the profile on the device lays down; NULL where that was made elsewhere.
    terms           BLOB,
    authenticated_at INTEGER NOT NULL,
    enabled_at      INTEGER,
    disabled_at     INTEGER,
    -- Until then an admin lets another certificate or user take this enrollment over.
    reenroll_approved_until INTEGER,
    -- When it was taken over from another server, by which its certificate was not told.
    migrated_at     INTEGER,
    last_seen_at    INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX enrollments_by_device ON enrollments (device_id);
CREATE INDEX enrollments_by_parent ON enrollments (parent_id) WHERE parent_id IS NOT NULL;
-- The parent, so that the devices that a command for all is for are counted by the index alone.
CREATE INDEX enrollments_enabled ON enrollments (topic, id, parent_id) WHERE state = 'enabled';
-- Those that cannot be woken, for what is said when a command for all is accepted.
CREATE INDEX enrollments_without_token ON enrollments (id)
    WHERE state = 'enabled' AND parent_id IS NULL AND push_token IS NULL;

-- The pins: which certificates an enrollment (device channel) may authenticate with.
CREATE TABLE identities (
    enrollment_id   BLOB    NOT NULL,
    sha256          BLOB    NOT NULL,
    authority_id    BLOB,
    not_after       INTEGER,
    pinned_at       INTEGER NOT NULL,
    revoked_at      INTEGER,
    PRIMARY KEY (enrollment_id, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_hash ON identities (sha256);

-- Renewals that the server sent and that have not taken effect: the row goes when the device has its new certificate.
CREATE TABLE renewals (
    enrollment_id   BLOB    NOT NULL PRIMARY KEY,
    attempts        INTEGER NOT NULL,
    sent_at         INTEGER NOT NULL,
    -- No other is sent before.
    retry_at        INTEGER NOT NULL,
    failed_at       INTEGER,
    error           TEXT
) STRICT, WITHOUT ROWID;

-- What was entrusted to us for one generation of an enrollment: 'unlock_token', 'bootstrap_token'.
CREATE TABLE escrow (
    enrollment_id   BLOB    NOT NULL,
    generation      INTEGER NOT NULL,
    kind            TEXT    NOT NULL,
    value_sealed    BLOB    NOT NULL,
    stored_at       INTEGER NOT NULL,
    PRIMARY KEY (enrollment_id, generation, kind)
) STRICT, WITHOUT ROWID;

-- The last check-in message of each type, as it came.
CREATE TABLE check_ins (
    enrollment_id   BLOB    NOT NULL,
    message_type    TEXT    NOT NULL,
    raw_sealed      BLOB    NOT NULL,
    received_at     INTEGER NOT NULL,
    PRIMARY KEY (enrollment_id, message_type)
) STRICT, WITHOUT ROWID;

-- What admins (and the server itself: internal) asked for, once each.
CREATE TABLE commands (
    id              BLOB    NOT NULL PRIMARY KEY,
    verb            TEXT    NOT NULL,
    request_type    TEXT    NOT NULL,
    -- The payload as a plist; may hold PINs and passwords.
    payload_sealed  BLOB    NOT NULL,
    fills           TEXT    NOT NULL,
    summary         TEXT    NOT NULL,
    resend          TEXT    NOT NULL,
    -- What it destroys, if anything: 'erase', 'lock_with_pin', 'unenroll'.
    destruction     TEXT,
    priority        INTEGER NOT NULL,
    internal        INTEGER NOT NULL,
    -- 'devices', or 'all': then fleet_number is its watermark.
    target          TEXT    NOT NULL,
    target_count    INTEGER NOT NULL,
    fleet_number    INTEGER,
    -- For 'all': TRUE once every target has its delivery.
    materialized    INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    expires_at      INTEGER,
    cancelled_at    INTEGER,
    -- Since when it is handed to nobody, after a restore, until an admin releases it.
    held_at         INTEGER,
    -- What stands for it on the wire where a tool chose it by the compatible interface, and the digest of what it sent, which may hold a PIN.
    wire_uuid       TEXT,
    wire_sealed     BLOB
) STRICT;
CREATE INDEX commands_for_all ON commands (fleet_number) WHERE fleet_number IS NOT NULL;
CREATE UNIQUE INDEX commands_by_wire_uuid ON commands (wire_uuid) WHERE wire_uuid IS NOT NULL;
CREATE INDEX commands_of_admins ON commands (id) WHERE internal = FALSE;
CREATE INDEX commands_of_admins_by_verb ON commands (verb, id) WHERE internal = FALSE;
CREATE INDEX commands_held ON commands (id) WHERE held_at IS NOT NULL;

-- One command for one enrollment. The states and their graph are `model::DeliveryState`.
CREATE TABLE deliveries (
    enrollment_id   BLOB    NOT NULL,
    command_id      BLOB    NOT NULL,
    generation      INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    priority        INTEGER NOT NULL,
    resend          TEXT    NOT NULL,
    -- The connection in which it was last offered, or could not be made ready.
    connection      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    -- Counts its transitions.
    revision        INTEGER NOT NULL,
    queued_at       INTEGER NOT NULL,
    sent_at         INTEGER,
    answered_at     INTEGER,
    updated_at      INTEGER NOT NULL,
    expires_at      INTEGER,
    error           TEXT,
    report_id       BLOB,
    PRIMARY KEY (enrollment_id, command_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_open ON deliveries (enrollment_id, priority, queued_at, command_id)
    WHERE state IN ('queued', 'sent', 'not_now');
CREATE INDEX deliveries_unconfirmed ON deliveries (enrollment_id, priority, queued_at, command_id)
    WHERE state = 'unconfirmed';
CREATE INDEX deliveries_expiring ON deliveries (expires_at)
    WHERE expires_at IS NOT NULL AND state IN ('queued', 'not_now');
CREATE INDEX deliveries_by_command ON deliveries (command_id, enrollment_id);
-- By the time of their end, for those that are pruned.
CREATE INDEX deliveries_ended ON deliveries (updated_at)
    WHERE state IN ('acknowledged', 'error', 'cancelled', 'expired', 'presumed_done');

CREATE TABLE delivery_transitions (
    enrollment_id   BLOB    NOT NULL,
    command_id      BLOB    NOT NULL,
    revision        INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    at              INTEGER NOT NULL,
    detail          TEXT,
    PRIMARY KEY (enrollment_id, command_id, revision)
) STRICT, WITHOUT ROWID;

-- What devices answered, as it came.
CREATE TABLE reports (
    enrollment_id   BLOB    NOT NULL,
    id              BLOB    NOT NULL,
    command_id      BLOB,
    command_uuid    TEXT,
    status          TEXT    NOT NULL,
    size_bytes      INTEGER NOT NULL,
    raw_sealed      BLOB    NOT NULL,
    received_at     INTEGER NOT NULL,
    PRIMARY KEY (enrollment_id, id)
) STRICT;
CREATE INDEX reports_by_command ON reports (command_id, enrollment_id) WHERE command_id IS NOT NULL;
CREATE INDEX reports_by_time ON reports (received_at);

-- The last that is known of a device, by kind ('device_information', 'security_info', ...), as JSON.
CREATE TABLE inventory (
    device_id       BLOB    NOT NULL,
    kind            TEXT    NOT NULL,
    data            TEXT    NOT NULL,
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (device_id, kind)
) STRICT, WITHOUT ROWID;

-- The wake-up of each enrollment: at most one is due, at most one is in flight.
CREATE TABLE wakes (
    enrollment_id   BLOB    NOT NULL PRIMARY KEY,
    due_at          INTEGER,
    -- Raised by each request, so that one that comes while a push is in flight is not lost.
    revision        INTEGER NOT NULL,
    leased_until    INTEGER,
    leased_by       BLOB,
    attempts        INTEGER NOT NULL,
    -- Until then the push service is to be left alone, as it said or since it failed; no request pulls a wake-up before.
    not_before      INTEGER,
    -- When it is woken by schedule; none while the enrollment is not enabled.
    sync_at         INTEGER,
    last_at         INTEGER,
    last_result     TEXT,
    last_reason     TEXT,
    last_apns_id    TEXT,
    -- The revision that the last push was for: who asked for one by then knows how it ended.
    last_revision   INTEGER
) STRICT;
CREATE INDEX wakes_due ON wakes (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX wakes_sync ON wakes (sync_at) WHERE sync_at IS NOT NULL;

CREATE TABLE profiles (
    id              BLOB    NOT NULL PRIMARY KEY,
    identifier      TEXT    NOT NULL UNIQUE,
    name            TEXT    NOT NULL,
    payload_uuid    TEXT    NOT NULL,
    organization    TEXT,
    scope           TEXT    NOT NULL,
    payload_types   TEXT    NOT NULL,
    content_sealed  BLOB    NOT NULL,
    sha256          BLOB    NOT NULL,
    size_bytes      INTEGER NOT NULL,
    signed          INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;

-- kind: 'store', 'manifest' (served elsewhere), 'package' (served here).
CREATE TABLE apps (
    id              BLOB    NOT NULL PRIMARY KEY,
    kind            TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    bundle_id       TEXT,
    version         TEXT,
    -- Of a package, beside its CFBundleVersion: what people see, and the least version of the system.
    display_version TEXT,
    minimum_os      TEXT,
    store_id        INTEGER,
    manifest_url    TEXT,
    package_id      BLOB,
    revision        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX apps_by_package ON apps (package_id) WHERE package_id IS NOT NULL;

-- Packages are kept in the database, in chunks, so that any server process can serve them. One without ready_at is
-- being uploaded or taken away; its whole size counts from the beginning.
CREATE TABLE packages (
    id              BLOB    NOT NULL PRIMARY KEY,
    slug            TEXT    NOT NULL UNIQUE,
    size_bytes      INTEGER NOT NULL,
    chunk_bytes     INTEGER NOT NULL,
    sha256          BLOB,
    created_at      INTEGER NOT NULL,
    ready_at        INTEGER
) STRICT;
CREATE TABLE package_chunks (
    package_id      BLOB    NOT NULL,
    number          INTEGER NOT NULL,
    bytes           BLOB    NOT NULL,
    PRIMARY KEY (package_id, number)
) STRICT;

-- Who did what to what; written in the transaction of the change itself.
CREATE TABLE audit (
    id              BLOB    NOT NULL PRIMARY KEY,
    at              INTEGER NOT NULL,
    actor_kind      TEXT    NOT NULL,
    actor           TEXT    NOT NULL,
    actor_token     BLOB,
    action          TEXT    NOT NULL,
    subject_kind    TEXT    NOT NULL,
    subject         TEXT    NOT NULL,
    detail          TEXT    NOT NULL,
    request_id      TEXT,
    address         TEXT
) STRICT;
CREATE INDEX audit_by_subject ON audit (subject, id);

-- Addresses that are told of what devices send. Those that were removed stay until what waits for them is taken away.
CREATE TABLE webhooks (
    id              BLOB    NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    url             TEXT    NOT NULL,
    -- 'nanomdm' or 'cloudevents'.
    form            TEXT    NOT NULL,
    -- What messages are signed with.
    secret_sealed   BLOB,
    -- A JSON array of the topics that it is told of; an empty one for all.
    topics          TEXT    NOT NULL,
    -- Whether it is told of idle polls, which are never written down.
    idle            INTEGER NOT NULL,
    -- Whether the device's message rides along as it came.
    raw             INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    -- Since when nothing is sent, and why; what is to be sent waits.
    paused_at       INTEGER,
    paused_reason   TEXT,
    created_at      INTEGER NOT NULL,
    created_by      TEXT    NOT NULL,
    updated_at      INTEGER NOT NULL,
    removed_at      INTEGER
) STRICT;

-- What waits to be sent, in order: one line for each device and webhook, which is leased as a whole. Its lock orders those
-- that write to it at the same time.
CREATE TABLE webhook_lines (
    device_id       BLOB    NOT NULL,
    webhook_id      BLOB    NOT NULL,
    -- The number of the newest event, and of the last that was sent or given up.
    last            INTEGER NOT NULL,
    done            INTEGER NOT NULL,
    -- NULL: nothing waits.
    due_at          INTEGER,
    waiting_since   INTEGER,
    -- Of the first event that waits.
    attempts        INTEGER NOT NULL,
    leased_until    INTEGER,
    leased_by       BLOB,
    PRIMARY KEY (device_id, webhook_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_lines_due ON webhook_lines (webhook_id, due_at) WHERE due_at IS NOT NULL;

-- The events that wait, and those that were given up; what was sent goes.
CREATE TABLE webhook_events (
    device_id       BLOB    NOT NULL,
    webhook_id      BLOB    NOT NULL,
    number          INTEGER NOT NULL,
    -- Stays the same however often it is sent.
    id              BLOB    NOT NULL,
    enrollment_id   BLOB    NOT NULL,
    topic           TEXT    NOT NULL,
    -- Of a TokenUpdate: which one of its enrollment it is.
    token_tally     INTEGER,
    -- What the message says, and the message itself where it rides along.
    content_sealed  BLOB    NOT NULL,
    created_at      INTEGER NOT NULL,
    -- Since when it is tried: later than that for one that is sent again after it was given up.
    queued_at       INTEGER NOT NULL,
    dead_at         INTEGER,
    attempts        INTEGER,
    error           TEXT,
    PRIMARY KEY (device_id, webhook_id, number)
) STRICT;
CREATE INDEX webhook_events_dead ON webhook_events (webhook_id, id) WHERE dead_at IS NOT NULL;

-- Answers kept for a repeated request with the same Idempotency-Key.
CREATE TABLE idempotency (
    token_id        BLOB    NOT NULL,
    key             TEXT    NOT NULL,
    request_sha256  BLOB    NOT NULL,
    status          INTEGER,
    response_sealed BLOB,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (token_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- The server processes on this database. One that was not seen for some seconds is gone: what it leased is free.
CREATE TABLE processes (
    id              BLOB    NOT NULL PRIMARY KEY,
    started_at      INTEGER NOT NULL,
    seen_at         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Work of the server itself; a row goes in with the change that needs it.
CREATE TABLE jobs (
    id              BLOB    NOT NULL PRIMARY KEY,
    kind            TEXT    NOT NULL,
    payload         TEXT    NOT NULL,
    -- At most one job of a kind for the same thing.
    dedupe          TEXT    UNIQUE,
    -- Raised by each request, so that one that comes while the job runs is not lost.
    revision        INTEGER NOT NULL,
    run_at          INTEGER NOT NULL,
    leased_until    INTEGER,
    leased_by       BLOB,
    attempts        INTEGER NOT NULL,
    last_error      TEXT,
    dead_at         INTEGER,
    created_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_due ON jobs (run_at) WHERE dead_at IS NULL;

-- One row: the source of fleet numbers, which order "enabled" and "accepted for all" against each other.
CREATE TABLE fleet (
    id              INTEGER NOT NULL PRIMARY KEY,
    number          INTEGER NOT NULL
) STRICT;
INSERT INTO fleet (id, number) VALUES (1, 1);
