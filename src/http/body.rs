//! Reading request bodies with bounds on size and time.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    /// There is no room for it beside the others that are read and handled now.
    #[error("too many large bodies at the same time")]
    Crowded,
}

impl BodyError {
    /// 413, 408, 400 or 503.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads a body of at most `limit` bytes whole, within `time`.
///
/// A body that announces more is refused without reading any of it.
///
/// # Errors
/// [`BodyError`].
pub async fn read(body: Body, limit: usize, time: Duration) -> Result<Bytes, BodyError> {
    read_counted(body, limit, time, |_| Ok(())).await
}

/// As [`read`], within a budget for all bodies at once. What is taken of it is given back with the body.
///
/// # Errors
/// [`BodyError`]; [`BodyError::Crowded`] as soon as the budget has no room for what came.
pub async fn read_within(body: Body, limit: usize, time: Duration, budget: &Budget) -> Result<Held, BodyError> {
    let mut room: Option<OwnedSemaphorePermit> = None;
    let bytes = read_counted(body, limit, time, |total| budget.cover(&mut room, total)).await?;
    Ok(Held { bytes, room })
}

/// A bound on the bytes of all bodies that are read and handled at the same time. The first [`FREE`] of each do not
/// count: they are bounded by the number of connections, and small bodies have nothing to do with it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

/// What each body may have beside the budget, bytes.
pub const FREE: usize = 64 << 10;
/// The budget is given out in pieces of so many bytes.
const UNIT: usize = 64 << 10;

impl Budget {
    /// For so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / UNIT).min(Semaphore::MAX_PERMITS))))
    }

    /// Takes as much more as a body of `total` bytes needs. Never waits: who waits keeps what it has.
    fn cover(&self, room: &mut Option<OwnedSemaphorePermit>, total: usize) -> Result<(), BodyError> {
        let needed = total.saturating_sub(FREE).div_ceil(UNIT);
        let missing = needed.saturating_sub(room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).map_err(|_| BodyError::Crowded)?;
        let more = Arc::clone(&self.0).try_acquire_many_owned(missing).map_err(|_| BodyError::Crowded)?;
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        Ok(())
    }
}

/// A body with its share of a [`Budget`].
#[derive(Debug)]
pub struct Held {
    bytes: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// The bytes, to be shared; the room is given back with the last of those who have them.
    pub fn share(self) -> Bytes {
        if self.room.is_none() { self.bytes } else { Bytes::from_owner(self) }
    }
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// `count` is told of each piece how many bytes there are with it, before they are kept.
async fn read_counted(
    mut body: Body,
    limit: usize,
    time: Duration,
    mut count: impl FnMut(usize) -> Result<(), BodyError>,
) -> Result<Bytes, BodyError> {
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
    count(first.len())?;
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
        count(whole.len() + piece.len())?;
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
    async fn large_bodies_share_a_budget() {
        let budget = Budget::new(2 * UNIT);
        let of = |size: usize| read_within(Body::from(vec![0; size]), 10 * UNIT, LONG, &budget);
        let small: Vec<_> = futures_util::future::join_all((0..100).map(|_| of(FREE))).await;
        assert!(small.iter().all(Result::is_ok), "small ones do not count");
        let one = of(FREE + 1).await.unwrap();
        assert_eq!(of(FREE + UNIT + 1).await.unwrap_err(), BodyError::Crowded);
        let two = of(FREE + UNIT).await.unwrap();
        assert_eq!(of(FREE + 1).await.unwrap_err(), BodyError::Crowded);
        assert_eq!((one.len(), two.len()), (FREE + 1, FREE + UNIT));
        drop((one, two));
        let pieces = stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; UNIT]))));
        let whole = read_within(Body::from_stream(pieces), 10 * UNIT, LONG, &budget).await.unwrap();
        assert_eq!((whole.len(), budget.0.available_permits()), (3 * UNIT, 0));
        drop(whole);
        // What was refused gives back what it had.
        let pieces = stream::iter((0..4).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; UNIT]))));
        let refused = read_within(Body::from_stream(pieces), 10 * UNIT, LONG, &budget).await.unwrap_err();
        assert_eq!((refused, budget.0.available_permits()), (BodyError::Crowded, 2));
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
            [BodyError::TooLarge { limit: 1 }, BodyError::TooSlow, BodyError::Broken, BodyError::Crowded].map(of),
            [413, 408, 400, 503]
        );
    }
}
