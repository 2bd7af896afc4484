-- The tables that everything hangs on. The same names and columns stand in both databases; only the types differ
-- (BIGINT/INTEGER, BYTEA/BLOB, UUID/BLOB, BOOLEAN/INTEGER).
--
-- Times are microseconds since the epoch, UTC. Ids are UUIDv7 of our own; Apple's ids stand beside them and are never
-- keys of ours. Columns that end in _sealed are encrypted and authenticated under the master key. Rows of devices
-- and enrollments are never deleted, only closed; commands and what belongs to them are pruned in batches when they are
-- old. Hence no cascading foreign keys.

-- Who may use the API. Only the hash of a token is kept.
CREATE TABLE api_tokens (
    id              UUID    NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    hash            BYTEA   NOT NULL UNIQUE,
    role            TEXT    NOT NULL,
    scope           TEXT,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    expires_at      BIGINT,
    last_used_at    BIGINT,
    revoked_at      BIGINT
);

-- Certificate authorities: those whose device certificates are accepted (purpose 'device'), and the root of our own
-- TLS certificates ('tls'). One of each purpose has slot 'active' and issues; others have none.
CREATE TABLE authorities (
    id              UUID    NOT NULL PRIMARY KEY,
    purpose         TEXT    NOT NULL,
    slot            TEXT,
    name            TEXT    NOT NULL,
    certificate     BYTEA   NOT NULL,
    sha256          BYTEA   NOT NULL,
    key_sealed      BYTEA,
    -- TRUE: certificates of it are issued elsewhere and are pinned at Authenticate without an issuing record here.
    issues_elsewhere BOOLEAN NOT NULL,
    not_after       BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL,
    retired_at      BIGINT,
    UNIQUE (purpose, slot),
    UNIQUE (purpose, sha256)
);

-- Leaf certificates of the server itself, by use ('tls', 'profile_signer'); replaced when they are renewed.
CREATE TABLE server_certificates (
    name            TEXT    NOT NULL PRIMARY KEY,
    chain_pem       TEXT    NOT NULL,
    key_sealed      BYTEA   NOT NULL,
    names           TEXT    NOT NULL,
    not_after       BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL
);

-- Push certificates, one for each topic.
CREATE TABLE push_certificates (
    topic           TEXT    NOT NULL PRIMARY KEY,
    chain_pem       TEXT    NOT NULL,
    key_sealed      BYTEA   NOT NULL,
    sha256          BYTEA   NOT NULL,
    subject         TEXT    NOT NULL,
    not_before      BIGINT  NOT NULL,
    not_after       BIGINT  NOT NULL,
    is_default      BOOLEAN NOT NULL,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL
);
-- New devices enroll by one of them.
CREATE UNIQUE INDEX push_certificates_default ON push_certificates (is_default) WHERE is_default = TRUE;

-- Keys that wait for Apple's answer to their certificate request.
CREATE TABLE push_requests (
    id              UUID    NOT NULL PRIMARY KEY,
    csr_pem         TEXT    NOT NULL,
    public_key_sha256 BYTEA NOT NULL,
    key_sealed      BYTEA   NOT NULL,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    answered_at     BIGINT
);
CREATE INDEX push_requests_by_key ON push_requests (public_key_sha256);

-- Links that people open to enroll. Only the hash of the code is kept.
CREATE TABLE enrollment_links (
    id              UUID    NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    code_hash       BYTEA   NOT NULL UNIQUE,
    uses_allowed    BIGINT,
    uses_count      BIGINT  NOT NULL,
    user_name       TEXT,
    user_email      TEXT,
    expires_at      BIGINT,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    revoked_at      BIGINT
);

-- What enrollment profiles laid down that may not change on a device: each combination once, named by its hash. URLs and
-- rights are NULL where the profile was made elsewhere and only its identifier is known.
CREATE TABLE enrollment_terms (
    sha256          BYTEA   NOT NULL PRIMARY KEY,
    identifier      TEXT    NOT NULL,
    server_url      TEXT,
    checkin_url     TEXT,
    access_rights   BIGINT ,
    created_at      BIGINT  NOT NULL
);

-- SCEP challenges. Only the hash is kept. purpose: 'link', 'renewal' (of one device), 'return_to_service' (of one device
-- that is wiped), 'api' (made for tools).
CREATE TABLE challenges (
    id              UUID    NOT NULL PRIMARY KEY,
    hash            BYTEA   NOT NULL UNIQUE,
    purpose         TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    link_id         UUID,
    enrollment_id   UUID,
    -- The enrollment's generation that it was made in, and with which it ends.
    generation      BIGINT,
    -- What the profile that holds it lays down; NULL where that is made elsewhere.
    terms           BYTEA,
    uses_allowed    BIGINT  NOT NULL,
    uses_count      BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    expires_at      BIGINT  NOT NULL,
    -- A use of the link is held from the first certificate until this time, or until it is counted.
    reserved_until  BIGINT,
    counted_at      BIGINT
);
CREATE INDEX challenges_by_link ON challenges (link_id, expires_at) WHERE link_id IS NOT NULL;

-- The issuing record: each certificate that was issued here.
CREATE TABLE certificates (
    sha256          BYTEA   NOT NULL PRIMARY KEY,
    authority_id    UUID    NOT NULL,
    serial          TEXT    NOT NULL,
    subject         TEXT    NOT NULL,
    public_key_sha256 BYTEA NOT NULL,
    der             BYTEA   NOT NULL,
    challenge_id    UUID,
    -- The device channel that it was issued for, known at once for a renewal, else from Authenticate on.
    enrollment_id   UUID,
    -- The enrollment's generation in which it may be pinned without an Authenticate, or that it authenticated last.
    generation      BIGINT,
    not_before      BIGINT  NOT NULL,
    not_after       BIGINT  NOT NULL,
    issued_at       BIGINT  NOT NULL,
    revoked_at      BIGINT,
    revoked_reason  TEXT
);
CREATE INDEX certificates_by_challenge ON certificates (challenge_id, public_key_sha256) WHERE challenge_id IS NOT NULL;
CREATE INDEX certificates_by_time ON certificates (issued_at, sha256);
CREATE INDEX certificates_by_enrollment ON certificates (enrollment_id) WHERE enrollment_id IS NOT NULL;

CREATE TABLE devices (
    id              UUID    NOT NULL PRIMARY KEY,
    platform        TEXT    NOT NULL,
    udid            TEXT    UNIQUE,
    apple_enrollment_id TEXT UNIQUE,
    -- Ordered by bytes, as SQLite does, whatever the database's language.
    serial          TEXT COLLATE "C",
    name            TEXT COLLATE "C",
    model           TEXT,
    model_name      TEXT,
    product_name    TEXT,
    os_version      TEXT,
    build_version   TEXT,
    imei            TEXT,
    supervised      BOOLEAN,
    user_name       TEXT,
    user_email      TEXT,
    link_id         UUID,
    created_at      BIGINT  NOT NULL,
    updated_at      BIGINT  NOT NULL,
    removed_at      BIGINT
);
CREATE INDEX devices_by_serial ON devices (COALESCE(serial, ''), id);
CREATE INDEX devices_by_name ON devices (lower(COALESCE(name, '')), id);
CREATE INDEX devices_by_user_name ON devices (lower(user_name), id) WHERE user_name IS NOT NULL;
CREATE INDEX devices_by_user_email ON devices (lower(user_email), id) WHERE user_email IS NOT NULL;

-- Management channels. state: 'authenticated', 'awaiting_approval', 'enabled', 'disabled' (checked out or superseded),
-- 'removed' (by an admin). Only an enabled one is pushed to and gets commands.
CREATE TABLE enrollments (
    id              UUID    NOT NULL PRIMARY KEY,
    device_id       UUID    NOT NULL,
    -- The device channel that a user channel belongs to.
    parent_id       UUID,
    apple_id        TEXT    NOT NULL UNIQUE,
    kind            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    -- Raised by each new enrollment (not by a renewal); commands, tokens and escrow belong to one.
    generation      BIGINT  NOT NULL,
    topic           TEXT,
    push_token      BYTEA,
    push_magic      TEXT,
    token_at        BIGINT,
    token_tally     BIGINT  NOT NULL,
    awaiting_configuration BOOLEAN NOT NULL,
    user_short_name TEXT,
    user_long_name  TEXT,
    -- Counts connections that got work (one begins with Idle); marks of deliveries refer to it.
    connection      BIGINT  NOT NULL,
    -- The fleet number when it was enabled, or of the last command for all that was made a delivery here.
    fleet_cursor    BIGINT,
    link_id         UUID,
    challenge_id    UUID,
    -- What the profile on the device lays down; NULL where that was made elsewhere.
    terms           BYTEA,
    authenticated_at BIGINT NOT NULL,
    enabled_at      BIGINT,
    disabled_at     BIGINT,
    -- Until then an admin lets another certificate or user take this enrollment over.
    reenroll_approved_until BIGINT,
    -- When it was taken over from another server, by which its certificate was not told.
    migrated_at     BIGINT,
    last_seen_at    BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL,
    updated_at      BIGINT  NOT NULL
);
CREATE INDEX enrollments_by_device ON enrollments (device_id);
CREATE INDEX enrollments_by_parent ON enrollments (parent_id) WHERE parent_id IS NOT NULL;
-- The parent, so that the devices that a command for all is for are counted by the index alone.
CREATE INDEX enrollments_enabled ON enrollments (topic, id, parent_id) WHERE state = 'enabled';
-- Those that cannot be woken, for what is said when a command for all is accepted.
CREATE INDEX enrollments_without_token ON enrollments (id)
    WHERE state = 'enabled' AND parent_id IS NULL AND push_token IS NULL;

-- The pins: which certificates an enrollment (device channel) may authenticate with.
CREATE TABLE identities (
    enrollment_id   UUID    NOT NULL,
    sha256          BYTEA   NOT NULL,
    authority_id    UUID,
    not_after       BIGINT,
    pinned_at       BIGINT  NOT NULL,
    revoked_at      BIGINT,
    PRIMARY KEY (enrollment_id, sha256)
);
CREATE INDEX identities_by_hash ON identities (sha256);

-- Renewals that the server sent and that have not taken effect: the row goes when the device has its new certificate.
CREATE TABLE renewals (
    enrollment_id   UUID    NOT NULL PRIMARY KEY,
    attempts        BIGINT  NOT NULL,
    sent_at         BIGINT  NOT NULL,
    -- No other is sent before.
    retry_at        BIGINT  NOT NULL,
    failed_at       BIGINT ,
    error           TEXT
);

-- What was entrusted to us for one generation of an enrollment: 'unlock_token', 'bootstrap_token'.
CREATE TABLE escrow (
    enrollment_id   UUID    NOT NULL,
    generation      BIGINT  NOT NULL,
    kind            TEXT    NOT NULL,
    value_sealed    BYTEA   NOT NULL,
    stored_at       BIGINT  NOT NULL,
    PRIMARY KEY (enrollment_id, generation, kind)
);

-- The last check-in message of each type, as it came.
CREATE TABLE check_ins (
    enrollment_id   UUID    NOT NULL,
    message_type    TEXT    NOT NULL,
    raw_sealed      BYTEA   NOT NULL,
    received_at     BIGINT  NOT NULL,
    PRIMARY KEY (enrollment_id, message_type)
);

-- What admins (and the server itself: internal) asked for, once each.
CREATE TABLE commands (
    id              UUID    NOT NULL PRIMARY KEY,
    verb            TEXT    NOT NULL,
    request_type    TEXT    NOT NULL,
    -- The payload as a plist; may hold PINs and passwords.
    payload_sealed  BYTEA   NOT NULL,
    fills           TEXT    NOT NULL,
    summary         TEXT    NOT NULL,
    resend          TEXT    NOT NULL,
    -- What it destroys, if anything: 'erase', 'lock_with_pin', 'unenroll'.
    destruction     TEXT,
    priority        BIGINT  NOT NULL,
    internal        BOOLEAN NOT NULL,
    -- 'devices', or 'all': then fleet_number is its watermark.
    target          TEXT    NOT NULL,
    target_count    BIGINT  NOT NULL,
    fleet_number    BIGINT,
    -- For 'all': TRUE once every target has its delivery.
    materialized    BOOLEAN NOT NULL,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    expires_at      BIGINT,
    cancelled_at    BIGINT,
    -- Since when it is handed to nobody, after a restore, until an admin releases it.
    held_at         BIGINT,
    -- What stands for it on the wire where a tool chose it by the compatible interface, and the digest of what it sent, which may hold a PIN.
    wire_uuid       TEXT,
    wire_sealed     BYTEA
);
CREATE INDEX commands_for_all ON commands (fleet_number) WHERE fleet_number IS NOT NULL;
CREATE UNIQUE INDEX commands_by_wire_uuid ON commands (wire_uuid) WHERE wire_uuid IS NOT NULL;
CREATE INDEX commands_of_admins ON commands (id) WHERE internal = FALSE;
CREATE INDEX commands_of_admins_by_verb ON commands (verb, id) WHERE internal = FALSE;
CREATE INDEX commands_held ON commands (id) WHERE held_at IS NOT NULL;

-- One command for one enrollment. The states and their graph are `model::DeliveryState`.
CREATE TABLE deliveries (
    enrollment_id   UUID    NOT NULL,
    command_id      UUID    NOT NULL,
    generation      BIGINT  NOT NULL,
    state           TEXT    NOT NULL,
    priority        BIGINT  NOT NULL,
    resend          TEXT    NOT NULL,
    -- The connection in which it was last offered, or could not be made ready.
    connection      BIGINT  NOT NULL,
    attempts        BIGINT  NOT NULL,
    -- Counts its transitions.
    revision        BIGINT  NOT NULL,
    queued_at       BIGINT  NOT NULL,
    sent_at         BIGINT,
    answered_at     BIGINT,
    updated_at      BIGINT  NOT NULL,
    expires_at      BIGINT,
    error           TEXT,
    report_id       UUID,
    PRIMARY KEY (enrollment_id, command_id)
);
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
    enrollment_id   UUID    NOT NULL,
    command_id      UUID    NOT NULL,
    revision        BIGINT  NOT NULL,
    state           TEXT    NOT NULL,
    at              BIGINT  NOT NULL,
    detail          TEXT,
    PRIMARY KEY (enrollment_id, command_id, revision)
);

-- What devices answered, as it came.
CREATE TABLE reports (
    enrollment_id   UUID    NOT NULL,
    id              UUID    NOT NULL,
    command_id      UUID,
    command_uuid    TEXT,
    status          TEXT    NOT NULL,
    size_bytes      BIGINT  NOT NULL,
    raw_sealed      BYTEA   NOT NULL,
    received_at     BIGINT  NOT NULL,
    PRIMARY KEY (enrollment_id, id)
);
CREATE INDEX reports_by_command ON reports (command_id, enrollment_id) WHERE command_id IS NOT NULL;
CREATE INDEX reports_by_time ON reports (received_at);

-- The last that is known of a device, by kind ('device_information', 'security_info', ...), as JSON.
CREATE TABLE inventory (
    device_id       UUID    NOT NULL,
    kind            TEXT    NOT NULL,
    data            TEXT    NOT NULL,
    updated_at      BIGINT  NOT NULL,
    PRIMARY KEY (device_id, kind)
);

-- The wake-up of each enrollment: at most one is due, at most one is in flight.
CREATE TABLE wakes (
    enrollment_id   UUID    NOT NULL PRIMARY KEY,
    due_at          BIGINT,
    -- Raised by each request, so that one that comes while a push is in flight is not lost.
    revision        BIGINT  NOT NULL,
    leased_until    BIGINT,
    leased_by       UUID,
    attempts        BIGINT  NOT NULL,
    -- Until then the push service is to be left alone, as it said or since it failed; no request pulls a wake-up before.
    not_before      BIGINT,
    -- When it is woken by schedule; none while the enrollment is not enabled.
    sync_at         BIGINT,
    last_at         BIGINT,
    last_result     TEXT,
    last_reason     TEXT,
    last_apns_id    TEXT,
    -- The revision that the last push was for: who asked for one by then knows how it ended.
    last_revision   BIGINT
);
CREATE INDEX wakes_due ON wakes (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX wakes_sync ON wakes (sync_at) WHERE sync_at IS NOT NULL;

CREATE TABLE profiles (
    id              UUID    NOT NULL PRIMARY KEY,
    identifier      TEXT    NOT NULL UNIQUE,
    name            TEXT    NOT NULL,
    payload_uuid    TEXT    NOT NULL,
    organization    TEXT,
    scope           TEXT    NOT NULL,
    payload_types   TEXT    NOT NULL,
    content_sealed  BYTEA   NOT NULL,
    sha256          BYTEA   NOT NULL,
    size_bytes      BIGINT  NOT NULL,
    signed          BOOLEAN NOT NULL,
    revision        BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    updated_at      BIGINT  NOT NULL
);

-- kind: 'store', 'manifest' (served elsewhere), 'package' (served here).
CREATE TABLE apps (
    id              UUID    NOT NULL PRIMARY KEY,
    kind            TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    bundle_id       TEXT,
    version         TEXT,
    -- Of a package, beside its CFBundleVersion: what people see, and the least version of the system.
    display_version TEXT,
    minimum_os      TEXT,
    store_id        BIGINT,
    manifest_url    TEXT,
    package_id      UUID,
    revision        BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    updated_at      BIGINT  NOT NULL
);
CREATE INDEX apps_by_package ON apps (package_id) WHERE package_id IS NOT NULL;

-- Packages are kept in the database, in chunks, so that any server process can serve them. One without ready_at is
-- being uploaded or taken away; its whole size counts from the beginning.
CREATE TABLE packages (
    id              UUID    NOT NULL PRIMARY KEY,
    slug            TEXT    NOT NULL UNIQUE,
    size_bytes      BIGINT  NOT NULL,
    chunk_bytes     BIGINT  NOT NULL,
    sha256          BYTEA,
    created_at      BIGINT  NOT NULL,
    ready_at        BIGINT
);
CREATE TABLE package_chunks (
    package_id      UUID    NOT NULL,
    number          BIGINT  NOT NULL,
    bytes           BYTEA   NOT NULL,
    PRIMARY KEY (package_id, number)
);
-- Packages are compressed already.
ALTER TABLE package_chunks ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- Who did what to what; written in the transaction of the change itself.
CREATE TABLE audit (
    id              UUID    NOT NULL PRIMARY KEY,
    at              BIGINT  NOT NULL,
    actor_kind      TEXT    NOT NULL,
    actor           TEXT    NOT NULL,
    actor_token     UUID,
    action          TEXT    NOT NULL,
    subject_kind    TEXT    NOT NULL,
    subject         TEXT    NOT NULL,
    detail          TEXT    NOT NULL,
    request_id      TEXT,
    address         TEXT
);
CREATE INDEX audit_by_subject ON audit (subject, id);

-- Addresses that are told of what devices send. Those that were removed stay until what waits for them is taken away.
CREATE TABLE webhooks (
    id              UUID    NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    url             TEXT    NOT NULL,
    -- 'nanomdm' or 'cloudevents'.
    form            TEXT    NOT NULL,
    -- What messages are signed with.
    secret_sealed   BYTEA,
    -- A JSON array of the topics that it is told of; an empty one for all.
    topics          TEXT    NOT NULL,
    -- Whether it is told of idle polls, which are never written down.
    idle            BOOLEAN NOT NULL,
    -- Whether the device's message rides along as it came.
    raw             BOOLEAN NOT NULL,
    revision        BIGINT  NOT NULL,
    -- Since when nothing is sent, and why; what is to be sent waits.
    paused_at       BIGINT,
    paused_reason   TEXT,
    created_at      BIGINT  NOT NULL,
    created_by      TEXT    NOT NULL,
    updated_at      BIGINT  NOT NULL,
    removed_at      BIGINT
);

-- What waits to be sent, in order: one line for each device and webhook, which is leased as a whole. Its lock orders those
-- that write to it at the same time.
CREATE TABLE webhook_lines (
    device_id       UUID    NOT NULL,
    webhook_id      UUID    NOT NULL,
    -- The number of the newest event, and of the last that was sent or given up.
    last            BIGINT  NOT NULL,
    done            BIGINT  NOT NULL,
    -- NULL: nothing waits.
    due_at          BIGINT,
    waiting_since   BIGINT,
    -- Of the first event that waits.
    attempts        BIGINT  NOT NULL,
    leased_until    BIGINT,
    leased_by       UUID,
    PRIMARY KEY (device_id, webhook_id)
);
CREATE INDEX webhook_lines_due ON webhook_lines (webhook_id, due_at) WHERE due_at IS NOT NULL;

-- The events that wait, and those that were given up; what was sent goes.
CREATE TABLE webhook_events (
    device_id       UUID    NOT NULL,
    webhook_id      UUID    NOT NULL,
    number          BIGINT  NOT NULL,
    -- Stays the same however often it is sent.
    id              UUID    NOT NULL,
    enrollment_id   UUID    NOT NULL,
    topic           TEXT    NOT NULL,
    -- Of a TokenUpdate: which one of its enrollment it is.
    token_tally     BIGINT,
    -- What the message says, and the message itself where it rides along.
    content_sealed  BYTEA   NOT NULL,
    created_at      BIGINT  NOT NULL,
    -- Since when it is tried: later than that for one that is sent again after it was given up.
    queued_at       BIGINT  NOT NULL,
    dead_at         BIGINT,
    attempts        BIGINT,
    error           TEXT,
    PRIMARY KEY (device_id, webhook_id, number)
);
CREATE INDEX webhook_events_dead ON webhook_events (webhook_id, id) WHERE dead_at IS NOT NULL;

-- Answers kept for a repeated request with the same Idempotency-Key.
CREATE TABLE idempotency (
    token_id        UUID    NOT NULL,
    key             TEXT    NOT NULL,
    request_sha256  BYTEA   NOT NULL,
    status          BIGINT,
    response_sealed BYTEA,
    created_at      BIGINT  NOT NULL,
    PRIMARY KEY (token_id, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- The server processes on this database. One that was not seen for some seconds is gone: what it leased is free.
CREATE TABLE processes (
    id              UUID    NOT NULL PRIMARY KEY,
    started_at      BIGINT NOT NULL,
    seen_at         BIGINT NOT NULL
);

-- Work of the server itself; a row goes in with the change that needs it.
CREATE TABLE jobs (
    id              UUID    NOT NULL PRIMARY KEY,
    kind            TEXT    NOT NULL,
    payload         TEXT    NOT NULL,
    -- At most one job of a kind for the same thing.
    dedupe          TEXT    UNIQUE,
    -- Raised by each request, so that one that comes while the job runs is not lost.
    revision        BIGINT  NOT NULL,
    run_at          BIGINT  NOT NULL,
    leased_until    BIGINT,
    leased_by       UUID,
    attempts        BIGINT  NOT NULL,
    last_error      TEXT,
    dead_at         BIGINT,
    created_at      BIGINT  NOT NULL
);
CREATE INDEX jobs_due ON jobs (run_at) WHERE dead_at IS NULL;

-- One row: the source of fleet numbers, which order "enabled" and "accepted for all" against each other.
CREATE TABLE fleet (
    id              BIGINT  NOT NULL PRIMARY KEY,
    number          BIGINT  NOT NULL
);
INSERT INTO fleet (id, number) VALUES (1, 1);
