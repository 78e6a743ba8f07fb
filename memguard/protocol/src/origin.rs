//! Upstreams of tokens: `https://host:port`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An https origin: host in lower case and port, 443 where none is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    host: String,
    port: u16,
}

/// Text that is no https origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnOrigin;

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let authority = text.strip_prefix("https://").ok_or(NotAnOrigin)?;
        let (host, port) = match authority
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((address, rest)) => {
                let address: Ipv6Addr = address.parse().map_err(|_| NotAnOrigin)?;
                let port = if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or(NotAnOrigin)?)
                };
                (format!("[{address}]"), port)
            }
            None => {
                let (host, port) = match authority.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (authority, None),
                };
                (named_host(host)?, port)
            }
        };
        let port = match port {
            None => 443,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| NotAnOrigin)?
            }
            Some(_) => return Err(NotAnOrigin),
        };
        if port == 0 {
            return Err(NotAnOrigin);
        }
        Ok(Self { host, port })
    }
}

fn named_host(host: &str) -> Result<String, NotAnOrigin> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let all_numeric = host
        .split('.')
        .all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if host.len() > 253
        || !host.split('.').all(is_label)
        || (all_numeric && host.parse::<IpAddr>().is_err())
    {
        return Err(NotAnOrigin);
    }
    Ok(host.to_ascii_lowercase())
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for NotAnOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected https://host:port, without user, path or query")
    }
}

impl std::error::Error for NotAnOrigin {}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_compare_by_host_and_port() {
        for (text, normal) in [
            ("https://api.psp.example", "https://api.psp.example:443"),
            ("https://API.psp.example:443", "https://api.psp.example:443"),
            ("https://localhost:8443", "https://localhost:8443"),
            ("https://127.0.0.1:1", "https://127.0.0.1:1"),
            ("https://[2001:DB8::0:1]:443", "https://[2001:db8::1]:443"),
            ("https://[::1]", "https://[::1]:443"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "http://api.example",
            "api.example:443",
            "https://",
            "https://api.example/",
            "https://api.example/v1",
            "https://user@api.example",
            "https://api.example:443@evil.example",
            "https://api.example:0",
            "https://api.example:65536",
            "https://api.example:+443",
            "https://api.example:",
            "https://api..example",
            "https://api.example.",
            "https://*.example",
            "https://[::1",
            "https://[::1]443",
            "https://2130706433",
            "https://127.1",
            "HTTPS://api.example",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
