//! What is put into a command only when it is handed over, since it belongs to the one device.

use plist::{Dictionary, Value};
use serde::{Deserialize, Serialize};

use super::super::check_in::escrow_context;
use super::super::{App, Error, enrollment_profile};
use super::payload_context;
use crate::model::Timestamp;
use crate::protocol::wire;
use crate::store::{CommandRow, Enrollment, StoreError, Write};

/// What is put in when a command is handed over. Kept with the command, as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtDelivery {
    /// `UnlockToken`: what the device escrowed.
    UnlockToken,
    /// `ReturnToService.MDMProfileData`: an enrollment profile made for this device.
    ReturnToServiceProfile,
    /// `Identifier`: that of the enrollment profile on the device.
    EnrollmentProfileIdentifier,
}

/// The list as it is kept with the command.
pub fn to_json(fills: &[AtDelivery]) -> String {
    serde_json::json!(fills).to_string()
}

/// Why a command could not be filled in.
pub(super) enum Failure {
    /// The device lacks something: the delivery fails with this text.
    Missing(String),
    /// Trouble of our own with this one command, such as a profile that cannot be signed.
    Trouble(Error),
    /// The database is away.
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Trouble(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The payload of a command for this device.
pub(super) async fn apply(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    command: &CommandRow,
    now: Timestamp,
) -> Result<Dictionary, Failure> {
    let plain = app.open(&payload_context(command.id), &command.payload_sealed)?;
    let mut payload = wire::read(plain.expose(), wire::Limits::COMMAND)
        .and_then(wire::dictionary)
        .map_err(|e| Error::Internal(format!("the payload of command {}: {e}", command.id)))?;
    let fills: Vec<AtDelivery> = serde_json::from_str(&command.fills)
        .map_err(|e| Error::Internal(format!("the fills of command {}: {e}", command.id)))?;
    for fill in fills {
        match fill {
            AtDelivery::UnlockToken => {
                let (id, generation) = (enrollment.id, enrollment.generation);
                let Some(sealed) = tx.escrow(id, generation, "unlock_token").await? else {
                    return Err(Failure::Missing(
                        "the device gave no unlock token, so its passcode cannot be cleared".to_owned(),
                    ));
                };
                let token = app.open(&escrow_context(id, generation, "unlock_token"), &sealed)?;
                payload.insert("UnlockToken".to_owned(), Value::Data(token.expose().clone()));
            }
            AtDelivery::ReturnToServiceProfile => {
                let profile = enrollment_profile::for_return_to_service(app, tx, enrollment, now).await?;
                if let Some(Value::Dictionary(service)) = payload.get_mut("ReturnToService") {
                    service.insert("MDMProfileData".to_owned(), Value::Data(profile));
                }
            }
            AtDelivery::EnrollmentProfileIdentifier => {
                let terms = match enrollment.terms {
                    Some(hash) => tx.terms(hash).await?,
                    None => None,
                };
                let Some(terms) = terms else {
                    return Err(Failure::Missing(
                        "the enrollment profile on the device was made elsewhere, and its identifier is not known; it \
                         is learned from the list of profiles (the command profiles), and remove_profile takes any"
                            .to_owned(),
                    ));
                };
                payload.insert("Identifier".to_owned(), Value::from(terms.identifier));
            }
        }
    }
    if command.verb == super::super::commands::RENEW {
        let Some(profile) = enrollment_profile::for_renewal(app, tx, enrollment, now).await? else {
            return Err(Failure::Missing(
                "the enrollment profile on the device was made elsewhere, so no other can take its place".to_owned(),
            ));
        };
        payload.insert("Payload".to_owned(), Value::Data(profile));
    }
    Ok(payload)
}
