//! Growing text in locked memory, and base64 in and out of it, without a copy in the ordinary heap.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};

use crate::LockedBytes;
use crate::error::Error;

/// Decode base64url without padding, canonical, into ordinary memory: public bytes only.
pub(crate) fn decode_public(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text).ok()
}

/// Encode public bytes.
pub(crate) fn encode_public(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Decode base64url text into locked memory. `None`: not canonical base64url.
pub(crate) fn decode_locked(text: &[u8]) -> Result<Option<LockedBytes>, Error> {
    if text.len() % 4 == 1 {
        return Ok(None);
    }
    let mut out = LockedBytes::zeroed(text.len() * 3 / 4)?;
    let good = Base64UrlUnpadded::decode(text, out.expose_mut()).is_ok();
    Ok(good.then_some(out))
}

/// Text that grows in locked memory; what is left behind is wiped.
pub(crate) struct LockedText(LockedBytes);

impl LockedText {
    /// Room for `capacity` bytes before the first move.
    pub(crate) fn with_capacity(capacity: usize) -> Result<Self, Error> {
        Ok(Self(LockedBytes::with_capacity(capacity)?))
    }

    /// Append bytes as they are.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        Ok(self.0.extend_from_slice(data)?)
    }

    /// Append base64url without padding.
    pub(crate) fn push_base64url(&mut self, data: &[u8]) -> Result<(), Error> {
        self.push_encoded::<Base64UrlUnpadded>(data)
    }

    /// Append one line of standard base64.
    pub(crate) fn push_base64(&mut self, data: &[u8]) -> Result<(), Error> {
        self.push_encoded::<Base64>(data)
    }

    /// Append the inside of a JSON string.
    pub(crate) fn push_escaped(&mut self, text: &str) -> Result<(), Error> {
        for &byte in text.as_bytes() {
            match byte {
                b'"' => self.push(b"\\\"")?,
                b'\\' => self.push(b"\\\\")?,
                b'\n' => self.push(b"\\n")?,
                0..0x20 | 0x7f => {
                    let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
                    self.push(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)])?;
                }
                _ => self.push(&[byte])?,
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> LockedBytes {
        self.0
    }

    pub(crate) fn written(&self) -> &[u8] {
        self.0.expose()
    }

    fn push_encoded<E: Encoding>(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut encoded = LockedBytes::zeroed(E::encoded_len(data))?;
        E::encode(data, encoded.expose_mut()).map_err(|_| Error::BundleTooLarge)?;
        self.push(encoded.expose())
    }
}

/// Undo the escapes of a raw JSON string (with its quotes) into locked memory. `None`: not a string, or a lone surrogate.
pub(crate) fn unescape(raw: &str) -> Result<Option<LockedBytes>, Error> {
    let Some(inside) = raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return Ok(None);
    };
    let mut out = LockedText::with_capacity(inside.len())?;
    let mut rest = inside.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.push(&rest[..at])?;
        let Some((plain, used)) = escape(&rest[at..]) else {
            return Ok(None);
        };
        out.push(plain.encode_utf8(&mut [0; 4]).as_bytes())?;
        rest = &rest[at + used..];
    }
    out.push(rest)?;
    Ok(Some(out.finish()))
}

/// One escape at the start of `text`: the character and how many bytes it took.
fn escape(text: &[u8]) -> Option<(char, usize)> {
    let plain = match text.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let high = hex4(text.get(2..6)?)?;
            if !(0xd800..0xdc00).contains(&high) {
                return Some((char::from_u32(high)?, 6));
            }
            let low = text.get(6..12).filter(|pair| pair.starts_with(b"\\u"))?;
            let low = hex4(&low[2..])?
                .checked_sub(0xdc00)
                .filter(|low| *low < 0x400)?;
            return Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, 12));
        }
        _ => return None,
    };
    Some((plain, 2))
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, byte| {
        Some(sum << 4 | char::from(*byte).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(raw: &str) -> Option<Vec<u8>> {
        unescape(raw).unwrap().map(|bytes| bytes.expose().to_vec())
    }

    #[test]
    fn escapes_are_undone_as_serde_does() {
        for raw in [
            r#""""#,
            r#""plain""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u00e9\ud83d\ude00x""#,
            "\"\u{e9}\"",
        ] {
            let expected: String = serde_json::from_str(raw).unwrap();

            assert_eq!(plain(raw).unwrap(), expected.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn broken_escapes_are_refused() {
        for raw in [
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            r#""\x""#,
            r#""\u12""#,
            "1",
            "\"",
            r#""\""#,
        ] {
            assert_eq!(plain(raw), None, "{raw}");
        }
    }

    #[test]
    fn escaped_text_reads_back() {
        let text: String = (0..=0x2ff).filter_map(char::from_u32).collect();
        let mut out = LockedText::with_capacity(0).unwrap();
        out.push(b"\"").unwrap();
        out.push_escaped(&text).unwrap();
        out.push(b"\"").unwrap();

        let written = out.finish();

        assert_eq!(
            serde_json::from_slice::<String>(written.expose()).unwrap(),
            text
        );
    }

    #[test]
    fn base64url_must_be_canonical() {
        for (text, good) in [
            ("YQ", true),
            ("YR", false),
            ("YQ==", false),
            ("Y", false),
            ("", true),
            ("Y-_8", true),
            ("Y+/8", false),
        ] {
            assert_eq!(
                decode_locked(text.as_bytes()).unwrap().is_some(),
                good,
                "{text}"
            );
            assert_eq!(decode_public(text).is_some(), good, "{text}");
        }
    }
}
