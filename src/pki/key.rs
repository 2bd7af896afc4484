//! Private keys.

use std::fmt;

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use zeroize::Zeroizing;

use super::{Error, pem};
use crate::model::{Secret, Sha256};

/// Largest RSA modulus that is worked with, in bits: larger ones only cost time.
pub const MAX_RSA_BITS: u32 = 8192;

/// Largest encoded key that is read, in bytes.
const MAX_KEY_BYTES: usize = 32 * 1024;

/// A private key, held as PKCS#8 DER (RFC 5958) whatever form it came in.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Secret<Vec<u8>>,
    key: PKey<Private>,
}

impl PrivateKey {
    /// A new RSA key. Takes tenths of a second: not for an async thread.
    ///
    /// # Errors
    /// [`Error::Invalid`] below 1024 or above 8192 bits; else only when OpenSSL fails.
    pub fn generate_rsa(bits: u32) -> Result<Self, Error> {
        if !(1024..=MAX_RSA_BITS).contains(&bits) {
            return Err(Error::invalid(format!("an RSA key of {bits} bits; expected 1024 to {MAX_RSA_BITS}")));
        }
        Self::from_pkey(PKey::from_rsa(Rsa::generate(bits)?)?)
    }

    /// A new key on the curve P-256.
    ///
    /// # Errors
    /// Only when OpenSSL fails.
    pub fn generate_p256() -> Result<Self, Error> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        Self::from_pkey(PKey::from_ec_key(EcKey::generate(&group)?)?)
    }

    /// Reads DER: PKCS#8, PKCS#1 (RSA) or SEC 1 (elliptic curves), not encrypted.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no private key of a kind that is used here.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if der.len() > MAX_KEY_BYTES {
            return Err(Error::invalid(format!("the private key is longer than {MAX_KEY_BYTES} bytes")));
        }
        let key = PKey::private_key_from_der(der)
            .map_err(|_| Error::invalid("is no private key (PKCS#8, PKCS#1 or SEC 1)"))?;
        Self::from_pkey(key)
    }

    /// Reads the first private key of a PEM text, whatever else stands there; decrypts it if a password is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none, when it is encrypted and the password is missing or wrong.
    pub fn from_pem(text: &[u8], password: Option<&Secret<String>>) -> Result<Self, Error> {
        Self::find_in_pem(text, password)?
            .ok_or_else(|| Error::invalid("holds no private key (a PEM block that ends in PRIVATE KEY)"))
    }

    /// As [`PrivateKey::from_pem`]; none when the text holds no private key at all.
    pub(super) fn find_in_pem(text: &[u8], password: Option<&Secret<String>>) -> Result<Option<Self>, Error> {
        let blocks = pem::blocks(text)?;
        let Some(block) = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
            return Ok(None);
        };
        let legacy = block.der.is_empty();
        if block.label != "ENCRYPTED PRIVATE KEY" && !legacy {
            return Self::from_der(&block.der).map(Some);
        }
        let password =
            password.ok_or_else(|| Error::invalid("the private key is encrypted and no password was given"))?;
        let password = password.expose().as_bytes();
        let key = if legacy {
            PKey::private_key_from_pem_passphrase(block.text.as_bytes(), password)
        } else {
            PKey::private_key_from_pkcs8_passphrase(&block.der, password)
        };
        let key = key.map_err(|_| {
            Error::invalid("the private key does not decrypt: wrong password, or an encryption that is not supported")
        })?;
        Self::from_pkey(key).map(Some)
    }

    pub(super) fn from_pkey(key: PKey<Private>) -> Result<Self, Error> {
        check_kind(key.id(), key.bits())?;
        let pkcs8 = Secret::new(key.private_key_to_pkcs8()?);
        Ok(Self { pkcs8, key })
    }

    /// The key as PKCS#8 DER.
    #[must_use]
    pub const fn pkcs8_der(&self) -> &Secret<Vec<u8>> {
        &self.pkcs8
    }

    /// The key as PEM (`PRIVATE KEY`).
    #[must_use]
    pub fn to_pem(&self) -> Secret<String> {
        Secret::new(pem::write("PRIVATE KEY", self.pkcs8.expose()))
    }

    /// SHA-256 of the public half as SubjectPublicKeyInfo: equal to
    /// [`super::Certificate::public_key_sha256`] of a certificate that belongs to this key.
    ///
    /// # Errors
    /// Only when OpenSSL fails.
    pub fn public_key_sha256(&self) -> Result<Sha256, Error> {
        Ok(Sha256::of(&self.key.public_key_to_der()?))
    }

    /// Whether it is an RSA key (SCEP needs one).
    #[must_use]
    pub fn is_rsa(&self) -> bool {
        self.key.id() == Id::RSA
    }

    /// The size of the key in bits.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.key.bits()
    }

    pub(super) const fn pkey(&self) -> &PKey<Private> {
        &self.key
    }

    /// The same key for rcgen.
    pub(super) fn for_rcgen(&self) -> Result<rcgen::KeyPair, Error> {
        let der = Zeroizing::new(self.pkcs8.expose().clone());
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(der.as_slice());
        Ok(rcgen::KeyPair::try_from(&der)?)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

/// Refuses kinds and sizes of keys that nothing here can work with.
pub(super) fn check_kind(id: Id, bits: u32) -> Result<(), Error> {
    match id {
        Id::RSA if (1024..=MAX_RSA_BITS).contains(&bits) => Ok(()),
        Id::RSA => Err(Error::invalid(format!("an RSA key of {bits} bits; expected 1024 to {MAX_RSA_BITS}"))),
        Id::EC | Id::ED25519 => Ok(()),
        _ => Err(Error::invalid("a key that is neither RSA nor on an elliptic curve")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::fixtures;

    #[test]
    fn every_common_form_is_read_as_the_same_key() {
        let key = fixtures::rsa(0);
        let rsa = key.pkey().rsa().unwrap();
        let password = Secret::new("hunter2".to_owned());
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        let forms = [
            key.to_pem().expose().clone().into_bytes(),
            rsa.private_key_to_pem().unwrap(),
            key.pkey().private_key_to_pem_pkcs8_passphrase(cipher, b"hunter2").unwrap(),
            rsa.private_key_to_pem_passphrase(cipher, b"hunter2").unwrap(),
        ];
        for form in forms {
            let read = PrivateKey::from_pem(&form, Some(&password)).unwrap();
            assert_eq!(read.public_key_sha256().unwrap(), key.public_key_sha256().unwrap());
        }
        let ec = PrivateKey::generate_p256().unwrap();
        let sec1 = ec.pkey().ec_key().unwrap().private_key_to_der().unwrap();
        assert_eq!(PrivateKey::from_der(&sec1).unwrap().pkcs8_der(), ec.pkcs8_der());
    }

    #[test]
    fn faults_are_named_and_nothing_asks_on_the_terminal() {
        let key = fixtures::rsa(0);
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        let encrypted = key.pkey().private_key_to_pem_pkcs8_passphrase(cipher, b"hunter2").unwrap();
        let wrong = Secret::new("wrong".to_owned());
        for (pem, password, expected) in [
            (encrypted.as_slice(), None, "no password was given"),
            (&encrypted, Some(&wrong), "wrong password"),
            (b"hello", None, "holds no private key"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", None, "is no private key"),
        ] {
            let error = PrivateKey::from_pem(pem, password).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(PrivateKey::generate_rsa(512).is_err());
        assert_eq!(format!("{key:?}"), "PrivateKey([redacted])");
    }
}
