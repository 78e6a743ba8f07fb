//! How a PIN may be used.

use serde::{Deserialize, Serialize};

/// Longest name of a piece of hardware.
const MAX_HARDWARE_BYTES: usize = 1024;

/// The sealed rules of a PIN. A PIN always has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PinUse {
    /// The only hardware that gets it: the token's URI, as the custodian's registration has it.
    pub hardware: String,
}

impl PinUse {
    /// Read the `use` of a PIN.
    ///
    /// # Errors
    /// No JSON object, a member that this build does not know, or hardware without a name.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let rules: Self = super::parse_object(json)?;
        if is_hardware(&rules.hardware) {
            Ok(rules)
        } else {
            Err(serde::de::Error::custom(
                "hardware is not 1 to 1024 characters without control characters",
            ))
        }
    }
}

/// Whether this can name a piece of hardware.
#[must_use]
pub fn is_hardware(text: &str) -> bool {
    (1..=MAX_HARDWARE_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_for_named_hardware_only() {
        let json = r#"{"hardware": "pkcs11:token=prod"}"#;
        assert_eq!(PinUse::parse(json).unwrap().hardware, "pkcs11:token=prod");
        for json in [
            "{}",
            "[\"pkcs11:token=prod\"]",
            r#"{"hardware": ""}"#,
            r#"{"hardware": null}"#,
            r#"{"hardware": "a\nb"}"#,
            r#"{"hardware": "pkcs11:token=prod", "x": 1}"#,
        ] {
            assert!(PinUse::parse(json).is_err(), "{json}");
        }
    }
}
