//! The real clock and the real randomness: the only place that reads them. And the signals of programs that do not serve.

use std::time::SystemTime;

use tokio::signal::unix::{SignalKind, signal};

use crate::model::{Clock, Randomness, Timestamp};

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the composition root's clock")]
        let now = SystemTime::now();
        // A clock before 1970 counts as 1970: everything that compares times then errs on the side of waiting.
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        if aws_lc_rs::rand::fill(bytes).is_err() {
            // Every secret made from here on would be known to others. There is nothing better to do than to end.
            tracing::error!("the operating system gives no random numbers");
            std::process::abort();
        }
    }
}

/// Waits until the program is asked to end: by Ctrl-C, or by SIGTERM as from `kill`.
///
/// # Errors
/// If the system lets no signal be watched.
pub async fn asked_to_end() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_in_this_century() {
        let year = SystemClock.now().to_datetime().year();
        assert!((2025..2200).contains(&year), "{year}");
    }

    #[test]
    fn two_draws_differ() {
        let (mut one, mut other) = ([0; 16], [0; 16]);
        SystemRandomness.fill(&mut one);
        SystemRandomness.fill(&mut other);
        assert_ne!(one, other);
    }
}
