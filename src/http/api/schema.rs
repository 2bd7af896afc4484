//! How the model's values stand in the document.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::model::{
    AppId, AuditId, CaId, ChallengeId, CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, EventId,
    LinkId, ProfileId, PushRequestId, ReportId, Role, Sha256, Timestamp, TokenId, WebhookForm, WebhookId,
};

macro_rules! schemas {
    ($($name:ident => $object:expr,)*) => {$(
        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T(Schema::Object($object.build()))
            }
        }
    )*};
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn id(about: &str) -> ObjectBuilder {
    text()
        .description(Some(about))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
        .examples(["0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e"])
}

schemas! {
    AppId => id("The id of an app."),
    AuditId => id("The id of a row of the audit log."),
    CaId => id("The id of a certificate authority."),
    ChallengeId => id("The id of a SCEP challenge."),
    CommandId => id("The id of a command; also its CommandUUID on the wire."),
    DeviceId => id("The id of a device."),
    EnrollmentId => id("The id of an enrollment: one management channel of a device."),
    EventId => id("The id of something that webhooks are told of; the same however often it is sent."),
    LinkId => id("The id of an enrollment link."),
    ProfileId => id("The id of a profile."),
    PushRequestId => id("The id of a request for a push certificate."),
    ReportId => id("The id of a report."),
    TokenId => id("The id of a token."),
    WebhookId => id("The id of a webhook."),
    WebhookForm => text()
        .description(Some("In which form a webhook is told of things: as by NanoMDM, or as CloudEvents 1.0."))
        .enum_values(Some(WebhookForm::ALL.map(WebhookForm::as_str))),
    Sha256 => text()
        .description(Some("A SHA-256 digest in lower-case hex."))
        .pattern(Some("^[0-9a-f]{64}$"))
        .examples(["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]),
    Timestamp => text()
        .description(Some("A time, RFC 3339."))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .examples(["2026-11-22T05:20:08.123456Z"]),
    Role => text()
        .description(Some("What a token may do; each role may do all that the ones before it may."))
        .enum_values(Some([Role::Viewer, Role::Operator, Role::Admin].map(Role::as_str))),
    DeliveryState => text()
        .description(Some("The state of a delivery: one command for one enrollment."))
        .enum_values(Some(DeliveryState::ALL.map(DeliveryState::as_str))),
    EnrollmentKind => text()
        .description(Some("What kind of management channel an enrollment is."))
        .enum_values(Some(["device", "user", "user_enrollment_device", "user_enrollment", "shared_ipad"])),
}
