//! What the server counts, for Prometheus.
//!
//! Every metric begins with `muster_`; [`DOCUMENTED`] is the list with labels and meaning, and the help texts come from
//! it. Labels take their values from small fixed sets (routes are templates such as `/enroll/{code}`), never from what a
//! client sends: neither the memory of the server nor that of Prometheus grows with the clients' imagination.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One line of the documentation of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Documented {
    /// The name as Prometheus shows it.
    pub name: &'static str,
    /// The labels.
    pub labels: &'static [&'static str],
    /// What is counted or measured.
    pub help: &'static str,
}

macro_rules! documented {
    ($($name:literal [$($label:literal),*] $help:literal)*) => {
        /// All metrics, in the order in which they are shown.
        pub const DOCUMENTED: &[Documented] = &[
            $(Documented { name: $name, labels: &[$($label),*], help: $help }),*
        ];
    };
}

documented! {
    "muster_build_info" ["version"] "The version that is running; the value is always 1"
    "muster_http_requests_total" ["route", "method", "status"] "Requests answered"
    "muster_http_request_duration_seconds" ["route"] "Time from a request's header to its answer's header"
    "muster_http_requests_in_flight" [] "Requests being worked on"
    "muster_connections_open" ["listener"] "Connections open now"
    "muster_connections_total" ["listener"] "Connections accepted"
    "muster_connections_refused_total" ["listener", "reason"] "Connections closed before their first request: too many from one address, TLS failed, too slow, or the system could not accept them"
    "muster_device_polls_total" ["answer"] "Command polls of devices, by what they got: a command, nothing, or a refusal"
    "muster_checkins_total" ["type", "result"] "Check-in messages"
    "muster_reports_total" ["status"] "Command reports of devices, by their status"
    "muster_pushes_total" ["result"] "Push notifications sent, by what the push service said"
    "muster_scep_requests_total" ["operation", "result"] "SCEP requests"
    "muster_proxy_headers_ignored_total" [] "Client certificate headers that did not come from a trusted proxy"
    "muster_sha1_signatures_total" [] "Requests accepted although they were signed with SHA-1"
    "muster_rate_limited_total" ["limit"] "Requests refused because their address made too many"
    "muster_pruned_total" ["what"] "Rows that were older than they are kept: deliveries (with all that belongs to them), commands, reports, rows of the audit log, and events that webhooks did not take (`dead_events`)"
    "muster_webhook_events_total" ["result"] "Events for webhooks, by what became of them: `delivered`; `failed`, which are tried again; `dead`, which were given up; `dropped`, since too much waited; and of polls `idle_delivered`, `idle_failed`, `idle_dropped`"
    "muster_webhook_events_waiting" [] "Events that wait for webhooks, as counted every 15 seconds; the same on each server"
    "muster_webhook_oldest_waiting_seconds" [] "How long the oldest of them has waited"
    "muster_database_errors_total" ["kind"] "Database operations that failed"
    "muster_panics_total" [] "Requests that ended in a fault of the program"
}

/// The counters of one server process. A clone counts into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

/// Names of labels with their values.
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Family<Labels<3>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    connections_open: Family<Labels<1>, Gauge>,
    connections: Family<Labels<1>, Counter>,
    connections_refused: Family<Labels<2>, Counter>,
    polls: Family<Labels<1>, Counter>,
    checkins: Family<Labels<2>, Counter>,
    reports: Family<Labels<1>, Counter>,
    pushes: Family<Labels<1>, Counter>,
    scep: Family<Labels<2>, Counter>,
    proxy_headers_ignored: Counter,
    sha1_signatures: Counter,
    rate_limited: Family<Labels<1>, Counter>,
    pruned: Family<Labels<1>, Counter>,
    webhook_events: Family<Labels<1>, Counter>,
    webhook_waiting: Gauge,
    webhook_oldest: Gauge,
    database_errors: Family<Labels<1>, Counter>,
    panics: Counter,
}

impl Metrics {
    /// Counters at zero, for the program's version.
    #[must_use]
    pub fn new(version: &str) -> Self {
        let mut r = Registry::default();
        let build: Labels<1> = [("version", Cow::Owned(version.to_owned()))];
        let (name, help) = described("muster_build_info");
        r.register(name, help, Info::new(build));
        Self(Arc::new(Inner {
            requests: register(&mut r, "muster_http_requests_total", Family::default()),
            durations: register(
                &mut r,
                "muster_http_request_duration_seconds",
                Family::new_with_constructor(duration_buckets),
            ),
            in_flight: register(&mut r, "muster_http_requests_in_flight", Gauge::default()),
            connections_open: register(&mut r, "muster_connections_open", Family::default()),
            connections: register(&mut r, "muster_connections_total", Family::default()),
            connections_refused: register(&mut r, "muster_connections_refused_total", Family::default()),
            polls: register(&mut r, "muster_device_polls_total", Family::default()),
            checkins: register(&mut r, "muster_checkins_total", Family::default()),
            reports: register(&mut r, "muster_reports_total", Family::default()),
            pushes: register(&mut r, "muster_pushes_total", Family::default()),
            scep: register(&mut r, "muster_scep_requests_total", Family::default()),
            proxy_headers_ignored: register(&mut r, "muster_proxy_headers_ignored_total", Counter::default()),
            sha1_signatures: register(&mut r, "muster_sha1_signatures_total", Counter::default()),
            rate_limited: register(&mut r, "muster_rate_limited_total", Family::default()),
            pruned: register(&mut r, "muster_pruned_total", Family::default()),
            webhook_events: register(&mut r, "muster_webhook_events_total", Family::default()),
            webhook_waiting: register(&mut r, "muster_webhook_events_waiting", Gauge::default()),
            webhook_oldest: register(&mut r, "muster_webhook_oldest_waiting_seconds", Gauge::default()),
            database_errors: register(&mut r, "muster_database_errors_total", Family::default()),
            panics: register(&mut r, "muster_panics_total", Counter::default()),
            registry: r,
        }))
    }

    /// All metrics as OpenMetrics text ([`CONTENT_TYPE`]).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    /// A request begins; it is in flight until the guard is dropped.
    #[must_use]
    pub fn request_begins(&self) -> Running {
        Running::of(self.0.in_flight.clone())
    }

    /// A request was answered. `route` is a template, `method` one of a fixed set.
    pub fn request_answered(&self, route: &str, method: &'static str, status: http::StatusCode, took: Duration) {
        let route = || labelled(route, &["/mdm", "/checkin", "/healthz", "/readyz"]);
        let status = labelled(status.as_str(), &["200", "400", "403", "500", "503"]);
        self.0.requests.get_or_create(&[("route", route()), ("method", method.into()), ("status", status)]).inc();
        self.0.durations.get_or_create(&[("route", route())]).observe(took.as_secs_f64());
    }

    /// A connection was accepted; it is open until the guard is dropped.
    #[must_use]
    pub fn connection_opened(&self, listener: &'static str) -> Running {
        self.0.connections.get_or_create(&[("listener", listener.into())]).inc();
        Running::of(self.0.connections_open.get_or_create_owned(&[("listener", listener.into())]))
    }

    /// A connection ended before it carried a request.
    pub fn connection_refused(&self, listener: &'static str, reason: &'static str) {
        self.0.connections_refused.get_or_create(&[("listener", listener.into()), ("reason", reason.into())]).inc();
    }

    /// A device polled for a command and got `answer`: `command`, `empty` or `refused`.
    pub fn device_polled(&self, answer: &'static str) {
        self.0.polls.get_or_create(&[("answer", answer.into())]).inc();
    }

    /// A check-in message of this type (`other` if it is unknown) was handled: `ok`, `refused` or `failed`.
    pub fn checked_in(&self, kind: &'static str, result: &'static str) {
        self.0.checkins.get_or_create(&[("type", kind.into()), ("result", result.into())]).inc();
    }

    /// A device reported this status (`other` if it is unknown).
    pub fn reported(&self, status: &'static str) {
        self.0.reports.get_or_create(&[("status", status.into())]).inc();
    }

    /// A push was sent: `accepted`, `refused`, `later` or `unreachable`.
    pub fn pushed(&self, result: &'static str) {
        self.0.pushes.get_or_create(&[("result", result.into())]).inc();
    }

    /// A SCEP request was answered.
    pub fn scep_answered(&self, operation: &'static str, result: &'static str) {
        self.0.scep.get_or_create(&[("operation", operation.into()), ("result", result.into())]).inc();
    }

    /// A client certificate header came from an address that is not trusted.
    pub fn proxy_header_ignored(&self) {
        self.0.proxy_headers_ignored.inc();
    }

    /// A signature with SHA-1 was accepted.
    pub fn sha1_signature_accepted(&self) {
        self.0.sha1_signatures.inc();
    }

    /// A request was refused by the limit of this name.
    pub fn rate_limited(&self, limit: &'static str) {
        self.0.rate_limited.get_or_create(&[("limit", limit.into())]).inc();
    }

    /// So many rows of each kind were old, and were taken away.
    pub fn pruned(&self, rows: &[(&'static str, u64)]) {
        for (what, rows) in rows.iter().filter(|(_, rows)| *rows > 0) {
            self.0.pruned.get_or_create(&[("what", (*what).into())]).inc_by(*rows);
        }
    }

    /// So many events for webhooks came to this result.
    pub fn webhook_events_ended(&self, result: &'static str, count: u64) {
        self.0.webhook_events.get_or_create(&[("result", result.into())]).inc_by(count);
    }

    /// So many events wait for webhooks, the oldest so long.
    pub fn webhook_events_wait(&self, count: i64, oldest: Duration) {
        self.0.webhook_waiting.set(count);
        self.0.webhook_oldest.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }

    /// A database operation failed, for instance `unavailable` or `full`.
    pub fn database_failed(&self, kind: &'static str) {
        self.0.database_errors.get_or_create(&[("kind", kind.into())]).inc();
    }

    /// A request ended in a panic.
    pub fn panicked(&self) {
        self.0.panics.inc();
    }
}

/// Something that is going on, counted by a gauge until this is dropped.
#[derive(Debug)]
pub struct Running(Gauge);

impl Running {
    fn of(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A label's value, without a copy if it is one of those that come all the time.
fn labelled(value: &str, frequent: &[&'static str]) -> Cow<'static, str> {
    match frequent.iter().find(|known| **known == value) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(value.to_owned()),
    }
}

/// Half a millisecond to ten seconds.
fn duration_buckets() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// Registers a metric under a documented name.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    let (stem, help) = described(name);
    registry.register(stem, help, metric.clone());
    metric
}

/// The name without the suffix that belongs to the metric's kind, which the library appends, and the help.
fn described(name: &'static str) -> (&'static str, &'static str) {
    let help = DOCUMENTED.iter().find(|documented| documented.name == name).map_or("", |documented| documented.help);
    (name.strip_suffix("_total").or_else(|| name.strip_suffix("_info")).unwrap_or(name), help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn every_documented_metric_is_shown_and_no_other() {
        let metrics = Metrics::new("1.2.3");
        metrics.request_answered("/mdm", "PUT", StatusCode::OK, Duration::from_millis(3));
        let (_request, _connection) = (metrics.request_begins(), metrics.connection_opened("devices"));
        metrics.connection_refused("devices", "tls");
        metrics.device_polled("empty");
        metrics.checked_in("Authenticate", "ok");
        metrics.reported("Acknowledged");
        metrics.pushed("accepted");
        metrics.scep_answered("PKIOperation", "success");
        metrics.proxy_header_ignored();
        metrics.sha1_signature_accepted();
        metrics.rate_limited("scep");
        metrics.pruned(&[("reports", 3), ("audit", 0)]);
        metrics.webhook_events_ended("delivered", 2);
        metrics.webhook_events_wait(3, Duration::from_secs(60));
        metrics.database_failed("unavailable");
        metrics.panicked();

        let text = metrics.render();
        for documented in DOCUMENTED {
            let stem = documented.name;
            let line = text
                .lines()
                .find(|line| line.strip_prefix(stem).is_some_and(|rest| rest.starts_with([' ', '{', '_'])))
                .unwrap_or_else(|| panic!("{stem} is not shown:\n{text}"));
            for label in documented.labels {
                assert!(line.contains(&format!("{label}=\"")), "{line} has no {label}");
            }
        }
        let shown = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(shown, DOCUMENTED.len());
        assert!(text.contains("muster_build_info{version=\"1.2.3\"} 1"), "{text}");
        assert!(text.contains("muster_http_requests_total{route=\"/mdm\",method=\"PUT\",status=\"200\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_has_ended_is_no_longer_counted() {
        let metrics = Metrics::new("1");
        drop(metrics.request_begins());
        drop(metrics.connection_opened("admin"));
        let text = metrics.render();
        assert!(text.contains("muster_http_requests_in_flight 0"), "{text}");
        assert!(text.contains("muster_connections_open{listener=\"admin\"} 0"), "{text}");
    }

    #[test]
    fn the_page_about_metrics_lists_them_all() {
        let page = include_str!("../../docs/operate/metrics.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `muster_")).collect();
        let expected: Vec<String> = DOCUMENTED
            .iter()
            .map(|metric| {
                let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
                let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
                format!("| `{}` | {labels} | {} |", metric.name, metric.help)
            })
            .collect();
        assert_eq!(rows, expected);
    }
}
