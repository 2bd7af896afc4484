//! Reading request bodies with bounds on size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than allowed here.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// It did not come in time.
    #[error("the body did not arrive in time")]
    TooSlow,
    /// The connection broke, or the body's framing is wrong.
    #[error("the body ended early")]
    Broken,
}

impl BodyError {
    /// 413, 408 or 400.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a body of at most `limit` bytes whole, within `time`.
///
/// A body that announces more is refused without reading any of it.
///
/// # Errors
/// [`BodyError`].
pub async fn read(mut body: Body, limit: usize, time: Duration) -> Result<Bytes, BodyError> {
    let too_large = BodyError::TooLarge { limit: u64::try_from(limit).unwrap_or(u64::MAX) };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large);
    }
    let until = Instant::now() + time;
    let mut next = async || timeout_at(until, next_piece(&mut body)).await.map_err(|_| BodyError::TooSlow)?;
    // Most bodies are one piece, which then needs no copy.
    let Some(first) = next().await? else {
        return Ok(Bytes::new());
    };
    if first.len() > limit {
        return Err(too_large);
    }
    let Some(second) = next().await? else {
        return Ok(first);
    };
    let mut whole = BytesMut::with_capacity(announced.max(first.len() + second.len()).min(limit));
    whole.extend_from_slice(&first);
    let mut piece = second;
    loop {
        if piece.len() > limit - whole.len() {
            return Err(too_large);
        }
        whole.extend_from_slice(&piece);
        match next().await? {
            Some(next) => piece = next,
            None => return Ok(whole.freeze()),
        }
    }
}

/// A body of at most `limit` bytes in pieces, for what is too large for memory. Each piece must come within `patience`
/// of the one before. After an error there is nothing more.
pub fn stream(body: Body, limit: u64, patience: Duration) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let too_large = BodyError::TooLarge { limit };
    let refused = (body.size_hint().lower() > limit).then_some(too_large);
    stream::unfold(Some((body, 0_u64)), move |state| async move {
        let (mut body, before) = state?;
        if let Some(refused) = refused {
            return Some((Err(refused), None));
        }
        let piece = match timeout(patience, next_piece(&mut body)).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return None,
            Ok(Err(why)) => return Some((Err(why), None)),
            Err(_) => return Some((Err(BodyError::TooSlow), None)),
        };
        let total = before.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if total > limit {
            return Some((Err(too_large), None));
        }
        Some((Ok(piece), Some((body, total))))
    })
}

/// The next piece that holds anything; trailers are skipped.
async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Broken),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    /// A body without a length, in these pieces.
    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes()))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    /// One piece, then nothing for ever.
    fn stalled() -> Body {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))]);
        Body::from_stream(first.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_not_beyond() {
        assert_eq!(read(Body::empty(), 0, LONG).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("abc"), 3, LONG).await, Ok(Bytes::from("abc")));
        assert_eq!(read(pieces(&["ab", "", "cd", "ef"]), 6, LONG).await, Ok(Bytes::from("abcdef")));
        let too_large = Err(BodyError::TooLarge { limit: 5 });
        assert_eq!(read(Body::from("abcdef"), 5, LONG).await, too_large);
        assert_eq!(read(pieces(&["abcdef"]), 5, LONG).await, too_large);
        assert_eq!(read(pieces(&["ab", "cdef"]), 5, LONG).await, too_large);
        assert_eq!(read(pieces(&["ab", "cd", "ef"]), 5, LONG).await, too_large);
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_breaks_is_given_up() {
        assert_eq!(read(stalled(), 100, Duration::from_millis(20)).await, Err(BodyError::TooSlow));
        let broken = stream::iter([Ok(Bytes::from_static(b"abc")), Err(std::io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(broken), 100, LONG).await, Err(BodyError::Broken));
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_first_error() {
        let all = |body, limit, patience| stream(body, limit, patience).collect::<Vec<_>>();
        let piece = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        let too_large = Err(BodyError::TooLarge { limit: 3 });
        assert_eq!(all(pieces(&["ab", "c"]), 3, LONG).await, [piece("ab"), piece("c")]);
        assert_eq!(all(pieces(&["ab", "cd", "e"]), 3, LONG).await, [piece("ab"), too_large.clone()]);
        assert_eq!(all(Body::from("abcd"), 3, LONG).await, [too_large]);
        assert_eq!(all(stalled(), 9, Duration::from_millis(20)).await, [piece("abc"), Err(BodyError::TooSlow)]);
    }

    #[test]
    fn each_error_has_its_status() {
        let of = |error: BodyError| error.status().as_u16();
        assert_eq!(
            [of(BodyError::TooLarge { limit: 1 }), of(BodyError::TooSlow), of(BodyError::Broken)],
            [413, 408, 400]
        );
    }
}
