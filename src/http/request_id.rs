//! The id by which a request is found in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::Randomness;

/// The header, in both directions.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The id of a request: of our own making, or a trusted proxy's. In the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

/// Makes ids: 64 bits that are this process's own, and a number. They are no secrets, and there are many.
#[derive(Debug)]
pub struct RequestIds {
    process: [u8; 8],
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of a new process.
    #[must_use]
    pub fn new(random: &dyn Randomness) -> Self {
        let mut process = [0; 8];
        random.fill(&mut process);
        Self { process, next: AtomicU64::new(0) }
    }

    /// The next id: 32 hexadecimal digits.
    #[must_use]
    pub fn next(&self) -> RequestId {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut text = [0; 32];
        let (process, rest) = text.split_at_mut(16);
        let written = hex::encode_to_slice(self.process, process).and_then(|()| hex::encode_to_slice(number, rest));
        let text = written.ok().and_then(|()| std::str::from_utf8(&text).ok()).unwrap_or_default();
        RequestId(text.into())
    }
}

impl RequestId {
    /// The one that a trusted proxy gave, if it is harmless: 8 to 128 letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn given(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(HEADER)?.to_str().ok()?;
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        ((8..=128).contains(&text.len()) && text.bytes().all(harmless)).then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of the header; none only for a text that no constructor lets through.
    #[must_use]
    pub fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }

    /// Runs `work` so that [`current`] gives this id.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }
}

/// The id of the request that is being answered, if one is.
#[must_use]
pub fn current() -> Option<String> {
    CURRENT.try_with(|id| id.as_str().to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_requests_have_the_same_id() {
        let random = crate::model::SeededRandomness::new(7);
        let (ids, others) = (RequestIds::new(&random), RequestIds::new(&random));
        let made = [ids.next(), ids.next(), others.next()];
        assert!(made.iter().all(|id| id.as_str().len() == 32), "{made:?}");
        assert!(made[0] != made[1] && made[0] != made[2] && made[1] != made[2], "{made:?}");
    }

    #[test]
    fn only_harmless_ids_are_taken_over() {
        let given = |text: &str| {
            let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_str(text).unwrap())]);
            RequestId::given(&headers).map(|id| id.as_str().to_owned())
        };
        assert_eq!(given("7f3c-2a_91.b0").as_deref(), Some("7f3c-2a_91.b0"));
        for wrong in ["", "short", "with space", "with\"quote", &"x".repeat(129)] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
        assert_eq!(RequestId::given(&HeaderMap::new()), None);
    }
}
