//! Secrets at rest: authenticated encryption under a ring of master keys.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::model::{Randomness, Secret, Sha256};

/// The first byte of everything sealed; another layout gets another number.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 8;
const HEADER_LEN: usize = 1 + KEY_ID_LEN;
const TAG_LEN: usize = 16;

/// The id of a master key, which stands in each sealed record so that keys can be rotated. No secret.
pub type KeyId = [u8; KEY_ID_LEN];

/// A 32-byte key that everything at rest is sealed under.
#[derive(Clone, Debug)]
pub struct MasterKey(Secret<[u8; 32]>);

impl MasterKey {
    /// A new key.
    pub fn generate(random: &dyn Randomness) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut());
        Self(Secret::new(*bytes))
    }

    /// Reads what [`MasterKey::format`] wrote: 32 bytes as base64, white space around it ignored.
    ///
    /// # Errors
    /// What is wrong with the text, without quoting it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = "is no master key; expected one line of base64 that holds 32 bytes, as written by `muster init`";
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| wrong.to_owned())?);
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| wrong.to_owned())?;
        Ok(Self(Secret::new(key)))
    }

    /// The key as one line of base64, for the key file.
    #[must_use]
    pub fn format(&self) -> Secret<String> {
        Secret::new(STANDARD.encode(self.0.expose()))
    }

    /// The first 8 bytes of SHA-256 over a label and the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let labeled = Zeroizing::new([b"muster master key id v1:".as_slice(), self.0.expose().as_slice()].concat());
        let mut id = KeyId::default();
        for (to, from) in id.iter_mut().zip(Sha256::of(&labeled).0) {
            *to = from;
        }
        id
    }

    /// The key for one context. A key per context keeps the number of random 96-bit nonces under any one AES-GCM key
    /// far below the limit of 2^32 (NIST SP 800-38D, section 8.3), however many records a server writes.
    fn for_context(&self, context: &str) -> Result<LessSafeKey, VaultError> {
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, self.0.expose()),
            &[b"muster vault v1:".as_slice(), context.as_bytes()].concat(),
        );
        UnboundKey::new(&AES_256_GCM, tag.as_ref()).map(LessSafeKey::new).map_err(|_| VaultError::Damaged)
    }
}

/// Why a sealed record could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It was sealed under a master key that is not in the ring.
    #[error(
        "sealed under the master key {}, which is not among the configured ones; add that key as an older key",
        hex::encode(key_id)
    )]
    UnknownKey {
        /// The id of the missing key.
        key_id: KeyId,
    },
    /// It is damaged, or belongs to another record.
    #[error("the sealed record is damaged or belongs to another place")]
    Damaged,
}

/// Seals under the active key, opens under any key of the ring.
///
/// A sealed record is: version byte, 8-byte key id, 12-byte nonce, AES-256-GCM ciphertext and tag. The authenticated
/// data are the header and the caller's context (such as `enrollments.unlock_token:<id>`), so that a record moved to
/// another row does not open there.
#[derive(Clone, Debug)]
pub struct Vault {
    active: (KeyId, MasterKey),
    older: Vec<(KeyId, MasterKey)>,
}

impl Vault {
    /// A vault that seals under `active` and also opens what was sealed under the older ones.
    #[must_use]
    pub fn new(active: MasterKey, older: Vec<MasterKey>) -> Self {
        Self { active: (active.id(), active), older: older.into_iter().map(|key| (key.id(), key)).collect() }
    }

    /// The same vault, sealing under another key from now on.
    #[must_use]
    pub fn rotated(mut self, active: MasterKey) -> Self {
        self.older.push(std::mem::replace(&mut self.active, (active.id(), active)));
        self
    }

    /// The id of the key that seals.
    #[must_use]
    pub const fn active_key_id(&self) -> KeyId {
        self.active.0
    }

    /// Whether the key of this id is in the ring.
    #[must_use]
    pub fn knows(&self, id: &[u8]) -> bool {
        std::iter::once(&self.active).chain(&self.older).any(|(known, _)| known == id)
    }

    /// Seals `plaintext` for the place that `context` names.
    ///
    /// # Errors
    /// Only when the cryptography library fails (the text is too long for AES-GCM: 64 GiB).
    pub fn seal(&self, random: &dyn Randomness, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
        let (id, key) = &self.active;
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut sealed = Vec::with_capacity(HEADER_LEN + NONCE_LEN + plaintext.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(id);
        let aad = Aad::from([sealed.as_slice(), context.as_bytes()].concat());
        let mut body = plaintext.to_vec();
        key.for_context(context)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .map_err(|_| VaultError::Damaged)?;
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Opens what was sealed for the place that `context` names.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`] with the id of the key that is missing, [`VaultError::Damaged`] for all else.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret<Vec<u8>>, VaultError> {
        let (header, rest) = sealed.split_at_checked(HEADER_LEN).ok_or(VaultError::Damaged)?;
        let key_id = key_id(header).ok_or(VaultError::Damaged)?;
        let (_, key) = std::iter::once(&self.active)
            .chain(&self.older)
            .find(|(id, _)| *id == key_id)
            .ok_or(VaultError::UnknownKey { key_id })?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(VaultError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Damaged)?;
        let aad = Aad::from([header, context.as_bytes()].concat());
        let mut body = Zeroizing::new(body.to_vec());
        let plain =
            key.for_context(context)?.open_in_place(nonce, aad, &mut body).map_err(|_| VaultError::Damaged)?.to_vec();
        Ok(Secret::new(plain))
    }

    /// Whether the record is sealed under the active key (others are sealed anew after a rotation).
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        key_id(sealed) == Some(self.active.0)
    }
}

/// The key's id in a record of the known version.
fn key_id(sealed: &[u8]) -> Option<KeyId> {
    match sealed.split_first() {
        Some((&VERSION, rest)) => rest.first_chunk().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use proptest::prelude::*;

    fn key(seed: u64) -> MasterKey {
        MasterKey::generate(&SeededRandomness::new(seed))
    }

    #[test]
    fn a_secret_comes_back_only_in_its_own_place() {
        let random = SeededRandomness::new(7);
        let vault = Vault::new(key(1), vec![]);
        let sealed = vault.seal(&random, "enrollments.unlock_token:1", b"escrow").unwrap();
        assert_eq!(vault.open("enrollments.unlock_token:1", &sealed).unwrap().expose(), b"escrow");
        assert_eq!(vault.open("enrollments.unlock_token:2", &sealed).unwrap_err(), VaultError::Damaged);
        assert_ne!(sealed, vault.seal(&random, "enrollments.unlock_token:1", b"escrow").unwrap());
        assert!(!sealed.windows(6).any(|window| window == b"escrow"));
    }

    #[test]
    fn after_a_rotation_old_records_open_and_are_not_current() {
        let random = SeededRandomness::new(7);
        let sealed = Vault::new(key(1), vec![]).seal(&random, "c", b"x").unwrap();
        let rotated = Vault::new(key(2), vec![key(1)]);
        assert!(!rotated.is_current(&sealed));
        assert!(rotated.knows(&key(1).id()) && rotated.knows(&key(2).id()) && !rotated.knows(&key(3).id()));
        assert_eq!(rotated.open("c", &sealed).unwrap().expose(), b"x");
        assert!(rotated.is_current(&rotated.seal(&random, "c", b"x").unwrap()));
        let missing = Vault::new(key(2), vec![]).open("c", &sealed).unwrap_err();
        assert_eq!(missing, VaultError::UnknownKey { key_id: key(1).id() });
        assert!(missing.to_string().contains(&hex::encode(key(1).id())));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let vault = Vault::new(key(1), vec![]);
        let sealed = vault.seal(&SeededRandomness::new(7), "c", b"secret").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(vault.open("c", &changed).is_err(), "byte {at}");
            assert!(vault.open("c", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_key_survives_its_file_and_stays_out_of_debug_output() {
        let read = MasterKey::parse(&format!("  {}\n", key(1).format().expose())).unwrap();
        assert_eq!(read.id(), key(1).id());
        assert!(!format!("{read:?}").contains(key(1).format().expose()));
        for text in ["", "abc", "!!!!", "AAAA"] {
            assert!(MasterKey::parse(text).unwrap_err().contains("32 bytes"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            prop_assert!(Vault::new(key(1), vec![key(2)]).open("c", &bytes).is_err());
        }
    }
}
