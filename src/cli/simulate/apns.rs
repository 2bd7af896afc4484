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

/// What `--help` says of the control listener.
const FAULTS: &str = r#"Faults: the control listener takes what is to go wrong, and each push takes the first fault that applies to it.

  curl -H 'Content-Type: application/json' -d '{"fault": {"kind": "go_away"}}' http://127.0.0.1:2198/faults
  curl -X DELETE http://127.0.0.1:2198/faults      forgets those that are left

  kind                   members (optional unless marked *)
  unregistered           timestamp     410: the token is invalid, since then (ms since 1970; now)
  too_many_requests      retry_after   429 (seconds)
  internal_server_error                500
  service_unavailable    retry_after   503 (seconds)
  answer                 status*, body any status with any text, as from a proxy
  go_away                              GOAWAY; what is in flight is still answered
  go_away_abrupt                       GOAWAY, then the connection ends with all that is in flight
  hang_up                              the connection ends without a word
  delay                  millis*       treated as usual, later

Beside "fault" there may be "times" (how many pushes it hits: 1; null: all) and "token" (hex: only pushes to this one).
`GET /counters` tells what has come."#;

/// Options of `muster simulate apns`.
#[derive(Debug, Args)]
#[command(after_help = FAULTS)]
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
