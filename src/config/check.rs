//! What settings must hold together.

use std::time::Duration;

use super::DatabaseUrl;
use super::reader::Reader;
use super::settings::{Admin, DeviceTls, Devices, Pages, ProfileSigning, Proxy, Settings};
use super::value::{Keep, Size};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Notes what is out of range, and what does not go together.
pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    ranges(settings, reader);
    devices(&settings.devices, &settings.proxy, reader);
    pages(settings, &settings.pages, reader);
    if settings.profiles.signing == ProfileSigning::Tls && settings.devices.tls == DeviceTls::BehindProxy {
        let problem = "\"tls\", though behind a proxy this server has no TLS certificate";
        reader.fault("profiles.signing", &["devices.tls"], problem, "\"auto\" or \"own\"");
    }
    admin(&settings.admin, &settings.proxy, reader);
    trusted(&settings.proxy, reader);
    listeners(settings, reader);
    database(settings, reader);
    texts(settings, reader);
    pair(
        reader,
        "vendor",
        ("certificate", settings.vendor.certificate.is_some()),
        ("key", settings.vendor.key.is_some()),
    );
    if settings.log.level.parse::<tracing_subscriber::filter::Targets>().is_err() {
        let expected = "a level (error, warn, info, debug, trace), or such as info,muster::remote=debug";
        reader.fault("log.level", &[], &format!("{:?} is no level", settings.log.level), expected);
    }
}

fn ranges(settings: &Settings, reader: &mut Reader) {
    let number = |value: u32| value.to_string();
    reader.within("database.max_connections", settings.database.max_connections, 2..=1000, number);
    reader.within("devices.max_connections", settings.devices.max_connections, 1..=1_000_000, number);
    reader.within("scep.requests_per_minute", settings.scep.requests_per_minute, 1..=1_000_000, number);
    reader.within("enrollment.requests_per_minute", settings.enrollment.requests_per_minute, 1..=1_000_000, number);
    reader.within("compat.max_destructive_targets", settings.compat.max_destructive_targets, 1..=10_000, number);
    reader.within("hooks.max_attempts", settings.hooks.max_attempts, 1..=10_000, number);
    reader.within("hooks.concurrency", settings.hooks.concurrency, 1..=64, number);
    reader.within("hooks.max_waiting", settings.hooks.max_waiting, 1..=100_000_000, number);
    reader.within("push.concurrency", settings.push.concurrency, 1..=10_000, number);
    reader.within("enrollment.access_rights", settings.enrollment.access_rights, 1..=8191, number);
    for (key, value) in [
        ("devices.handshake_timeout", settings.devices.handshake_timeout),
        ("devices.header_timeout", settings.devices.header_timeout),
        ("devices.body_timeout", settings.devices.body_timeout),
        ("devices.request_timeout", settings.devices.request_timeout),
        ("admin.request_timeout", settings.admin.request_timeout),
    ] {
        reader.within(key, value, SECOND..=HOUR, duration);
    }
    reader.within("devices.signing_time_skew", settings.devices.signing_time_skew, SECOND..=DAY * 3650, duration);
    reader.within("devices.identity_grace", settings.devices.identity_grace, Duration::ZERO..=DAY * 3650, duration);
    reader.within("scep.challenge_lifetime", settings.scep.challenge_lifetime, SECOND * 60..=DAY * 30, duration);
    reader.within("scep.certificate_lifetime", settings.scep.certificate_lifetime, DAY..=DAY * 1825, duration);
    reader.within("push.sync_interval", settings.push.sync_interval, SECOND * 60..=DAY * 7, duration);
    reader.within("hooks.retry_for", settings.hooks.retry_for, SECOND * 60..=DAY * 30, duration);
    reader.within("push.expiration", settings.push.expiration, HOUR..=DAY * 30, duration);
    for (key, keep) in [
        ("retention.commands", settings.retention.commands),
        ("retention.reports", settings.retention.reports),
        ("retention.audit", settings.retention.audit),
        ("retention.dead_events", settings.retention.dead_events),
    ] {
        if let Keep::For(span) = keep {
            reader.within(key, span, HOUR..=DAY * 36_500, duration);
        }
    }
    let bytes = Size::of;
    reader.within(
        "devices.max_checkin_size",
        settings.devices.max_checkin_size,
        bytes(64 << 10)..=bytes(16 << 20),
        size,
    );
    reader.within("devices.max_report_size", settings.devices.max_report_size, bytes(1 << 20)..=bytes(256 << 20), size);
    // Less would refuse a message that is allowed, for ever.
    let largest = settings.devices.max_report_size.max(settings.devices.max_checkin_size);
    reader.within("devices.body_memory", settings.devices.body_memory, largest..=bytes(1 << 40), size);
    reader.within("admin.max_body_size", settings.admin.max_body_size, bytes(64 << 10)..=bytes(256 << 20), size);
}

fn devices(devices: &Devices, proxy: &Proxy, reader: &mut Reader) {
    let (certificate, key) = (devices.tls_certificate.is_some(), devices.tls_key.is_some());
    match devices.tls {
        DeviceTls::Files => {
            for (key, is_set) in [("devices.tls_certificate", certificate), ("devices.tls_key", key)] {
                if !is_set {
                    reader.fault(key, &["devices.tls"], "is missing, though devices.tls is \"files\"", "a PEM file");
                }
            }
        }
        DeviceTls::Own | DeviceTls::BehindProxy => {
            for (key, is_set) in [("devices.tls_certificate", certificate), ("devices.tls_key", key)] {
                if is_set {
                    let problem = "is given, but would not be used";
                    reader.fault(key, &["devices.tls"], problem, "devices.tls = \"files\" beside it");
                }
            }
        }
    }
    if devices.tls == DeviceTls::BehindProxy && proxy.trusted.is_empty() {
        let problem = "\"behind_proxy\" with an empty proxy.trusted would serve plain HTTP to anyone";
        reader.fault("devices.tls", &["proxy.trusted"], problem, "the proxy's address in proxy.trusted");
    }
}

fn pages(settings: &Settings, pages: &Pages, reader: &mut Reader) {
    pair(reader, "pages", ("tls_certificate", pages.tls_certificate.is_some()), ("tls_key", pages.tls_key.is_some()));
    if pages.tls_certificate.is_some() && settings.devices.tls != DeviceTls::Files {
        let problem = "is given, but would not be used";
        reader.fault("pages.tls_certificate", &["devices.tls"], problem, "devices.tls = \"files\" beside it");
    }
    match (&pages.public_url, pages.listen) {
        (None, Some(_)) => {
            let problem = "there is a listener for pages without a URL for it";
            reader.fault("pages.listen", &["pages.public_url"], problem, "pages.public_url beside it");
        }
        (Some(url), None) if url.host() == settings.public_url.host() => {
            let problem = "has the host of public_url, and no listener of its own: they cannot be told apart";
            reader.fault("pages.public_url", &["public_url"], problem, "another host name, or pages.listen");
        }
        (Some(url), None) if url.host().parse::<std::net::IpAddr>().is_ok() => {
            let problem = "is an IP address, which TLS cannot tell apart, and there is no listener of its own";
            reader.fault("pages.public_url", &["public_url"], problem, "a host name, or pages.listen");
        }
        (Some(url), Some(_)) if *url == settings.public_url => {
            reader.fault("pages.public_url", &["public_url"], "is the same as public_url", "another host or port");
        }
        _ => {}
    }
}

fn admin(admin: &Admin, proxy: &Proxy, reader: &mut Reader) {
    pair(reader, "admin", ("tls_certificate", admin.tls_certificate.is_some()), ("tls_key", admin.tls_key.is_some()));
    let has_tls = admin.tls_certificate.is_some() && admin.tls_key.is_some();
    if !admin.listen.ip().is_loopback() && !has_tls && !admin.behind_proxy {
        let problem =
            format!("{} can be reached by others, and tokens would cross the network unencrypted", admin.listen);
        let expected = "a loopback address, or admin.tls_certificate and admin.tls_key, or admin.behind_proxy = true";
        let about = ["admin.tls_certificate", "admin.tls_key", "admin.behind_proxy"];
        reader.fault("admin.listen", &about, &problem, expected);
    }
    if admin.behind_proxy && !admin.listen.ip().is_loopback() && proxy.trusted.is_empty() {
        let problem = "true, on an address that others can reach, with an empty proxy.trusted";
        let expected = "the proxy's address in proxy.trusted";
        reader.fault("admin.behind_proxy", &["proxy.trusted", "admin.listen"], problem, expected);
    }
}

fn trusted(proxy: &Proxy, reader: &mut Reader) {
    if proxy.trusted.iter().any(super::Network::is_everything) {
        let problem = "holds every address: anyone could pose as any device by a header";
        reader.fault("proxy.trusted", &[], problem, "the addresses of the proxies alone");
    }
}

fn listeners(settings: &Settings, reader: &mut Reader) {
    let mut taken = vec![("devices.listen", settings.devices.listen)];
    for (key, address) in [("admin.listen", Some(settings.admin.listen)), ("pages.listen", settings.pages.listen)] {
        let Some(address) = address else { continue };
        // Port 0 is any free one.
        let same = taken.iter().find(|(_, other)| address.port() != 0 && *other == address).map(|(other, _)| *other);
        if let Some(other) = same {
            reader.fault(key, &[other], &format!("{address} is taken by {other}"), "an address and port of its own");
        }
        taken.push((key, address));
    }
}

fn database(settings: &Settings, reader: &mut Reader) {
    if let Some(direct) = &settings.database.direct_url
        && (matches!(direct, DatabaseUrl::Sqlite(_)) || matches!(settings.database.url, DatabaseUrl::Sqlite(_)))
    {
        let problem = "leads past a pooler, and SQLite has none";
        reader.fault("database.direct_url", &["database.url"], problem, "PostgreSQL in both, or no direct_url");
    }
}

fn texts(settings: &Settings, reader: &mut Reader) {
    let shortest = 16;
    let compat = &settings.compat;
    for (key, secret) in [
        ("metrics.token", &settings.metrics.token),
        ("compat.nanomdm", &compat.nanomdm),
        ("compat.declarative_management_key", &compat.declarative_management_key),
    ] {
        if secret.as_ref().is_some_and(|secret| secret.expose().len() < shortest) {
            reader.fault(key, &[], "is too short to be a secret", "at least 16 characters");
        }
    }
    if compat.declarative_management_key.is_some() && compat.declarative_management_url.is_none() {
        let (key, about) = ("compat.declarative_management_key", ["compat.declarative_management_url"]);
        reader.fault(key, &about, "is given, but would not be used", "compat.declarative_management_url beside it");
    }
    for (key, text) in [
        ("organization.name", &settings.organization.name),
        ("enrollment.display_name", &settings.enrollment.display_name),
        ("enrollment.profile_identifier", &settings.enrollment.profile_identifier),
    ] {
        if text.trim().is_empty() {
            reader.fault(key, &[], "is empty", "a text, which people and devices are shown");
        }
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !settings.enrollment.profile_identifier.chars().all(allowed) {
        let problem = format!("{:?} is no identifier", settings.enrollment.profile_identifier);
        let expected = "letters, digits, dots and hyphens, such as org.example.mdm";
        reader.fault("enrollment.profile_identifier", &[], &problem, expected);
    }
}

/// Both or neither of a certificate and its key.
fn pair(reader: &mut Reader, section: &str, one: (&str, bool), other: (&str, bool)) {
    let (given, missing) = match (one.1, other.1) {
        (true, false) => (one.0, other.0),
        (false, true) => (other.0, one.0),
        _ => return,
    };
    let (given, missing) = (format!("{section}.{given}"), format!("{section}.{missing}"));
    reader.fault(&given, &[&missing], &format!("is given without {missing}"), "both or neither");
}

/// In the largest unit that needs no fraction.
fn duration(value: Duration) -> String {
    let millis = value.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match units.iter().find(|(_, factor)| millis.is_multiple_of(*factor)) {
        Some((unit, factor)) if millis > 0 => format!("{}{unit}", millis / factor),
        _ => format!("{millis}ms"),
    }
}

/// In the largest unit that needs no fraction.
fn size(value: Size) -> String {
    let bytes = value.bytes();
    match [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .iter()
        .find(|(_, factor)| bytes.is_multiple_of(*factor))
    {
        Some((unit, factor)) if bytes > 0 => format!("{}{unit}", bytes / factor),
        _ => format!("{bytes}B"),
    }
}
