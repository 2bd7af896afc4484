//! `/api/v1/server`

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use crate::model::{Sha256, Timestamp};
use crate::service::server::Overview;
use crate::service::{App, server};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(get_server))
}

/// The server: what it is, where it is, and how it fares.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Server {
    /// The program's version.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// The server's time.
    time: Timestamp,
    /// The organization's name.
    #[schema(example = "Example School")]
    organization: String,
    /// The kind of database: `sqlite` or `postgres`.
    #[schema(example = "sqlite")]
    database: &'static str,
    urls: Urls,
    /// Devices by the state of their enrollment.
    #[schema(example = json!({"enabled": 25, "disabled": 2}))]
    devices: BTreeMap<String, i64>,
    /// Open deliveries by state.
    #[schema(example = json!({"queued": 3, "sent": 1}))]
    deliveries: BTreeMap<String, i64>,
    push: Push,
    jobs: Jobs,
}

/// Where devices and people find the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Urls {
    /// The URL that devices use.
    #[schema(example = "https://mdm.example.org")]
    devices: String,
    /// Where people open enrollment links.
    #[schema(example = "https://enroll.example.org/enroll")]
    enroll: String,
    /// Where certificates are obtained.
    #[schema(example = "https://enroll.example.org/scep")]
    scep: String,
}

/// Whether devices can be woken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Push {
    /// Whether devices can enroll and all that are enrolled can be woken.
    ready: bool,
    /// What is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["there is no push certificate: no device can enroll"]))]
    problems: Vec<String>,
    /// Wake-ups that are due.
    due: i64,
    certificates: Vec<PushTopic>,
}

/// A push certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PushTopic {
    #[schema(example = "com.apple.mgmt.External.7f3a")]
    topic: String,
    sha256: Sha256,
    /// Until when it holds.
    expires_at: Timestamp,
    /// Whether new enrollments use it.
    default: bool,
    /// How many enrollments use it.
    enrolled: i64,
}

/// Work of the server itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Jobs {
    /// Jobs that wait for their time.
    waiting: i64,
    /// Jobs that failed too often and were given up.
    dead: i64,
}

/// Show the server
///
/// What it is, where it is, how many devices it manages, and whether it can wake them.
#[utoipa::path(get, path = "/api/v1/server", tag = "Server", responses((status = 200, body = Server)))]
async fn get_server(State(app): State<App>) -> Result<Json<Server>, Problem> {
    let now = app.clock.now();
    let overview = server::overview(&app).await?;
    let settings = &app.settings;
    let push = push(&overview, now);
    Ok(Json(Server {
        version: env!("CARGO_PKG_VERSION"),
        time: now,
        organization: settings.organization.name.clone(),
        database: overview.database,
        urls: Urls {
            devices: settings.public_url.to_string(),
            enroll: settings.pages_url().at("/enroll"),
            scep: settings.pages_url().at("/scep"),
        },
        devices: overview.devices.into_iter().collect(),
        deliveries: overview.deliveries.into_iter().collect(),
        push,
        jobs: Jobs { waiting: overview.jobs_waiting, dead: overview.jobs_dead },
    }))
}

fn push(overview: &Overview, now: Timestamp) -> Push {
    let certificates = &overview.push_certificates;
    let enrolled = |topic: &str| {
        let count = overview.enrolled_by_topic.iter().find(|(of, _)| of.as_deref() == Some(topic));
        count.map_or(0, |(_, count)| *count)
    };
    let mut problems = Vec::new();
    match certificates.iter().find(|row| row.is_default) {
        None => problems.push("there is no push certificate for new enrollments: no device can enroll".to_owned()),
        Some(row) if row.not_after <= now => {
            problems.push(format!("the push certificate for new enrollments expired on {}", row.not_after));
        }
        Some(_) => {}
    }
    for (topic, count) in overview.enrolled_by_topic.iter().filter_map(|(topic, count)| Some((topic.as_ref()?, count)))
    {
        match certificates.iter().find(|row| row.topic == *topic) {
            None => problems.push(format!("{count} enrollments have the topic {topic}, which has no certificate")),
            Some(row) if row.not_after <= now && !row.is_default => {
                problems.push(format!("the push certificate for topic {topic} expired on {}", row.not_after));
            }
            Some(_) => {}
        }
    }
    Push {
        ready: problems.is_empty(),
        problems,
        due: overview.wakes_due,
        certificates: certificates
            .iter()
            .map(|row| PushTopic {
                topic: row.topic.clone(),
                sha256: row.sha256,
                expires_at: row.not_after,
                default: row.is_default,
                enrolled: enrolled(&row.topic),
            })
            .collect(),
    }
}
