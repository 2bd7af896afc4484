//! What a device says to its server: check-ins and reports.

use plist::{Dictionary, Value};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, USER_AGENT};

use super::error::PhoneError;
use super::facts;
use super::line::Answer;
use super::phone::{Phone, Push};
use crate::model::{ReportStatus, Secret};
use crate::pki::signature::{self, SigningQuirks};
use crate::protocol::command::{self, Command};
use crate::protocol::wire::{self, Limits};

const CHECK_IN_TYPE: &str = "application/x-apple-aspen-mdm-checkin";
const REPORT_TYPE: &str = "application/x-apple-aspen-mdm; charset=UTF-8";

/// Where a message goes, and under which content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// To the CheckInURL.
    CheckIn,
    /// To the ServerURL.
    Report,
}

/// A user of a Mac, whose channel stands beside the device's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `UserID`.
    pub id: String,
    /// `UserShortName`.
    pub short_name: String,
    /// `UserLongName`.
    pub long_name: String,
}

impl Phone {
    /// Sends bytes as a message, with whatever proves the device's identity.
    ///
    /// # Errors
    /// [`PhoneError::Unreachable`], and [`PhoneError::NotReady`] without a certificate; every status is an answer.
    pub async fn send(&self, kind: MessageKind, body: Vec<u8>) -> Result<Answer, PhoneError> {
        let content_type = match kind {
            MessageKind::CheckIn => Some(CHECK_IN_TYPE),
            MessageKind::Report if self.options.quirks.no_content_type => None,
            MessageKind::Report if self.options.quirks.empty_content_type => Some(""),
            MessageKind::Report => Some(REPORT_TYPE),
        };
        self.send_as(kind, content_type, body).await
    }

    /// The same under another content type.
    ///
    /// # Errors
    /// As [`Phone::send`].
    pub async fn send_as(
        &self,
        kind: MessageKind,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Answer, PhoneError> {
        let enrollment = self.enrolled()?;
        let (line, identity) = enrollment.own.as_ref().ok_or(PhoneError::NotReady("there is no certificate yet"))?;
        let mdm = &enrollment.profile.mdm;
        let (step, url) = match kind {
            MessageKind::CheckIn => ("check in", &mdm.check_in),
            MessageKind::Report => ("report", &mdm.server),
        };
        let mut request = line.request(Method::PUT, url)?.header(USER_AGENT, "MDM/1.0");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if self.options.authentication.signs(mdm.sign_message) {
            let quirks = SigningQuirks {
                sha1: self.options.quirks.sha1_signatures,
                unsorted: self.options.quirks.unsorted_attributes,
            };
            let header = signature::sign_header(&body, identity, quirks, self.environment.clock.now())?;
            request = request.header("Mdm-Signature", header);
        }
        if let Some((name, value)) = self.options.authentication.proxy_header(identity) {
            request = request.header(name, value);
        }
        line.send(step, request.body(body)).await
    }

    /// Sends Authenticate.
    ///
    /// # Errors
    /// Any answer but 200.
    pub async fn authenticate(&self) -> Result<(), PhoneError> {
        self.authenticate_with(|_| ()).await?.expect_device_answer("Authenticate").map(drop)
    }

    /// Sends Authenticate as `change` leaves it; every status is an answer.
    ///
    /// # Errors
    /// As [`Phone::send`].
    pub async fn authenticate_with(&self, change: impl FnOnce(&mut Dictionary)) -> Result<Answer, PhoneError> {
        let facts = &self.handset.facts;
        let mut message = self.message("Authenticate", None);
        self.insert_topic(&mut message)?;
        insert(&mut message, "OSVersion", facts.os_version.as_str());
        insert(&mut message, "BuildVersion", facts.build_version.as_str());
        insert(&mut message, "ProductName", facts.product_name.as_str());
        if !self.options.quirks.few_keys {
            insert(&mut message, "DeviceName", facts.name.as_str());
            insert(&mut message, "Model", facts.model.as_str());
            insert(&mut message, "ModelName", facts.model_name.as_str());
            insert(&mut message, "SerialNumber", facts.serial_number.as_str());
            insert(&mut message, "IMEI", facts.imei.as_str());
        }
        change(&mut message);
        self.send_message(MessageKind::CheckIn, message).await
    }

    /// Sends TokenUpdate for the device channel, with a new push token the first time; the unlock token goes along
    /// once.
    ///
    /// # Errors
    /// Any answer but 200; [`PhoneError::Push`].
    pub async fn token_update(&mut self) -> Result<(), PhoneError> {
        self.token_update_with(|_| ()).await?.expect_device_answer("TokenUpdate").map(drop)
    }

    /// Sends TokenUpdate as `change` leaves it; every status is an answer.
    ///
    /// # Errors
    /// As [`Phone::send`], and [`PhoneError::Push`].
    pub async fn token_update_with(&mut self, change: impl FnOnce(&mut Dictionary)) -> Result<Answer, PhoneError> {
        let push = match self.enrolled()?.push.clone() {
            Some(push) => push,
            None => self.new_push().await?,
        };
        let mut message = self.message("TokenUpdate", None);
        self.insert_push(&mut message, &push)?;
        let unlock_token = if self.enrolled()?.unlock_token_sent || !self.handset.passcode {
            None
        } else {
            let random = std::sync::Arc::clone(&self.environment.random);
            Some(self.handset.make_unlock_token(random.as_ref()))
        };
        if let Some(token) = &unlock_token {
            insert(&mut message, "UnlockToken", Value::Data(token.expose().clone()));
        }
        change(&mut message);
        let answer = self.send_message(MessageKind::CheckIn, message).await?;
        if let Some(enrollment) = self.enrollment.as_mut().filter(|_| answer.status == 200) {
            enrollment.push = Some(push);
            enrollment.unlock_token_sent |= unlock_token.is_some();
        }
        Ok(answer)
    }

    /// Gets a new push token and sends it, as after a restore or when APNs wants it.
    ///
    /// # Errors
    /// As [`Phone::token_update`].
    pub async fn change_push_token(&mut self) -> Result<(), PhoneError> {
        let push = self.new_push().await?;
        if let Some(enrollment) = &mut self.enrollment {
            enrollment.push = Some(push);
        }
        self.token_update().await
    }

    /// Sends CheckOut, and forgets the enrollment.
    ///
    /// # Errors
    /// Any answer but 200.
    pub async fn check_out(&mut self) -> Result<(), PhoneError> {
        let mut message = self.message("CheckOut", None);
        self.insert_topic(&mut message)?;
        self.send_message(MessageKind::CheckIn, message).await?.expect_device_answer("CheckOut")?;
        self.forget_enrollment();
        Ok(())
    }

    /// Escrows a bootstrap token; none takes it back.
    ///
    /// # Errors
    /// Any answer but 200.
    pub async fn set_bootstrap_token(&self, token: Option<&[u8]>) -> Result<(), PhoneError> {
        let mut message = self.message("SetBootstrapToken", None);
        if let Some(token) = token {
            insert(&mut message, "BootstrapToken", Value::Data(token.to_vec()));
        }
        self.send_message(MessageKind::CheckIn, message).await?.expect_device_answer("SetBootstrapToken").map(drop)
    }

    /// Asks for the bootstrap token; none if none is escrowed.
    ///
    /// # Errors
    /// Any answer but 200; one that is no property list with a token.
    pub async fn get_bootstrap_token(&self) -> Result<Option<Secret<Vec<u8>>>, PhoneError> {
        const STEP: &str = "GetBootstrapToken";
        let message = self.message(STEP, None);
        let answer = self.send_message(MessageKind::CheckIn, message).await?.expect_device_answer(STEP)?;
        if answer.body.is_empty() {
            return Ok(None);
        }
        let wrong = || PhoneError::protocol(STEP, "the answer is no property list with a BootstrapToken");
        let value = wire::read(&answer.body, Limits::CHECK_IN).map_err(|_| wrong())?;
        let token = value.as_dictionary().and_then(|members| members.get("BootstrapToken")).and_then(Value::as_data);
        token.map(|token| Some(Secret::new(token.to_vec()))).ok_or_else(wrong)
    }

    /// Sends any check-in message of the device channel; every status is an answer.
    ///
    /// # Errors
    /// As [`Phone::send`].
    pub async fn check_in(&self, message_type: &str, members: Dictionary) -> Result<Answer, PhoneError> {
        let mut message = self.message(message_type, None);
        message.extend(members);
        self.send_message(MessageKind::CheckIn, message).await
    }

    /// Asks for declarative management; every status is an answer.
    ///
    /// # Errors
    /// As [`Phone::send`].
    pub async fn declarative_management(&self, endpoint: &str, data: Option<&[u8]>) -> Result<Answer, PhoneError> {
        let mut members = Dictionary::new();
        insert(&mut members, "Endpoint", endpoint);
        if let Some(data) = data {
            insert(&mut members, "Data", Value::Data(data.to_vec()));
        }
        self.check_in("DeclarativeManagement", members).await
    }

    /// Says Idle: gets the next command, if there is one.
    ///
    /// # Errors
    /// Any answer but 200, or one that is no command.
    pub async fn poll(&self) -> Result<Option<Command>, PhoneError> {
        self.report_on(None, ReportStatus::Idle, Dictionary::new(), None).await
    }

    /// Reports on a command: gets the next one, if there is one.
    ///
    /// # Errors
    /// Any answer but 200, or one that is no command.
    pub async fn report(
        &self,
        command: &Command,
        status: ReportStatus,
        members: Dictionary,
    ) -> Result<Option<Command>, PhoneError> {
        self.report_on(Some(command), status, members, None).await
    }

    /// Sends TokenUpdate for a user's channel, with a new push token the first time.
    ///
    /// # Errors
    /// Any answer but 200; [`PhoneError::Push`].
    pub async fn user_token_update(&mut self, user: &User) -> Result<(), PhoneError> {
        let push = match self.enrolled()?.user_pushes.get(&user.id).cloned() {
            Some(push) => push,
            None => self.new_push().await?,
        };
        let mut message = self.message("TokenUpdate", Some(user));
        self.insert_push(&mut message, &push)?;
        self.send_message(MessageKind::CheckIn, message).await?.expect_device_answer("TokenUpdate")?;
        if let Some(enrollment) = &mut self.enrollment {
            enrollment.user_pushes.insert(user.id.clone(), push);
        }
        Ok(())
    }

    /// Sends any check-in message of a user's channel; every status is an answer.
    ///
    /// # Errors
    /// As [`Phone::send`].
    pub async fn user_check_in(
        &self,
        user: &User,
        message_type: &str,
        members: Dictionary,
    ) -> Result<Answer, PhoneError> {
        let mut message = self.message(message_type, Some(user));
        message.extend(members);
        self.send_message(MessageKind::CheckIn, message).await
    }

    /// Says Idle on a user's channel.
    ///
    /// # Errors
    /// As [`Phone::poll`].
    pub async fn user_poll(&self, user: &User) -> Result<Option<Command>, PhoneError> {
        self.report_on(None, ReportStatus::Idle, Dictionary::new(), Some(user)).await
    }

    /// Reports on a command of a user's channel.
    ///
    /// # Errors
    /// As [`Phone::report`].
    pub async fn user_report(
        &self,
        user: &User,
        command: &Command,
        status: ReportStatus,
        members: Dictionary,
    ) -> Result<Option<Command>, PhoneError> {
        self.report_on(Some(command), status, members, Some(user)).await
    }

    pub(super) fn forget_enrollment(&mut self) {
        self.handset.unenroll();
        self.enrollment = None;
    }

    async fn report_on(
        &self,
        command: Option<&Command>,
        status: ReportStatus,
        members: Dictionary,
        user: Option<&User>,
    ) -> Result<Option<Command>, PhoneError> {
        let mut message = self.ids(user);
        insert(&mut message, "Status", status.as_str());
        if let Some(command) = command {
            insert(&mut message, "CommandUUID", command.uuid.as_str());
            let request_type = if self.options.quirks.empty_request_type { "" } else { &command.request_type };
            insert(&mut message, "RequestType", request_type);
        }
        if user.is_some() {
            insert(&mut message, "NotOnConsole", false);
        }
        message.extend(members);
        let answer = self.send_message(MessageKind::Report, message).await?.expect_device_answer("report")?;
        if answer.body.is_empty() {
            return Ok(None);
        }
        let command = command::decode(&answer.body);
        command.map(Some).map_err(|error| PhoneError::protocol("report", format!("the answer is no command: {error}")))
    }

    async fn send_message(&self, kind: MessageKind, message: Dictionary) -> Result<Answer, PhoneError> {
        self.send(kind, wire::write(&Value::Dictionary(message))).await
    }

    async fn new_push(&self) -> Result<Push, PhoneError> {
        let topic = &self.enrolled()?.profile.mdm.topic;
        let receiver = self.environment.wakes.register(topic, self.random()).await?;
        Ok(Push { receiver, magic: facts::uuid(self.random()) })
    }

    fn message(&self, message_type: &str, user: Option<&User>) -> Dictionary {
        let mut message = self.ids(user);
        insert(&mut message, "MessageType", message_type);
        message
    }

    fn ids(&self, user: Option<&User>) -> Dictionary {
        let mut ids = Dictionary::new();
        insert(&mut ids, "UDID", self.handset.facts.udid.as_str());
        if let Some(id) = &self.handset.facts.enrollment_id {
            insert(&mut ids, "EnrollmentID", id.as_str());
        }
        if let Some(user) = user {
            insert(&mut ids, "UserID", user.id.as_str());
            insert(&mut ids, "UserShortName", user.short_name.as_str());
            insert(&mut ids, "UserLongName", user.long_name.as_str());
        }
        ids
    }

    fn insert_topic(&self, message: &mut Dictionary) -> Result<(), PhoneError> {
        insert(message, "Topic", self.enrolled()?.profile.mdm.topic.as_str());
        Ok(())
    }

    fn insert_push(&self, message: &mut Dictionary, push: &Push) -> Result<(), PhoneError> {
        self.insert_topic(message)?;
        insert(message, "Token", Value::Data(push.receiver.token().to_vec()));
        insert(message, "PushMagic", push.magic.as_str());
        if !self.options.quirks.few_keys {
            insert(message, "NotOnConsole", false);
            insert(message, "AwaitingConfiguration", false);
        }
        Ok(())
    }
}

fn insert(members: &mut Dictionary, key: &str, value: impl Into<Value>) {
    members.insert(key.to_owned(), value.into());
}
