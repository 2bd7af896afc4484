//! How others reach the server, and how it reaches Apple. What cannot be known from here is a warning, no fault: the
//! way from outside may be another one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::finding::Report;
use super::{Patient, authorities};
use crate::config::{DeviceTls, PublicUrl, Settings};

/// The time for a name, and for a connection.
const PATIENCE: Duration = Duration::from_secs(3);
/// Networks with fewer bits hold more machines than anybody has proxies.
const WIDE_IPV4: u8 = 16;
const WIDE_IPV6: u8 = 48;

/// That the URLs and the listeners go together, as far as can be told without the network.
pub(super) fn ports(report: &mut Report, settings: &Settings) {
    let listen = settings.devices.listen;
    port(report, "public_url", &settings.public_url, listen, settings);
    if let Some(url) = &settings.pages.public_url {
        port(report, "pages_url", url, settings.pages.listen.unwrap_or(listen), settings);
    }
}

/// The URLs that devices and people use.
pub(super) async fn public_urls(report: &mut Report, settings: &Settings) {
    reach(report, "public_url", &settings.public_url).await;
    if let Some(url) = &settings.pages.public_url {
        reach(report, "pages_url", url).await;
    }
}

fn port(report: &mut Report, check: &'static str, url: &PublicUrl, listen: SocketAddr, settings: &Settings) {
    if settings.devices.tls != DeviceTls::BehindProxy && url.port() != listen.port() {
        let found = format!("devices connect to port {}, and the server listens on port {}", url.port(), listen.port());
        let action = "make sure that something forwards the one to the other, or make them the same";
        report.warn(check, found, action);
    }
}

async fn reach(report: &mut Report, check: &'static str, url: &PublicUrl) {
    let host = url.host();
    let is_local = host == "localhost" || host.ends_with(".localhost") || is_loopback(&host);
    if is_local {
        let action = "that is enough for a trial with simulated devices; before a real one enrolls set public_url to a name \
                      that devices reach and that will last";
        report.warn(check, format!("{url} leads to this machine only"), action);
    } else if host.parse::<IpAddr>().is_ok() {
        let action = "use a host name: enrolled devices never accept another URL, and an address may have to change";
        report.warn(check, format!("{url} is an address"), action);
    }
    let addresses = match resolve(&host, url.port()).await {
        Ok(addresses) => addresses,
        Err(why) => {
            report.warn(check, format!("{url}: {why}"), "enter the name in the DNS that devices ask");
            return;
        }
    };
    if !is_local && addresses.iter().all(|address| address.ip().is_loopback()) {
        report.warn(check, format!("{host} is this machine's loopback address here"), "look at /etc/hosts and the DNS");
    }
    match connect(&addresses).await {
        Ok(address) => report.ok(check, format!("{url} answers at {address}")),
        Err(why) => {
            let action =
                "start the server, or look at the firewall and the forwarding; from outside it may work all the same";
            report.warn(check, format!("{url} cannot be reached from here: {why}"), action);
        }
    }
}

/// Apple's push service.
pub(super) async fn push_service(report: &mut Report, settings: &Settings) {
    let check = "push_service";
    let url = settings.push.endpoint.url();
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    let outcome = match resolve(host, port).await {
        Ok(addresses) => connect(&addresses).await,
        Err(why) => Err(why),
    };
    match outcome {
        Ok(_) => report.ok(check, format!("{host}:{port} answers")),
        Err(why) => {
            let action = "let this machine open connections to it (Apple: 17.0.0.0/8, ports 443 and 2197): without it no \
                          device is woken";
            report.warn(check, format!("{host}:{port} cannot be reached: {why}"), action);
        }
    }
}

/// Whether devices that were taken over are bound to whatever certificate they come with.
pub(super) fn first_use(report: &mut Report, settings: &Settings) {
    if settings.devices.pin_on_first_use {
        let found = "devices.pin_on_first_use is on: a device that was taken over is bound to the first certificate that \
                     somebody presents for it";
        report.warn("settings", found, "switch it off when the devices have come");
    }
}

/// Who may speak for devices in headers.
pub(super) fn proxy(report: &mut Report, settings: &Settings) {
    let check = "proxy";
    let trusted = &settings.proxy.trusted;
    if trusted.is_empty() {
        report.ok(check, "none is trusted: headers that name a client certificate or address are ignored");
        return;
    }
    let names: Vec<_> = trusted.iter().map(ToString::to_string).collect();
    let wide: Vec<_> = trusted
        .iter()
        .filter(|network| network.prefix() < if network.is_ipv4() { WIDE_IPV4 } else { WIDE_IPV6 })
        .map(ToString::to_string)
        .collect();
    if wide.is_empty() {
        report.ok(check, format!("trusted: {}", names.join(", ")));
    } else {
        let found = format!("every machine in {} can pose as any device by a header", wide.join(", "));
        report.warn(check, found, "name the proxies alone in proxy.trusted");
    }
    if settings.devices.tls == DeviceTls::BehindProxy && !settings.enrollment.sign_message {
        let found = "devices do not sign their messages, so all depends on the proxy";
        let action = format!(
            "make sure that it hands on each client certificate in {} and takes away what clients send there",
            settings.proxy.identity_header
        );
        report.warn(check, found, action);
    }
}

/// Who can reach the API.
pub(super) fn admin(report: &mut Report, patient: &Patient<'_>) {
    let check = "admin";
    let admin = &patient.settings.admin;
    let listen = admin.listen;
    match (&admin.tls_certificate, &admin.tls_key) {
        (Some(chain), Some(key)) => {
            report.ok(check, format!("{listen}, with TLS"));
            authorities::files(report, "admin_tls", (chain, key), &[], patient.now);
        }
        _ if listen.ip().is_loopback() => report.ok(check, format!("{listen}, this machine only")),
        _ if admin.behind_proxy && listen.ip().is_unspecified() => {
            let found = format!("{listen} is plain HTTP on every address of this machine");
            report.warn(
                check,
                found,
                "listen on the one address that the proxy uses, or let a firewall keep others out",
            );
        }
        _ => report.ok(check, format!("{listen}, behind a proxy")),
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match timeout(PATIENCE, lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.collect();
            if addresses.is_empty() { Err(format!("{host} has no address")) } else { Ok(addresses) }
        }
        Ok(Err(why)) => Err(format!("{host} does not resolve: {why}")),
        Err(_) => Err(format!("{host} does not resolve within {} s", PATIENCE.as_secs())),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    let mut last = "no address".to_owned();
    for address in addresses.iter().take(4) {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(*address),
            Ok(Err(why)) => last = format!("{address}: {why}"),
            Err(_) => last = format!("{address}: no answer within {} s", PATIENCE.as_secs()),
        }
    }
    Err(last)
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
