use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::super::{Error, SystemClock, SystemRandomness, asked_to_end, block_on, secret_file};
use crate::model::Clock as _;
use crate::pki::authority::make_tls_root;
use crate::pki::{PrivateKey, push};
use crate::simulator::apns::{FakeApns, Options};

/// How long the push certificate of a fake APNs holds.
const VALIDITY: Duration = Duration::from_secs(365 * 86_400);

/// Options of `muster simulate apns`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where to listen for pushes.
    #[arg(long, default_value = "127.0.0.1:2197")]
    listen: SocketAddr,
    /// Where simulated devices of other processes register and wait; loopback only.
    #[arg(long, default_value = "127.0.0.1:2198")]
    control: SocketAddr,
    /// Where to write `root.pem` (for the setting push.roots) and `push.pem` (a push certificate with its key, to be
    /// uploaded). What is there is replaced.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// The topic of that push certificate.
    #[arg(long, default_value = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000")]
    topic: String,
}

/// Serves until a signal.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    block_on(async move {
        let authority = authority(&arguments.topic)?;
        let options = Options {
            listen: arguments.listen,
            control: Some(arguments.control),
            client_authorities: vec![authority.root],
            ..Options::default()
        };
        let apns = FakeApns::start(options, Arc::new(SystemClock), Arc::new(SystemRandomness))
            .await
            .map_err(|e| Error::Simulator(e.to_string()))?;
        let root = arguments.directory.join("root.pem");
        let certificate = arguments.directory.join("push.pem");
        fs::create_dir_all(&arguments.directory).map_err(|e| cannot_write(&arguments.directory, &e))?;
        fs::write(&root, apns.root_pem()).map_err(|e| cannot_write(&root, &e))?;
        secret_file(&certificate, &authority.push_pem, true)?;
        let mut out = anstream::stdout();
        writeln!(out, "listening at     {}", apns.endpoint()).map_err(Error::Output)?;
        if let Some(url) = apns.control_url() {
            writeln!(out, "control at       {url}").map_err(Error::Output)?;
        }
        writeln!(out, "push.roots       {}", root.display()).map_err(Error::Output)?;
        writeln!(out, "push certificate {}", certificate.display()).map_err(Error::Output)?;
        asked_to_end().await.map_err(|e| Error::Simulator(format!("cannot watch signals: {e}")))?;
        apns.shut_down().await;
        Ok(())
    })
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::Simulator(format!("cannot write {}: {error}", path.display()))
}

/// Whom a fake APNs believes, and a push certificate of theirs.
pub struct PushAuthority {
    /// The authority's certificate, DER.
    pub root: Vec<u8>,
    /// A push certificate and its key, PEM.
    pub push_pem: String,
}

/// Makes an authority for push certificates, and one certificate.
pub fn authority(topic: &str) -> Result<PushAuthority, Error> {
    let failed = |e: crate::pki::Error| Error::Simulator(format!("cannot make a push certificate: {e}"));
    let now = SystemClock.now();
    let root = make_tls_root("Simulated push authority", "Muster simulator", now, &SystemRandomness).map_err(failed)?;
    let key = PrivateKey::generate_rsa(2048).map_err(failed)?;
    let made = push::issue_fake(&root, key, topic, now, VALIDITY, &SystemRandomness).map_err(failed)?;
    let push_pem = format!("{}{}", made.identity.chain_pem(), made.identity.key.to_pem().expose());
    Ok(PushAuthority { root: root.certificate.der().to_vec(), push_pem })
}
