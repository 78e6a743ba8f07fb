//! Which header fields this proxy understands, and what becomes of them.

use httparse::Header;

/// A field name that is not simply passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Connection`
    Connection,
    /// `Expect`
    Expect,
    /// Other fields that mean this connection only (RFC 9110 section 7.6.1).
    HopByHop,
    /// What tells an upstream who the client is: written by this proxy alone.
    ClientIdentity,
    /// A name that CGI-like servers read as one of the above (`_` for `-`): never passed on.
    Disguised,
    /// Everything else.
    Other,
}

impl Field {
    /// Classify a field name, in any case.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let known = Self::folded(name);
        let disguised = known != Self::Other && name.as_bytes().contains(&b'_');
        if disguised { Self::Disguised } else { known }
    }

    fn folded(name: &str) -> Self {
        match name.len() {
            2 if is_named(name, "te") => Self::HopByHop,
            4 if is_named(name, "host") => Self::Host,
            // CGI reads it as HTTP_PROXY (httpoxy, CVE-2016-5385).
            5 if is_named(name, "proxy") => Self::Disguised,
            6 if is_named(name, "expect") => Self::Expect,
            // Trailers are dropped, so there is nothing to announce.
            7 if is_named(name, "trailer") => Self::HopByHop,
            7 if is_named(name, "upgrade") => Self::HopByHop,
            9 if is_named(name, "forwarded") => Self::ClientIdentity,
            9 if is_named(name, "x-real-ip") => Self::ClientIdentity,
            10 if is_named(name, "connection") => Self::Connection,
            10 if is_named(name, "keep-alive") => Self::HopByHop,
            14 if is_named(name, "content-length") => Self::ContentLength,
            14 if is_named(name, "http2-settings") => Self::HopByHop,
            16 if is_named(name, "proxy-connection") => Self::HopByHop,
            17 if is_named(name, "transfer-encoding") => Self::TransferEncoding,
            18 if is_named(name, "proxy-authenticate") => Self::HopByHop,
            19 if is_named(name, "proxy-authorization") => Self::HopByHop,
            13.. if is_named(name.get(..12).unwrap_or(""), "x-forwarded-") => Self::ClientIdentity,
            _ => Self::Other,
        }
    }
}

/// Whether `name` is `known` (lower case) in any case, with `_` read as `-`.
#[must_use]
pub fn is_named(name: &str, known: &str) -> bool {
    name.len() == known.len()
        && name.bytes().zip(known.bytes()).all(|(ours, theirs)| {
            ours.eq_ignore_ascii_case(&theirs) || (ours == b'_' && theirs == b'-')
        })
}

/// The comma-separated members of a list field, without white space around them and without empty ones.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Whether a `Connection` field of these headers names `name`.
#[must_use]
pub fn is_connection_option(headers: &[Header<'_>], name: &str) -> bool {
    let lists = headers
        .iter()
        .filter(|header| Field::of(header.name) == Field::Connection);
    lists
        .flat_map(|header| members(header.value))
        .any(|member| member.eq_ignore_ascii_case(name.as_bytes()))
}

/// A decimal number as RFC 9110 section 8.6 writes it: digits only, no sign, no list.
#[must_use]
pub fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified_in_any_case() {
        let cases = [
            ("hOsT", Field::Host),
            ("Transfer-Encoding", Field::TransferEncoding),
            ("X-FORWARDED-Port", Field::ClientIdentity),
            ("x-forwarded-for", Field::ClientIdentity),
            ("Forwarded", Field::ClientIdentity),
            ("X-Forwarded", Field::Other),
            ("Keep-Alive", Field::HopByHop),
            ("Trailer", Field::HopByHop),
            ("Proxy", Field::Disguised),
            ("Accept", Field::Other),
        ];
        for (name, expected) in cases {
            assert_eq!(expected, Field::of(name), "{name}");
        }
    }

    #[test]
    fn underscores_do_not_hide_a_name() {
        for name in [
            "X_Forwarded_For",
            "Content_Length",
            "transfer_encoding",
            "x-forwarded_proto",
        ] {
            assert_eq!(Field::Disguised, Field::of(name), "{name}");
        }
        assert_eq!(Field::Other, Field::of("my_header"));
    }

    #[test]
    fn only_plain_digits_are_a_length() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0012", Some(12)),
            ("9999999999999999999", Some(9_999_999_999_999_999_999)),
        ] {
            assert_eq!(expected, decimal(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "+1",
            "-1",
            "1,1",
            "0x10",
            "1 ",
            "18446744073709551616",
            "１",
        ] {
            assert_eq!(None, decimal(text.as_bytes()), "{text}");
        }
    }
}
