//! Servers as processes of their own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::machine::{cpu_of, kilobytes};

/// How long a server may take to start, and to stop.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(30);

/// A server at work. Ended when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// The memory of a process, in MB (2^20 bytes).
#[derive(Clone, Copy)]
pub struct Memory {
    pub resident: f64,
    pub peak: f64,
}

impl Process {
    /// `muster serve` with these settings; ready when it returns. `admin` is where its probes are.
    pub async fn muster(settings: &Path, admin: SocketAddr) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.arg("serve").arg("--config").arg(settings);
        Self::start(command, settings.with_file_name("server.log"), admin).await
    }

    /// The benchmark itself in another part; ready when it has made a file.
    pub async fn own(arguments: &[String], log: PathBuf, file: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        let mut process = Self::spawn(command, log)?;
        let ready = async {
            while !file.exists() {
                if process.child.try_wait()?.is_some() {
                    return Err(process.complaint("a process ended as it started"));
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(START, ready).await.map_err(|_| "a process did not become ready in time")??;
        Ok(process)
    }

    /// The handler that does nothing.
    pub async fn baseline(directory: &Path, address: SocketAddr) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--baseline").arg(address.to_string());
        Self::start(command, directory.join("baseline.log"), address).await
    }

    async fn start(command: Command, log: PathBuf, probes: SocketAddr) -> Result<Self> {
        let mut process = Self::spawn(command, log)?;
        match timeout(START, process.ready(probes)).await {
            Ok(ready) => ready?,
            Err(_) => return Err(process.complaint("a server did not become ready in time")),
        }
        Ok(process)
    }

    fn spawn(mut command: Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // What the developer has set for another installation is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        Ok(Self { child: command.spawn()?, log })
    }

    async fn ready(&mut self, probes: SocketAddr) -> Result<()> {
        while !is_ready(probes).await {
            if self.child.try_wait()?.is_some() {
                return Err(self.complaint("a server ended as it started"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn complaint(&self, what: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("{what}; its log ends so:\n{}", lines.split_at(lines.len().saturating_sub(20)).1.join("\n")).into()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its processor time up to now.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Its memory now, and at most up to now.
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let megabytes = |name| {
            let value = u32::try_from(kilobytes(&status, name)).unwrap_or(u32::MAX);
            f64::from(value) / 1024.0
        };
        Ok(Memory { resident: megabytes("VmRSS"), peak: megabytes("VmHWM") })
    }

    /// Lets the most that it took begin anew.
    pub fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &id]).status()?;
        let ended = async {
            while self.child.try_wait()?.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        match timeout(STOP, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(self.complaint("a server did not stop in time")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_ready(probes: SocketAddr) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(probes).await?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        socket.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200 "))
    };
    matches!(timeout(Duration::from_secs(5), ask).await, Ok(Ok(true)))
}
