//! Address ranges in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A range of addresses. A single address is a range of one.
///
/// IPv4 addresses mapped into IPv6 count as IPv4, since that is how a dual-stack listener sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// Text that is no network, or one with bits set beyond its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANetwork;

impl Network {
    /// Whether the address lies within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4()
            && masked(address, self.prefix) == bits(self.first)
    }

    /// Whether every address of `other` lies within.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let mut first: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let width = width(first);
        let mut prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| NotANetwork)?
            }
            Some(_) => return Err(NotANetwork),
        };
        if let (IpAddr::V4(mapped), true, Some(short)) = (
            first.to_canonical(),
            first.is_ipv6(),
            prefix.checked_sub(96),
        ) {
            (first, prefix) = (mapped.into(), short);
        }
        let network = Self { first, prefix };
        if prefix > width || masked(first, prefix) != bits(first) {
            return Err(NotANetwork);
        }
        Ok(network)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
    }
}

fn masked(address: IpAddr, prefix: u8) -> u128 {
    let host_bits = u32::from(width(address).saturating_sub(prefix));
    let ones = 1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |power| power - 1);
    bits(address) & !ones
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected an address or a network such as 10.2.0.0/16, with no bits beyond the prefix",
        )
    }
}

impl std::error::Error for NotANetwork {}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_inside_and_outside() {
        for (range, inside, outside) in [
            ("10.2.0.0/16", "10.2.255.255", "10.3.0.0"),
            ("10.2.0.0/16", "::ffff:10.2.0.1", "::10.2.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.0"),
        ] {
            assert!(
                network(range).contains(inside.parse().unwrap()),
                "{range} {inside}"
            );
            assert!(
                !network(range).contains(outside.parse().unwrap()),
                "{range} {outside}"
            );
        }
    }

    #[test]
    fn only_narrower_networks_of_the_same_family_are_covered() {
        assert!(network("10.0.0.0/8").covers(&network("10.2.0.0/16")));
        assert!(network("10.0.0.0/8").covers(&network("10.0.0.0/8")));
        for other in ["0.0.0.0/0", "10.0.0.0/7", "11.0.0.0/16", "::/0"] {
            assert!(!network("10.0.0.0/8").covers(&network(other)), "{other}");
        }
        assert!(!network("::/0").covers(&network("10.0.0.0/8")));
    }

    #[test]
    fn sloppy_text_is_no_network() {
        for text in [
            "",
            "10.2.0.1/16",
            "10.2.0.0/33",
            "10.2.0.0/+8",
            "10.2/16",
            "10.2.0.0/",
            "::/129",
            "a/8",
            "::ffff:1.2.3.4/90",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
