#![no_main]
//! Certificates, and requests for them, in DER and PEM.

use libfuzzer_sys::fuzz_target;
use muster::pki::push::Upload;
use muster::pki::{Certificate, CertificateRequest};
use muster_fuzz::{NOW, authority, identity, plant, request};

fn seeds() -> Vec<Vec<u8>> {
    let (key, csr) = request();
    let pair = format!("{}{}", identity().certificate.to_pem(), key.to_pem().expose());
    vec![authority().certificate.der().to_vec(), csr.der().to_vec(), csr.to_pem().into_bytes(), pair.into_bytes()]
}

fuzz_target!(
    init: plant("certificate", seeds().iter().map(Vec::as_slice)),
    |bytes: &[u8]| {
        let _ = (CertificateRequest::from_der(bytes), CertificateRequest::from_pem(bytes));
        if let Ok(upload) = Upload::read(bytes, None) {
            let _ = upload.finish(&[], NOW);
        }
        if let Ok(read) = Certificate::from_der(bytes) {
            // What is kept of it reads back.
            assert_eq!(Certificate::from_der(read.der()).map(|again| again.sha256).ok(), Some(read.sha256));
            let _ = read.self_signed();
        }
        let _ = Certificate::from_file(bytes);
    }
);
