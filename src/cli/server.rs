//! The server, put together: listeners, routes and workers on one [`App`]. The program, the demo and the tests run the
//! same.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Error;
use super::open::ServerLock;
use crate::config::{DeviceTls, Settings};
use crate::http::health::Health;
use crate::http::observe::Observer;
use crate::http::request_id::RequestIds;
use crate::http::tls::{CertificateFiles, ServerCertificate, Tls};
use crate::http::{self as web, Limits, Listener, Metrics, Problem, Proxies, Shutdown};
use crate::pki::Identity;
use crate::pki::identity::rustls_certificate;
use crate::service::retention::Pruned;
use crate::service::{App, authorities};
use crate::worker::{self, WebhookNews};

/// How often certificates are looked at: those from files, and the own one, which another process may have renewed.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);
/// With less room than this on the disk of an SQLite file, the next change may not find a place.
const LEAST_ROOM: u64 = 4 << 20;
/// How often TLS learns of changed device authorities.
const TRUST_CHECK: Duration = Duration::from_secs(5);

/// A server at work.
pub struct Server {
    /// Where devices connect.
    pub devices: SocketAddr,
    /// Where pages are served, if not there.
    pub pages: Option<SocketAddr>,
    /// Where admins connect.
    pub admin: SocketAddr,
    /// Stops it.
    pub shutdown: Shutdown,
    /// Its counters.
    pub metrics: Metrics,
    running: JoinHandle<usize>,
}

impl Server {
    /// Migrates the database, makes what is missing (authorities, certificates), binds the listeners and starts.
    ///
    /// # Errors
    /// Whatever keeps it from starting, with what to do.
    pub async fn start(app: App, shutdown: Shutdown) -> Result<Self, Error> {
        let lock = ServerLock::take(&app.store)?;
        app.store.migrate().await?;
        authorities::ensure(&app).await?;
        app.reload_trust().await?;
        // Before the first message is taken: what nobody knows of is told to nobody.
        app.reload_webhooks().await?;
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let settings = &app.settings;

        let device_certificate = device_certificate(&app).await?;
        let pages_certificate = pages_certificate(&app, device_certificate.as_ref()).await?;
        let device_tls = device_tls(&app, device_certificate.clone(), pages_certificate.clone())?;
        let proxies = Proxies::from(&settings.proxy);
        let health = Health {
            ready: ready_check(&app),
            shutdown: shutdown.clone(),
            metrics: metrics.clone(),
            metrics_token: settings.metrics.token.clone(),
            behind_proxy: settings.admin.behind_proxy,
        };
        let observe = |on_panic: fn() -> Response, routes: Router| {
            let observer = Observer {
                proxies: proxies.clone(),
                metrics: metrics.clone(),
                ids: Arc::new(RequestIds::new(&*app.random)),
                on_panic,
            };
            observer.around(routes)
        };

        let own_pages = settings.pages.listen.is_some();
        let mut device_routes = web::mdm::router(app.clone(), metrics.clone()).merge(health.clone().probes());
        let page_routes = page_routes(&app, &metrics);
        if !own_pages {
            device_routes = device_routes.merge(page_routes.clone());
        }
        let mut listeners = vec![Listener {
            name: "devices",
            socket: bind("devices.listen", settings.devices.listen).await?,
            tls: device_tls.clone(),
            app: observe(device_panic, device_routes),
            limits: Limits::from(&settings.devices),
            proxies: proxies.clone(),
        }];
        if let Some(address) = settings.pages.listen {
            let tls = pages_certificate.clone().map(Tls::without_client_certificates).transpose()?.map(Arc::new);
            listeners.push(Listener {
                name: "pages",
                socket: bind("pages.listen", address).await?,
                tls,
                app: observe(device_panic, page_routes.merge(health.clone().probes())),
                limits: Limits::from(&settings.devices),
                proxies: proxies.clone(),
            });
        }
        let admin_tls = admin_tls(settings)?;
        listeners.push(Listener {
            name: "admin",
            socket: bind("admin.listen", settings.admin.listen).await?,
            tls: admin_tls.as_ref().map(|(tls, ..)| Arc::clone(tls)),
            app: observe(
                admin_panic,
                web::api::router(app.clone(), metrics.clone()).merge(health.routes()).merge(web::compat::router(&app)),
            ),
            limits: Limits::default(),
            proxies: proxies.clone(),
        });
        let address = |name| listeners.iter().find(|l| l.name == name).and_then(|l| l.socket.local_addr().ok());
        let missing = || Error::Listen("a listener has no address".to_owned());
        let (devices, admin) = (address("devices").ok_or_else(missing)?, address("admin").ok_or_else(missing)?);
        let pages = address("pages");

        let mut background = Vec::new();
        if let Some((_, certificate, files)) = admin_tls {
            background.push(tokio::spawn(files.keep_fresh(
                certificate,
                CERTIFICATE_CHECK,
                shutdown.stopping().clone(),
            )));
        }
        background.push(tokio::spawn(keep_certificates(
            app.clone(),
            device_certificate,
            pages_certificate,
            shutdown.clone(),
        )));
        if let Some(tls) = device_tls {
            background.push(tokio::spawn(keep_trust(app.clone(), tls, shutdown.clone())));
        }
        let workers = tokio::spawn(worker::run(app.clone(), shutdown.stopping().clone(), observers(&metrics)));

        let serving = web::serve(listeners, shutdown.clone(), metrics.clone());
        let running = tokio::spawn(async move {
            let dropped = serving.await;
            // Requests are finished; what they made necessary is in the database. The workers end what they have begun.
            let _ = workers.await;
            for task in background {
                let _ = task.await;
            }
            app.store.close().await;
            drop(lock);
            dropped
        });
        Ok(Self { devices, pages, admin, shutdown, metrics, running })
    }

    /// Waits until it has stopped. Returns how many connections were dropped.
    pub async fn stopped(self) -> usize {
        self.running.await.unwrap_or_default()
    }
}

/// What the workers do, as the metrics count it.
fn observers(metrics: &Metrics) -> worker::Observers {
    let (counters, pruned, webhooks) = (metrics.clone(), metrics.clone(), metrics.clone());
    worker::Observers {
        pushed: Arc::new(move |result| counters.pushed(result)),
        pruned: Arc::new(move |bit: &Pruned| {
            pruned.pruned(&[
                ("reports", bit.reports),
                ("deliveries", bit.deliveries),
                ("commands", bit.commands),
                ("audit", bit.audit),
                ("dead_events", bit.dead_events),
            ]);
        }),
        webhooks: Arc::new(move |news: &WebhookNews| match news {
            WebhookNews::Ended(result, count) => webhooks.webhook_events_ended(result, *count),
            WebhookNews::Waiting(waiting) => webhooks.webhook_events_wait(waiting.count, waiting.oldest),
        }),
    }
}

/// The routes of pages, SCEP and packages.
fn page_routes(app: &App, metrics: &Metrics) -> Router {
    web::pages::router(app.clone(), metrics.clone())
        .merge(web::pki::router(app.clone(), metrics.clone()))
        .merge(web::packages::router(app.clone(), metrics.clone()))
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| Error::Listen(format!("{key}: cannot listen on {address}: {e}")))
}

fn ready_check(app: &App) -> web::health::ReadyCheck {
    let app = app.clone();
    Arc::new(move || {
        let app = app.clone();
        Box::pin(async move {
            app.store.ping().await.map_err(|_| "database")?;
            match app.store.sqlite_file() {
                Some(file) => has_room(&file, LEAST_ROOM),
                None => Ok(()),
            }
        })
    })
}

/// Whether a database file can grow by so many bytes. Reading goes on on a full disk, so the ping does not tell.
fn has_room(file: &Path, least: u64) -> Result<(), &'static str> {
    let directory = file.parent().unwrap_or(file);
    // A file system that cannot tell is no reason to send devices away.
    let free = rustix::fs::statvfs(directory).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if free < least { Err("disk space") } else { Ok(()) }
}

fn device_panic() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn admin_panic() -> Response {
    Problem::internal().into_response()
}

/// The certificate of the device listener; none behind a proxy.
async fn device_certificate(app: &App) -> Result<Option<Arc<ServerCertificate>>, Error> {
    let Some(identity) = authorities::tls_identity(app).await? else { return Ok(None) };
    Ok(Some(Arc::new(ServerCertificate::new(identity.rustls_chain(), identity.rustls_key())?)))
}

/// The certificate of the pages' own host or listener, where it is another than the device listener's.
async fn pages_certificate(
    app: &App,
    device: Option<&Arc<ServerCertificate>>,
) -> Result<Option<Arc<ServerCertificate>>, Error> {
    match authorities::pages_identity(app).await? {
        Some(identity) => Ok(Some(Arc::new(ServerCertificate::new(identity.rustls_chain(), identity.rustls_key())?))),
        None => Ok(device.cloned()),
    }
}

fn device_tls(
    app: &App,
    certificate: Option<Arc<ServerCertificate>>,
    pages: Option<Arc<ServerCertificate>>,
) -> Result<Option<Arc<Tls>>, Error> {
    let Some(certificate) = certificate else { return Ok(None) };
    let cas: Vec<_> = app.trust().roots.iter().map(rustls_certificate).collect();
    let mut tls = Tls::for_devices(certificate, &cas)?;
    let settings = &app.settings;
    if let (Some(url), None, Some(pages)) = (&settings.pages.public_url, settings.pages.listen, pages) {
        tls = tls.with_pages(&[url.host()], pages)?;
    }
    Ok(Some(Arc::new(tls)))
}

type AdminTls = (Arc<Tls>, Arc<ServerCertificate>, CertificateFiles);

fn admin_tls(settings: &Settings) -> Result<Option<AdminTls>, Error> {
    let (Some(chain), Some(key)) = (&settings.admin.tls_certificate, &settings.admin.tls_key) else { return Ok(None) };
    let files = CertificateFiles { chain: chain.clone(), key: key.clone() };
    let certificate = Arc::new(files.load()?);
    let tls = Arc::new(Tls::without_client_certificates(Arc::clone(&certificate))?);
    Ok(Some((tls, certificate, files)))
}

/// Takes over certificates that were renewed: in files by somebody, or the own ones by this or another process.
async fn keep_certificates(
    app: App,
    device: Option<Arc<ServerCertificate>>,
    pages: Option<Arc<ServerCertificate>>,
    shutdown: Shutdown,
) {
    if app.settings.devices.tls == DeviceTls::BehindProxy {
        return;
    }
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = shutdown.stopping().cancelled() => return,
            () = tokio::time::sleep(CERTIFICATE_CHECK) => {}
        }
        for (name, held, now) in [
            ("devices", &device, authorities::tls_identity(&app).await),
            ("pages", &pages, authorities::pages_identity(&app).await),
        ] {
            let Some(held) = held else { continue };
            let outcome = now.map_err(|e| e.to_string()).and_then(|identity| take_over(held, identity));
            match outcome {
                Ok(false) => {}
                Ok(true) => {
                    told.remove(name);
                    tracing::info!(listener = name, "the TLS certificate was renewed");
                }
                // Once, not every few seconds until somebody has mended the files.
                Err(why) if told.insert(name) => {
                    tracing::warn!(
                        listener = name,
                        why,
                        "the renewed TLS certificate cannot be used; the old one stays"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

/// Puts another certificate in place of the one that is held. False: it is the same, or there is none.
fn take_over(held: &ServerCertificate, identity: Option<Identity>) -> Result<bool, String> {
    let Some(identity) = identity.filter(|identity| held.chain() != identity.rustls_chain()) else { return Ok(false) };
    held.replace(identity.rustls_chain(), identity.rustls_key()).map_err(|e| e.to_string())?;
    Ok(true)
}

/// Tells TLS of device authorities that were imported or retired.
async fn keep_trust(app: App, tls: Arc<Tls>, shutdown: Shutdown) {
    let mut version = app.trust().version;
    loop {
        tokio::select! {
            () = shutdown.stopping().cancelled() => return,
            () = tokio::time::sleep(TRUST_CHECK) => {}
        }
        let trust = app.trust();
        if trust.version == version {
            continue;
        }
        version = trust.version;
        let cas: Vec<_> = trust.roots.iter().map(rustls_certificate).collect();
        if let Err(error) = tls.set_device_cas(&cas) {
            tracing::warn!(%error, "TLS does not ask for certificates of the changed device authorities");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_room_for_its_database_is_not_ready() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("muster.db");
        assert_eq!(has_room(&file, 1), Ok(()));
        assert_eq!(has_room(&file, u64::MAX), Err("disk space"));
    }
}
