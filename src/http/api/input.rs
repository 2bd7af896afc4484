//! What a handler takes: bodies, query parameters, ids in the path, and the headers that make a request safe to repeat
//! or safe to be late. Each is bounded, and says what is wrong with all of it at once.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::form_urlencoded;
use utoipa::openapi::path::ParameterIn;
use utoipa::{IntoParams, ToSchema};

use super::super::{Problem, body};
use super::admit::Caller;
use super::check::Shape;
use super::fault::{bad_header, bad_query, invalid_request};
use crate::model::Sha256;
use crate::service::idempotency::Repeat;
use crate::service::{Actor, App, Fault};

/// The header by which a client makes a creation safe to repeat.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Its longest value.
const MAX_KEY: usize = 200;
/// The longest query that is looked at.
const MAX_QUERY: usize = 16 * 1024;

/// A JSON body, checked against the schema of `T` as the document shows it.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + ToSchema> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, raw) = whole(request, app).await?;
        parse(&parts.headers, &raw).map(Self)
    }
}

/// A JSON body that asks for something new, and who asks. With an `Idempotency-Key`, the actor carries by what the
/// verb recognizes the same request when it comes again.
pub(super) struct Creation<T>(pub(super) Actor, pub(super) T);

impl<T: DeserializeOwned + ToSchema> FromRequest<App> for Creation<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, raw) = whole(request, app).await?;
        let Caller(mut actor) = Caller::from_request_parts(&mut parts, app).await?;
        actor.repeat = repeat(&parts, &actor, &raw)?;
        Ok(Self(actor, parse(&parts.headers, &raw)?))
    }
}

/// A body that is no JSON (a profile, a certificate), and who asks; for what is created by it as [`Creation`] is.
pub(super) struct Upload {
    /// Who asks.
    pub(super) actor: Actor,
    /// The headers, `Content-Type` among them.
    pub(super) headers: HeaderMap,
    /// The body, at most `admin.max_body_size`.
    pub(super) bytes: Bytes,
}

impl FromRequest<App> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, bytes) = whole(request, app).await?;
        let Caller(mut actor) = Caller::from_request_parts(&mut parts, app).await?;
        actor.repeat = repeat(&parts, &actor, &bytes)?;
        Ok(Self { actor, headers: parts.headers, bytes })
    }
}

async fn whole(request: Request, app: &App) -> Result<(Parts, Bytes), Problem> {
    let (parts, raw) = request.into_parts();
    let admin = &app.settings.admin;
    let raw = body::read(raw, admin.max_body_size.as_usize(), admin.request_timeout).await?;
    Ok((parts, raw))
}

pub(super) fn parse<T: DeserializeOwned + ToSchema>(headers: &HeaderMap, raw: &[u8]) -> Result<T, Problem> {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let raw = match kind.map(|kind| kind.split(';').next().unwrap_or_default().trim()) {
        Some(kind) if kind.eq_ignore_ascii_case("application/json") => raw,
        // Nothing at all is an object without members: where nothing is needed, nothing has to be said.
        None if raw.is_empty() => b"{}",
        _ => return Err(unsupported(&["application/json"])),
    };
    let value: Value = serde_json::from_slice(raw)
        .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is not JSON: {e}")))?;
    let faults = Shape::of::<T>().check(&value);
    if !faults.is_empty() {
        return Err(invalid_request(faults));
    }
    // What the schema lets pass can be read; where it is looser than the type, this still says what is wrong.
    serde_json::from_value(value)
        .map_err(|e| invalid_request(vec![Fault { pointer: String::new(), detail: e.to_string() }]))
}

/// The content type is none of those that the route takes.
pub(super) fn unsupported(expected: &[&str]) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the Content-Type must be {}", expected.join(" or ")),
    )
}

/// The actor of a request whose body is too large to be taken at once, with what is known of it before the body has
/// come; whoever takes the body adds its digest.
pub(super) fn announced(parts: &Parts, actor: Actor) -> Result<Actor, Problem> {
    let repeat = repeat(parts, &actor, b"")?;
    Ok(Actor { repeat, ..actor })
}

/// By what the request is recognized when it comes again.
fn repeat(parts: &Parts, actor: &Actor, raw: &[u8]) -> Result<Option<Repeat>, Problem> {
    let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), Some(token)) = (keys.next(), actor.token) else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()) && keys.next().is_none());
    let Some(key) = key else {
        return Err(bad_header(format!("Idempotency-Key must be one text of 1 to {MAX_KEY} ASCII characters")));
    };
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let mut asked = format!("{} {target}\n", parts.method).into_bytes();
    asked.extend_from_slice(raw);
    Ok(Some(Repeat { token, key: key.to_owned(), request: Sha256::of(&asked) }))
}

/// Query parameters, checked against the schemas of `T`'s parameters.
pub(super) struct Query<T> {
    /// The parameters.
    pub(super) value: T,
    /// Which list they choose: path, filters and order, without `limit` and `cursor`. A cursor holds for one list.
    pub(super) list: String,
}

impl<T: DeserializeOwned + IntoParams, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default();
        if text.len() > MAX_QUERY {
            return Err(bad_query(vec![Fault { pointer: String::new(), detail: "the query is too long".to_owned() }]));
        }
        let shape = Shape::of_parameters(T::into_params(|| Some(ParameterIn::Query)));
        let mut given = Map::new();
        let mut chosen = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, text) in form_urlencoded::parse(text.as_bytes()) {
            if !matches!(&*name, "limit" | "cursor") {
                chosen.insert(name.to_string(), text.to_string());
            }
            let value = typed(shape.member(&name), &text);
            if given.insert(name.to_string(), value).is_some() {
                faults.push(Fault { pointer: name.into_owned(), detail: "given twice".to_owned() });
            }
        }
        let given = Value::Object(given);
        // Parameters are named as they are, not by pointers.
        faults.extend(
            shape
                .check(&given)
                .into_iter()
                .map(|fault| Fault { pointer: fault.pointer.trim_start_matches('/').to_owned(), ..fault }),
        );
        if !faults.is_empty() {
            return Err(bad_query(faults));
        }
        let value = serde_json::from_value(given)
            .map_err(|e| bad_query(vec![Fault { pointer: String::new(), detail: e.to_string() }]))?;
        Ok(Self { value, list: format!("{}?{chosen:?}", parts.uri.path()) })
    }
}

/// A parameter's text as the kind of value that its schema asks for; as text where it is none of that kind.
fn typed(schema: Option<&Value>, text: &str) -> Value {
    let has = |wanted: &str| match schema.and_then(|schema| schema.get("type")) {
        Some(Value::String(kind)) => kind == wanted,
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == wanted),
        _ => false,
    };
    let number = || text.parse::<i64>().ok().map(Value::from).filter(|_| has("integer"));
    let flag = || text.parse::<bool>().ok().map(Value::from).filter(|_| has("boolean"));
    number().or_else(flag).unwrap_or_else(|| Value::from(text))
}

/// Ids in the path. One that cannot be an id names nothing.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(Problem::not_found("the path holds something that is no id")),
        }
    }
}

/// The revision that the client has read, from `If-Match` (RFC 9110, section 13.1.1). None for `*`: whatever is there.
pub(super) struct IfMatch(pub(super) Option<i64>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IF_MATCH).iter();
        let Some(value) = values.next() else {
            return Err(Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                "precondition_required",
                "send If-Match with the ETag of what you have read, or If-Match: * to change whatever is there",
            ));
        };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" && values.next().is_none() {
            return Ok(Self(None));
        }
        let revision = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|t| t.parse().ok());
        match revision.filter(|_| values.next().is_none()) {
            Some(revision) => Ok(Self(Some(revision))),
            None => Err(bad_header("If-Match must be one ETag as this server gave it, such as \"3\", or *")),
        }
    }
}

/// As [`IfMatch`], where the header may be left out (RFC 9110, section 13.1.1: one that is sent must hold).
pub(super) struct MaybeIfMatch(pub(super) Option<i64>);

impl<S: Sync> FromRequestParts<S> for MaybeIfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if !parts.headers.contains_key(IF_MATCH) {
            return Ok(Self(None));
        }
        let IfMatch(revision) = IfMatch::from_request_parts(parts, state).await?;
        Ok(Self(revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[into_params(parameter_in = Query)]
    struct Filters {
        q: Option<String>,
        #[param(minimum = 1, maximum = 10)]
        limit: Option<i64>,
        enabled: Option<bool>,
    }

    async fn query(text: &str) -> Result<(Filters, String), Problem> {
        let request = http::Request::get(format!("/things?{text}")).body(()).unwrap();
        let query = Query::<Filters>::from_request_parts(&mut request.into_parts().0, &()).await?;
        Ok((query.value, query.list))
    }

    #[tokio::test]
    async fn parameters_have_their_kinds() {
        let (filters, _) = query("q=12&limit=3&enabled=true").await.unwrap();
        assert_eq!((filters.q.as_deref(), filters.limit, filters.enabled), (Some("12"), Some(3), Some(true)));
        for wrong in ["limit=0", "limit=x", "limit=1.5", "enabled=1", "z=1", "q=1&q=2", "q=%00"] {
            assert_eq!(query(wrong).await.unwrap_err().code(), "bad_query", "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_list_is_known_by_all_but_the_page() {
        let of = async |text: &str| query(text).await.unwrap().1;
        assert_eq!(of("q=a&limit=1").await, of("limit=2&q=a").await);
        assert_ne!(of("q=a").await, of("q=b").await);
    }

    async fn if_match(value: &str) -> Result<Option<i64>, &'static str> {
        let mut request = http::Request::get("/").body(()).unwrap().into_parts().0;
        if !value.is_empty() {
            request.headers.insert(IF_MATCH, value.parse().unwrap());
        }
        let read = IfMatch::from_request_parts(&mut request, &()).await;
        read.map(|read| read.0).map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn a_revision_is_what_the_client_has_read() {
        assert_eq!(if_match("\"3\"").await, Ok(Some(3)));
        assert_eq!(if_match("*").await, Ok(None));
        assert_eq!(if_match("").await, Err("precondition_required"));
        for wrong in ["3", "\"x\"", "W/\"3\"", "\"3\", \"4\""] {
            assert_eq!(if_match(wrong).await, Err("bad_header"), "{wrong}");
        }
    }
}
