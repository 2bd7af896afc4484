/// Runs one SQL text on whichever database is there: `on!(self, fetch_optional, query_as("SELECT …", id))`.
///
/// The arguments are bound in order; each is evaluated once, in the branch that runs.
macro_rules! on {
    ($conn:expr, $method:ident, $kind:ident($sql:expr $(, $arg:expr)* $(,)?)) => {
        match $conn.connection() {
            $crate::store::connect::Connection::Sqlite(c) => {
                sqlx::$kind($crate::store::connect::without_lock($sql))$(.bind($arg))*.$method(c).await
            }
            $crate::store::connect::Connection::Postgres(c) => {
                sqlx::$kind($sql)$(.bind($arg))*.$method(c).await
            }
            $crate::store::connect::Connection::Shared(refused) => {
                tracing::debug!(sql = $sql, "a statement needs a transaction of its own");
                Err(refused.into())
            }
        }
        .map_err($crate::store::StoreError::from)
    };
}

/// Runs one statement and gives the number of rows that it changed.
macro_rules! run {
    ($conn:expr, $sql:expr $(, $arg:expr)* $(,)?) => {
        match $conn.connection() {
            $crate::store::connect::Connection::Sqlite(c) => sqlx::query($crate::store::connect::without_lock($sql))
                $(.bind($arg))*.execute(c).await.map(|done| done.rows_affected()),
            $crate::store::connect::Connection::Postgres(c) => {
                sqlx::query($sql)$(.bind($arg))*.execute(c).await.map(|done| done.rows_affected())
            }
            $crate::store::connect::Connection::Shared(refused) => {
                tracing::debug!(sql = $sql, "a statement needs a transaction of its own");
                Err(refused.into())
            }
        }
        .map_err($crate::store::StoreError::from)
    };
}
