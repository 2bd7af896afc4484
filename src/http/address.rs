//! Where a request comes from, also when a proxy stands between.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};

use crate::config::{Network, Proxy};

/// A request that passed more proxies than this is looked at no further.
const MAX_HOPS: usize = 32;

/// The proxies that are believed, and the header by which they name the client's address.
#[derive(Clone, Debug)]
pub struct Proxies {
    trusted: Vec<Network>,
    address_header: HeaderName,
}

impl Proxies {
    /// Believes requests from `trusted`. `address_header` is read as RFC 7239 if it is `Forwarded`, else as a list like
    /// that of `X-Forwarded-For`. Only this one counts: a proxy that sets one of them passes the others on as the client
    /// sent them.
    #[must_use]
    pub const fn new(trusted: Vec<Network>, address_header: HeaderName) -> Self {
        Self { trusted, address_header }
    }

    /// Believes nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Vec::new(), HeaderName::from_static("x-forwarded-for"))
    }

    /// Whether what comes from this address is believed.
    #[must_use]
    pub fn trust(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// The address that the request came from before it reached the first trusted proxy. For `peer` itself if it is not
    /// trusted: then the header is the client's own invention.
    ///
    /// Each proxy appends the address that it saw, so the list is read from its end, for as long as the address that
    /// wrote the entry is trusted. What cannot be read ends the reading there.
    #[must_use]
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if self.trusted.is_empty() {
            return client;
        }
        let lines = headers.get_all(&self.address_header).iter().rev();
        let hops = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
        for hop in hops.take(MAX_HOPS) {
            if !self.trust(client) {
                break;
            }
            let address = if self.address_header == FORWARDED { forwarded_for(hop) } else { parse_address(hop) };
            match address {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }
}

impl From<&Proxy> for Proxies {
    fn from(settings: &Proxy) -> Self {
        Self::new(settings.trusted.clone(), settings.address_header.clone())
    }
}

/// What one customer of a network provider has: the address, or for IPv6 the /64 that it lies in. Limits count by it.
#[must_use]
pub fn neighborhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

/// The `for` of one element of a `Forwarded` header (RFC 7239, section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| parse_address(value.trim().trim_matches('"')))?
    })
}

/// An address with or without a port, IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: &str, lines: &[&str], peer: &str) -> String {
        let trusted = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let name: HeaderName = header.parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), line.parse().unwrap());
        }
        Proxies::new(trusted, name).client_address(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_stranger_cannot_say_where_it_comes_from() {
        assert_eq!(client("x-forwarded-for", &["203.0.113.9"], "198.51.100.1"), "198.51.100.1");
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has_counts() {
        let ask = |lines: &[&str]| client("x-forwarded-for", lines, "::ffff:10.0.0.1");
        assert_eq!(ask(&[]), "10.0.0.1");
        assert_eq!(ask(&["203.0.113.9"]), "203.0.113.9");
        assert_eq!(ask(&["192.0.2.66, 203.0.113.9, 10.0.0.2"]), "203.0.113.9", "what stands before is the client's");
        assert_eq!(ask(&["192.0.2.66", "203.0.113.9:4711,10.0.0.2"]), "203.0.113.9", "lines are one list");
        assert_eq!(ask(&["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(ask(&["2001:db8::1"]), "2001:db8::1");
        assert_eq!(ask(&["203.0.113.9, nonsense"]), "10.0.0.1");
        assert_eq!(ask(&["203.0.113.9, "]), "10.0.0.1");
        assert_eq!(ask(&["10.0.0.9, 10.0.0.8"]), "10.0.0.9");
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_the_chosen_one() {
        let ask = |line: &str| client("forwarded", &[line], "10.0.0.1");
        assert_eq!(ask("for=203.0.113.9;proto=https;by=10.0.0.1"), "203.0.113.9");
        assert_eq!(ask("for=192.0.2.66, By=x; For=\"[2001:db8::1]:4711\""), "2001:db8::1");
        assert_eq!(ask("for=\"[2001:db8::1]\""), "2001:db8::1");
        assert_eq!(ask("for=unknown"), "10.0.0.1");
        assert_eq!(ask("for=_hidden"), "10.0.0.1");
        assert_eq!(client("forwarded", &["for=192.0.2.66"], "192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn an_endless_list_is_read_in_bounded_time() {
        let list = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(client("x-forwarded-for", &[&list], "10.0.0.1"), "10.0.0.2");
    }

    #[test]
    fn neighbors_share_a_network_of_ipv6_and_an_address_of_ipv4() {
        let of = |text: &str| neighborhood(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
