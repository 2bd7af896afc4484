//! The server as a process of its own, which is killed and started again; and the PostgreSQL beneath it.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::counts::Counts;
use crate::wire;

/// How long a server may take to become ready, PostgreSQL's start included.
const START: Duration = Duration::from_secs(60);
/// Stops PostgreSQL and starts it: see scripts/postgres.
const CONTROL: &str = "MUSTER_TEST_POSTGRES_CONTROL";

/// An installation with its server.
pub struct Site {
    directory: TempDir,
    pub devices: SocketAddr,
    pub admin: SocketAddr,
    pub token: String,
    counts: Arc<Counts>,
    child: Mutex<Option<Child>>,
    /// The server is down since it was killed.
    was_killed: AtomicBool,
    is_database_down: AtomicBool,
    is_over: AtomicBool,
    /// What the keeper found that must not be.
    fault: Mutex<Option<String>>,
}

impl Site {
    /// Makes an installation by `muster init`, on SQLite unless `database` is another URL.
    pub fn make(place: &Path, database: Option<&str>, push: (&str, &str), counts: Arc<Counts>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chaos-").tempdir_in(place)?;
        let (devices, admin) = (free_address()?, free_address()?);
        let (endpoint, roots) = push;
        fs::write(directory.path().join("push-roots.pem"), roots)?;
        let mut init = muster();
        let url = format!("https://localhost:{}", devices.port());
        init.arg("init").arg(directory.path().join("site")).args(["--public-url", &url]);
        if let Some(database) = database {
            init.args(["--database-url", database]);
        }
        let made = init.output()?;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        if !made.status.success() {
            return Err(format!("init: {said}{}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let token = said.split_whitespace().find(|word| word.starts_with("muster_")).ok_or("init shows no token")?;
        let token = token.to_owned();
        let database = database.map(|url| format!("[database]\nurl = \"{url}\"\n")).unwrap_or_default();
        let settings = format!(
            "public_url = \"{url}\"\ndata_dir = \"data\"\n[organization]\nname = \"Example\"\n\
             [admin]\nlisten = \"{admin}\"\n[devices]\nlisten = \"{devices}\"\ntls = \"behind_proxy\"\n\
             [proxy]\ntrusted = [\"127.0.0.1\"]\n[push]\nendpoint = \"{endpoint}\"\nroots = \"../push-roots.pem\"\n\
             sync_interval = \"1d\"\n{database}"
        );
        fs::write(directory.path().join("site/muster.toml"), settings)?;
        Ok(Self {
            directory,
            devices,
            admin,
            token,
            counts,
            child: Mutex::new(None),
            was_killed: AtomicBool::new(true),
            is_database_down: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            fault: Mutex::new(None),
        })
    }

    /// Starts the server whenever it does not run, until [`Site::end`].
    pub fn keep(self: &Arc<Self>) {
        let site = Arc::clone(self);
        tokio::spawn(async move {
            while !site.is_over.load(Ordering::SeqCst) {
                if let Err(why) = site.look() {
                    site.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.to_string());
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
    }

    fn look(&self) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(running) = child.as_mut() {
            let Some(status) = running.try_wait()? else { return Ok(()) };
            *child = None;
            // One that starts while PostgreSQL is away may give up.
            let is_excused = self.was_killed.load(Ordering::SeqCst) || self.is_database_down.load(Ordering::SeqCst);
            if !is_excused {
                return Err(format!("the server ended by itself: {status}; its log ends so:\n{}", self.log()).into());
            }
            return Ok(());
        }
        if self.is_database_down.load(Ordering::SeqCst) {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut serve = muster();
        serve.arg("serve").arg("--config").arg(self.settings());
        serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.was_killed.store(false, Ordering::SeqCst);
        *child = Some(serve.spawn()?);
        Ok(())
    }

    pub fn settings(&self) -> PathBuf {
        self.directory.path().join("site/muster.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.split_at(lines.len().saturating_sub(30)).1.join("\n")
    }

    /// Kills the server. False: it did not run.
    pub fn kill(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = child.as_mut() else { return false };
        self.was_killed.store(true, Ordering::SeqCst);
        let killed = running.kill().is_ok();
        let _ = running.wait();
        *child = None;
        if killed {
            self.counts.add("kills");
        }
        killed
    }

    /// Stops PostgreSQL at once, and starts it after a while. Nothing happens where it is down already.
    pub fn stop_database(self: &Arc<Self>, pause: Duration) {
        let Ok(control) = std::env::var(CONTROL) else { return };
        if self.is_database_down.swap(true, Ordering::SeqCst) {
            return;
        }
        let site = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = async {
                tokio::process::Command::new(&control).arg("stop").status().await?;
                site.counts.add("stops of PostgreSQL");
                sleep(pause).await;
                tokio::process::Command::new(&control).arg("start").status().await
            };
            match outcome.await {
                Ok(status) if status.success() => {}
                other => {
                    let why = format!("PostgreSQL does not start again: {other:?}");
                    site.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                }
            }
            site.is_database_down.store(false, Ordering::SeqCst);
        });
    }

    /// Waits until database and server are up.
    pub async fn ready(&self) -> Result<()> {
        let ready = async {
            let probe = wire::request("GET /readyz", &[], b"");
            loop {
                self.check()?;
                let is_up = !self.is_database_down.load(Ordering::SeqCst);
                if is_up && wire::ask(self.admin, &probe).await.is_ok_and(|answer| answer.status == 200) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(START, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(format!("the server does not become ready; its log ends so:\n{}", self.log()).into()),
        }
    }

    /// What the keeper found.
    pub fn check(&self) -> Result<()> {
        match self.fault.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(why) => Err(why.clone().into()),
            None => Ok(()),
        }
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.kill();
    }

    /// Keeps the directory, for whoever looks for what went wrong.
    pub fn leave(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program, without what the developer has set for another installation.
pub fn muster() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MUSTER_") {
            command.env_remove(name);
        }
    }
    command
}

/// An address of this machine whose port was free just now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
