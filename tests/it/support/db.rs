//! A database of its own for each test, on SQLite and on PostgreSQL.
//!
//! Each is a copy of a template that was migrated once: a file on SQLite, a template database on PostgreSQL.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use muster::model::{Clock, ManualClock, Randomness, SeededRandomness, Sha256, Timestamp};
use muster::store::{Options, Read, Store, Write};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use url::Url;

/// The server that test databases are made on; any role that may create databases will do.
const POSTGRES_URL: &str = "MUSTER_TEST_POSTGRES_URL";

/// No story takes as long as this, not even on a busy machine: one that does hangs.
const STORY_LIMIT: Duration = Duration::from_secs(120);

/// The stories' first moment: 2026-11-22T05:20:00Z.
pub const START: Timestamp = Timestamp::from_seconds(1_795_324_800);

static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE_TEMPLATE: OnceCell<Vec<u8>> = OnceCell::const_new();
static POSTGRES_TEMPLATE: OnceCell<String> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Turns each `async fn name(db: TestDb) { … }` into two tests, `name::sqlite` and `name::postgres`. The parameter may
/// be any [`Fixture`](crate::support::db::Fixture).
#[macro_export]
macro_rules! both_databases {
    // With another function of this module that runs the stories.
    (@by $run:ident $($(#[$attribute:meta])* async fn $name:ident($arg:ident: $fixture:ty) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports, reason = "not every story needs what stands around it")]
            use super::*;

            async fn story($arg: $fixture) $body

            #[tokio::test(flavor = "multi_thread")]
            async fn sqlite() {
                $crate::support::db::$run($crate::support::db::Kind::Sqlite, story).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn postgres() {
                $crate::support::db::$run($crate::support::db::Kind::Postgres, story).await;
            }
        }
    )*};
    ($($stories:tt)*) => {
        $crate::both_databases! { @by run $($stories)* }
    };
}

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// What a story is given: a [`TestDb`], or something that stands on one.
pub trait Fixture: Sized {
    /// Makes it on a fresh, migrated database.
    fn on(db: TestDb) -> impl Future<Output = Self>;

    /// What must hold when the story ended well and the fixture was dropped.
    fn check(_db: TestDb) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

/// A database of its own, with a clock that stands still and seeded randomness. Clones share all of it.
#[derive(Clone, Debug)]
pub struct TestDb {
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub random: Arc<SeededRandomness>,
    /// The database's address, for a second [`Store`] or a program beside the server.
    pub url: String,
}

impl Fixture for TestDb {
    fn on(db: TestDb) -> impl Future<Output = Self> {
        std::future::ready(db)
    }
}

impl TestDb {
    /// A lease from now on, in the name of a process that nobody has seen.
    pub fn lease(&self, time: std::time::Duration) -> muster::store::Lease {
        let holder = muster::model::ProcessId(uuid::Uuid::from_u128(1));
        muster::store::Lease { holder, now: self.now(), until: self.now().plus(time) }
    }

    /// The time of the story.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new id, such as `db.id(CommandId::new)`.
    pub fn id<T>(&self, new: fn(Timestamp, &dyn Randomness) -> T) -> T {
        new(self.now(), &*self.random)
    }

    /// Some bytes, other ones with each call.
    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.random.fill(&mut bytes);
        bytes
    }

    /// A digest, another one with each call.
    pub fn digest(&self) -> Sha256 {
        Sha256(self.bytes())
    }

    /// A connection for reading.
    pub async fn read(&self) -> Read {
        self.store.begin_read().await.unwrap()
    }

    /// A transaction.
    pub async fn write(&self) -> Write {
        self.store.begin_write().await.unwrap()
    }

    /// Another [`Store`] on the same database: what a second server process would have.
    pub async fn second_process(&self) -> Store {
        connect(&self.url).await
    }

    /// A backup of the database as it is now, put in place as a database of its own: on SQLite the file that a backup
    /// makes, on PostgreSQL the rows of all tables from one state, as a dump has them. On PostgreSQL it is there until the
    /// tests' server ends.
    pub async fn restored(&self) -> Self {
        let url = if let Some(file) = self.store.sqlite_file() {
            let copy = file.with_file_name(format!("copy-{}.db", DATABASES.fetch_add(1, Ordering::SeqCst)));
            self.store.copy_into(&copy).await.unwrap();
            format!("sqlite:{}", copy.display())
        } else {
            let Place::Postgres(name) = place(Kind::Postgres, true).await else { unreachable!() };
            let url = postgres_url(&name);
            copy_rows(&self.url, &url).await;
            url
        };
        Self { store: connect(&url).await, url, ..self.clone() }
    }

    /// Runs SQL beside the store, for what the store has no function for: to break things, or to look at them.
    pub async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }

    /// The rows of a query whose one column is text, read beside the store.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        texts(&self.url, sql).await
    }
}

/// Copies all rows of a migrated PostgreSQL database into another one.
async fn copy_rows(from: &str, to: &str) {
    let (mut from, mut to) = (PgConnection::connect(from).await.unwrap(), PgConnection::connect(to).await.unwrap());
    command(&mut from, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> '_sqlx_migrations'",
    )
    .fetch_all(&mut from)
    .await
    .unwrap();
    for table in tables {
        command(&mut to, &format!("TRUNCATE {table}")).await;
        let mut rows = from.copy_out_raw(&format!("COPY {table} TO STDOUT")).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = rows.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        drop(rows);
        let mut into = to.copy_in_raw(&format!("COPY {table} FROM STDIN")).await.unwrap();
        into.send(bytes).await.unwrap();
        into.finish().await.unwrap();
    }
    from.close().await.unwrap();
    to.close().await.unwrap();
}

/// Runs SQL on the database at a URL.
pub async fn execute(url: &str, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite:") {
        let mut c = SqliteConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut c).await.unwrap();
        c.close().await.unwrap();
    } else {
        let mut c = PgConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut c).await.unwrap();
        c.close().await.unwrap();
    }
}

/// The rows of a query on the database at a URL; its one column is text.
pub async fn texts(url: &str, sql: &str) -> Vec<String> {
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite:") {
        let mut c = SqliteConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut c).await.unwrap()
    } else {
        let mut c = PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut c).await.unwrap()
    }
}

/// Runs a story on a database of its own, which is dropped at the end, whether or not the story ended well.
pub async fn run<F: Fixture, S: Future<Output = ()>>(kind: Kind, story: impl FnOnce(F) -> S) {
    run_on(place(kind, true).await, story).await;
}

/// Runs a story on a database without tables.
pub async fn run_empty<F: Fixture, S: Future<Output = ()>>(kind: Kind, story: impl FnOnce(F) -> S) {
    run_on(place(kind, false).await, story).await;
}

async fn run_on<F: Fixture, S: Future<Output = ()>>(place: Place, story: impl FnOnce(F) -> S) {
    let db = TestDb {
        store: connect(&place.url()).await,
        clock: Arc::new(ManualClock::new(START)),
        random: Arc::new(SeededRandomness::new(20)),
        url: place.url(),
    };
    let told = Box::pin(async {
        story(F::on(db.clone()).await).await;
        F::check(db.clone()).await;
    });
    let ended = tokio::time::timeout(STORY_LIMIT, AssertUnwindSafe(told).catch_unwind()).await;
    // A story that failed may hold connections still: nobody waits for them.
    let _ = tokio::time::timeout(Duration::from_secs(2), db.store.close()).await;
    place.drop_database().await;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => panic!("the story did not end within {STORY_LIMIT:?}"),
    }
}

/// A [`Store`] on the database at `url`.
pub async fn connect(url: &str) -> Store {
    let options = Options { url: url.to_owned(), direct_url: None, max_connections: 8 };
    Store::connect(options, true).await.unwrap()
}

enum Place {
    Sqlite(TempDir),
    Postgres(String),
}

impl Place {
    fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => sqlite_url(directory),
            Self::Postgres(name) => postgres_url(name),
        }
    }

    async fn drop_database(self) {
        if let Self::Postgres(name) = self {
            let mut server = server().await;
            command(&mut server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }
}

async fn place(kind: Kind, migrated: bool) -> Place {
    match kind {
        Kind::Sqlite => {
            let directory = tempfile::tempdir().unwrap();
            if migrated {
                let template = SQLITE_TEMPLATE.get_or_init(sqlite_template).await;
                std::fs::write(directory.path().join("muster.db"), template).unwrap();
            }
            Place::Sqlite(directory)
        }
        Kind::Postgres => {
            let name = format!("muster_test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
            let template =
                if migrated { POSTGRES_TEMPLATE.get_or_init(postgres_template).await.as_str() } else { "template0" };
            let mut server = server().await;
            command(&mut server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            command(&mut server, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
            Place::Postgres(name)
        }
    }
}

fn sqlite_url(directory: &TempDir) -> String {
    format!("sqlite:{}", directory.path().join("muster.db").display())
}

fn postgres_url(database: &str) -> String {
    let mut url: Url = server_url().parse().unwrap();
    url.set_path(database);
    url.to_string()
}

fn server_url() -> String {
    // Never skipped in silence: a test that did not run proves nothing.
    std::env::var(POSTGRES_URL).unwrap_or_else(|_| {
        panic!(
            "{POSTGRES_URL} is not set. Run `make test`, which starts a PostgreSQL for the tests, or set it to the URL \
             of a server where databases may be created; to run on SQLite only: `cargo test --test it sqlite`"
        )
    })
}

async fn server() -> PgConnection {
    PgConnection::connect(&server_url())
        .await
        .unwrap_or_else(|e| panic!("cannot connect to the PostgreSQL of {POSTGRES_URL}: {e}"))
}

async fn command(server: &mut PgConnection, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(server).await.unwrap();
}

async fn sqlite_template() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    migrate(&sqlite_url(&directory)).await;
    std::fs::read(directory.path().join("muster.db")).unwrap()
}

/// The template's name tells which migrations it holds, so that several test programs may share it. One of them makes
/// it, under another name until it is whole.
async fn postgres_template() -> String {
    let checksums: Vec<u8> = POSTGRES_MIGRATIONS.iter().flat_map(|m| m.checksum.to_vec()).collect();
    let name = format!("muster_template_{}", &Sha256::of(&checksums).hex()[..16]);
    let mut server = server().await;
    command(&mut server, "SELECT pg_advisory_lock(7236)").await;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut server)
        .await
        .unwrap();
    if !there {
        command(&mut server, &format!("DROP DATABASE IF EXISTS {name}_new WITH (FORCE)")).await;
        command(&mut server, &format!("CREATE DATABASE {name}_new TEMPLATE template0")).await;
        migrate(&postgres_url(&format!("{name}_new"))).await;
        command(&mut server, &format!("ALTER DATABASE {name}_new RENAME TO {name}")).await;
    }
    server.close().await.unwrap();
    name
}

async fn migrate(url: &str) {
    let store = connect(url).await;
    store.migrate().await.unwrap();
    store.close().await;
}
