use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection as _, Postgres, Sqlite, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

use super::StoreError;
use super::hot::{self, Exclusive, Member, Outcome, Statement, Together, Value};
use super::polls::Polls;
use super::readers::{Reader, Readers};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a request waits for a connection, or for another writer, before it is told that the database is busy.
const WAIT: Duration = Duration::from_secs(10);
/// The same on PostgreSQL, where writers do not queue for one connection: who waits so long waits for a server that is
/// gone, and a device had better come again.
const POSTGRES_WAIT: Duration = Duration::from_secs(3);
/// How many of the connections to PostgreSQL are not for transactions of their own that write; half of them, where there
/// are few. Shared transactions take up to three of these.
const LEFT_TO_READERS: u32 = 5;

/// What each reading connection keeps of an SQLite file, as its `cache_size` takes it: 16 MiB, in which the pages that the
/// polls of some ten thousand devices read have their place. With the 2 MiB of SQLite's own choice most polls fetch theirs
/// from the system anew.
const READ_CACHE: &str = "-16384";

/// Where the database is.
#[derive(Clone, Debug)]
pub struct Options {
    /// `sqlite:PATH` or `postgres://…`.
    pub url: String,
    /// A direct address for migrations where `url` leads through a pooler (they take a session lock).
    pub direct_url: Option<String>,
    /// The largest number of connections of this process.
    pub max_connections: u32,
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    options: Options,
    pub(super) polls: Polls,
    pub(super) together: Together,
}

#[derive(Clone, Debug)]
enum Db {
    /// One connection writes, the others only read; WAL lets both go on side by side.
    Sqlite {
        read: Readers,
        write: SqlitePool,
        /// What devices ask for without writing.
        quick: hot::Readers,
        /// Whoever writes has it: this connection, or that of the transactions which devices share.
        turn: Arc<Semaphore>,
    },
    Postgres {
        pool: PgPool,
        /// Those who write may wait for each other's rows: some connections are left to those who wait for nobody, such as
        /// polls and health checks.
        writers: Arc<Semaphore>,
    },
}

/// A connection for reading; each statement sees what was committed when it began.
#[derive(Debug)]
pub struct Read(Held);

/// A transaction. Dropped without [`Write::commit`] it changes nothing.
#[derive(Debug)]
pub struct Write(Read);

#[derive(Debug)]
enum Held {
    SqliteRead(Reader),
    /// With the turn to write.
    SqliteWrite(Transaction<'static, Sqlite>, OwnedSemaphorePermit),
    PostgresRead(PoolConnection<Postgres>),
    /// With a place among the writers.
    PostgresWrite(Transaction<'static, Postgres>, OwnedSemaphorePermit),
    /// A place in a transaction that several share.
    Member(Member),
}

/// The connection beneath, for the `on!` macro.
pub(super) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
    /// There is none: the statement needs a transaction of its own, which the error makes sure of.
    Shared(StoreError),
}

/// SQLite has one writer and so no row locks: the clause is left out there.
pub(super) fn without_lock(sql: &'static str) -> &'static str {
    sql.strip_suffix(" FOR UPDATE").unwrap_or(sql)
}

impl Store {
    /// Connects. SQLite: makes the file when `create` says so. No migration is run.
    ///
    /// # Errors
    /// [`StoreError::Open`] with what to do about it.
    pub async fn connect(options: Options, create: bool) -> Result<Self, StoreError> {
        let url = options.url.as_str();
        let db = if url.starts_with("sqlite:") {
            Self::connect_sqlite(&options, create).await?
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let connect = postgres_options(url)?;
            // The pool would try until its time is over, and then say no more than that.
            let refused = |why: String| {
                StoreError::Open(format!("cannot connect to PostgreSQL: {why}; check database.url, and that it runs"))
            };
            match tokio::time::timeout(POSTGRES_WAIT, connect.connect()).await {
                Ok(Ok(connection)) => connection.close().await.map_err(|e| refused(e.to_string()))?,
                Ok(Err(why)) => return Err(refused(why.to_string())),
                Err(_) => return Err(refused(format!("no answer within {} s", POSTGRES_WAIT.as_secs()))),
            }
            let largest = options.max_connections.max(2);
            let pool = PgPoolOptions::new()
                .max_connections(largest)
                .acquire_timeout(POSTGRES_WAIT)
                .connect_with(connect)
                .await
                .map_err(|e| refused(e.to_string()))?;
            let writers = usize::try_from(largest - LEFT_TO_READERS.min(largest / 2)).unwrap_or(1);
            Db::Postgres { pool, writers: Arc::new(Semaphore::new(writers)) }
        } else {
            return Err(StoreError::Open("database.url must begin with sqlite: or postgres://".to_owned()));
        };
        Ok(Self { db, options, polls: Polls::default(), together: Together::new() })
    }

    async fn connect_sqlite(options: &Options, create: bool) -> Result<Db, StoreError> {
        let base = SqliteConnectOptions::from_str(&options.url)
            .map_err(|e| StoreError::Open(format!("database.url: {e}")))?
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: a commit is on the disk before a device or an admin is told so.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(WAIT)
            .foreign_keys(true)
            .disable_statement_logging();
        let base_path = base.get_filename().to_owned();
        let path = base_path.display().to_string();
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT)
            .connect_with(base.clone().create_if_missing(create))
            .await
            .map_err(|e| StoreError::Open(format!("cannot open the database {path}: {e}")))?;
        let count = usize::try_from(options.max_connections.clamp(2, 8)).unwrap_or(2);
        let reading = base.pragma("query_only", "ON").pragma("cache_size", READ_CACHE);
        let read = Readers::new(reading, count, WAIT);
        let quick = hot::Readers::new(base_path.as_ref());
        Ok(Db::Sqlite { read, write, quick, turn: Arc::new(Semaphore::new(1)) })
    }

    /// Brings the tables up to this version; does nothing when they are.
    ///
    /// # Errors
    /// [`StoreError::Open`], also when the database was made by a newer version.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let failed = |e: sqlx::migrate::MigrateError| StoreError::Open(format!("cannot migrate the database: {e}"));
        match &self.db {
            Db::Sqlite { write, .. } => SQLITE_MIGRATIONS.run(write).await.map_err(failed),
            Db::Postgres { pool, .. } => match &self.options.direct_url {
                None => POSTGRES_MIGRATIONS.run(pool).await.map_err(failed),
                Some(url) => {
                    let mut direct = postgres_options(url)?
                        .connect()
                        .await
                        .map_err(|e| StoreError::Open(format!("cannot connect to database.direct_url: {e}")))?;
                    POSTGRES_MIGRATIONS.run_direct(None, &mut direct, false).await.map_err(failed)
                }
            },
        }
    }

    /// The migrations of this version.
    pub(super) const fn migrator(&self) -> &'static Migrator {
        match &self.db {
            Db::Sqlite { .. } => &SQLITE_MIGRATIONS,
            Db::Postgres { .. } => &POSTGRES_MIGRATIONS,
        }
    }

    /// How many migrations of this version the database lacks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn pending_migrations(&self) -> Result<usize, StoreError> {
        let known = self.migrator().iter().count();
        let mut read = self.begin_read().await?;
        let applied: Result<i64, StoreError> =
            on!(read, fetch_one, query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success = TRUE"));
        match applied {
            Ok(applied) => Ok(known.saturating_sub(usize::try_from(applied).unwrap_or(0))),
            // No such table: nothing was ever applied.
            Err(StoreError::Broken(_)) => Ok(known),
            Err(other) => Err(other),
        }
    }

    /// A connection for reading.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn begin_read(&self) -> Result<Read, StoreError> {
        Ok(Read(match &self.db {
            Db::Sqlite { read, .. } => Held::SqliteRead(read.acquire().await?),
            Db::Postgres { pool, .. } => Held::PostgresRead(pool.acquire().await?),
        }))
    }

    /// A transaction. On SQLite it is the only one at a time, begun IMMEDIATE: one that began by reading and then
    /// writes would fail under contention.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn begin_write(&self) -> Result<Write, StoreError> {
        Ok(Write(Read(match &self.db {
            Db::Sqlite { write, turn, .. } => {
                let turn = timeout(WAIT, Arc::clone(turn).acquire_owned()).await;
                let turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
                Held::SqliteWrite(begin_immediate(write).await?, turn)
            }
            Db::Postgres { pool, writers } => {
                let place = timeout(POSTGRES_WAIT, Arc::clone(writers).acquire_owned()).await;
                let place = place.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
                Held::PostgresWrite(pool.begin().await?, place)
            }
        })))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut read = self.begin_read().await?;
        let _: i64 = on!(read, fetch_one, query_scalar("SELECT number FROM fleet WHERE id = 1"))?;
        Ok(())
    }

    /// The file of an SQLite database.
    #[must_use]
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        match &self.db {
            Db::Sqlite { write, .. } => Some(write.connect_options().get_filename().to_owned()),
            Db::Postgres { .. } => None,
        }
    }

    /// Lets an SQLite file grow by at most this many pages of 4 KiB; `None` lifts the limit. Nothing on PostgreSQL.
    /// This is how tests fill a disk.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    #[doc(hidden)]
    pub async fn limit_growth(&self, pages: Option<u32>) -> Result<(), StoreError> {
        if let Db::Sqlite { write, .. } = &self.db {
            let mut connection = write.acquire().await?;
            let now: u32 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut *connection).await?;
            let most = pages.map_or(u32::MAX - 1, |more| now.saturating_add(more));
            self.together.limit_pages(pages.map(|_| most));
            let options = SqliteConnectOptions::clone(&write.connect_options());
            write.set_connect_options(options.pragma("max_page_count", most.to_string()));
            connection.close().await?;
        }
        Ok(())
    }

    pub(super) const fn postgres(&self) -> Option<&PgPool> {
        match &self.db {
            Db::Sqlite { .. } => None,
            Db::Postgres { pool, .. } => Some(pool),
        }
    }

    /// The file of an SQLite database, and what whoever writes to it has to have.
    pub(super) fn sqlite_turn(&self) -> Option<(PathBuf, Arc<Semaphore>)> {
        match &self.db {
            Db::Sqlite { write, turn, .. } => {
                Some((write.connect_options().get_filename().to_owned(), Arc::clone(turn)))
            }
            Db::Postgres { .. } => None,
        }
    }

    /// Reads an SQLite database here and now.
    pub(super) const fn quick(&self) -> Option<&hot::Readers> {
        match &self.db {
            Db::Sqlite { quick, .. } => Some(quick),
            Db::Postgres { .. } => None,
        }
    }

    /// Whether only one transaction writes at a time, so that none ever waits for a row of another.
    #[must_use]
    pub const fn has_one_writer(&self) -> bool {
        matches!(self.db, Db::Sqlite { .. })
    }

    /// `sqlite` or `postgres`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.db {
            Db::Sqlite { .. } => "sqlite",
            Db::Postgres { .. } => "postgres",
        }
    }

    /// Closes all connections; those in use are waited for.
    pub async fn close(&self) {
        self.together.close().await;
        match &self.db {
            Db::Sqlite { read, write, quick, .. } => {
                quick.close();
                read.close().await;
                write.close().await;
            }
            Db::Postgres { pool, .. } => pool.close().await,
        }
    }
}

/// Begins a transaction on SQLite.
///
/// When the disk is full or fails, SQLite may end a transaction by itself; sqlx goes on counting it, and nothing could
/// be begun on that connection any more. Another takes its place then.
async fn begin_immediate(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
    const BEGIN: &str = "BEGIN IMMEDIATE";
    match pool.begin_with(BEGIN).await {
        Err(sqlx::Error::InvalidSavePointStatement) => {
            pool.acquire().await?.close().await?;
            pool.begin_with(BEGIN).await
        }
        begun => begun,
    }
}

fn postgres_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    Ok(PgConnectOptions::from_str(url)
        // The text may hold a password: it is not repeated.
        .map_err(|_| StoreError::Open("the database URL is not a PostgreSQL URL (postgres://user@host/db)".to_owned()))?
        .application_name("muster")
        // No floats are kept, and PgBouncer refuses connections that set it.
        .extra_float_digits(None)
        .disable_statement_logging())
}

impl Read {
    /// One of the two forms of a text whose lock stands inside it.
    pub(super) const fn choose(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        if self.is_postgres() { postgres } else { sqlite }
    }

    pub(super) const fn is_postgres(&self) -> bool {
        match &self.0 {
            Held::SqliteRead(_) | Held::SqliteWrite(..) => false,
            Held::PostgresRead(_) | Held::PostgresWrite(..) => true,
            Held::Member(member) => !member.is_sqlite(),
        }
    }

    /// Whether this is one of several who share a transaction that others may hold rows against: who waits for a row there
    /// makes all of them wait with what they hold, and two such transactions would soon wait for each other.
    pub(super) const fn must_not_wait(&self) -> bool {
        matches!(&self.0, Held::Member(member) if !member.is_sqlite())
    }

    pub(super) fn connection(&mut self) -> Connection<'_> {
        match &mut self.0 {
            Held::SqliteRead(c) => Connection::Sqlite(c),
            Held::SqliteWrite(c, _) => Connection::Sqlite(c),
            Held::PostgresRead(c) => Connection::Postgres(c),
            Held::PostgresWrite(c, _) => Connection::Postgres(c),
            Held::Member(member) => Connection::Shared(member.refuse()),
        }
    }

    /// Runs a statement that can be shared.
    pub(super) async fn ask(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<Outcome, StoreError> {
        match &mut self.0 {
            Held::SqliteRead(c) => hot::by_sqlx(c, statement, arguments).await,
            Held::SqliteWrite(c, _) => hot::by_sqlx(c, statement, arguments).await,
            Held::PostgresRead(c) => hot::for_one(c, statement, arguments).await,
            Held::PostgresWrite(c, _) => hot::for_one(c, statement, arguments).await,
            Held::Member(member) => member.ask(statement, arguments).await,
        }
    }

    /// Runs a statement for many at once: what it led to for each, in their order. Those that write must have different first
    /// arguments, and an `INSERT` leaves nothing out.
    pub(super) async fn ask_many(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Vec<Value>>,
    ) -> Result<Vec<Outcome>, StoreError> {
        let several = match &mut self.0 {
            Held::PostgresRead(connection) => hot::for_many(connection, statement, arguments).await?,
            Held::PostgresWrite(connection, _) => hot::for_many(connection, statement, arguments).await?,
            Held::Member(member) => return member.ask_many(statement, arguments).await,
            Held::SqliteRead(_) | Held::SqliteWrite(..) => {
                let mut outcomes = Vec::with_capacity(arguments.len());
                for arguments in arguments {
                    outcomes.push(self.ask(statement, arguments).await?);
                }
                return Ok(outcomes);
            }
        };
        several.ok_or_else(|| StoreError::Broken("a row was there already".to_owned()))
    }
}

impl Write {
    /// A place in a transaction that several share.
    pub(super) const fn of_member(member: Member) -> Self {
        Self(Read(Held::Member(member)))
    }

    /// Leaves a shared transaction: another one holds the row that is needed. The work runs again by itself, and waits.
    pub(super) fn held_by_another(&mut self) -> StoreError {
        match &self.0.0 {
            Held::Member(member) => member.refuse(),
            _ => StoreError::Unavailable("another transaction holds the row".to_owned()),
        }
    }

    /// While the result is there, nobody else who shares this transaction has one for the same thing. For what is read,
    /// decided on and written, and is neither a device nor a certificate: with others it is a matter of row locks.
    pub async fn exclusive(&self, what: Uuid) -> Exclusive {
        match &self.0.0 {
            Held::Member(member) => member.exclusive(what).await,
            _ => Exclusive::nobody(),
        }
    }

    /// Makes the change durable. After an error nothing of it is there (or, when the connection broke during the
    /// commit itself, all of it: callers are idempotent).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.0.0 {
            Held::SqliteWrite(tx, _turn) => tx.commit().await?,
            Held::PostgresWrite(tx, _place) => tx.commit().await?,
            Held::Member(member) => member.commit(),
            Held::SqliteRead(_) | Held::PostgresRead(_) => {}
        }
        Ok(())
    }
}

impl Deref for Write {
    type Target = Read;

    fn deref(&self) -> &Read {
        &self.0
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Read {
        &mut self.0
    }
}
