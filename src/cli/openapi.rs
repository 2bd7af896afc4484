use super::Error;
use super::completions::write;

/// Writes the API's description to the standard output.
pub(super) fn run() -> Result<(), Error> {
    // Texts and numbers: nothing that could not be written.
    let mut text = serde_json::to_string_pretty(&crate::http::api::openapi()).unwrap_or_default();
    text.push('\n');
    write(&mut std::io::stdout().lock(), text.as_bytes())
}
