//! A connection: from Idle to the empty answer, with everything in between carried out.

use std::collections::BTreeSet;
use std::time::Duration;

use plist::Value;
use tokio::time::sleep;

use super::enrollment::EnrollmentProfile;
use super::error::PhoneError;
use super::fault::Fault;
use super::handset::{Outcome, Then};
use super::package;
use super::phone::Phone;
use super::profile::ProfileFile;
use crate::model::ReportStatus;
use crate::protocol::command::Command;

/// The most commands that a device carries out in one connection: a server that never ends is broken.
const MAX_COMMANDS: usize = 10_000;

/// What happened in a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The commands, with what was reported about them.
    pub done: Vec<Done>,
    /// Whether NotNow was the last status: the device comes again by itself.
    pub comes_again: bool,
    /// Whether the connection broke before its end (a flaky device).
    pub broken: bool,
}

/// One command of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its CommandUUID.
    pub uuid: String,
    /// Its request type.
    pub request_type: String,
    /// What was reported.
    pub status: ReportStatus,
}

impl Phone {
    /// Connects: says Idle, carries out what comes, reports, until the answer is empty. A device that the server does
    /// not know (any more) removes its enrollment profile, as iOS does, without a CheckOut: the connection ends, and
    /// [`Phone::is_enrolled`] is false.
    ///
    /// # Errors
    /// What the server does against the protocol; a renewal or a return to service that fails.
    pub async fn connect(&mut self) -> Result<Connection, PhoneError> {
        let mut connection = Connection::default();
        if self.handset.off {
            return Ok(connection);
        }
        match self.converse(&mut connection).await {
            Err(PhoneError::Unrecognized { .. }) => {
                self.forget_enrollment();
                connection.comes_again = false;
                Ok(connection)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(connection),
        }
    }

    async fn converse(&mut self, connection: &mut Connection) -> Result<(), PhoneError> {
        let mut put_off = BTreeSet::new();
        let mut next = self.poll().await?;
        while let Some(command) = next {
            if connection.done.len() >= MAX_COMMANDS {
                return Err(PhoneError::protocol("report", "the server's commands have no end"));
            }
            if put_off.contains(&command.uuid) {
                let reason = format!("{} is offered again in the connection in which it got NotNow", command.uuid);
                return Err(PhoneError::protocol("report", reason));
            }
            if self.loses() {
                connection.broken = true;
                break;
            }
            let outcome = self.execute(&command).await;
            self.think().await;
            let Outcome { status, members, then } = outcome;
            let is_final = matches!(then, Then::Erase { .. } | Then::Unenroll);
            if self.loses() && !is_final {
                connection.broken = true;
                break;
            }
            if status == ReportStatus::NotNow {
                put_off.insert(command.uuid.clone());
            }
            connection.comes_again = status == ReportStatus::NotNow;
            if self.options.quirks.silent_renewal && matches!(then, Then::Renew(_)) {
                break;
            }
            next = self.report(&command, status, members.clone()).await?;
            if self.chance(self.options.manner.repeated_percent) {
                self.report(&command, status, members).await?;
            }
            connection.done.push(Done { uuid: command.uuid, request_type: command.request_type, status });
            if self.follow(then).await? {
                break;
            }
        }
        if connection.broken {
            self.hang_up()?;
        }
        Ok(())
    }

    /// Carries out a command, up to the report. A new enrollment profile is put to use here: the device reports under
    /// its new identity.
    pub async fn execute(&mut self, command: &Command) -> Outcome {
        let put_off = self.put_off.entry(command.uuid.clone()).or_default();
        if *put_off < self.options.manner.not_now_first && command.request_type != "EraseDevice" {
            *put_off += 1;
            return Outcome::not_now();
        }
        let manifest = command.payload.get("ManifestURL").and_then(Value::as_string);
        let fetched = match (manifest, &self.enrollment) {
            (Some(url), Some(enrollment)) if !self.handset.locked => {
                Some(package::fetch(&enrollment.anonymous, url).await)
            }
            _ => None,
        };
        let outcome = self.handset.execute(command, fetched);
        match outcome.then.clone() {
            Then::Renew(profile) => match self.renew(*profile).await {
                Ok(()) => outcome,
                Err(error) => Outcome::failed(&Fault::not_installed(error.to_string())),
            },
            _ => outcome,
        }
    }

    /// Puts an updated enrollment profile to use: a new identity, then Authenticate and TokenUpdate under it.
    async fn renew(&mut self, profile: ProfileFile) -> Result<(), PhoneError> {
        let newer = EnrollmentProfile::of(profile)?;
        let older = self.enrolled()?.profile.clone();
        older.check_update(&newer)?;
        self.handset.enrollment = Some(newer.file.clone());
        if let Some(enrollment) = &mut self.enrollment {
            enrollment.profile = newer;
        }
        self.obtain_certificate().await?;
        self.authenticate().await?;
        self.token_update().await
    }

    /// What a command set going. Tells whether the connection ends with it.
    async fn follow(&mut self, then: Then) -> Result<bool, PhoneError> {
        match then {
            Then::Nothing | Then::Renew(_) => Ok(false),
            Then::Restart => {
                self.handset.restarts += 1;
                Ok(true)
            }
            Then::ShutDown => {
                self.handset.off = true;
                Ok(true)
            }
            Then::Unenroll => {
                let checks_out = self.enrolled()?.profile.mdm.check_out_when_removed;
                if checks_out {
                    self.check_out().await?;
                }
                self.forget_enrollment();
                Ok(true)
            }
            Then::Erase { return_to_service } => {
                self.handset.erase();
                self.enrollment = None;
                self.put_off.clear();
                if let Some(profile) = return_to_service {
                    Box::pin(self.enroll_by(&profile)).await?;
                }
                Ok(true)
            }
        }
    }

    async fn think(&self) {
        let most = u64::try_from(self.options.manner.thinks.as_millis()).unwrap_or(0);
        if most > 0 {
            sleep(Duration::from_millis(self.random().below(most))).await;
        }
    }

    /// Half the chance before a command is carried out, half after it.
    fn loses(&self) -> bool {
        self.random().below(200) < self.options.manner.lost_percent
    }

    pub(super) fn chance(&self, percent: u64) -> bool {
        self.random().below(100) < percent
    }
}
