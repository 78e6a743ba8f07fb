//! Why the program cannot start, or a new configuration cannot be adopted.

use std::{fmt, io};

/// A person, or the supervisor, must change something.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum StartError {
    /// The command line.
    Usage(&'static str),
    /// The configuration contradicts itself.
    Config(String),
    /// A certificate or CA does not parse or does not serve.
    Certificate {
        /// Which one.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The configuration is no JSON of the documented shape.
    Json(serde_json::Error),
    /// The system refused.
    Io(io::Error),
}

impl StartError {
    /// A certificate's fault, in place `place`.
    pub(crate) fn certificate(place: &str, reason: impl fmt::Display) -> Self {
        Self::Certificate {
            place: place.to_owned(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => write!(
                f,
                "{what}; wants --role edge|egress --config-fd N --control-fd M"
            ),
            Self::Config(what) => f.write_str(what),
            Self::Certificate { place, reason } => write!(f, "{place}: {reason}"),
            Self::Json(error) => write!(f, "configuration: {error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<serde_json::Error> for StartError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}
