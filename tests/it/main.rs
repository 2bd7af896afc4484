//! The integration tests: one binary, so that it is linked once, with a module for each subject.
//!
//! `both_databases!` (in `support::db`) runs a story on SQLite and on PostgreSQL; `make test` starts a PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cloned_ref_to_slice_refs,
    reason = "in a test a panic is the answer, and a short line worth a copy"
)]

#[macro_use]
mod support;

mod api_access;
mod api_commands;
mod api_content;
mod api_devices;
mod api_docs;
mod api_enrollment;
mod api_server;
mod apps;
mod authorities;
mod cli_backup;
mod cli_demo;
mod cli_doctor;
mod cli_help;
mod cli_init;
mod cli_serve;
mod cli_token;
mod cli_webhook;
mod compat_certificates;
mod compat_commands;
mod compat_devices;
mod docs;
mod enrollment_links;
mod http_enrollment;
mod import_nanomdm;
mod profiles;
mod push_certificates;
mod rotation;
mod scep;
mod store_authorities;
mod store_certificates;
mod store_commands;
mod store_compat;
mod store_devices;
mod store_enrollments;
mod store_fleet;
mod store_held;
mod store_inspect;
mod store_jobs;
mod store_links;
mod store_lists;
mod store_migrations;
mod store_outbox;
mod store_profiles_apps;
mod store_push_certificates;
mod store_reports;
mod store_retention;
mod store_terms;
mod store_together;
mod store_tokens;
mod store_trouble;
mod store_wakes;
mod story_bodies;
mod story_commands;
mod story_enrollment;
mod story_identity;
mod story_jobs;
mod story_overload;
mod story_processes;
mod story_profiles;
mod story_queue;
mod story_restore;
mod story_retention;
mod story_simulator;
mod story_terms;
mod wakes;
mod webhooks;
