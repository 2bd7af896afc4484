//! `/api/v1/apns`: push certificates and requests for them.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::cursor::{Page, Window};
use super::fault::invalid_request;
use super::file::{File, kind_of};
use super::input::{At, Body, Creation, Query, Upload, parse};
use super::output::Made;
use crate::model::{PushRequestId, Secret, Sha256, Timestamp};
use crate::service::push_certificates::{self, Kept, NewCertificate, NewRequest, Overview, Requested};
use crate::service::{App, Fault};

const JSON: &str = "application/json";
/// The types that certificates may come with.
const TAKEN: &[&str] =
    &["application/x-pem-file", "application/x-pkcs12", "application/octet-stream", "text/plain", JSON];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_push_requests, create_push_request))
        .routes(routes!(get_push_request, delete_push_request))
        .routes(routes!(list_push_certificates, put_push_certificate))
        .routes(routes!(get_push_certificate, change_push_certificate, delete_push_certificate))
}

/// A request for a push certificate. Its key stays on the server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PushRequest {
    id: PushRequestId,
    /// The request for a certificate (PKCS#10), PEM: what a vendor signs.
    #[schema(example = "-----BEGIN CERTIFICATE REQUEST-----\n…\n-----END CERTIFICATE REQUEST-----\n")]
    csr: String,
    /// The request signed by the vendor whose certificate is set (`vendor.certificate`), ready to be uploaded at Apple's
    /// portal. Not in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_request: Option<String>,
    created_at: Timestamp,
    #[schema(example = "help desk")]
    created_by: String,
    /// When the certificate that answers it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_at: Option<Timestamp>,
}

impl From<Requested> for PushRequest {
    fn from(requested: Requested) -> Self {
        Self {
            id: requested.id,
            csr: requested.csr_pem,
            signed_request: requested.signed_request,
            created_at: requested.created_at,
            created_by: requested.created_by,
            answered_at: requested.answered_at,
        }
    }
}

/// Which requests for push certificates.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PushRequestQuery {
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// What stands in a request. Apple takes no notice of it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "mdm@example.org"}))]
pub(super) struct NewPushRequest {
    /// A name; the organization's where nothing is said.
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    /// An e-mail address.
    #[schema(max_length = 128)]
    email: Option<String>,
}

/// A push certificate, without its key.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PushCertificate {
    /// The topic that devices are enrolled under; it stays the same when the certificate is renewed.
    #[schema(example = "com.apple.mgmt.External.6f1d4b0a-2c55-4f0e-9a5e-0d1b8f3e7c21")]
    topic: String,
    #[schema(example = "UID=com.apple.mgmt.External.6f1d4b0a-2c55-4f0e-9a5e-0d1b8f3e7c21, CN=APSP:6f1d4b0a, C=US")]
    subject: String,
    sha256: Sha256,
    not_before: Timestamp,
    /// When it expires. Renew it before, under the same Apple Account.
    not_after: Timestamp,
    /// Whether it has expired: its devices are not woken.
    expired: bool,
    /// What keeps it from being used, a sentence each. Only what came by the NanoMDM interface has others than its age.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
    /// Whether new devices enroll under its topic.
    default: bool,
    /// How many devices are enrolled under its topic.
    devices: i64,
    /// When it was stored.
    created_at: Timestamp,
    #[schema(example = "help desk")]
    created_by: String,
}

impl PushCertificate {
    fn of(app: &App, kept: Kept) -> Self {
        Self {
            expired: kept.not_after <= app.clock.now(),
            faults: kept.faults,
            topic: kept.topic,
            subject: kept.subject,
            sha256: kept.sha256,
            not_before: kept.not_before,
            not_after: kept.not_after,
            default: kept.is_default,
            devices: kept.devices,
            created_at: kept.created_at,
            created_by: kept.created_by,
        }
    }
}

/// All push certificates, and devices without one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PushCertificates {
    /// The default first.
    items: Vec<PushCertificate>,
    /// Topics of enrolled devices for which there is no certificate: those are not woken.
    without_certificate: Vec<TopicWithout>,
}

/// A topic without a certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopicWithout {
    #[schema(example = "com.apple.mgmt.External.0a7c3b52-8d1e-4a39-b0c4-5f2d9e6a1b38")]
    topic: String,
    /// How many devices are enrolled under it.
    devices: i64,
}

/// A push certificate in JSON, for what needs a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"file": "MIIKZQIBAzCC…", "password": "correct horse"}))]
pub(super) struct PushCertificateFile {
    /// PEM as it is, or a .p12 file or DER in base64.
    #[schema(min_length = 1)]
    file: String,
    /// The password of the .p12 file, or of the key in PEM.
    #[schema(max_length = 1024)]
    password: Option<String>,
}

/// How a push certificate is stored.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Storing {
    /// Whether new devices enroll by it. Where nothing is said: as its predecessor for the topic; without one, yes. Saying
    /// it tells, too, that a certificate for another topic is meant to stand beside the present one.
    default: Option<bool>,
    /// Store it even though devices lose by it.
    force: Option<bool>,
}

/// How a push certificate is taken away.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Removal {
    /// Take it away even though devices are enrolled under its topic: they are not woken from then on.
    force: Option<bool>,
}

/// What is to be different about a push certificate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"default": true}))]
pub(super) struct PushCertificateChange {
    /// `true`: new devices enroll by this one from now on. Those that are enrolled stay with theirs.
    default: bool,
}

/// List the requests for push certificates
///
/// Newest first; those that were answered too.
#[utoipa::path(get, path = "/api/v1/apns/requests", tag = "Push", params(PushRequestQuery),
    responses((status = 200, body = Page<PushRequest>)))]
async fn list_push_requests(
    State(app): State<App>,
    Query { value: query, list }: Query<PushRequestQuery>,
) -> Result<Json<Page<PushRequest>>, Problem> {
    let window = Window::<PushRequestId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let requests = push_certificates::requests(&app, window.after, window.rows()).await?;
    Ok(Json(window.page(requests, |requested| requested.id, PushRequest::from)))
}

/// Request a push certificate
///
/// Makes a key, which stays here, and the request that Apple's push certificate portal turns into a certificate once an
/// MDM vendor has signed it. Where a vendor certificate is set, the answer holds the signed request, too.
#[utoipa::path(post, path = "/api/v1/apns/requests", tag = "Push", request_body = NewPushRequest,
    responses((status = 201, body = PushRequest, headers(("Location" = String)))))]
async fn create_push_request(
    State(app): State<App>,
    Creation(actor, new): Creation<NewPushRequest>,
) -> Result<Made<PushRequest>, Problem> {
    let new = NewRequest { name: new.name, email: new.email };
    let made = push_certificates::request(&app, &actor, new).await?;
    Ok(Made { at: format!("/api/v1/apns/requests/{}", made.id), body: made.into() })
}

/// Show a request for a push certificate
///
/// Signed by the vendor, where a vendor certificate is set.
#[utoipa::path(get, path = "/api/v1/apns/requests/{id}", tag = "Push", params(("id" = PushRequestId, Path)),
    responses((status = 200, body = PushRequest),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`vendor_certificate`: the vendor certificate of the settings cannot be used")))]
async fn get_push_request(State(app): State<App>, At(id): At<PushRequestId>) -> Result<Json<PushRequest>, Problem> {
    Ok(Json(push_certificates::requested(&app, id).await?.into()))
}

/// Delete a request for a push certificate
///
/// With its key. A certificate that was stored for it keeps the key.
#[utoipa::path(delete, path = "/api/v1/apns/requests/{id}", tag = "Push", params(("id" = PushRequestId, Path)),
    responses((status = 204, description = "It is not kept any more")))]
async fn delete_push_request(
    State(app): State<App>,
    caller: Caller,
    At(id): At<PushRequestId>,
) -> Result<StatusCode, Problem> {
    push_certificates::remove_request(&app, &caller.0, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the push certificates
///
/// One for each topic, the default first; and the topics of devices that have none.
#[utoipa::path(get, path = "/api/v1/apns/certificate", tag = "Push",
    responses((status = 200, body = PushCertificates)))]
async fn list_push_certificates(State(app): State<App>) -> Result<Json<PushCertificates>, Problem> {
    let Overview { certificates, without } = push_certificates::overview(&app).await?;
    Ok(Json(PushCertificates {
        items: certificates.into_iter().map(|kept| PushCertificate::of(&app, kept)).collect(),
        without_certificate: without.into_iter().map(|(topic, devices)| TopicWithout { topic, devices }).collect(),
    }))
}

/// Store a push certificate
///
/// The certificate as Apple's portal gives it, where it answers a request that was made here; else certificate and key
/// together, as PEM or as a .p12 file; one with a password in JSON. It takes the place of the one for its topic. What
/// would leave enrolled devices without a valid certificate is refused, with their number, unless `force` is true.
/// Devices of the topic for which something waits are woken.
#[utoipa::path(put, path = "/api/v1/apns/certificate", tag = "Push", params(Storing),
    request_body(description = "The certificate", content(
        (File = "application/x-pem-file"), (File = "application/x-pkcs12"), (File = "application/octet-stream"),
        (File = "text/plain"), (PushCertificateFile = "application/json"))),
    responses((status = 200, body = PushCertificate)))]
async fn put_push_certificate(
    State(app): State<App>,
    query: Query<Storing>,
    upload: Upload,
) -> Result<Json<PushCertificate>, Problem> {
    let (file, password) = if kind_of(&upload.headers, TAKEN)? == JSON {
        let given: PushCertificateFile = parse(&upload.headers, &upload.bytes)?;
        (decode(&given.file)?, given.password.map(Secret::new))
    } else {
        (Secret::new(upload.bytes.to_vec()), None)
    };
    let Storing { default, force } = query.value;
    let new = NewCertificate { file, password, default, force: force.unwrap_or(false) };
    let stored = push_certificates::put(&app, &upload.actor, new).await?;
    Ok(Json(PushCertificate::of(&app, stored.certificate)))
}

/// Show a push certificate
#[utoipa::path(get, path = "/api/v1/apns/certificate/{topic}", tag = "Push", params(("topic" = String, Path)),
    responses((status = 200, body = PushCertificate)))]
async fn get_push_certificate(State(app): State<App>, At(topic): At<String>) -> Result<Json<PushCertificate>, Problem> {
    let kept = push_certificates::get(&app, &topic).await?;
    Ok(Json(PushCertificate::of(&app, kept)))
}

/// Make a push certificate the default
///
/// New devices enroll by it from now on.
#[utoipa::path(patch, path = "/api/v1/apns/certificate/{topic}", tag = "Push", params(("topic" = String, Path)),
    request_body = PushCertificateChange, responses((status = 200, body = PushCertificate)))]
async fn change_push_certificate(
    State(app): State<App>,
    caller: Caller,
    At(topic): At<String>,
    Body(change): Body<PushCertificateChange>,
) -> Result<Json<PushCertificate>, Problem> {
    if !change.default {
        let detail = "expected true: make another certificate the default to end this one's being it".to_owned();
        return Err(invalid_request(vec![Fault { pointer: "/default".to_owned(), detail }]));
    }
    let kept = push_certificates::make_default(&app, &caller.0, &topic).await?;
    Ok(Json(PushCertificate::of(&app, kept)))
}

/// Delete a push certificate
///
/// With its key. Refused while devices are enrolled under its topic, unless `force` is true.
#[utoipa::path(delete, path = "/api/v1/apns/certificate/{topic}", tag = "Push",
    params(("topic" = String, Path), Removal),
    responses((status = 204, description = "It is not kept any more")))]
async fn delete_push_certificate(
    State(app): State<App>,
    caller: Caller,
    At(topic): At<String>,
    query: Query<Removal>,
) -> Result<StatusCode, Problem> {
    push_certificates::remove(&app, &caller.0, &topic, query.value.force.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// PEM as it is, or whatever stands in base64.
fn decode(text: &str) -> Result<Secret<Vec<u8>>, Problem> {
    if text.contains("-----BEGIN ") {
        return Ok(Secret::new(text.as_bytes().to_vec()));
    }
    let plain: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(plain).map(Secret::new).map_err(|_| {
        let detail = "expected PEM, or a .p12 file or DER in base64".to_owned();
        invalid_request(vec![Fault { pointer: "/file".to_owned(), detail }])
    })
}
