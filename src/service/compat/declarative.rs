use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use super::super::check_in::Answer;
use super::super::{App, Error};
use crate::model::EnrollmentKind;
use crate::protocol::checkin::{DeclarativeManagement, Endpoint};
use crate::remote::hooks::Call;

/// How long the hook may take: less than a device waits.
const TIME: Duration = Duration::from_secs(20);
/// The largest answer; declarations and their list are small.
const LARGEST: usize = 4 << 20;
/// The kinds of declarations. Source: Apple, "Declarations" (Device Management).
const KINDS: [&str; 4] = ["activation", "asset", "configuration", "management"];
/// Longest identifier of a declaration that is asked for, bytes.
const MAX_IDENTIFIER: usize = 255;

/// Answers a `DeclarativeManagement` message, which was let in: by the hook, or, without one, that nothing is declared.
///
/// # Errors
/// [`Error::NotFound`] for an endpoint that the hook is not asked for; [`Error::Internal`] where the hook does not answer as
/// it should, so that the device comes again.
pub(in crate::service) async fn ask(app: &App, message: &DeclarativeManagement) -> Result<Answer, Error> {
    let compat = &app.settings.compat;
    let Some(base) = &compat.declarative_management_url else { return Ok(Answer::NothingDeclared) };
    let url = target(base.url(), &message.endpoint)
        .ok_or_else(|| Error::NotFound("an endpoint of declarative management that is not known here".to_owned()))?;
    let body = message.data.clone().unwrap_or_default();
    let mut headers = HeaderMap::new();
    let apple_id = &message.sender.apple_id;
    header(&mut headers, "x-enrollment-id", &apple_id.id)?;
    header(&mut headers, "x-enrollment-type", shown(apple_id.kind))?;
    if let Some(parent) = &apple_id.parent {
        header(&mut headers, "x-enrollment-parentid", parent)?;
    }
    let mut method = Method::GET;
    if !body.is_empty() {
        method = Method::PUT;
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let key = compat.declarative_management_key.as_ref();
    let call = Call { method, url, headers, body, key, time: TIME, largest: LARGEST };
    let failed = |why: String| Error::Internal(format!("the hook of declarative management: {why}"));
    let answer = app.hooks.call(call).await.map_err(|why| failed(why.to_string()))?;
    match answer.status {
        200 => Ok(Answer::Declared(answer.body.to_vec())),
        404 => Ok(Answer::NothingDeclared),
        // Not passed on: each status means something to a device.
        other => Err(failed(format!("it answered {other}"))),
    }
}

/// Where the hook is asked: the device's endpoint as a reference relative to the base. None for what is none of the known
/// endpoints, since a reference may lead anywhere.
fn target(base: &Url, endpoint: &Endpoint) -> Option<Url> {
    let reference = match endpoint {
        Endpoint::Tokens => "tokens".to_owned(),
        Endpoint::DeclarationItems => "declaration-items".to_owned(),
        Endpoint::Status => "status".to_owned(),
        Endpoint::Declaration { kind, identifier } => {
            let is_known = KINDS.contains(&kind.as_str()) && identifier.len() <= MAX_IDENTIFIER;
            let is_plain = !matches!(identifier.as_str(), "" | "." | "..")
                && !identifier.contains(['/', '\\', '?', '#', '%'])
                && !identifier.chars().any(char::is_control);
            if !is_known || !is_plain {
                return None;
            }
            format!("declaration/{kind}/{identifier}")
        }
        Endpoint::Other(_) => return None,
    };
    let url = base.join(&reference).ok()?;
    (url.origin() == base.origin()).then_some(url)
}

fn header(headers: &mut HeaderMap, name: &'static str, text: &str) -> Result<(), Error> {
    let value = HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Error::invalid("bad_message", "an id that cannot stand in a header"))?;
    headers.insert(HeaderName::from_static(name), value);
    Ok(())
}

/// The interface's word for a kind of enrollment.
pub(in crate::service) const fn shown(kind: EnrollmentKind) -> &'static str {
    match kind {
        EnrollmentKind::Device => "Device",
        EnrollmentKind::User => "User",
        EnrollmentKind::UserEnrollmentDevice => "User Enrollment (Device)",
        EnrollmentKind::UserEnrollment => "User Enrollment",
        EnrollmentKind::SharedIpad => "Shared iPad",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: &str, endpoint: &Endpoint) -> Option<String> {
        target(&base.parse().unwrap(), endpoint).map(String::from)
    }

    fn declaration(kind: &str, identifier: &str) -> Endpoint {
        Endpoint::Declaration { kind: kind.to_owned(), identifier: identifier.to_owned() }
    }

    #[test]
    fn an_endpoint_is_resolved_against_the_base() {
        let base = "https://ddm.example.org/v1/";
        assert_eq!(at(base, &Endpoint::Tokens).unwrap(), "https://ddm.example.org/v1/tokens");
        assert_eq!(at(base, &Endpoint::DeclarationItems).unwrap(), "https://ddm.example.org/v1/declaration-items");
        assert_eq!(at(base, &Endpoint::Status).unwrap(), "https://ddm.example.org/v1/status");
        let one = declaration("configuration", "org.example.wifi:A");
        assert_eq!(at(base, &one).unwrap(), "https://ddm.example.org/v1/declaration/configuration/org.example.wifi:A");
        let without_slash = "https://ddm.example.org/v1";
        assert_eq!(at(without_slash, &Endpoint::Tokens).unwrap(), "https://ddm.example.org/tokens");
    }

    #[test]
    fn nothing_else_may_choose_the_target() {
        let base = "https://ddm.example.org/v1/";
        for other in ["//evil.example.org/", "https://evil.example.org/", "../admin", "tokens/../x", ""] {
            assert_eq!(at(base, &Endpoint::Other(other.to_owned())), None, "{other}");
        }
        for (kind, identifier) in [
            ("secret", "a"),
            ("..", "a"),
            ("asset", ".."),
            ("asset", "."),
            ("asset", ""),
            ("asset", "a/../../../admin"),
            ("asset", "..\\..\\admin"),
            ("asset", "%2e%2e"),
            ("asset", "a?b=c"),
            ("asset", "a#b"),
            ("asset", "a\tb"),
        ] {
            assert_eq!(at(base, &declaration(kind, identifier)), None, "{kind} {identifier}");
        }
    }
}
