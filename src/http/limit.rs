//! Limits on how often an address may ask for what is expensive or worth guessing at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::address::neighborhood;

/// How many addresses are remembered at most, twice.
const MAX_ADDRESSES: usize = 50_000;

/// Lets each address (IPv6: each /64) through so many times a minute.
///
/// This is GCRA: a number of requests may come at once, as many as a minute allows, and then they trickle. What is
/// remembered of an address is one point in time. The memory is bounded: when the newer half of it is full, the older
/// half is forgotten, so that a flood from very many addresses at worst lifts the limit for a while; it never locks
/// anybody out.
#[derive(Debug)]
pub struct RateLimiter {
    /// Between two requests in the long run; none for no limit.
    interval: Option<Duration>,
    /// How far ahead of the long run an address may be.
    burst: Duration,
    capacity: usize,
    state: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    newer: HashMap<IpAddr, Instant>,
    older: HashMap<IpAddr, Instant>,
}

impl RateLimiter {
    /// At most `requests` a minute in the long run, and as many at once. 0 is no limit.
    #[must_use]
    pub fn per_minute(requests: u32) -> Self {
        let minute = Duration::from_secs(60);
        let interval = minute.checked_div(requests);
        Self { interval, burst: minute, capacity: MAX_ADDRESSES, state: Mutex::default() }
    }

    /// Counts a request from this address.
    ///
    /// # Errors
    /// How long to wait before the next one, if there were too many.
    pub fn check(&self, address: IpAddr) -> Result<(), Duration> {
        self.check_at(address, Instant::now())
    }

    fn check_at(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let address = neighborhood(address);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.newer.get(&address).or_else(|| state.older.get(&address)).copied();
        // The time at which the address is even with the long run again.
        let even = known.map_or(now, |even| even.max(now)) + interval;
        let ahead = even.duration_since(now);
        if ahead > self.burst {
            return Err(ahead - self.burst);
        }
        if state.newer.len() >= self.capacity {
            state.older = std::mem::take(&mut state.newer);
        }
        state.newer.insert(address, even);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_its_burst_and_then_its_rate() {
        let limiter = RateLimiter::per_minute(6);
        let (start, one) = (Instant::now(), address("192.0.2.1"));
        for _ in 0..6 {
            assert_eq!(limiter.check_at(one, start), Ok(()));
        }
        assert_eq!(limiter.check_at(one, start), Err(Duration::from_secs(10)));
        assert_eq!(limiter.check_at(one, start + Duration::from_secs(4)), Err(Duration::from_secs(6)));
        assert_eq!(limiter.check_at(address("192.0.2.2"), start), Ok(()), "another address is not concerned");
        assert_eq!(limiter.check_at(one, start + Duration::from_secs(10)), Ok(()));
        assert!(limiter.check_at(one, start + Duration::from_secs(10)).is_err());
        let later = start + Duration::from_secs(1000);
        assert!((0..6).all(|_| limiter.check_at(one, later).is_ok()), "rest restores the burst");
        assert!(limiter.check_at(one, later).is_err());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let limiter = RateLimiter::per_minute(1);
        let now = Instant::now();
        assert!(limiter.check_at(address("2001:db8::1"), now).is_ok());
        assert!(limiter.check_at(address("2001:db8::ffff:2"), now).is_err());
        assert!(limiter.check_at(address("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_locks_nobody_out() {
        let limiter = RateLimiter { capacity: 100, ..RateLimiter::per_minute(1) };
        let now = Instant::now();
        for number in 0..10_000_u32 {
            assert!(limiter.check_at(IpAddr::from(number.to_be_bytes()), now).is_ok());
        }
        let state = limiter.state.lock().unwrap();
        assert!(state.newer.len() + state.older.len() <= 200);
    }

    #[test]
    fn no_limit_is_no_limit() {
        let limiter = RateLimiter::per_minute(0);
        assert!((0..10_000).all(|_| limiter.check(address("192.0.2.1")).is_ok()));
    }
}
