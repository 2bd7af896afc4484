//! The signature of a hook's request or answer, as NanoMDM and its tools make it: base64 of HMAC-SHA256 over the body.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::model::Secret;

/// The header that holds it.
pub const HEADER: &str = "X-Hmac-Signature";

/// The signature of a body.
#[must_use]
pub fn sign(key: &Secret<String>, body: &[u8]) -> String {
    STANDARD.encode(hmac::sign(&of(key), body))
}

/// Whether `signature` is that of the body. Takes the same time wherever it is wrong.
#[must_use]
pub fn verifies(key: &Secret<String>, body: &[u8], signature: &[u8]) -> bool {
    STANDARD.decode(signature).is_ok_and(|given| hmac::verify(&of(key), body, &given).is_ok())
}

/// The value of `webhook-signature` by the scheme of Standard Webhooks: over id, time (seconds since the epoch) and body.
#[must_use]
pub fn sign_standard(key: &Secret<Vec<u8>>, id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

fn of(key: &Secret<String>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: RFC 4231, test case 2.
    #[test]
    fn the_signature_is_hmac_sha256_in_base64() {
        let key = Secret::new("Jefe".to_owned());
        let body = b"what do ya want for nothing?";

        let made = sign(&key, body);
        assert_eq!(
            hex::encode(STANDARD.decode(&made).unwrap()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(verifies(&key, body, made.as_bytes()));
        for wrong in ["", "%", "W9zBRg=="] {
            assert!(!verifies(&key, body, wrong.as_bytes()), "{wrong}");
        }
        assert!(!verifies(&Secret::new("jefe".to_owned()), body, made.as_bytes()));
    }

    /// Source: the Standard Webhooks specification's example of a signed message.
    #[test]
    fn the_standard_signature_is_over_id_time_and_body() {
        let key = Secret::new(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let made = sign_standard(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
