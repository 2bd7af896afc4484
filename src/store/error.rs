use sqlx::error::{DatabaseError, ErrorKind};

/// Why the store could not do something, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy or full: the same request may succeed later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A row with this key is there already; the name of the constraint or column tells which.
    #[error("already there: {0}")]
    Conflict(String),
    /// The rows hold something that this version cannot read, or a statement is wrong.
    #[error("the database answered with something unexpected: {0}")]
    Broken(String),
    /// The database could not be opened or migrated.
    #[error("{0}")]
    Open(String),
}

/// PostgreSQL's classes and codes that mean "not now": connection (08), resources (53), operator intervention (57),
/// serialization failure and deadlock (40), lock not available (55P03). Source: PostgreSQL, "Error Codes".
fn passes_by_itself(code: &str) -> bool {
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03"
}

/// SQLite's primary result codes that mean "not now": BUSY 5, LOCKED 6, NOMEM 7, READONLY 8, IOERR 10, FULL 13,
/// CANTOPEN 14. Extended codes keep the primary one in the low byte. Source: SQLite, "Result and Error Codes".
fn sqlite_passes_by_itself(code: i64) -> bool {
    matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14)
}

/// A prepared statement that is there or gone against all expectation (42P05, 26000) is one of another session.
const POOLER: &str = "a pooler hands out server connections by transaction without keeping prepared statements: use session \
                      mode, or PgBouncer 1.21 or later with max_prepared_statements";

fn of_database(error: &dyn DatabaseError) -> StoreError {
    let text = error.message().to_owned();
    if matches!(error.kind(), ErrorKind::UniqueViolation) {
        return StoreError::Conflict(error.constraint().map_or(text, str::to_owned));
    }
    let code = error.code().unwrap_or_default();
    let passes = if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        code.parse().is_ok_and(sqlite_passes_by_itself)
    } else {
        passes_by_itself(&code)
    };
    if matches!(&*code, "42P05" | "26000") {
        return StoreError::Broken(format!("{text}; {POOLER}"));
    }
    if passes { StoreError::Unavailable(text) } else { StoreError::Broken(text) }
}

/// For the macros, which make errors of ours of those of the library.
impl From<StoreError> for sqlx::Error {
    fn from(error: StoreError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => of_database(&**database),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_stopped_server_pass_by_themselves() {
        assert!(sqlite_passes_by_itself(13));
        assert!(sqlite_passes_by_itself(5 | (2 << 8)));
        assert!(!sqlite_passes_by_itself(1));
        assert!(passes_by_itself("57P01"));
        assert!(passes_by_itself("40P01"));
        assert!(!passes_by_itself("42703"));
    }
}
