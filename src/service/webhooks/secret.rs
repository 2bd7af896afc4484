//! Secrets that messages are signed with.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::App;
use crate::model::{Secret, WebhookForm};

/// What a secret of Standard Webhooks begins with; the rest is the key in base64.
const PREFIX: &str = "whsec_";
/// Bytes of a secret that is made here.
const MADE: usize = 32;
/// Fewest and most bytes of a key. Source: Standard Webhooks, "Signature scheme".
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Fewest and most characters of one for the other form, which may be any text.
const CHARACTERS: std::ops::RangeInclusive<usize> = 16..=200;

/// A new secret.
pub(super) fn make(app: &App) -> Secret<String> {
    let mut random = [0; MADE];
    app.random.fill(&mut random);
    Secret::new(format!("{PREFIX}{}", STANDARD.encode(random)))
}

/// The key in a secret of Standard Webhooks.
pub(super) fn key_of(secret: &Secret<String>) -> Option<Secret<Vec<u8>>> {
    let key = Secret::new(STANDARD.decode(secret.expose().strip_prefix(PREFIX)?).ok()?);
    BYTES.contains(&key.expose().len()).then_some(key)
}

/// Whether a secret will do.
///
/// # Errors
/// What it should be; never the secret.
pub(super) fn check(form: WebhookForm, secret: &Secret<String>) -> Result<(), String> {
    let is_fit = match form {
        WebhookForm::CloudEvents => key_of(secret).is_some(),
        WebhookForm::NanoMdm => {
            let text = secret.expose();
            CHARACTERS.contains(&text.chars().count()) && !text.chars().any(char::is_control)
        }
    };
    if is_fit {
        return Ok(());
    }
    Err(match form {
        WebhookForm::CloudEvents => format!(
            "must be {PREFIX} and then {} to {} bytes in base64; left out, one is made",
            BYTES.start(),
            BYTES.end()
        ),
        WebhookForm::NanoMdm => format!("must be {} to {} characters", CHARACTERS.start(), CHARACTERS.end()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_enough_for_its_form() {
        let fits = |form, text: &str| check(form, &Secret::new(text.to_owned())).is_ok();
        assert!(fits(WebhookForm::CloudEvents, &format!("whsec_{}", STANDARD.encode([7; 24]))));
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for wrong in ["", "whsec_", "whsec_%", &short, &long, &STANDARD.encode([7; 32])] {
            assert!(!fits(WebhookForm::CloudEvents, wrong), "{wrong}");
        }
        assert!(fits(WebhookForm::NanoMdm, "sixteen letters!"));
        for wrong in ["", "fifteen letters", "a secret\nof two lines", &"x".repeat(201)] {
            assert!(!fits(WebhookForm::NanoMdm, wrong), "{wrong}");
        }
    }
}
