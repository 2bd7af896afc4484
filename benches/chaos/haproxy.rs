//! HAProxy before several servers, with the settings that docs/operate/chaos.md shows.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::Result;
use crate::site::{Server, Site, free_address};

/// A running HAProxy. Ended when dropped.
pub struct Haproxy {
    pub devices: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
}

impl Haproxy {
    /// Starts it before all servers of a site.
    pub fn start(site: &Site) -> Result<Self> {
        let (devices, admin) = (free_address()?, free_address()?);
        let file = site.path().join("haproxy.cfg");
        fs::write(&file, settings(site, devices, admin))?;
        let log = fs::File::create(site.path().join("haproxy.log"))?;
        let mut command = Command::new(find()?);
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { devices, admin, child: command.spawn()? })
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Most systems leave its directory out of the users' PATH.
fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    places
        .find_map(|place| Some(place.join("haproxy")).filter(|file| file.exists()))
        .ok_or_else(|| "HAProxy is not installed: apt-get install haproxy".into())
}

/// A request that meets a server which has just stopped goes to another: the connection was refused, or was closed before
/// a byte of the answer. The server takes such repetitions: a message that comes twice counts once.
fn settings(site: &Site, devices: SocketAddr, admin: SocketAddr) -> String {
    let servers = |address: fn(&Server) -> SocketAddr| {
        let lines = site.servers.iter().enumerate();
        lines.map(|(number, server)| format!("    server s{number} {} check\n", address(server))).collect::<String>()
    };
    let local = Ipv4Addr::LOCALHOST;
    format!(
        "global
    tune.bufsize 65536
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 75s
    timeout server 75s
    timeout check 2s
    retries 5
    option redispatch 1
    option http-buffer-request
    retry-on conn-failure empty-response
    option httpchk GET /readyz
    default-server inter 250ms fall 1 rise 1
frontend devices
    bind {local}:{}
    http-request set-header X-Forwarded-For %[src]
    default_backend devices
backend devices
    balance roundrobin
{}frontend admin
    bind {local}:{}
    default_backend admin
backend admin
    balance roundrobin
{}",
        devices.port(),
        servers(|server| server.devices),
        admin.port(),
        servers(|server| server.admin),
    )
}
