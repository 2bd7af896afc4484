//! The fake APNs as a process of its own, which knows the tokens of a whole fleet.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use muster::cli::{SystemClock, SystemRandomness};
use muster::simulator::apns::{FakeApns, Fault, FaultKind, Options};

use crate::Result;
use crate::installation::free_address;
use crate::process::Process;

/// What that process is told.
#[derive(Clone, Debug, Args)]
pub struct PeerArguments {
    /// Be the fake APNs: where to write its root certificate.
    #[arg(long, hide = true, value_name = "FILE")]
    peer: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    peer_listen: SocketAddr,
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    peer_control: SocketAddr,
    /// How many devices it knows.
    #[arg(long, hide = true, default_value_t = 0)]
    peer_tokens: usize,
    /// How long it takes for each answer, milliseconds.
    #[arg(long, hide = true, default_value_t = 0)]
    peer_delay: u64,
}

impl PeerArguments {
    /// Whether this process is to be one.
    pub const fn is_peer(&self) -> bool {
        self.peer.is_some()
    }
}

/// The push token of a device.
pub fn token(number: usize) -> [u8; 32] {
    let mut token = [0; 32];
    for (place, byte) in token.iter_mut().rev().zip(number.to_be_bytes().iter().rev()) {
        *place = *byte;
    }
    token
}

/// Serves until the process is ended.
pub async fn serve(arguments: &PeerArguments) -> Result<()> {
    let options =
        Options { listen: arguments.peer_listen, control: Some(arguments.peer_control), ..Options::default() };
    let apns = FakeApns::start(options, Arc::new(SystemClock), Arc::new(SystemRandomness)).await?;
    for number in 1..=arguments.peer_tokens {
        let _ = apns.register_token(&token(number), None);
    }
    if arguments.peer_delay > 0 {
        let kind = FaultKind::Delay { millis: arguments.peer_delay };
        apns.inject(Fault { token: None, times: None, kind });
    }
    let file = arguments.peer.as_ref().ok_or("no file for the root certificate")?;
    // Whoever finds the file finds it whole.
    let part = file.with_extension("part");
    fs::write(&part, apns.root_pem())?;
    fs::rename(&part, file)?;
    std::future::pending::<()>().await;
    Ok(())
}

/// A running fake APNs.
pub struct Peer {
    process: Process,
    pub address: SocketAddr,
    pub control: SocketAddr,
    /// Its root certificate.
    pub root: PathBuf,
}

impl Peer {
    pub async fn start(directory: &Path, tokens: usize, delay: Duration) -> Result<Self> {
        let (address, control) = (free_address()?, free_address()?);
        let root = directory.join("push-root.pem");
        if root.exists() {
            fs::remove_file(&root)?;
        }
        let arguments = [
            ("--peer", root.display().to_string()),
            ("--peer-listen", address.to_string()),
            ("--peer-control", control.to_string()),
            ("--peer-tokens", tokens.to_string()),
            ("--peer-delay", delay.as_millis().to_string()),
        ];
        let arguments = arguments.map(|(name, value)| format!("{name}={value}"));
        let process = Process::own(&arguments, directory.join("peer.log"), &root).await?;
        Ok(Self { process, address, control, root })
    }

    /// How many pushes it has taken.
    pub async fn accepted(&self) -> Result<u64> {
        let request = crate::wire::request("GET /counters", &[], b"");
        let answer = crate::wire::Wire::connect(self.control).await?.ask(&request).await?;
        let counters: serde_json::Value = serde_json::from_slice(&answer.body)?;
        counters.get("accepted").and_then(serde_json::Value::as_u64).ok_or_else(|| answer.unexpected())
    }

    pub async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}
