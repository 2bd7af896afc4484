use std::sync::{Mutex, PoisonError};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// Where a room gets randomness from. The composition root gives the operating system's; tests give a seed.
pub trait Randomness: Send + Sync + 'static {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);

    /// A random number below `bound` (0 if `bound` is 0), for spreading and jitter; the tiny bias of the modulo does
    /// not matter there.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }
}

/// The same sequence for the same seed: for tests and reproducible runs, never for a server.
#[derive(Debug)]
pub struct SeededRandomness(Mutex<ChaCha20Rng>);

impl SeededRandomness {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha20Rng::seed_from_u64(seed)))
    }
}

impl Randomness for SeededRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}
