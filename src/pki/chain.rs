//! From a certificate to a root that is trusted (a subset of RFC 5280, section 6).
//!
//! Revocation is no matter of this module: the store knows what was revoked.

use std::time::Duration;

use super::Certificate;
use crate::model::Timestamp;

/// Most CAs between a leaf and its root.
const MAX_INTERMEDIATES: usize = 4;

/// Most signatures that are checked for one leaf, however many certificates with fitting names there are.
const MAX_SIGNATURES: usize = 16;

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No path leads to a root that is trusted.
    #[error("issued by {issuer}, which is not among the trusted authorities")]
    Unknown {
        /// The issuer at which the search ended.
        issuer: String,
    },
    /// It, or an authority above it, has expired, longer ago than the grace.
    #[error("expired at {at}")]
    Expired {
        /// The end of the validity.
        at: Timestamp,
    },
    /// It, or an authority above it, is not valid yet.
    #[error("not valid before {from}")]
    NotYetValid {
        /// The beginning of the validity.
        from: Timestamp,
    },
    /// An authority of that name is trusted, but its key did not sign this.
    #[error("names {issuer} as its issuer, whose key did not sign it")]
    BadSignature {
        /// The name of the issuer.
        issuer: String,
    },
    /// It is an authority's certificate, or restricted to other purposes.
    #[error("not for this purpose: {reason}")]
    WrongPurpose {
        /// What is in the way.
        reason: String,
    },
}

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A device authenticates with it.
    Client,
    /// A server authenticates with it.
    Server,
    /// It signs data, such as a profile.
    Signing,
}

/// Checks a device's certificate; returns which root it leads to.
///
/// `grace` is how long after its end a certificate is still accepted: a device that was off for months must be able to
/// come back.
///
/// # Errors
/// The first thing that is in the way; an expired or wrong-purposed certificate is named as such only when it does
/// lead to a trusted root.
pub fn verify(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    now: Timestamp,
    grace: Duration,
) -> Result<usize, ChainError> {
    verify_for(Purpose::Client, leaf, intermediates, roots, now, grace)
}

/// As [`verify`], for any purpose.
///
/// # Errors
/// As [`verify`].
pub fn verify_for(
    purpose: Purpose,
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    now: Timestamp,
    grace: Duration,
) -> Result<usize, ChainError> {
    let mut search = Search { intermediates, roots, signatures: MAX_SIGNATURES, mismatch: None };
    let mut path = vec![leaf];
    let Some(root) = search.extend(&mut path) else {
        return Err(match search.mismatch {
            Some(issuer) => ChainError::BadSignature { issuer },
            None => ChainError::Unknown { issuer: leaf.issuer.clone() },
        });
    };
    check_purpose(purpose, leaf)?;
    for certificate in path.iter().copied().chain(roots.get(root)) {
        if let Some(oid) = &certificate.unknown_critical {
            return Err(ChainError::WrongPurpose { reason: format!("it has the unknown critical extension {oid}") });
        }
        if now > certificate.not_after.plus(grace) {
            return Err(ChainError::Expired { at: certificate.not_after });
        }
        if now < certificate.not_before {
            return Err(ChainError::NotYetValid { from: certificate.not_before });
        }
    }
    Ok(root)
}

/// The certificates above `leaf` that are found in `pool`, nearest first, up to and without a self-signed root: what
/// is sent along with the leaf.
#[must_use]
pub fn intermediates_of(leaf: &Certificate, pool: &[Certificate]) -> Vec<Certificate> {
    let mut chain: Vec<Certificate> = Vec::new();
    while chain.len() < MAX_INTERMEDIATES {
        let last = chain.last().unwrap_or(leaf);
        let next = pool.iter().find(|above| {
            !above.self_issued()
                && above.subject_der == last.issuer_der
                && !chain.contains(above)
                && last.signed_by(above)
        });
        match next {
            Some(next) => chain.push(next.clone()),
            None => break,
        }
    }
    chain
}

struct Search<'a> {
    intermediates: &'a [Certificate],
    roots: &'a [Certificate],
    signatures: usize,
    /// The issuer whose name fitted while its key did not.
    mismatch: Option<String>,
}

impl<'a> Search<'a> {
    /// Extends the path until a root signed its last certificate; returns which root.
    fn extend(&mut self, path: &mut Vec<&'a Certificate>) -> Option<usize> {
        let last = *path.last()?;
        let (roots, intermediates) = (self.roots, self.intermediates);
        for (index, root) in roots.iter().enumerate() {
            if self.issued(root, path.len() - 1, last) {
                return Some(index);
            }
        }
        if path.len() > MAX_INTERMEDIATES {
            return None;
        }
        for above in intermediates {
            if !path.contains(&above) && self.issued(above, path.len() - 1, last) {
                path.push(above);
                if let Some(root) = self.extend(path) {
                    return Some(root);
                }
                path.pop();
            }
        }
        None
    }

    /// Whether `issuer`, with that many CAs below it, issued `certificate`.
    fn issued(&mut self, issuer: &Certificate, below: usize, certificate: &Certificate) -> bool {
        let room = issuer.path_length.is_none_or(|most| below <= usize::try_from(most).unwrap_or(usize::MAX));
        if !issuer.is_ca || !room || issuer.subject_der != certificate.issuer_der || self.signatures == 0 {
            return false;
        }
        self.signatures -= 1;
        let signed = certificate.signed_by(issuer);
        if !signed && self.mismatch.is_none() {
            self.mismatch = Some(issuer.subject.clone());
        }
        signed
    }
}

fn check_purpose(purpose: Purpose, leaf: &Certificate) -> Result<(), ChainError> {
    let reason = match purpose {
        _ if leaf.is_ca && purpose != Purpose::Signing => "it is an authority's certificate",
        Purpose::Client if !leaf.for_clients => "its extendedKeyUsage has no clientAuth",
        Purpose::Server if !leaf.for_servers => "its extendedKeyUsage has no serverAuth",
        Purpose::Client | Purpose::Signing if !leaf.may_sign => "its keyUsage has no digitalSignature",
        _ => return Ok(()),
    };
    Err(ChainError::WrongPurpose { reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::authority::{self, Authority, issue_device_certificate, issue_server_certificate, make_device_ca};
    use crate::pki::fixtures::{self, NOW};
    use crate::pki::request::{CertificateRequest, Subject};
    use rcgen::{BasicConstraints, IsCa};

    const DAY: Duration = Duration::from_secs(86_400);

    fn leaf(ca: &Authority) -> Certificate {
        let request = CertificateRequest::make(fixtures::rsa(0), &Subject::common_name("iPhone"), None).unwrap();
        issue_device_certificate(ca, &request, None, NOW, DAY * 365, &SeededRandomness::new(9)).unwrap()
    }

    #[test]
    fn a_device_certificate_leads_to_its_root_and_to_no_other() {
        let ca = fixtures::device_ca();
        let random = SeededRandomness::new(2);
        let other = make_device_ca(fixtures::rsa(1), "Other CA", "Example", NOW, &random).unwrap();
        let twin = make_device_ca(fixtures::rsa(1), "Device CA", "Example", NOW, &random).unwrap();
        let roots = [other.certificate.clone(), twin.certificate.clone(), ca.certificate.clone()];
        let leaf = leaf(ca);
        assert_eq!(verify(&leaf, &[], &roots, NOW, Duration::ZERO), Ok(2));
        assert!(matches!(verify(&leaf, &[], &roots[..1], NOW, DAY), Err(ChainError::Unknown { .. })));
        assert!(matches!(verify(&leaf, &[], &roots[..2], NOW, DAY), Err(ChainError::BadSignature { .. })));
        assert!(matches!(verify(&leaf, &[], &[], NOW, DAY), Err(ChainError::Unknown { .. })));
    }

    #[test]
    fn validity_has_a_beginning_an_end_and_a_grace() {
        let ca = fixtures::device_ca();
        let roots = [ca.certificate.clone()];
        let leaf = leaf(ca);
        let end = leaf.not_after;
        assert_eq!(verify(&leaf, &[], &roots, end, Duration::ZERO), Ok(0));
        let late = end.plus(Duration::from_secs(1));
        assert_eq!(verify(&leaf, &[], &roots, late, Duration::ZERO), Err(ChainError::Expired { at: end }));
        assert_eq!(verify(&leaf, &[], &roots, late, DAY), Ok(0));
        let early = leaf.not_before.minus(Duration::from_secs(1));
        assert!(matches!(verify(&leaf, &[], &roots, early, DAY), Err(ChainError::NotYetValid { .. })));
    }

    #[test]
    fn other_purposes_are_refused() {
        let random = SeededRandomness::new(2);
        let ca = fixtures::device_ca();
        let roots = [ca.certificate.clone()];
        let names = ["mdm.example.org".to_owned()];
        let server = issue_server_certificate(ca, &names, NOW, DAY * 90, &random).unwrap().certificate;
        assert!(matches!(verify(&server, &[], &roots, NOW, DAY), Err(ChainError::WrongPurpose { .. })));
        assert_eq!(verify_for(Purpose::Server, &server, &[], &roots, NOW, DAY), Ok(0));
        let error = verify(&ca.certificate, &[], &roots, NOW, DAY).unwrap_err();
        assert!(error.to_string().contains("authority's"), "{error}");
    }

    #[test]
    fn intermediates_are_found_and_their_limits_kept() {
        let random = SeededRandomness::new(2);
        let chain = |root_room: BasicConstraints| {
            let mut params = authority::authority_params("Upper", "", NOW, &random);
            params.is_ca = IsCa::Ca(root_room);
            let key = fixtures::rsa(1).clone();
            let made = params.self_signed(&key.for_rcgen().unwrap()).unwrap();
            let root = Authority { certificate: Certificate::from_der(made.der()).unwrap(), key };
            let params = authority::authority_params("Lower", "", NOW, &random);
            let lower = authority::issue(&root, &params, fixtures::rsa(2).clone()).unwrap();
            (root.certificate, leaf(&lower), lower.certificate)
        };
        let (root, device, lower) = chain(BasicConstraints::Constrained(1));
        let roots = [root.clone()];
        let pool = [root.clone(), lower.clone()];
        assert_eq!(verify(&device, &pool, &roots, NOW, DAY), Ok(0));
        assert!(matches!(verify(&device, &[], &roots, NOW, DAY), Err(ChainError::Unknown { .. })));
        assert_eq!(intermediates_of(&device, &pool), [lower]);
        let (root, device, lower) = chain(BasicConstraints::Constrained(0));
        assert!(verify(&device, &[lower], &[root], NOW, DAY).is_err(), "the root allows no CA below it");
    }

    #[test]
    fn a_leaf_cannot_act_as_an_authority() {
        let real = leaf(fixtures::device_ca());
        let fake = Authority { certificate: real.clone(), key: fixtures::rsa(0).clone() };
        let forged = leaf(&fake);
        let roots = [fixtures::device_ca().certificate.clone()];
        assert!(matches!(verify(&forged, &[real], &roots, NOW, DAY), Err(ChainError::Unknown { .. })));
    }

    #[test]
    fn a_heap_of_fitting_names_costs_a_bounded_number_of_signatures() {
        let random = SeededRandomness::new(2);
        let twins: Vec<Certificate> = (0..200)
            .map(|_| make_device_ca(fixtures::rsa(1), "Device CA", "Example", NOW, &random).unwrap().certificate)
            .collect();
        let mut search = Search { intermediates: &twins, roots: &[], signatures: MAX_SIGNATURES, mismatch: None };
        let leaf = leaf(fixtures::device_ca());
        assert_eq!(search.extend(&mut vec![&leaf]), None);
        assert_eq!(search.signatures, 0);
    }
}
