//! An app by its manifest: fetches manifest and package as a device does, with ranges.

use plist::{Dictionary, Value};
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, RANGE};
use url::Url;

use super::app::App;
use super::fault::Fault;
use super::line::Line;
use super::profile::{optional_text, text};
use crate::protocol::wire::{self, Limits};

/// How much of a package the first request asks for, in bytes.
const FIRST_PIECE: u64 = 64 * 1024;

/// Fetches the manifest and the whole package that it names.
///
/// # Errors
/// What a device would report.
pub(super) async fn fetch(line: &Line, manifest: &str) -> Result<App, Fault> {
    let manifest = read_manifest(&get(line, manifest, None).await?.1)?;
    let (total, first) = get(line, &manifest.package, Some((0, FIRST_PIECE - 1))).await?;
    if !first.starts_with(b"PK") {
        return Err(failed("The package is no zip archive."));
    }
    let received = u64::try_from(first.len()).unwrap_or(u64::MAX);
    let rest = match total {
        Some(total) if total > received => get(line, &manifest.package, Some((received, total - 1))).await?.1.len(),
        _ => 0,
    };
    let size = received.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX));
    if total.is_some_and(|total| total != size) {
        return Err(failed("The package ends before its end."));
    }
    let mut app = App::of_the_user(&manifest.identifier);
    app.name = manifest.title;
    app.version = manifest.version;
    app.size = size;
    Ok(app)
}

struct Manifest {
    package: String,
    identifier: String,
    version: String,
    title: String,
}

fn read_manifest(bytes: &[u8]) -> Result<Manifest, Fault> {
    let wrong = |what: &str| failed(format!("The manifest is malformed: {what}."));
    let value = wire::read(bytes, Limits::PROFILE).map_err(|error| wrong(&error.to_string()))?;
    let item = value
        .as_dictionary()
        .and_then(|top| top.get("items"))
        .and_then(Value::as_array)
        .and_then(|items| items.first())
        .and_then(Value::as_dictionary)
        .ok_or_else(|| wrong("no items"))?;
    let metadata = item.get("metadata").and_then(Value::as_dictionary).ok_or_else(|| wrong("no metadata"))?;
    let assets = item.get("assets").and_then(Value::as_array).ok_or_else(|| wrong("no assets"))?;
    let package = assets
        .iter()
        .filter_map(Value::as_dictionary)
        .find(|asset| asset.get("kind").and_then(Value::as_string) == Some("software-package"))
        .ok_or_else(|| wrong("no software-package"))?;
    Ok(Manifest {
        package: text(package, "url")?,
        identifier: text(metadata, "bundle-identifier")?,
        version: version(metadata),
        title: text(metadata, "title")?,
    })
}

fn version(metadata: &Dictionary) -> String {
    optional_text(metadata, "bundle-version").unwrap_or_else(|| "1".to_owned())
}

/// Fetches a URL, or a piece of it; tells the whole length too, where the server does.
async fn get(line: &Line, url: &str, range: Option<(u64, u64)>) -> Result<(Option<u64>, Vec<u8>), Fault> {
    let url = Url::parse(url).map_err(|_| failed(format!("{url} is no URL.")))?;
    if url.scheme() != "https" {
        return Err(failed(format!("{url} does not begin with https.")));
    }
    let mut request = line.request(Method::GET, &url).map_err(|error| failed(error.to_string()))?;
    if let Some((from, to)) = range {
        request = request.header(RANGE, format!("bytes={from}-{to}"));
    }
    let answer = line.send("fetch an app", request).await.map_err(|error| failed(error.to_string()))?;
    match (answer.status, range) {
        (200, None | Some((0, _))) => {
            let total = u64::try_from(answer.body.len()).ok();
            Ok((total, answer.body))
        }
        (206, Some((from, _))) => {
            let stated = answer.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let total = total_of(stated, from).ok_or_else(|| failed("The package comes in the wrong pieces."))?;
            Ok((Some(total), answer.body))
        }
        (status, _) => Err(failed(format!("{url} answers {status}: {}", answer.text()))),
    }
}

/// The length in `bytes 0-99/1234`, if the piece begins where it should.
fn total_of(content_range: &str, from: u64) -> Option<u64> {
    let (piece, total) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = piece.split_once('-')?;
    (start.parse() == Ok(from)).then(|| total.parse().ok())?
}

fn failed(text: impl Into<String>) -> Fault {
    Fault::new("MCMDMErrorDomain", 12_033, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_the_package() {
        let manifest = |kind: &str| {
            format!(
                "<plist><dict><key>items</key><array><dict><key>assets</key><array><dict><key>kind</key>\
                 <string>{kind}</string><key>url</key><string>https://example.org/a.ipa</string></dict></array>\
                 <key>metadata</key><dict><key>bundle-identifier</key><string>org.example.a</string>\
                 <key>bundle-version</key><string>7</string><key>title</key><string>A</string></dict>\
                 </dict></array></dict></plist>"
            )
        };
        let read = read_manifest(manifest("software-package").as_bytes()).unwrap();
        assert_eq!((read.package.as_str(), read.version.as_str()), ("https://example.org/a.ipa", "7"));
        assert!(read_manifest(manifest("display-image").as_bytes()).is_err());
        assert!(read_manifest(b"<plist><dict/></plist>").is_err());
    }

    #[test]
    fn pieces_must_fit() {
        assert_eq!(total_of("bytes 0-9/100", 0), Some(100));
        assert_eq!(total_of("bytes 10-19/100", 0), None);
        assert_eq!(total_of("bytes 0-9/*", 0), None);
        assert_eq!(total_of("lines 0-9/100", 0), None);
    }
}
