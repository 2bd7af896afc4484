//! The bodies that tell a device something with status 403. Source: Apple's schema, "errors" (unrecognized.device and
//! others); understood by iOS 17 and macOS 14 and later. Each goes with [`CONTENT_TYPE`], without which devices do not
//! read it.

use serde_json::json;

/// The content type of these bodies.
pub const CONTENT_TYPE: &str = "application/json";

/// The server does not know the device: it removes its enrollment profile.
#[must_use]
pub fn unrecognized_device(message: &str) -> Vec<u8> {
    body("com.apple.unrecognized.device", message)
}

/// The device could not find the server by its well-known address.
#[must_use]
pub fn well_known_failed(message: &str) -> Vec<u8> {
    body("com.apple.well-known.failed", message)
}

/// `description` is for logs; `message` may be shown to the device's user.
fn body(code: &str, message: &str) -> Vec<u8> {
    json!({ "code": code, "description": message, "message": message }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_names_the_code() {
        let body: serde_json::Value = serde_json::from_slice(&unrecognized_device("gone \"for good\"")).unwrap();
        assert_eq!(body["code"], "com.apple.unrecognized.device");
        assert_eq!(body["message"], "gone \"for good\"");
        let body: serde_json::Value = serde_json::from_slice(&well_known_failed("no")).unwrap();
        assert_eq!(body["code"], "com.apple.well-known.failed");
    }
}
