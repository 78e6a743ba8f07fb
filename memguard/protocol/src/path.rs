//! The one path normaliser of inject routes: edge, egress and guard must never read a path in two ways.
//!
//! Rule 1: what two servers could read differently is refused, not repaired: encoded slashes, dot segments, empty
//! segments, `;` parameters, backslashes, control characters, an absolute URI, wrong percent-encoding, a second
//! layer of percent-encoding, encoded bytes that are not UTF-8.
//! Rule 2: what all servers read alike gets one spelling: unreserved characters stand for themselves, the digits of
//! what stays encoded are upper case (RFC 3986 section 6.2.2).
//! Rule 3: normalising a normalised path changes nothing.

use std::fmt;

/// Longest request target, in bytes.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// The target of a request in origin form, checked and normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    path: String,
    query: Option<&'a str>,
}

/// Why a target was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// Over [`MAX_TARGET_BYTES`].
    TooLong,
    /// Does not begin with one slash: an absolute URI, `*`, an authority.
    NotOriginForm,
    /// A byte that does not belong into a path or query: control, space, backslash, `;`, `#`, beyond ASCII.
    Character,
    /// `%` without two hexadecimal digits.
    PercentEncoding,
    /// An encoded byte that must not be hidden: slash, backslash, `;`, `%`, control.
    Hidden,
    /// Encoded bytes that are not UTF-8.
    NotUtf8,
    /// An empty segment.
    EmptySegment,
    /// A segment `.` or `..`, encoded or not.
    DotSegment,
}

impl<'a> Target<'a> {
    /// Check and normalise what stands between method and version in a request line.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn parse(target: &'a [u8]) -> Result<Self, PathError> {
        if target.len() > MAX_TARGET_BYTES {
            return Err(PathError::TooLong);
        }
        let target = std::str::from_utf8(target).map_err(|_| PathError::Character)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        if query.is_some_and(|query| !query.bytes().all(is_query)) {
            return Err(PathError::Character);
        }
        let path = normalise(path)?;
        Ok(Self { path, query })
    }

    /// The normalised path, without query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows `?`, unchanged.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }
}

/// What is sent to the upstream: the normalised path and the query.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        match self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

/// Whether a path is its own normal form and has no query.
#[must_use]
pub fn is_normalised(path: &str) -> bool {
    matches!(Target::parse(path.as_bytes()), Ok(target) if target.path == path)
}

fn normalise(path: &str) -> Result<String, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotOriginForm);
    }
    let mut normal = String::with_capacity(path.len());
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let value = encoded(bytes.next(), bytes.next())?;
            decoded.push(value);
            if is_unreserved(value) {
                normal.push(char::from(value));
            } else {
                normal.push_str(&format!("%{value:02X}"));
            }
        } else if is_path(byte) {
            decoded.push(byte);
            normal.push(char::from(byte));
        } else {
            return Err(PathError::Character);
        }
    }
    std::str::from_utf8(&decoded).map_err(|_| PathError::NotUtf8)?;
    check_segments(&normal)?;
    Ok(normal)
}

fn encoded(high: Option<u8>, low: Option<u8>) -> Result<u8, PathError> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(high), digit(low)) else {
        return Err(PathError::PercentEncoding);
    };
    let value = u8::try_from(high << 4 | low).map_err(|_| PathError::PercentEncoding)?;
    if value.is_ascii_control() || b"/\\;%".contains(&value) {
        return Err(PathError::Hidden);
    }
    Ok(value)
}

/// The last segment may be empty (`/v1/`), no other.
fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => return Err(PathError::EmptySegment),
            "." | ".." => return Err(PathError::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 pchar and the slash, without `;`.
fn is_path(byte: u8) -> bool {
    is_unreserved(byte) || b"/!$&'()*+,=:@".contains(&byte)
}

/// What clients send in queries: visible ASCII without `#`. The query decides nothing, it is passed on.
fn is_query(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "target is over 8 KiB",
            Self::NotOriginForm => "target does not begin with one slash",
            Self::Character => "target holds a character that does not belong into a path",
            Self::PercentEncoding => "percent sign without two hexadecimal digits",
            Self::Hidden => {
                "slash, backslash, semicolon, percent sign or control character is encoded"
            }
            Self::NotUtf8 => "encoded bytes are not UTF-8",
            Self::EmptySegment => "path has an empty segment",
            Self::DotSegment => "path has a dot segment",
        })
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_targets_have_one_spelling() {
        for (target, path, query) in [
            ("/", "/", None),
            ("/v1/charges", "/v1/charges", None),
            ("/v1/", "/v1/", None),
            ("/v1?a=b;c=%2f..//", "/v1", Some("a=b;c=%2f..//")),
            ("/v1?", "/v1", Some("")),
            ("/%76%31/%7ex", "/v1/~x", None),
            ("/a%20b", "/a%20b", None),
            ("/caf%c3%a9", "/caf%C3%A9", None),
            ("/a:b@c,d=e+f!$&'()*", "/a:b@c,d=e+f!$&'()*", None),
            ("/a%3ab", "/a%3Ab", None),
            ("/...", "/...", None),
            ("/.well-known/x", "/.well-known/x", None),
        ] {
            let parsed = Target::parse(target.as_bytes()).unwrap();

            assert_eq!((parsed.path(), parsed.query()), (path, query), "{target}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use PathError as E;
        for (target, error) in [
            ("", E::NotOriginForm),
            ("*", E::NotOriginForm),
            ("v1", E::NotOriginForm),
            ("?x", E::NotOriginForm),
            ("http://other.example/v1", E::NotOriginForm),
            ("//other.example/v1", E::EmptySegment),
            ("/v1//x", E::EmptySegment),
            ("/v1/..", E::DotSegment),
            ("/v1/../admin", E::DotSegment),
            ("/./x", E::DotSegment),
            ("/v1/%2e%2e/admin", E::DotSegment),
            ("/v1/.%2E/admin", E::DotSegment),
            ("/v1%2fadmin", E::Hidden),
            ("/v1%2Fadmin", E::Hidden),
            ("/v1%5cadmin", E::Hidden),
            ("/v1%3bx", E::Hidden),
            ("/v1%252fadmin", E::Hidden),
            ("/v1%00", E::Hidden),
            ("/v1%0d%0a", E::Hidden),
            ("/v1%7f", E::Hidden),
            ("/v1;x=/../admin", E::Character),
            ("/v1\\admin", E::Character),
            ("/v1 x", E::Character),
            ("/v1\tx", E::Character),
            ("/v1#x", E::Character),
            ("/v1?x#y", E::Character),
            ("/v1?x y", E::Character),
            ("/caf\u{e9}", E::Character),
            ("/v1%", E::PercentEncoding),
            ("/v1%2", E::PercentEncoding),
            ("/v1%2g", E::PercentEncoding),
            ("/v1%+1", E::PercentEncoding),
            ("/v1%u002f", E::PercentEncoding),
            ("/%c0%af", E::NotUtf8),
            ("/%ff", E::NotUtf8),
        ] {
            assert_eq!(Target::parse(target.as_bytes()), Err(error), "{target}");
        }
    }

    #[test]
    fn long_targets_and_raw_bytes_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_TARGET_BYTES));

        assert_eq!(Target::parse(long.as_bytes()), Err(PathError::TooLong));
        assert_eq!(Target::parse(b"/\xff"), Err(PathError::Character));
        assert_eq!(Target::parse(b"/\x00"), Err(PathError::Character));
    }

    #[test]
    fn only_the_normal_form_without_query_is_normalised() {
        assert!(is_normalised("/v1/x"));
        for other in ["/v1/x?", "/%41", "/a%2fb", "x", "/%c3%a9"] {
            assert!(!is_normalised(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(target in "/[a-zA-Z0-9%./;?:@ -~]{0,40}") {
            if let Ok(first) = Target::parse(target.as_bytes()) {
                prop_assert!(is_normalised(first.path()));
                let text = first.to_string();
                prop_assert_eq!(Target::parse(text.as_bytes()).unwrap(), first);
            }
        }

        #[test]
        fn no_bytes_leave_a_way_out_of_a_prefix(target: Vec<u8>) {
            if let Ok(parsed) = Target::parse(&target) {
                prop_assert!(!parsed.path().contains("..") || !parsed.path().contains("/../"));
                prop_assert!(!parsed.path().contains("//"));
            }
        }
    }
}
