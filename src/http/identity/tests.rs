use base64::engine::general_purpose;
use http::HeaderValue;

use super::*;
use crate::config::Settings;
use crate::http::fixtures::{Authority, Pair};
use crate::model::Sha256;

const PROXY: &str = "10.0.0.7";
const STRANGER: &str = "192.0.2.66";

fn reader(form: &str) -> IdentityReader {
    let text = format!(
        "public_url = \"https://mdm.example.org\"\n[proxy]\ntrusted = [\"10.0.0.0/8\"]\nidentity_form = \"{form}\"\n"
    );
    let settings = Settings::parse("muster.toml".as_ref(), &text, []).unwrap();
    IdentityReader::new(&settings.proxy, Metrics::new("test"))
}

fn phone() -> Pair {
    Authority::new("Devices").device("phone")
}

fn connection(peer: &str, shown: Option<&Pair>) -> Connection {
    let mut connection = Connection::plain("devices", format!("{peer}:4711").parse().unwrap());
    connection.certificate = shown.map(|pair| Arc::new(PeerCertificate::new(pair.certificate.to_vec(), Vec::new())));
    connection
}

fn headers(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("client-cert", HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn rfc9440(pair: &Pair) -> String {
    format!(":{}:", general_purpose::STANDARD.encode(&pair.certificate))
}

/// As nginx escapes it.
fn escaped(pair: &Pair) -> String {
    let body = general_purpose::STANDARD.encode(&pair.certificate);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    pem.replace('\n', "%0A").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(' ', "%20")
}

/// Digest and way of what is read.
fn read(reader: &IdentityReader, peer: &str, values: &[&str]) -> Result<Option<(Sha256, Way)>, IdentityError> {
    let presented = reader.read(Some(&connection(peer, None)), &headers(values))?;
    Ok(presented.map(|presented| (presented.certificate.sha256(), presented.way)))
}

#[test]
fn the_header_counts_only_from_a_trusted_address() {
    let (reader, phone) = (reader("rfc9440"), phone());
    let value = rfc9440(&phone);
    let expected = Some((Sha256::of(&phone.certificate), Way::ProxyHeader));
    assert_eq!(read(&reader, PROXY, &[&value]), Ok(expected));
    assert_eq!(read(&reader, PROXY, &[]), Ok(None));
    assert_eq!(read(&reader, STRANGER, &[&value]), Ok(None));
    assert_eq!(read(&reader, STRANGER, &["nonsense", &value]), Ok(None), "ignored whatever it is");
    assert_eq!(reader.read(None, &headers(&[&value])), Ok(None));
    let text = reader.metrics.render();
    assert!(text.contains("muster_proxy_headers_ignored_total 3"), "{text}");
}

#[test]
fn a_repeated_or_malformed_header_is_refused() {
    let (reader, phone) = (reader("rfc9440"), phone());
    let value = rfc9440(&phone);
    assert_eq!(read(&reader, PROXY, &[&value, &value]), Err(IdentityError::Repeated));
    assert_eq!(read(&reader, PROXY, &[&format!("{value}, {value}")]), Err(IdentityError::Repeated));
    let trailing = general_purpose::STANDARD.encode([&phone.certificate, &b"!"[..]].concat());
    let huge = format!(":{}:", "A".repeat(40_000));
    for wrong in
        ["nonsense", ":", ":%%%:", ":AAAA:", &value[1..], &format!("{value}x"), &format!(":{trailing}:"), &huge]
    {
        assert!(matches!(read(&reader, PROXY, &[wrong]), Err(IdentityError::Malformed(_))), "{wrong}");
    }
    let binary = HeaderValue::from_bytes(b"\xff").unwrap();
    let headers = HeaderMap::from_iter([(HeaderName::from_static("client-cert"), binary)]);
    assert!(reader.read(Some(&connection(PROXY, None)), &headers).is_err());
}

#[test]
fn a_client_without_a_certificate_is_nobody() {
    for (form, value) in [("rfc9440", ""), ("rfc9440", "::"), ("pem", ""), ("pem", "(null)")] {
        assert_eq!(read(&reader(form), PROXY, &[value]), Ok(None), "{form} {value}");
    }
}

#[test]
fn padding_and_parameters_do_not_matter() {
    let (reader, phone) = (reader("rfc9440"), phone());
    let value = rfc9440(&phone);
    let expected = Ok(Some((Sha256::of(&phone.certificate), Way::ProxyHeader)));
    assert_eq!(read(&reader, PROXY, &[&value.replace('=', "")]), expected);
    assert_eq!(read(&reader, PROXY, &[&format!(" {value};a=1 ")]), expected);
}

#[test]
fn escaped_pem_is_read_as_proxies_write_it() {
    let (reader, phone, ca) = (reader("pem"), phone(), Authority::new("CA").device("issuer"));
    let expected = Ok(Some((Sha256::of(&phone.certificate), Way::ProxyHeader)));
    let value = escaped(&phone);
    assert_eq!(read(&reader, PROXY, &[&value]), expected);
    // Only the line ends escaped; and Apache's spaces for line ends.
    let partly = value.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=").replace("%20", " ");
    assert_eq!(read(&reader, PROXY, &[&partly]), expected);
    assert_eq!(read(&reader, PROXY, &[&partly.replace("%0A", " ")]), expected);

    let chain = format!("{value}{}", escaped(&ca));
    let presented = reader.read(Some(&connection(PROXY, None)), &headers(&[&chain])).unwrap().unwrap();
    assert_eq!(presented.certificate.der(), phone.certificate.to_vec());
    assert_eq!(presented.certificate.chain(), [ca.certificate.to_vec()]);

    let endless = value.repeat(8);
    for wrong in ["nonsense", "%", "%4", "%zz", "%ff", "-----BEGIN CERTIFICATE-----", &value[..200], &endless] {
        assert!(matches!(read(&reader, PROXY, &[wrong]), Err(IdentityError::Malformed(_))), "{wrong}");
    }
}

#[test]
fn two_ways_must_name_the_same_certificate() {
    let (reader, phone, other) = (reader("rfc9440"), phone(), phone());
    let headers = headers(&[&rfc9440(&phone)]);
    let same = reader.read(Some(&connection(PROXY, Some(&phone))), &headers).unwrap().unwrap();
    assert_eq!((same.certificate.sha256(), same.way), (Sha256::of(&phone.certificate), Way::Tls));
    let different = reader.read(Some(&connection(PROXY, Some(&other))), &headers);
    assert_eq!(different, Err(IdentityError::Different(Way::Tls, Way::ProxyHeader)));
    assert_eq!(
        different.unwrap_err().to_string(),
        "the TLS connection and the proxy's header name different certificates"
    );
    let ignored = reader.read(Some(&connection(STRANGER, Some(&other))), &headers).unwrap().unwrap();
    assert_eq!(
        ignored.certificate.sha256(),
        Sha256::of(&other.certificate),
        "a stranger's header is not even compared"
    );
}
