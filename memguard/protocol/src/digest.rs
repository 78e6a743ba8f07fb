//! SHA-256 digests as 43 characters of base64url.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A SHA-256 digest of something public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Read base64url without padding; only the canonical spelling is accepted.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        let length = Base64UrlUnpadded::decode(text, &mut digest).ok()?.len();
        (length == digest.len()).then_some(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base64UrlUnpadded::encode_string(&self.0))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom("expected a SHA-256 digest in base64url"))
    }
}

/// Public bytes (a SubjectPublicKeyInfo) in base64url without padding.
#[must_use]
pub fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text).ok()
}

/// Base64url without padding, of public bytes.
#[must_use]
pub fn encode_base64url(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_text_of_32_bytes_is_a_digest() {
        let text = Digest([0xfb; 32]).to_string();

        assert_eq!(text.len(), 43);
        assert_eq!(Digest::parse(&text), Some(Digest([0xfb; 32])));
        for bad in [
            "",
            "AAAA",
            &text[..42],
            &format!("{text}="),
            &format!("{}9", &text[..42]),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
