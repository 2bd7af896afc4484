//! Signed configuration profiles: CMS with the profile inside (attached), as DER.

use super::algorithm::Digest;
use super::asn1;
use super::cms::{SIGNED_DATA, Sign, SignedData, Unverified};
use super::{Certificate, Error, Identity};
use crate::model::Timestamp;

/// Largest signed profile that is opened, in bytes.
pub const MAX_SIGNED_PROFILE_BYTES: usize = 8 * 1024 * 1024;

/// Signs a profile. The whole chain goes along, so that a phone that knows only the root can show who signed;
/// `root` is added where the phone may not have it yet.
///
/// # Errors
/// Only when OpenSSL fails.
pub fn sign(profile: &[u8], signer: &Identity, root: Option<&Certificate>, now: Timestamp) -> Result<Vec<u8>, Error> {
    let chain: Vec<Certificate> = signer.chain.iter().chain(root).cloned().collect();
    let sign = Sign {
        content: profile,
        detached: false,
        certificate: &signer.certificate,
        key: &signer.key,
        chain: &chain,
        signing_time: Some(now),
        attributes: Vec::new(),
        digest: Digest::Sha256,
        unsorted: false,
        terse: false,
    };
    sign.make()
}

/// What was in a signed profile.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The profile.
    pub profile: Vec<u8>,
    /// Who signed it, if the certificate came along and the signature is of a known kind. **Not** checked for trust.
    pub signer: Option<Certificate>,
    /// All certificates that came along.
    pub certificates: Vec<Certificate>,
}

/// Whether the bytes look like CMS signed data, as a signed profile does, rather than like a plist.
#[must_use]
pub fn is_cms(bytes: &[u8]) -> bool {
    let oid = SIGNED_DATA.as_bytes();
    bytes.first() == Some(&asn1::SEQUENCE) && bytes.windows(oid.len()).take(16).any(|window| window == oid)
}

/// Takes the profile out of its signature. Decides nothing about trust, but notices a changed profile.
///
/// # Errors
/// [`Error::Invalid`] when it is too large, no signed CMS with content, or was changed after it was signed.
pub fn open(signed: &[u8]) -> Result<Opened, Error> {
    if signed.len() > MAX_SIGNED_PROFILE_BYTES {
        return Err(Error::invalid(format!("the signed profile is longer than {MAX_SIGNED_PROFILE_BYTES} bytes")));
    }
    let malformed = |_| Error::invalid("the signed profile is damaged: no CMS signed data");
    let definite = asn1::to_definite(signed).map_err(malformed)?;
    let data = SignedData::read(&definite).map_err(malformed)?;
    let profile = data.content.ok_or_else(|| Error::invalid("the signature holds no profile (it is detached)"))?;
    let mut signer = None;
    for info in &data.signers {
        let Some(certificate) = data.certificate_of(info) else { continue };
        match info.verify(certificate, profile) {
            Ok(()) => signer = signer.or_else(|| Some(certificate.clone())),
            Err(Unverified::Algorithm) => {}
            Err(Unverified::OtherContent | Unverified::Signature) => {
                return Err(Error::invalid("the profile was changed after it was signed: the signature does not fit"));
            }
        }
    }
    Ok(Opened { profile: profile.to_vec(), signer, certificates: data.certificates })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::authority::{issue_profile_signer, make_tls_root};
    use crate::pki::fixtures::{self, NOW};
    use proptest::prelude::*;
    use std::time::Duration;

    const PROFILE: &[u8] = b"<?xml version=\"1.0\"?><plist version=\"1.0\"><dict/></plist>\r\n";

    fn signed() -> (Vec<u8>, Identity, Certificate) {
        let random = SeededRandomness::new(4);
        let root = make_tls_root("Root", "Example", NOW, &random).unwrap();
        let year = Duration::from_secs(86_400 * 365);
        let signer = issue_profile_signer(&root, fixtures::rsa(0).clone(), "Example", NOW, year, &random).unwrap();
        let signer = Identity::from(signer);
        (sign(PROFILE, &signer, Some(&root.certificate), NOW).unwrap(), signer, root.certificate)
    }

    #[test]
    fn a_signed_profile_opens_and_openssl_verifies_it_against_the_root() {
        let (der, signer, root) = signed();
        assert!(is_cms(&der) && !is_cms(PROFILE) && !is_cms(root.der()));
        let opened = open(&der).unwrap();
        assert_eq!(opened.profile, PROFILE);
        assert_eq!(opened.signer, Some(signer.certificate.clone()));
        assert_eq!(opened.certificates, [signer.certificate, root.clone()]);

        let mut store = openssl::x509::store::X509StoreBuilder::new().unwrap();
        store.add_cert(root.openssl().unwrap()).unwrap();
        let mut at = openssl::x509::verify::X509VerifyParam::new().unwrap();
        at.set_time(NOW.seconds());
        store.set_param(&at).unwrap();
        store.set_purpose(openssl::x509::X509PurposeId::ANY).unwrap();
        let none = openssl::stack::Stack::new().unwrap();
        let pkcs7 = openssl::pkcs7::Pkcs7::from_der(&der).unwrap();
        let mut out = Vec::new();
        let flags = openssl::pkcs7::Pkcs7Flags::BINARY;
        pkcs7.verify(&none, &store.build(), None, Some(&mut out), flags).unwrap();
        assert_eq!(out, PROFILE);
    }

    #[test]
    fn a_changed_profile_is_noticed() {
        let (mut der, _, _) = signed();
        let at = der.windows(PROFILE.len()).position(|window| window == PROFILE).unwrap();
        der[at + 5] ^= 1;
        let error = open(&der).unwrap_err().to_string();
        assert!(error.contains("changed after it was signed"), "{error}");
        assert!(open(PROFILE).unwrap_err().to_string().contains("damaged"));
    }

    proptest! {
        #[test]
        fn damaged_profiles_never_panic(at in 0_usize..4000, byte in any::<u8>(), cut in 0_usize..4000) {
            static DER: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut der = DER.get_or_init(|| signed().0).clone();
            let at = at % der.len();
            der[at] = byte;
            let _ = (open(&der), open(&der[..cut.min(der.len())]), is_cms(&der));
        }
    }
}
