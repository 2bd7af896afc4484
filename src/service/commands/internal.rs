use plist::Dictionary;

use super::super::deliveries::{payload_context, queued};
use super::super::{App, Error};
use super::PRIORITY_INTERNAL;
use crate::catalog::{Built, Verb, build, resend};
use crate::model::{CommandId, EnrollmentId, Timestamp};
use crate::protocol::wire;
use crate::store::{CommandHead, NewCommand, Write};

/// The verb of a renewal of the enrollment profile; the profile is made when it is handed over.
pub const RENEW: &str = "renew_identity";

/// What the server asks a device for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// What it is.
    DeviceInformation,
    /// How it is protected.
    SecurityInfo,
    /// Which profiles it has.
    Profiles,
    /// To take a new identity certificate.
    Renewal,
}

impl Internal {
    fn request(self) -> (&'static str, Built) {
        match self {
            Self::DeviceInformation => {
                let verb = Verb::DeviceInformation { queries: Vec::new(), attestation_nonce: None };
                ("device_information", build(&verb))
            }
            Self::SecurityInfo => ("security_info", build(&Verb::SecurityInfo)),
            Self::Profiles => ("profiles", build(&Verb::Profiles { managed_only: None })),
            Self::Renewal => {
                let payload = Dictionary::new();
                let built = Built {
                    request_type: "InstallProfile".to_owned(),
                    resend: resend("InstallProfile", &payload),
                    payload,
                    fills: Vec::new(),
                    summary: serde_json::json!({"type": RENEW}),
                };
                (RENEW, built)
            }
        }
    }
}

/// Queues a command of the server's own for one enrollment, in the caller's transaction.
pub(in crate::service) async fn enqueue_internal(
    app: &App,
    tx: &mut Write,
    (id, generation): (EnrollmentId, i64),
    what: Internal,
    now: Timestamp,
) -> Result<(), Error> {
    let (verb, built) = what.request();
    let command = CommandId::new(now, &*app.random);
    let plain = wire::write(&plist::Value::Dictionary(built.payload));
    let sealed = app.seal(&payload_context(command), &plain)?;
    let new = NewCommand {
        id: command,
        verb,
        request_type: &built.request_type,
        payload_sealed: &sealed,
        fills: "[]",
        summary: &built.summary.to_string(),
        resend: built.resend,
        destruction: None,
        priority: PRIORITY_INTERNAL,
        internal: true,
        target_count: 1,
        fleet_number: None,
        created_by: "server",
        expires_at: None,
    };
    tx.insert_command(&new, now).await?;
    let head = CommandHead {
        id: command,
        resend: built.resend,
        priority: PRIORITY_INTERNAL,
        fleet_number: None,
        created_at: now,
        expires_at: None,
        cancelled_at: None,
    };
    tx.insert_delivery(&queued(&head, id, generation, now)).await?;
    Ok(())
}
