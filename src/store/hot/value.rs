use uuid::Uuid;

use super::super::StoreError;
use crate::model::{
    AuditId, CaId, ChallengeId, CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, EventId, LinkId,
    ReportId, Resend, Sha256, Timestamp, TokenId, WebhookId,
};

/// What is bound to a statement, or comes back in a column. The variant tells the type, also where there is no value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::store) enum Value {
    Uuid(Option<Uuid>),
    Bytes(Option<Vec<u8>>),
    Text(Option<String>),
    Int(Option<i64>),
    Bool(Option<bool>),
}

/// A row: its columns in the order of the statement.
pub(in crate::store) type Cells = Vec<Value>;

/// What is read from a row, column by column.
pub(in crate::store) trait FromCells: Sized {
    fn from_cells(cells: &mut std::vec::IntoIter<Value>) -> Result<Self, StoreError>;
}

/// A value of one column.
pub(in crate::store) trait FromValue: Sized {
    fn from_value(value: Value) -> Result<Self, StoreError>;
}

impl<T: FromValue> FromCells for T {
    fn from_cells(cells: &mut std::vec::IntoIter<Value>) -> Result<Self, StoreError> {
        T::from_value(cells.next().ok_or_else(|| StoreError::Broken("a row has too few columns".to_owned()))?)
    }
}

/// A struct whose fields are columns: [`FromCells`] for it, and a macro with the list of its columns.
macro_rules! columns {
    ($name:ident, $macro:ident: $first:ident $(, $field:ident)* $(,)?) => {
        impl $crate::store::hot::FromCells for $name {
            fn from_cells(cells: &mut std::vec::IntoIter<$crate::store::hot::Value>) -> Result<Self, StoreError> {
                Ok(Self {
                    $first: $crate::store::hot::FromCells::from_cells(cells)?,
                    $($field: $crate::store::hot::FromCells::from_cells(cells)?,)*
                })
            }
        }

        #[allow(unused_macros, reason = "not every list is written out")]
        macro_rules! $macro {
            () => { concat!(stringify!($first) $(, ", ", stringify!($field))*) };
        }
    };
}

/// Binds values to a query of sqlx.
macro_rules! bound {
    ($query:expr, $values:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match value {
                $crate::store::hot::Value::Uuid(value) => query.bind(value),
                $crate::store::hot::Value::Bytes(value) => query.bind(value),
                $crate::store::hot::Value::Text(value) => query.bind(value),
                $crate::store::hot::Value::Int(value) => query.bind(value),
                $crate::store::hot::Value::Bool(value) => query.bind(value),
            };
        }
        query
    }};
}

fn unexpected(value: &Value, wanted: &str) -> StoreError {
    let found = match value {
        Value::Uuid(_) => "an id",
        Value::Bytes(_) => "bytes",
        Value::Text(_) => "text",
        Value::Int(_) => "a number",
        Value::Bool(_) => "a truth value",
    };
    StoreError::Broken(format!("a column holds {found} where {wanted} was expected"))
}

impl Value {
    /// Whether there is no value.
    pub(in crate::store) const fn is_null(&self) -> bool {
        matches!(self, Self::Uuid(None) | Self::Bytes(None) | Self::Text(None) | Self::Int(None) | Self::Bool(None))
    }
}

macro_rules! values {
    ($($type:ty, $wanted:literal: $($pattern:pat => $value:expr),+; $bound:ident => $to:expr;)*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, StoreError> {
                match value {
                    $($pattern => Ok($value),)+
                    other => Err(unexpected(&other, $wanted)),
                }
            }
        }

        impl From<$type> for Value {
            fn from($bound: $type) -> Self {
                $to
            }
        }
    )*};
}

values! {
    i64, "a number": Value::Int(Some(n)) => n; n => Self::Int(Some(n));
    String, "text": Value::Text(Some(text)) => text; text => Self::Text(Some(text));
    Vec<u8>, "bytes": Value::Bytes(Some(bytes)) => bytes; bytes => Self::Bytes(Some(bytes));
    // SQLite has numbers for them.
    bool, "a truth value": Value::Bool(Some(is)) => is, Value::Int(Some(n)) => n != 0; is => Self::Bool(Some(is));
}

impl FromValue for Uuid {
    fn from_value(value: Value) -> Result<Self, StoreError> {
        match value {
            Value::Uuid(Some(id)) => Ok(id),
            // SQLite has bytes for them.
            Value::Bytes(Some(bytes)) => {
                Self::from_slice(&bytes).map_err(|_| StoreError::Broken("an id has 16 bytes".to_owned()))
            }
            other => Err(unexpected(&other, "an id")),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, StoreError> {
        if value.is_null() { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl From<Uuid> for Value {
    fn from(id: Uuid) -> Self {
        Self::Uuid(Some(id))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Some(bytes.to_vec()))
    }
}

/// How the model's values stand in a column: as `bind.rs` says.
macro_rules! stored_as {
    ($variant:ident, $as:ty, $to:expr, $from:expr, $($name:ty),* $(,)?) => {$(
        impl FromValue for $name {
            fn from_value(value: Value) -> Result<Self, StoreError> {
                let from: fn($as) -> Option<$name> = $from;
                from(<$as>::from_value(value)?)
                    .ok_or_else(|| StoreError::Broken(concat!("a column holds no ", stringify!($name)).to_owned()))
            }
        }

        impl From<$name> for Value {
            fn from(value: $name) -> Self {
                let to: fn($name) -> $as = $to;
                Self::$variant(Some(to(value)))
            }
        }

        impl From<Option<$name>> for Value {
            fn from(value: Option<$name>) -> Self {
                let to: fn($name) -> $as = $to;
                Self::$variant(value.map(to))
            }
        }
    )*};
}

macro_rules! ids {
    ($($name:ident),* $(,)?) => {$(
        stored_as!(Uuid, Uuid, |id| id.0, |uuid| Some($name(uuid)), $name);
    )*};
}

ids!(AuditId, CaId, ChallengeId, CommandId, DeviceId, EnrollmentId, EventId, LinkId, ReportId, TokenId, WebhookId);
stored_as!(Int, i64, |time| time.micros(), |micros| Some(Timestamp::from_micros(micros)), Timestamp);
stored_as!(
    Text,
    String,
    |word| word.as_str().to_owned(),
    |word| word.parse().ok(),
    DeliveryState,
    EnrollmentKind,
    Resend
);
stored_as!(Bytes, Vec<u8>, |digest| digest.0.to_vec(), |bytes| Sha256::from_slice(&bytes), Sha256);

macro_rules! optional {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self {
                Self::$variant(value.map(Into::into))
            }
        }
    )*};
}

optional!(i64 => Int, bool => Bool, String => Text, &str => Text, Vec<u8> => Bytes, &[u8] => Bytes, Uuid => Uuid);

macro_rules! tuples {
    ($($($name:ident)+;)*) => {$(
        impl<$($name: FromValue),+> FromCells for ($($name,)+) {
            fn from_cells(cells: &mut std::vec::IntoIter<Value>) -> Result<Self, StoreError> {
                Ok(($($name::from_cells(cells)?,)+))
            }
        }
    )*};
}

tuples!(A B; A B C; A B C D;);
