//! `muster demo`: the whole job on one machine, over real sockets: a server, a fake APNs, and simulated iPhones which
//! enroll from a link and carry out a story of commands.

mod client;
mod package;
mod stage;
mod story;
mod told;

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::server::Server;
use super::simulate::apns::authority;
use super::{Error, SystemClock, SystemRandomness, asked_to_end, block_on, open, secret_file};
use crate::config::Settings;
use crate::http::Shutdown;
use crate::model::{Role, Secret};
use crate::pki::vault::MasterKey;
use crate::service::{Actor, tokens};
use crate::simulator::apns::{FakeApns, Options};
use client::Client;
use stage::Stage;

/// The topic of the demo's push certificate.
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000";

/// Options of `muster demo`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// End by itself: 0 only if every step was verified; the last line is a summary in JSON.
    #[arg(long)]
    once: bool,
    /// How many iPhones.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(2..=2000))]
    devices: u16,
    /// Keep the devices' keys here and use them again.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Show the server's log, from this level on.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

/// Plays the demo. The last line is a summary in JSON, however it ends.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    match block_on(play(arguments)) {
        Ok(0) => Ok(()),
        Ok(problems) => Err(Error::Demo(format!("{problems} steps were not verified"))),
        Err(error) => {
            let summary = serde_json::json!({"error": error.to_string(), "verified": false});
            // The error says more than that it could not be written.
            let _ = writeln!(anstream::stdout(), "{summary}");
            Err(error)
        }
    }
}

/// Returns how many things were not as they should be, after the summary.
async fn play(arguments: &Arguments) -> Result<usize, Error> {
    let directory = Directory::make()?;
    let apns = start_apns(&directory).await?;
    let settings = settings(arguments, &directory, &apns)?;
    if arguments.log.is_some() {
        let _ = super::start_telemetry(&settings.log);
    }
    let shutdown = Shutdown::new();
    let store = open::store(&settings, true).await?;
    let app = open::app(settings, store, Arc::new(SystemClock), Arc::new(SystemRandomness))?;
    let server = Server::start(app.clone(), shutdown.clone()).await?;
    let new = tokens::NewToken { name: "demo".to_owned(), role: Role::Admin, expires_at: None };
    let token = tokens::create(&app, &Actor::command_line(), new).await?.text;
    let client = Client::new(&format!("http://{}", server.admin), token.clone())?;

    let stage = Stage {
        client: client.clone(),
        apns: apns.clone(),
        count: usize::from(arguments.devices),
        keys: arguments.keys.clone().unwrap_or_else(|| directory.path.join("keys")),
        push_pem: fs::read_to_string(directory.path.join("push.pem")).map_err(|e| Error::Demo(e.to_string()))?,
    };
    let fleet_stop = CancellationToken::new();
    let outcome = tokio::select! {
        outcome = story::play(&stage, fleet_stop.clone()) => outcome,
        _ = asked_to_end() => Err(Error::Demo("interrupted".to_owned())),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            shutdown.stop();
            return Err(error);
        }
    };
    let mut out = anstream::stdout();
    writeln!(out, "\n{}", outcome.table()).map_err(Error::Output)?;
    if !arguments.once {
        stay(&server, &token, &outcome).await?;
    }
    fleet_stop.cancel();
    let ended = outcome.fleet.await.map_err(|e| Error::Demo(format!("the simulated devices ended by a fault: {e}")))?;
    shutdown.stop();
    let dropped = tokio::time::timeout(Duration::from_secs(20), server.stopped()).await;
    apns.shut_down().await;
    let problems = story::problems(&outcome.results, &ended, dropped.is_err());
    for problem in &problems {
        writeln!(anstream::stderr(), "not verified: {problem}").map_err(Error::Output)?;
    }
    writeln!(out, "{}", outcome.results.summary(&ended, problems.is_empty())).map_err(Error::Output)?;
    Ok(problems.len())
}

/// Tells how to go on, and waits for Ctrl-C.
async fn stay(server: &Server, token: &Secret<String>, outcome: &story::Outcome) -> Result<(), Error> {
    let mut out = anstream::stdout();
    let (admin, token) = (server.admin, token.expose());
    let device = &outcome.device;
    writeln!(
        out,
        "The server goes on until Ctrl-C; everything it made is then deleted.\n\n\
         API        http://{admin}/api/v1    its documentation http://{admin}/api/docs\n\
         Devices    https://{devices}\n\
         Token      {token}\n\n\
         Try:\n  \
         curl -H 'Authorization: Bearer {token}' http://{admin}/api/v1/devices\n  \
         curl -H 'Authorization: Bearer {token}' http://{admin}/api/v1/devices/{device}\n  \
         curl -H 'Authorization: Bearer {token}' http://{admin}/api/v1/commands -H 'Content-Type: application/json' \
         -d '{{\"targets\": {{\"devices\": [\"{device}\"]}}, \"command\": {{\"type\": \"lock\", \"message\": \"Hello\"}}}}'\n",
        devices = server.devices,
    )
    .map_err(Error::Output)?;
    asked_to_end().await.map_err(|e| Error::Demo(format!("cannot watch signals: {e}")))?;
    Ok(())
}

/// A throw-away directory: gone when the demo ends.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn make() -> Result<Self, Error> {
        let id = crate::model::JobId::new(crate::model::Clock::now(&SystemClock), &SystemRandomness);
        let path = std::env::temp_dir().join(format!("muster-demo-{id}"));
        fs::create_dir_all(path.join("data"))
            .map_err(|e| Error::Demo(format!("cannot make {}: {e}", path.display())))?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be deleted stays in the system's directory for such things.
        let _ = fs::remove_dir_all(&self.path);
    }
}

async fn start_apns(directory: &Directory) -> Result<FakeApns, Error> {
    let authority = authority(TOPIC)?;
    let options = Options { client_authorities: vec![authority.root], ..Options::default() };
    let apns = FakeApns::start(options, Arc::new(SystemClock), Arc::new(SystemRandomness))
        .await
        .map_err(|e| Error::Demo(e.to_string()))?;
    let root = directory.path.join("push-root.pem");
    fs::write(&root, apns.root_pem()).map_err(|e| Error::Demo(format!("cannot write {}: {e}", root.display())))?;
    secret_file(&directory.path.join("push.pem"), &authority.push_pem, false)?;
    Ok(apns)
}

fn settings(arguments: &Arguments, directory: &Directory, apns: &FakeApns) -> Result<Settings, Error> {
    secret_file(
        &directory.path.join("data").join("master.key"),
        MasterKey::generate(&SystemRandomness).format().expose(),
        false,
    )?;
    let (devices, admin) = (free_port()?, free_port()?);
    let text = format!(
        "public_url = \"https://localhost:{devices}\"\n\
         data_dir = \"data\"\n\
         [organization]\nname = \"Muster demo\"\n\
         [devices]\nlisten = \"127.0.0.1:{devices}\"\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [enrollment]\nrequests_per_minute = 100000\n\
         [scep]\nrequests_per_minute = 100000\n\
         [push]\nendpoint = \"{endpoint}\"\nroots = \"push-root.pem\"\n\
         [log]\nlevel = {level:?}\n",
        endpoint = apns.endpoint(),
        level = arguments.log.as_deref().unwrap_or("error"),
    );
    Ok(Settings::parse(&directory.path.join("muster.toml"), &text, [])?)
}

/// A port that was free just now.
fn free_port() -> Result<u16, Error> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|e| Error::Demo(format!("no port is free: {e}")))
}
