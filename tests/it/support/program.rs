//! The program itself, run as a user would, in a directory of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::db::{self, Fixture, TestDb};

/// No step takes so long, not even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Like `both_databases!`, on databases that nothing was done to yet.
macro_rules! both_fresh_databases {
    ($($stories:tt)*) => {
        $crate::both_databases! { @by run_empty $($stories)* }
    };
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Sees to it that it ended with this code.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Runs the program with this environment and no other.
pub fn muster(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let out = command(arguments, environment).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

/// What `muster init` made, on one of the two databases.
pub struct Installation {
    pub directory: TempDir,
    /// What `init` said.
    pub said: String,
    /// The database's URL.
    pub database: String,
}

impl Fixture for Installation {
    /// On SQLite a copy of one that was made once: making keys takes most of the time of a story.
    async fn on(db: TestDb) -> Self {
        static TEMPLATE: OnceCell<Installation> = OnceCell::const_new();
        if !db.url.starts_with("sqlite:") {
            return Self::init(&db);
        }
        let template = TEMPLATE.get_or_init(async || Self::init(&db)).await;
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("muster");
        copy(&template.place(), &place);
        Self {
            said: template.said.clone(),
            database: format!("sqlite:{}", place.join("data/muster.db").display()),
            directory,
        }
    }
}

/// An [`Installation`] that `muster init` has just made, on SQLite too.
pub struct FreshInstallation(Installation);

impl Fixture for FreshInstallation {
    async fn on(db: TestDb) -> Self {
        Self(Installation::init(&db))
    }
}

impl Deref for FreshInstallation {
    type Target = Installation;

    fn deref(&self) -> &Installation {
        &self.0
    }
}

/// Copies a directory with its modes.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

impl Installation {
    /// Makes one: on SQLite in its own directory, else in the database of the story.
    fn init(db: &TestDb) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("muster");
        let mut arguments = vec!["init", place.to_str().unwrap()];
        let is_sqlite = db.url.starts_with("sqlite:");
        if !is_sqlite {
            arguments.extend(["--database-url", &db.url]);
        }
        let said = muster(&arguments, &[]).with(0).stdout;
        let database =
            if is_sqlite { format!("sqlite:{}", place.join("data/muster.db").display()) } else { db.url.clone() };
        Self { directory, said, database }
    }

    pub fn place(&self) -> PathBuf {
        self.directory.path().join("muster")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    /// The token that `init` showed.
    pub fn token(&self) -> String {
        let line = self.said.lines().map(str::trim).find(|line| line.starts_with("muster_")).unwrap();
        line.to_owned()
    }

    /// Runs a subcommand on the settings of this installation.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, &[])
    }

    /// As [`Installation::run`], with variables of the environment.
    pub fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let config = self.path("muster.toml");
        let all: Vec<_> = arguments.iter().copied().chain(["--config", config.to_str().unwrap()]).collect();
        muster(&all, environment)
    }

    /// Changes the text of the settings.
    pub fn set(&self, from: &str, to: &str) {
        let path = self.path("muster.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "the settings hold no {from:?}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    /// Runs SQL beside the program: to break things.
    pub async fn execute(&self, sql: &str) {
        db::execute(&self.database, sql).await;
    }

    /// The rows of a query whose one column is text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        db::texts(&self.database, sql).await
    }

    /// The URL of another database without tables.
    pub async fn fresh(&self) -> String {
        if self.database.starts_with("sqlite:") {
            let path = self.path("data/fresh.db");
            fs::write(&path, "").unwrap();
            return format!("sqlite:{}", path.display());
        }
        self.execute("DROP SCHEMA public CASCADE").await;
        self.execute("CREATE SCHEMA public").await;
        self.database.clone()
    }

    /// Starts the server on free ports of this machine.
    pub fn serve(&self) -> Serving {
        Serving::start(&self.path("muster.toml")).unwrap_or_else(|said| panic!("the server did not start: {said}"))
    }

    /// Starts a server that must not come up; gives what it says.
    pub fn serve_in_vain(&self) -> String {
        Serving::start(&self.path("muster.toml")).err().expect("the server started")
    }
}

/// A server at work, in a process of its own; ended at the latest when dropped.
pub struct Serving {
    child: Child,
    lines: Receiver<String>,
    /// Where admins connect.
    pub admin: String,
}

impl Serving {
    /// Err: it ended before it served, and what it said.
    fn start(config: &Path) -> Result<Self, String> {
        let environment = [
            ("MUSTER_DEVICES_LISTEN", "127.0.0.1:0"),
            ("MUSTER_ADMIN_LISTEN", "127.0.0.1:0"),
            ("MUSTER_PUSH_ENDPOINT", "https://127.0.0.1:1"),
            ("MUSTER_LOG_FORMAT", "json"),
        ];
        let mut command = command(&["serve", "--config", config.to_str().unwrap()], &environment);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut said = String::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let record: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                    if record["message"] == "serving" {
                        let admin = record["admin"].as_str().unwrap().to_owned();
                        return Ok(Self { child, lines, admin });
                    }
                    said.push_str(&line);
                    said.push('\n');
                }
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(said);
                }
            }
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        // The shell's own kill: the program of that name is not on every machine.
        let killed = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &self.child.id().to_string()]).status();
        assert!(killed.unwrap().success());
    }

    /// Waits for its end; gives the exit status and the rest of its log.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            log.push_str(&line);
            log.push('\n');
        }
        (self.child.wait().unwrap(), log)
    }

    /// A status and a body of the API.
    pub async fn get(&self, path: &str, token: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
