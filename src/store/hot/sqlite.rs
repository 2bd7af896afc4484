//! SQLite without a thread in between: a statement is a call.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Statement as Prepared};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _, TypeInfo as _, ValueRef as _};

use super::{Cells, Statement, Value};
use crate::store::StoreError;

/// Statements that a connection keeps prepared: more than there are.
const PREPARED: usize = 128;
/// How long a connection waits for a lock that another process holds. Those of this process take turns.
const WRITER_WAIT: Duration = Duration::from_secs(10);
/// Readers wait for nobody while the file is in WAL mode, but for a moment when it is being recovered.
const READER_WAIT: Duration = Duration::from_millis(250);
/// What a connection keeps of the file, as `cache_size` takes it: 64 MiB for the writer, 16 MiB for each reader.
const WRITER_CACHE: &str = "-65536";
const READER_CACHE: &str = "-16384";

/// What a statement led to.
#[derive(Debug, Default)]
pub(in crate::store) struct Outcome {
    pub(in crate::store) rows: Vec<Cells>,
    pub(in crate::store) changed: u64,
}

/// A connection that writes.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_WAIT, WRITER_CACHE)?;
    // FULL: a commit is on the disk before a device is told so.
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", "ON").map_err(failed)?;
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags, wait: Duration, cache: &str) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(wait).map_err(failed)?;
    connection.pragma_update(None, "cache_size", cache).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

/// Runs a statement.
pub(super) fn run(connection: &Connection, statement: &Statement, arguments: &[Value]) -> Result<Outcome, StoreError> {
    let mut prepared = connection.prepare_cached(statement.sqlite()).map_err(failed)?;
    bind(&mut prepared, arguments).map_err(failed)?;
    if !statement.returns() {
        let changed = prepared.raw_execute().map_err(failed)?;
        return Ok(Outcome { rows: Vec::new(), changed: u64::try_from(changed).unwrap_or(0) });
    }
    let width = prepared.column_count();
    let mut rows = prepared.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        found.push(cells(row, width).map_err(failed)?);
    }
    let changed = found.len().try_into().unwrap_or(u64::MAX);
    Ok(Outcome { rows: found, changed })
}

pub(super) fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    let mut prepared = connection.prepare_cached(sql).map_err(failed)?;
    prepared.raw_execute().map(drop).map_err(failed)
}

fn bind(prepared: &mut Prepared<'_>, arguments: &[Value]) -> rusqlite::Result<()> {
    for (at, value) in arguments.iter().enumerate() {
        prepared.raw_bind_parameter(at + 1, value)?;
    }
    Ok(())
}

fn cells(row: &Row<'_>, width: usize) -> rusqlite::Result<Cells> {
    (0..width)
        .map(|at| {
            Ok(match row.get_ref(at)? {
                ValueRef::Null => Value::Int(None),
                ValueRef::Integer(number) => Value::Int(Some(number)),
                // None is kept anywhere.
                ValueRef::Real(_) => return Err(rusqlite::Error::InvalidQuery),
                ValueRef::Text(text) => Value::Text(Some(std::str::from_utf8(text)?.to_owned())),
                ValueRef::Blob(bytes) => Value::Bytes(Some(bytes.to_vec())),
            })
        })
        .collect()
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Uuid(Some(id)) => ValueRef::Blob(id.as_bytes()),
            Self::Bytes(Some(bytes)) => ValueRef::Blob(bytes),
            Self::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Self::Int(Some(number)) => ValueRef::Integer(*number),
            Self::Bool(Some(is)) => ValueRef::Integer(i64::from(*is)),
            _ => ValueRef::Null,
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// Runs a statement by a connection of the pool.
pub(in crate::store) async fn by_sqlx(
    connection: &mut SqliteConnection,
    statement: &Statement,
    arguments: Vec<Value>,
) -> Result<Outcome, StoreError> {
    let query = bound!(sqlx::query(AssertSqlSafe(Arc::clone(statement.sqlite()))), arguments);
    if !statement.returns() {
        let changed = query.execute(connection).await?.rows_affected();
        return Ok(Outcome { rows: Vec::new(), changed });
    }
    let mut rows = Vec::new();
    for row in query.fetch_all(connection).await? {
        let mut cells = Cells::with_capacity(row.len());
        for at in 0..row.len() {
            let raw = row.try_get_raw(at)?;
            let kind = raw.type_info();
            cells.push(match kind.name() {
                "TEXT" => Value::Text(row.try_get(at)?),
                "BLOB" => Value::Bytes(row.try_get(at)?),
                "NULL" => Value::Int(None),
                _ => Value::Int(row.try_get(at)?),
            });
        }
        rows.push(cells);
    }
    Ok(Outcome { changed: rows.len().try_into().unwrap_or(u64::MAX), rows })
}

/// Connections that only read, lent for one statement at a time.
#[derive(Clone)]
pub(in crate::store) struct Readers {
    path: Arc<Path>,
    /// None once they are closed.
    free: Arc<Mutex<Option<Vec<Connection>>>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Readers {
    pub(in crate::store) fn new(path: &Path) -> Self {
        Self { path: path.into(), free: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// Runs one statement here and now: as many at once as threads call. What it reads lies in the cache or in the
    /// system's, so that this takes some microseconds, less than handing it to another thread.
    pub(in crate::store) fn run(&self, statement: &Statement, arguments: &[Value]) -> Result<Vec<Cells>, StoreError> {
        let lent = match self.free.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(free) => free.pop(),
            None => return Err(closed()),
        };
        let connection = match lent {
            Some(connection) => connection,
            None => {
                let connection = open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_WAIT, READER_CACHE)?;
                connection.pragma_update(None, "query_only", "ON").map_err(failed)?;
                connection
            }
        };
        // After an error the connection is closed: the next one opens the file anew.
        let outcome = run(&connection, statement, arguments)?;
        if let Some(free) = self.free.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            free.push(connection);
        }
        Ok(outcome.rows)
    }

    /// Closes them, those that are in use after their statement.
    pub(in crate::store) fn close(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the database was closed".to_owned())
}

/// Lets the file have at most so many pages; 0 lifts the limit.
pub(super) fn limit_pages(connection: &Connection, pages: u32) -> Result<(), StoreError> {
    let most = if pages == 0 { u32::MAX - 1 } else { pages };
    connection.pragma_update(None, "max_page_count", most).map_err(failed)
}

/// What went wrong, by what can be done about it; see `error.rs`.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn failed(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    let Some(code) = error.sqlite_error() else { return StoreError::Broken(text) };
    match code.code {
        ErrorCode::ConstraintViolation if matches!(code.extended_code, UNIQUE | PRIMARY_KEY | ROWID) => {
            StoreError::Conflict(text)
        }
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OutOfMemory
        | ErrorCode::ReadOnly
        | ErrorCode::SystemIoFailure
        | ErrorCode::DiskFull
        | ErrorCode::CannotOpen => StoreError::Unavailable(text),
        _ => StoreError::Broken(text),
    }
}

/// SQLite's extended codes for a row that is there already. Source: SQLite, "Result and Error Codes".
const PRIMARY_KEY: i32 = 1555;
const UNIQUE: i32 = 2067;
const ROWID: i32 = 2579;
