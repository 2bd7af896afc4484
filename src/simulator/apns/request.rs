//! What is wrong with a push, in Apple's words. Pure.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::certificate::Client;
use crate::model::Timestamp;

/// The largest body of a push, in bytes.
pub(super) const MAX_BODY: usize = 4096;

/// A push that is well formed and allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GoodPush {
    pub(super) token: Vec<u8>,
    pub(super) topic: String,
    pub(super) magic: String,
    /// The epoch if the push is not to be kept at all.
    pub(super) expires_at: Timestamp,
}

/// An answer other than 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) body: String,
    /// Seconds.
    pub(super) retry_after: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &str) -> Self {
        Self { status, body: json!({ "reason": reason }).to_string(), retry_after: None }
    }

    /// 410: the token has been invalid since then.
    pub(super) fn unregistered(millis: i64) -> Self {
        let body = json!({ "reason": "Unregistered", "timestamp": millis }).to_string();
        Self { status: StatusCode::GONE, body, retry_after: None }
    }

    pub(super) fn after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }
}

/// Checks everything that can be told without knowing the tokens. `body` is none if it is larger than [`MAX_BODY`].
///
/// Stricter than Apple in one thing: with a certificate of a single topic Apple lets `apns-topic` be left out.
pub(super) fn check(client: &Client, head: &Parts, body: Option<&[u8]>) -> Result<GoodPush, Refusal> {
    let bad = |reason| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let Client::Topic(own_topic) = client else {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "BadCertificate"));
    };
    if head.method != Method::POST {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"));
    }
    let token = head.uri.path().strip_prefix("/3/device/");
    let token = token.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "BadPath"))?;
    if token.is_empty() {
        return Err(bad("MissingDeviceToken"));
    }
    let token = hex::decode(token).map_err(|_| bad("BadDeviceToken"))?;
    let topic = header(&head.headers, "apns-topic")?.ok_or_else(|| bad("MissingTopic"))?;
    if topic != own_topic {
        return Err(bad("TopicDisallowed"));
    }
    if header(&head.headers, "apns-push-type")? != Some("mdm") {
        return Err(bad("InvalidPushType"));
    }
    if !matches!(header(&head.headers, "apns-priority")?, None | Some("10" | "5" | "1")) {
        return Err(bad("BadPriority"));
    }
    let expires_at = header(&head.headers, "apns-expiration")?.unwrap_or("0");
    let expires_at = expires_at.parse::<u32>().map_err(|_| bad("BadExpirationDate"))?;
    if header(&head.headers, "apns-id")?.is_some_and(|id| id.parse::<Uuid>().is_err()) {
        return Err(bad("BadMessageId"));
    }
    let body = body.ok_or_else(|| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge"))?;
    // Apple has no word of its own for a payload of the wrong kind.
    let magic = magic(body).ok_or_else(|| bad("PayloadEmpty"))?;
    let expires_at = Timestamp::from_seconds(i64::from(expires_at));
    Ok(GoodPush { token, topic: topic.to_owned(), magic, expires_at })
}

/// The PushMagic, if the body is `{"mdm": "…"}` and nothing else.
fn magic(body: &[u8]) -> Option<String> {
    let Value::Object(members) = serde_json::from_slice(body).ok()? else { return None };
    let magic = members.get("mdm")?.as_str()?;
    (members.len() == 1).then(|| magic.to_owned())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "DuplicateHeaders"));
    }
    Ok(first.and_then(|value| value.to_str().ok()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const TOPIC: &str = "com.apple.mgmt.External.test";
    const GOOD: [(&str, &str); 3] =
        [("apns-topic", TOPIC), ("apns-push-type", "mdm"), ("apns-expiration", "1800000000")];

    fn reason(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> String {
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        match check(&Client::Topic(TOPIC.to_owned()), &head, body.map(str::as_bytes)) {
            Ok(_) => "good".to_owned(),
            Err(refusal) => {
                let body: Value = serde_json::from_str(&refusal.body).unwrap();
                format!("{} {}", refusal.status.as_u16(), body["reason"].as_str().unwrap())
            }
        }
    }

    #[test]
    fn each_fault_has_apples_word() {
        let magic = Some(r#"{"mdm":"magic"}"#);
        let path = "/3/device/00ff";
        assert_eq!(reason("POST", path, &GOOD, magic), "good");
        assert_eq!(reason("GET", path, &GOOD, magic), "405 MethodNotAllowed");
        assert_eq!(reason("POST", "/4/device/00ff", &GOOD, magic), "404 BadPath");
        assert_eq!(reason("POST", "/3/device/", &GOOD, magic), "400 MissingDeviceToken");
        assert_eq!(reason("POST", "/3/device/xyz", &GOOD, magic), "400 BadDeviceToken");
        assert_eq!(reason("POST", path, &GOOD[1..], magic), "400 MissingTopic");
        assert_eq!(reason("POST", path, &[("apns-topic", "com.example")], magic), "400 TopicDisallowed");
        assert_eq!(reason("POST", path, &GOOD[..1], magic), "400 InvalidPushType");
        let with = |extra| [GOOD.as_slice(), &[extra]].concat();
        assert_eq!(reason("POST", path, &with(("apns-priority", "7")), magic), "400 BadPriority");
        assert_eq!(reason("POST", path, &with(("apns-id", "7")), magic), "400 BadMessageId");
        assert_eq!(reason("POST", path, &with(("apns-topic", TOPIC)), magic), "400 DuplicateHeaders");
        let late = [GOOD[0], GOOD[1], ("apns-expiration", "tomorrow")];
        assert_eq!(reason("POST", path, &late, magic), "400 BadExpirationDate");
        assert_eq!(reason("POST", path, &GOOD, None), "413 PayloadTooLarge");
        for wrong in ["", "{}", r#"{"aps":{}}"#, r#"{"mdm":"magic","aps":{}}"#, r#"{"mdm":1}"#] {
            assert_eq!(reason("POST", path, &GOOD, Some(wrong)), "400 PayloadEmpty", "{wrong}");
        }
    }
}
