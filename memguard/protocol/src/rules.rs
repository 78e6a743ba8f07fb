//! The sealed rules (`use`): what a secret was sealed for, and nothing else is it good for.
//!
//! Rule 1: a configuration must lie within `use` in every member ([`KeyUse::covers`], [`TokenUse::covers`]).
//! Rule 2: a request must lie within the route *and* within `use` ([`InjectRule::admits`], [`TokenUse::admits`]).
//! Rule 3: a member that this build does not know is an error, never ignored: it may be a limit.
//! Rule 4: a member of `use` that is absent sets no limit, but `upstream` and `callers` of a token must be there, and
//! a key without `roles` may serve only.

mod caller;
mod key;
mod pattern;
mod pin;
mod sign;
mod ticket;
mod token;

pub use caller::CallerRule;
pub use key::{KeyRole, KeyUse};
pub use pattern::PathPattern;
pub use pin::{PinUse, is_hardware};
pub use sign::{
    HmacSigning, JwtUse, Line, MAX_JWT_SECONDS, MacEncoding, MacHash, Signing, Sigv4Signing,
};
pub use ticket::{TicketMode, TicketUse};
pub use token::{InjectRule, Methods, Place, Scheme, TokenUse};

use std::fmt;

/// A configuration asks for more than the sealed rules give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wider {
    /// What was asked and what is allowed.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

impl Wider {
    fn new(message: String) -> Self {
        Self {
            message,
            hint: "the sealed rules cannot be widened by the configuration: change it back, or seal the secret again",
        }
    }
}

impl fmt::Display for Wider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wider {}

/// serde takes an array for a struct as well; `use` is an object.
fn parse_object<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
    if json.trim_start().starts_with('{') {
        serde_json::from_str(json)
    } else {
        Err(serde::de::Error::custom(
            "sealed rules are not a JSON object",
        ))
    }
}

/// `a, b, c` for messages.
fn list<T: fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
