//! Servers as processes of their own, which are killed and started again; and the PostgreSQL beneath them.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::counts::Counts;
use crate::wire;

/// How long a server may take to become ready, PostgreSQL's start included.
const START: Duration = Duration::from_secs(60);
/// How long one may take to stop.
const STOP: Duration = Duration::from_secs(40);
/// Stops PostgreSQL and starts it: see scripts/postgres.
const CONTROL: &str = "MUSTER_TEST_POSTGRES_CONTROL";

/// An installation with its servers.
pub struct Site {
    directory: TempDir,
    pub token: String,
    pub servers: Vec<Server>,
    counts: Arc<Counts>,
    is_database_down: AtomicBool,
    is_over: AtomicBool,
    /// What the keeper found that must not be.
    fault: Mutex<Option<String>>,
}

/// A process, or the place of one.
pub struct Server {
    pub devices: SocketAddr,
    pub admin: SocketAddr,
    child: Mutex<Option<Child>>,
    /// It is down, or about to be, because it was told so.
    is_told: AtomicBool,
    /// It is not started again.
    stays_down: AtomicBool,
}

impl Server {
    fn new() -> Result<Self> {
        Ok(Self {
            devices: free_address()?,
            admin: free_address()?,
            child: Mutex::new(None),
            is_told: AtomicBool::new(false),
            stays_down: AtomicBool::new(false),
        })
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it. False: it did not run.
    pub fn kill(&self) -> bool {
        let mut child = self.child();
        let Some(running) = child.as_mut() else { return false };
        self.is_told.store(true, Ordering::SeqCst);
        let killed = running.kill().is_ok();
        let _ = running.wait();
        *child = None;
        killed
    }

    /// Whether it stays down once it is.
    pub fn hold(&self, stays_down: bool) {
        self.stays_down.store(stays_down, Ordering::SeqCst);
    }

    /// Asks it to stop, and waits until it has. It is started again, unless it is held.
    pub async fn stop(&self) -> Result<()> {
        self.is_told.store(true, Ordering::SeqCst);
        let id = self.child().as_ref().map(Child::id).ok_or("the server does not run")?;
        Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &id.to_string()]).status()?;
        let ended = async {
            loop {
                {
                    let mut child = self.child();
                    match child.as_mut() {
                        // Another has seen it first.
                        None => return Ok(()),
                        Some(running) if running.id() != id => return Ok(()),
                        Some(running) => {
                            if let Some(status) = running.try_wait()? {
                                *child = None;
                                return if status.success() {
                                    Ok(())
                                } else {
                                    Err(format!("a server ended with {status}").into())
                                };
                            }
                        }
                    }
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(STOP, ended).await.map_err(|_| "a server does not stop")?
    }

    /// Whether it can do its work.
    pub async fn is_ready(&self) -> bool {
        let probe = wire::request("GET /readyz", &[], b"");
        wire::ask(self.admin, &probe).await.is_ok_and(|answer| answer.status == 200)
    }
}

/// What a site is made of.
pub struct Making<'a> {
    /// Where its directory is made.
    pub place: &'a Path,
    /// The URL of an empty database; none for SQLite.
    pub database: Option<&'a str>,
    /// The URL of the push service, and its root, PEM.
    pub push: (String, String),
    /// How many servers.
    pub servers: usize,
}

impl Site {
    /// Makes an installation by `muster init`.
    pub fn make(making: &Making<'_>, counts: Arc<Counts>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chaos-").tempdir_in(making.place)?;
        let (endpoint, roots) = &making.push;
        fs::write(directory.path().join("push-roots.pem"), roots)?;
        let servers = (0..making.servers).map(|_| Server::new()).collect::<Result<Vec<_>>>()?;
        let mut init = muster();
        let url = "https://localhost";
        init.arg("init").arg(directory.path().join("site")).args(["--public-url", url]);
        if let Some(database) = making.database {
            init.args(["--database-url", database]);
        }
        let made = init.output()?;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        if !made.status.success() {
            return Err(format!("init: {said}{}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let token = said.split_whitespace().find(|word| word.starts_with("muster_")).ok_or("init shows no token")?;
        let token = token.to_owned();
        let database = making
            .database
            .map(|url| format!("[database]\nurl = \"{url}\"\nmax_connections = 8\n"))
            .unwrap_or_default();
        let settings = format!(
            "public_url = \"{url}\"\ndata_dir = \"data\"\n[organization]\nname = \"Example\"\n\
             [devices]\ntls = \"behind_proxy\"\n[proxy]\ntrusted = [\"127.0.0.1\"]\n\
             [push]\nendpoint = \"{endpoint}\"\nroots = \"../push-roots.pem\"\nsync_interval = \"1d\"\n\
             [log]\nlevel = \"warn\"\n{database}"
        );
        fs::write(directory.path().join("site/muster.toml"), settings)?;
        Ok(Self {
            directory,
            token,
            servers,
            counts,
            is_database_down: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            fault: Mutex::new(None),
        })
    }

    /// Starts each server whenever it does not run, until [`Site::end`].
    pub fn keep(self: &Arc<Self>) {
        let site = Arc::clone(self);
        tokio::spawn(async move {
            while !site.is_over.load(Ordering::SeqCst) {
                for server in &site.servers {
                    if let Err(why) = site.look(server) {
                        site.blame(why.to_string());
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
    }

    fn look(&self, server: &Server) -> Result<()> {
        let mut child = server.child();
        if self.is_over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let is_away = self.is_database_down.load(Ordering::SeqCst);
        if let Some(running) = child.as_mut() {
            let Some(status) = running.try_wait()? else { return Ok(()) };
            *child = None;
            // One that starts while PostgreSQL is away may give up.
            if !is_away && !server.is_told.load(Ordering::SeqCst) {
                return Err(format!("a server ended by itself: {status}; its log ends so:\n{}", self.log()).into());
            }
            return Ok(());
        }
        if is_away || server.stays_down.load(Ordering::SeqCst) {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut serve = muster();
        serve.arg("serve").arg("--config").arg(self.path().join("site/muster.toml"));
        serve.env("MUSTER_DEVICES_LISTEN", server.devices.to_string());
        serve.env("MUSTER_ADMIN_LISTEN", server.admin.to_string());
        serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        server.is_told.store(false, Ordering::SeqCst);
        *child = Some(serve.spawn()?);
        Ok(())
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn log_file(&self) -> PathBuf {
        self.path().join("server.log")
    }

    /// The end of the servers' log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.split_at(lines.len().saturating_sub(30)).1.join("\n")
    }

    /// Kills a server, whichever `number` comes to. False: it did not run.
    pub fn kill(&self, number: u64) -> bool {
        let index = usize::try_from(number).unwrap_or(0) % self.servers.len().max(1);
        let killed = self.servers.get(index).is_some_and(Server::kill);
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
                other => site.blame(format!("PostgreSQL does not start again: {other:?}")),
            }
            site.is_database_down.store(false, Ordering::SeqCst);
        });
    }

    /// Waits until the database and all servers are up that are not held.
    pub async fn ready(&self) -> Result<()> {
        let ready = async {
            while self.is_database_down.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(20)).await;
            }
            for server in self.servers.iter().filter(|server| !server.stays_down.load(Ordering::SeqCst)) {
                while !server.is_ready().await {
                    self.check()?;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Ok(())
        };
        match timeout(START, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(format!("a server does not become ready; its log ends so:\n{}", self.log()).into()),
        }
    }

    fn blame(&self, why: String) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
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
        for server in &self.servers {
            server.kill();
        }
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
