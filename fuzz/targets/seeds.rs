//! What the targets begin with: each writes examples of what it reads to where libFuzzer looks for them, since what is
//! signed or sealed is found by no chance. Times and keys are made for the run and mean nothing outside it.

use std::path::PathBuf;
use std::sync::OnceLock;

use muster::model::{SeededRandomness, Timestamp};
use muster::pki::authority::{issue_device_certificate, make_device_ca};
use muster::pki::request::Subject;
use muster::pki::{Authority, CertificateRequest, Identity, PrivateKey};

/// The time at which everything happens.
pub const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

/// Writes seeds for a target, into the directory that `make fuzz` names.
pub fn plant<'a>(target: &str, seeds: impl IntoIterator<Item = &'a [u8]>) {
    let Some(corpus) = std::env::var_os("MUSTER_FUZZ_CORPUS") else { return };
    let directory = PathBuf::from(corpus).join(target);
    std::fs::create_dir_all(&directory).expect("the corpus can be written");
    for (number, seed) in seeds.into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number:02}")), seed).expect("the corpus can be written");
    }
}

/// The messages of devices that the tests read, too.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/plists");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).expect("the fixtures are there").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// A device CA.
pub fn authority() -> &'static Authority {
    static MADE: OnceLock<Authority> = OnceLock::new();
    MADE.get_or_init(|| {
        let key = PrivateKey::generate_rsa(2048).expect("a key");
        make_device_ca(&key, "Fuzzed CA", "Example", NOW, &SeededRandomness::new(1)).expect("an authority")
    })
}

/// A device's key and the request for a certificate of it.
pub fn request() -> &'static (PrivateKey, CertificateRequest) {
    static MADE: OnceLock<(PrivateKey, CertificateRequest)> = OnceLock::new();
    MADE.get_or_init(|| {
        let key = PrivateKey::generate_rsa(2048).expect("a key");
        let csr = CertificateRequest::make(&key, &Subject::common_name("device"), None).expect("a request");
        (key, csr)
    })
}

/// A device's identity.
#[must_use]
pub fn identity() -> Identity {
    let (key, csr) = request();
    let day = std::time::Duration::from_secs(86_400);
    let random = SeededRandomness::new(2);
    let certificate = issue_device_certificate(authority(), csr, None, NOW, day, &random).expect("a certificate");
    Identity { certificate, chain: Vec::new(), key: key.clone() }
}
