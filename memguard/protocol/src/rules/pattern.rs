//! Path patterns: one path, or everything under a prefix.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::path::is_normalised;

/// `/v1/charges` is that path alone; `/v1/*` is every path that begins with `/v1/`, at any depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// The path, or the prefix with its slash.
    path: String,
    is_prefix: bool,
}

/// Text that is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAPattern;

impl PathPattern {
    /// Whether a normalised path matches.
    #[must_use]
    pub fn admits(&self, path: &str) -> bool {
        if self.is_prefix {
            path.starts_with(&self.path)
        } else {
            path == self.path
        }
    }

    /// Whether every path that `other` admits is admitted.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.is_prefix && !self.is_prefix {
            return false;
        }
        self.admits(&other.path)
    }
}

impl FromStr for PathPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let (path, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) if prefix.ends_with('/') => (prefix, true),
            Some(_) => return Err(NotAPattern),
            None => (text, false),
        };
        if path.contains('*') || !is_normalised(path) {
            return Err(NotAPattern);
        }
        Ok(Self {
            path: path.to_owned(),
            is_prefix,
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        f.write_str(if self.is_prefix { "*" } else { "" })
    }
}

impl fmt::Display for NotAPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a normalised path, or one that ends in /*")
    }
}

impl std::error::Error for NotAPattern {}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_ends_at_its_slash() {
        for path in ["/v1/", "/v1/x", "/v1/x/y"] {
            assert!(pattern("/v1/*").admits(path), "{path}");
        }
        for path in ["/v1", "/v10/x", "/", "/x/v1/y"] {
            assert!(!pattern("/v1/*").admits(path), "{path}");
        }
        assert!(pattern("/v1").admits("/v1"));
        assert!(!pattern("/v1").admits("/v1/"));
    }

    #[test]
    fn only_narrower_patterns_are_covered() {
        for (wide, narrow, expected) in [
            ("/*", "/v1/*", true),
            ("/v1/*", "/v1/*", true),
            ("/v1/*", "/v1/x/*", true),
            ("/v1/*", "/v1/x", true),
            ("/v1/x", "/v1/x", true),
            ("/v1/*", "/*", false),
            ("/v1/*", "/v10/*", false),
            ("/v1/*", "/v1", false),
            ("/v1/", "/v1/*", false),
            ("/v1/x", "/v1/y", false),
        ] {
            assert_eq!(
                pattern(wide).covers(&pattern(narrow)),
                expected,
                "{wide} {narrow}"
            );
        }
    }

    #[test]
    fn other_texts_are_no_patterns() {
        for text in [
            "", "*", "v1/*", "/v1*", "/*/x", "/v1/**", "/v1/../*", "/v1//x", "/%76", "/v1?x",
        ] {
            assert!(text.parse::<PathPattern>().is_err(), "{text}");
        }
    }
}
