//! Which peers hooks may reach: public addresses, and those that an admin listed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::HookError;
use crate::config::Peer;

/// Judges each address that a hook is about to be reached at: after names are resolved, so that a public name for a private
/// address does not pass, and as the resolver of the client itself, so that what was judged is what is connected to.
#[derive(Clone, Debug)]
pub struct Guard {
    allow: Arc<[Peer]>,
}

impl Guard {
    /// A guard that lets through public addresses, and what is listed.
    #[must_use]
    pub fn new(allow: &[Peer]) -> Self {
        Self { allow: allow.into() }
    }

    /// Whether a host may be reached at an address.
    #[must_use]
    pub fn admits(&self, host: &str, address: IpAddr) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        is_public(address)
            || self.allow.iter().any(|peer| match peer {
                Peer::Host(name) => name.eq_ignore_ascii_case(host),
                Peer::Addresses(network) => network.contains(address),
            })
    }

    /// Judges a URL before anything is done with it: its scheme, and an address that stands in it, which is connected to
    /// without being resolved.
    ///
    /// # Errors
    /// [`HookError::Refused`].
    pub fn judge(&self, url: &Url) -> Result<(), HookError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(HookError::Refused("hooks are called by http or https alone".to_owned()));
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(HookError::Refused("the URL names no host".to_owned())),
        };
        if self.admits(&address.to_string(), address) { Ok(()) } else { Err(refused(&address.to_string())) }
    }

    async fn resolved(&self, host: &str) -> Result<Vec<SocketAddr>, HookError> {
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|e| HookError::Failed(format!("{host}: {e}")))?;
        let admitted: Vec<_> = found.filter(|address| self.admits(host, address.ip())).collect();
        if admitted.is_empty() { Err(refused(host)) } else { Ok(admitted) }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses: Addrs = Box::new(guard.resolved(name.as_str()).await?.into_iter());
            Ok(addresses)
        })
    }
}

fn refused(host: &str) -> HookError {
    HookError::Refused(format!(
        "{host} leads to this machine or to a private network, which hooks may not reach unless hooks.allow lists it"
    ))
}

/// Whether an address is one of the public internet. Addresses that carry an IPv4 address inside count as that one.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || a == 0 // "this network"
        || a >= 240 // reserved, and broadcast
        || (a == 100 && (64..128).contains(&b)) // shared by a provider's customers (RFC 6598)
        || (a == 192 && b == 0 && c == 0) // protocol assignments (RFC 6890)
        || (a == 198 && (b == 18 || b == 19)); // benchmarks (RFC 2544)
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [a, b, c, ..] = segments;
    let v4_of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    if a == 0 && b == 0 {
        return false; // unspecified, loopback, and the deprecated IPv4-compatible ones
    }
    if (a, b) == (0x64, 0xff9b) {
        // Translated to IPv4 (RFC 6052), if with the well-known prefix; the local one (RFC 8215) is a private matter.
        return c == 0 && is_public_v4(v4_of(segments[6], segments[7]));
    }
    if a == 0x2002 {
        return is_public_v4(v4_of(b, c)); // 6to4 (RFC 3056)
    }
    let is_special = (a & 0xfe00) == 0xfc00 // unique local
        || (a & 0xff80) == 0xfe80 // link local, and the deprecated site local
        || (a & 0xff00) == 0xff00 // multicast
        || (a == 0x2001 && b < 0x0200); // protocol assignments, Teredo among them
    !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_public_internet_is_known() {
        for inside in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn what_is_listed_is_admitted_by_name_or_by_address() {
        let guard =
            Guard::new(&[Peer::Host("hooks.example.org".to_owned()), Peer::Addresses("10.1.0.0/16".parse().unwrap())]);
        let admits = |host: &str, address: &str| guard.admits(host, address.parse().unwrap());
        assert!(admits("Hooks.example.org.", "127.0.0.1"));
        assert!(admits("other.example.org", "10.1.2.3"));
        assert!(admits("other.example.org", "::ffff:10.1.2.3"));
        assert!(!admits("other.example.org", "10.2.0.1"));
        assert!(!admits("sub.hooks.example.org", "10.2.0.1"));
        assert!(admits("other.example.org", "1.1.1.1"));
    }

    #[test]
    fn an_address_in_a_url_is_judged_however_it_is_written() {
        let guard = Guard::new(&[]);
        for wrong in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://2130706433/",
            "http://127.0.0.1./",
            "http://[::1]/",
            "http://[::ffff:169.254.169.254]/",
            "ftp://example.org/",
        ] {
            assert!(guard.judge(&wrong.parse().unwrap()).is_err(), "{wrong}");
        }
        assert!(guard.judge(&"http://1.1.1.1/".parse().unwrap()).is_ok());
    }
}
