//! The body that tells a device with status 403 to leave. Source: Apple's schema, "errors" (unrecognized.device);
//! understood by iOS 17 and macOS 14 and later. It goes with [`CONTENT_TYPE`], without which devices do not read it.

use serde_json::json;

/// The content type of the body.
pub const CONTENT_TYPE: &str = "application/json";

/// The error's code.
const CODE: &str = "com.apple.unrecognized.device";

/// The server does not know the device: it removes its enrollment profile. The message is for logs, and may be shown to
/// the device's user.
#[must_use]
pub fn unrecognized_device(message: &str) -> Vec<u8> {
    let body = json!({ "code": CODE, "description": message, "message": message });
    body.to_string().into_bytes()
}

/// Whether a body with [`CONTENT_TYPE`] and status 403 tells the device to leave.
#[must_use]
pub fn is_unrecognized_device(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|body| body.get("code").is_some_and(|code| code == CODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_names_the_code() {
        let body: serde_json::Value = serde_json::from_slice(&unrecognized_device("gone \"for good\"")).unwrap();
        assert_eq!(body["code"], "com.apple.unrecognized.device");
        assert!(is_unrecognized_device(body.to_string().as_bytes()));
        assert!(!is_unrecognized_device(b"{\"code\": \"com.apple.other\"}") && !is_unrecognized_device(b"403"));
        assert_eq!(body["message"], "gone \"for good\"");
    }
}
