use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::value::{Base, Problem, Raw, Value};

/// An address or a range of them (`10.0.0.0/8`), IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` lies in the range. An IPv4 address in its IPv6 form (`::ffff:10.0.0.1`, as a socket for both
    /// shows it) counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }

    /// How many leading bits all addresses of the range have in common: up to 32, or 128 for IPv6.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether these are IPv4 addresses.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether the range holds every address of its kind: then trusting it is trusting everyone.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.prefix == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| ())?,
            None => bits,
        };
        if prefix > bits {
            return Err(());
        }
        Ok(Self { address, prefix })
    }
}

/// A host by its name, or a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The host of this name (lower case), whatever its address.
    Host(String),
    /// Whoever has one of these addresses.
    Addresses(Network),
}

impl Value for Peer {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        if let Ok(network) = Network::read(raw, base) {
            return Ok(Self::Addresses(network));
        }
        let text = if let Raw::Text(text) | Raw::Plain(text) = raw { text.as_str() } else { "" };
        let is_name = |label: &str| {
            !label.is_empty()
                && label.len() < 64
                && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        // What ends in a number is an address that was mistyped, and is read as one by some.
        let is_numeric = text.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
        if text.len() < 256 && text.split('.').all(is_name) && !is_numeric {
            return Ok(Self::Host(text.to_ascii_lowercase()));
        }
        Err(Problem {
            problem: format!("{} is no host, no address and no range of addresses", raw.shown()),
            expected: "a host name without port, an IP address, or a range in CIDR form".to_owned(),
        })
    }

    fn stand_in() -> Self {
        Self::Host("invalid.".to_owned())
    }
}

impl Value for Network {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let text = if let Raw::Text(text) | Raw::Plain(text) = raw { text.as_str() } else { "" };
        text.parse().map_err(|()| Problem {
            problem: format!("{} is no address and no range of addresses", raw.shown()),
            expected: "an IP address or a range in CIDR form, such as 10.1.2.3 or 10.0.0.0/8".to_owned(),
        })
    }

    fn stand_in() -> Self {
        Self { address: IpAddr::from([127, 0, 0, 1]), prefix: 32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.0.2.7", "192.0.2.7"));
        assert!(!holds("192.0.2.7", "192.0.2.8"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(!holds("0.0.0.0/0", "::1"));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_the_ipv4_address() {
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
    }

    #[test]
    fn a_peer_is_a_host_or_a_range() {
        let read = |text: &str| {
            let base = Base { directory: "/".into(), data: "/".into() };
            Peer::read(&Raw::Text(text.to_owned()), &base).ok()
        };
        assert_eq!(read("Hooks.Example.org"), Some(Peer::Host("hooks.example.org".to_owned())));
        assert_eq!(read("localhost"), Some(Peer::Host("localhost".to_owned())));
        assert_eq!(read("10.0.0.0/8"), Some(Peer::Addresses("10.0.0.0/8".parse().unwrap())));
        for wrong in ["", "10.0.0.0/33", "10.0.0", "1.2.3.4:80", "https://a", "a b", "*.example.org", "a..b"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "localhost", "10.0.0/8", "10.0.0.0/8/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
