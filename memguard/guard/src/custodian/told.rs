//! What a custodian tells, bounded: it runs a vendor's code, so nothing that it says is believed unread.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest DER of a public key that is looked at: RSA with 16384 bits has 2 086 bytes.
const MAX_SPKI_BYTES: usize = 4096;
/// Longest text that status shows.
const MAX_TEXT_CHARS: usize = 200;

/// A custodian's state, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Starting,
    NeedPin,
    Ready,
    Lost,
    PinWrong,
    PinBlocked,
    Broken,
}

/// Payload of an event.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    pub(super) state: State,
    #[serde(default)]
    pub(super) reason: String,
}

/// Payload of the reply to keys and to status; members that guard does not need are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    pub(super) found: Vec<Found>,
    #[serde(default)]
    pub(super) missing: Vec<Missing>,
    /// By the key's number in decimal.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, Times>,
}

/// A key that the hardware has.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) id: u16,
    /// Hexadecimal DER.
    spki: String,
}

/// A key that the hardware does not have.
#[derive(Debug, Deserialize)]
pub(super) struct Missing {
    pub(super) id: u16,
    pub(super) reason: String,
}

/// How long signatures took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Times {
    #[serde(default)]
    pub(super) p50_ms: Option<f64>,
    #[serde(default)]
    pub(super) p99_ms: Option<f64>,
}

impl Found {
    /// DER of the SubjectPublicKeyInfo; `None`: no hexadecimal, or far too long.
    pub(super) fn spki(&self) -> Option<Vec<u8>> {
        let digits = self.spki.as_bytes();
        if digits.is_empty() || digits.len() > 2 * MAX_SPKI_BYTES || digits.len() % 2 != 0 {
            return None;
        }
        let value = |digit: u8| char::from(digit).to_digit(16);
        digits
            .chunks_exact(2)
            .map(|pair| u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok())
            .collect()
    }
}

/// A JSON object; serde would take an array for one as well.
pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let is_object = payload.trim_ascii_start().starts_with(b"{");
    serde_json::from_slice(payload).ok().filter(|_| is_object)
}

/// For logs and status: short, and without control characters.
pub(super) fn tame(text: &str) -> String {
    text.chars()
        .map(|one| if one.is_control() { ' ' } else { one })
        .take(MAX_TEXT_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_hexadecimal_of_bounded_length() {
        let spki = |spki: &str| {
            Found {
                id: 1,
                spki: spki.to_owned(),
            }
            .spki()
        };
        assert_eq!(spki("00fFa5"), Some(vec![0, 255, 0xa5]));
        let long = "00".repeat(MAX_SPKI_BYTES + 1);
        for bad in ["", "0", "0g", "é0", &long] {
            assert_eq!(spki(bad), None);
        }
    }

    #[test]
    fn text_is_cut_and_kept_on_one_line() {
        assert_eq!(tame("a\n\u{1b}[1mb"), "a  [1mb");
        assert_eq!(tame(&"é".repeat(1000)).chars().count(), MAX_TEXT_CHARS);
    }

    #[test]
    fn states_are_those_of_the_protocol() {
        let event: Event = serde_json::from_str(r#"{"state": "pin-blocked"}"#).unwrap();
        assert_eq!(event.state, State::PinBlocked);
        assert!(serde_json::from_str::<Event>(r#"{"state": "fine"}"#).is_err());
    }
}
