//! The manifest that leads a device to an own app's package. Source: Apple's schema, "ManifestURL".

use plist::{Dictionary, Value};

use super::DecodeError;
use super::field::{name, needed_text};
use super::wire::{self, Limits};

/// The content type of a manifest.
pub const CONTENT_TYPE: &str = "text/xml";

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Where the package is: https, with a certificate that the device trusts.
    pub package_url: String,
    /// The app's bundle id.
    pub bundle_identifier: String,
    /// The app's version.
    pub bundle_version: Option<String>,
    /// The name shown while it installs.
    pub title: String,
}

impl Manifest {
    /// Writes it.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let asset = [("kind", "software-package"), ("url", &self.package_url)];
        let mut metadata = vec![("bundle-identifier", self.bundle_identifier.as_str())];
        metadata.extend(self.bundle_version.as_deref().map(|version| ("bundle-version", version)));
        metadata.extend([("kind", "software"), ("title", &self.title)]);
        let item = Dictionary::from_iter([
            ("assets", Value::Array(vec![Value::Dictionary(Dictionary::from_iter(asset))])),
            ("metadata", Value::Dictionary(Dictionary::from_iter(metadata))),
        ]);
        let items = Value::Array(vec![Value::Dictionary(item)]);
        wire::write(&Value::Dictionary(Dictionary::from_iter([("items", items)])))
    }

    /// Reads one, as a device does: the first item, and the first package in it.
    ///
    /// # Errors
    /// [`DecodeError::Wire`] when it is no property list, and what misses.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let root = wire::dictionary(wire::read(bytes, Limits::PROFILE)?)?;
        let items = root.get("items").and_then(Value::as_array);
        let item = items.and_then(|items| items.first()?.as_dictionary()).ok_or(DecodeError::Missing("items"))?;
        let assets = item.get("assets").and_then(Value::as_array).ok_or(DecodeError::Missing("assets"))?;
        let package = assets
            .iter()
            .filter_map(Value::as_dictionary)
            .find(|asset| asset.get("kind").and_then(Value::as_string) == Some("software-package"))
            .ok_or(DecodeError::Missing("software-package"))?;
        let metadata = item.get("metadata").and_then(Value::as_dictionary).ok_or(DecodeError::Missing("metadata"))?;
        Ok(Self {
            package_url: needed_text(package, "url")?,
            bundle_identifier: needed_text(metadata, "bundle-identifier")?,
            bundle_version: name(metadata, "bundle-version"),
            title: needed_text(metadata, "title")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back() {
        for bundle_version in [None, Some("1.2".to_owned())] {
            let manifest = Manifest {
                package_url: "https://mdm.example.org/packages/a?b=1&c=2".to_owned(),
                bundle_identifier: "org.example.notes".to_owned(),
                bundle_version,
                title: "Notes <beta>".to_owned(),
            };
            assert_eq!(Manifest::read(&manifest.write()), Ok(manifest));
        }
        assert_eq!(Manifest::read(b"<plist><dict/></plist>"), Err(DecodeError::Missing("items")));
    }
}
