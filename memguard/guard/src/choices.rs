//! What settings say of secrets that are not loaded yet.

use crate::tickets::HOUR_SECONDS;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Choices {
    /// Names of RSA keys that are never joined.
    pub(crate) never_joined: Vec<String>,
    /// Length of a ticket epoch.
    pub(crate) epoch_seconds: u64,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            never_joined: Vec::new(),
            epoch_seconds: HOUR_SECONDS,
        }
    }
}
