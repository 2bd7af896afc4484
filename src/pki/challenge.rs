//! Random texts that let somebody in once: SCEP challenges, codes of enrollment links, API tokens.
//!
//! They are stored as SHA-256 only. A slow hash would add nothing: they have far more than 128 random bits.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use crate::model::{Randomness, Secret, Sha256};

const BASE32: [char; 32] = [
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w',
    'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
];

/// A new code of 32 characters from `a-z` and `2-7` (160 random bits): can be typed, and stands in a URL, in a
/// certificate request or in a plist without escaping.
pub fn code(random: &dyn Randomness) -> Secret<String> {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    Secret::new(bytes.iter().filter_map(|byte| BASE32.get(usize::from(byte % 32))).collect())
}

/// A new token of 43 characters (256 random bits, base64url): for programs.
pub fn token(random: &dyn Randomness) -> Secret<String> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut());
    Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

/// What is stored of a code or token.
#[must_use]
pub fn hash(text: &str) -> Sha256 {
    Sha256::of(text.as_bytes())
}

/// Whether two secrets are the same, in a time that depends on their lengths only.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;

    #[test]
    fn codes_and_tokens_are_long_plain_and_never_the_same() {
        let random = SeededRandomness::new(1);
        let code = code(&random);
        assert_eq!(code.expose().len(), 32);
        assert!(code.expose().chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit()));
        assert_ne!(code, super::code(&random));
        assert_eq!(token(&random).expose().len(), 43);
        assert_ne!(token(&random), token(&random));
    }

    #[test]
    fn comparing_finds_differences() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab"));
        assert!(same(&hash("x").0, &hash("x").0));
    }
}
