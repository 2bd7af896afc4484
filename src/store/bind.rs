//! How the model's values stand in a column: ids as UUID, times as integers, words as text, digests as bytes.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};
use uuid::Uuid;

use crate::model::{
    AppId, AuditId, CaId, ChallengeId, CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, EventId,
    JobId, LinkId, PackageId, ProcessId, ProfileId, PushRequestId, ReportId, Resend, Role, Sha256, Timestamp, TokenId,
    WebhookForm, WebhookId,
};

/// `stored as $as: T, by to(&T) -> $as and from($as) -> Result<T, BoxDynError>`.
macro_rules! stored_as {
    ($as:ty, $to:expr, $from:expr, $($name:ty),* $(,)?) => {$(
        impl<DB: Database> Type<DB> for $name where $as: Type<DB> {
            fn type_info() -> DB::TypeInfo {
                <$as as Type<DB>>::type_info()
            }

            fn compatible(info: &DB::TypeInfo) -> bool {
                <$as as Type<DB>>::compatible(info)
            }
        }

        impl<'q, DB: Database> Encode<'q, DB> for $name where $as: Encode<'q, DB> {
            fn encode_by_ref(&self, buffer: &mut <DB as Database>::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
                let to: fn(&$name) -> $as = $to;
                <$as as Encode<DB>>::encode(to(self), buffer)
            }
        }

        impl<'r, DB: Database> Decode<'r, DB> for $name where $as: Decode<'r, DB> {
            fn decode(value: <DB as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
                let from: fn($as) -> Result<$name, BoxDynError> = $from;
                from(<$as as Decode<DB>>::decode(value)?)
            }
        }
    )*};
}

macro_rules! ids {
    ($($name:ident),* $(,)?) => {$(
        stored_as!(Uuid, |id| id.0, |uuid| Ok($name(uuid)), $name);
    )*};
}

ids!(
    AppId,
    AuditId,
    CaId,
    ChallengeId,
    CommandId,
    DeviceId,
    EnrollmentId,
    EventId,
    JobId,
    LinkId,
    PackageId,
    ProcessId,
    ProfileId,
    PushRequestId,
    ReportId,
    TokenId,
    WebhookId,
);

stored_as!(i64, |time| time.micros(), |micros| Ok(Timestamp::from_micros(micros)), Timestamp);
stored_as!(
    String,
    |word| word.as_str().to_owned(),
    |word| Ok(word.parse()?),
    DeliveryState,
    EnrollmentKind,
    Resend,
    Role,
    WebhookForm
);
stored_as!(
    Vec<u8>,
    |digest| digest.0.to_vec(),
    |bytes| Sha256::from_slice(&bytes).ok_or_else(|| "a digest has 32 bytes".into()),
    Sha256
);
