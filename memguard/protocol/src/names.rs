//! Certificate names: a DNS name, a name with one leading wildcard label, or an IP address.

use std::net::IpAddr;

/// Whether a certificate's `name` lies within the `allowed` one.
///
/// `*.example` allows each name with exactly one label in its place, and itself; it never allows `example` or a deeper
/// name. Only the same wildcard allows a wildcard. Case and one trailing dot make no difference (RFC 4343).
#[must_use]
pub fn allows(allowed: &str, name: &str) -> bool {
    if let (Ok(allowed), Ok(name)) = (allowed.parse::<IpAddr>(), name.parse::<IpAddr>()) {
        return allowed == name;
    }
    let (allowed, name) = (plain(allowed), plain(name));
    if allowed == name {
        return !name.is_empty();
    }
    let under = allowed.strip_prefix("*.");
    let (Some(under), Some((label, rest))) = (under, name.split_once('.')) else {
        return false;
    };
    rest == under && !label.is_empty() && label != "*" && name.parse::<IpAddr>().is_err()
}

fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_the_allowed_ones() {
        for (allowed, name) in [
            ("pay.example", "pay.example"),
            ("pay.example", "PAY.Example."),
            ("*.example", "pay.example"),
            ("*.pay.example", "a.PAY.example"),
            ("*.example", "*.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:DB8:0::1"),
        ] {
            assert!(allows(allowed, name), "{allowed} {name}");
        }
    }

    #[test]
    fn names_outside_the_allowed_ones() {
        for (allowed, name) in [
            ("pay.example", "other.example"),
            ("pay.example", "a.pay.example"),
            ("pay.example", "*.example"),
            ("*.example", "example"),
            ("*.example", "a.b.example"),
            ("*.example", "*.b.example"),
            ("*.b.example", "*.example"),
            ("*.example", ".example"),
            ("*.0.2.1", "192.0.2.1"),
            ("*", "example"),
            ("", ""),
            ("192.0.2.1", "192.0.2.2"),
        ] {
            assert!(!allows(allowed, name), "{allowed} {name}");
        }
    }
}
