//! How a ticket secret may be used.

use serde::{Deserialize, Serialize};

/// The sealed rules of a ticket secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TicketUse {
    /// Whose keys edge gets.
    pub mode: TicketMode,
}

/// Whose keys edge gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TicketMode {
    /// Its own node's; guard opens other nodes' tickets, one at a time.
    PerNode,
}

impl TicketUse {
    /// Read the `use` of a ticket secret.
    ///
    /// # Errors
    /// No JSON object, or a member or mode that this build does not know.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        super::parse_object(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_modes_are_rules() {
        assert_eq!(
            TicketUse::parse(r#"{"mode": "per-node"}"#).unwrap().mode,
            TicketMode::PerNode
        );
        for json in [
            r#"{"mode": "shared"}"#,
            "{}",
            r#"{"mode": "per-node", "x": 1}"#,
            "[]",
        ] {
            assert!(TicketUse::parse(json).is_err(), "{json}");
        }
    }
}
