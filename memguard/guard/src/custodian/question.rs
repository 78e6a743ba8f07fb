//! A question to a custodian, from the time it was asked until it is answered or given up.

use std::os::fd::OwnedFd;
use std::sync::Weak;
use std::time::{Duration, Instant};

use unlatch_protocol::Refusal;
use unlatch_protocol::message::operation;

use super::verify::Proof;

/// From a question to its answer; the custodian's own deadline is half a second shorter.
const DEADLINE: Duration = Duration::from_millis(2500);
/// The same for what is no signature: logging in and finding keys take hardware longer.
const LONG_DEADLINE: Duration = Duration::from_secs(15);

/// Who waits for a signature.
pub(crate) struct Client {
    pub(crate) socket: Weak<OwnedFd>,
    pub(crate) key: u16,
    pub(crate) request_id: u32,
}

/// A signature that nobody checked yet.
pub(super) struct Unchecked {
    pub(super) signature: Vec<u8>,
    pub(super) proof: Proof,
}

/// A signature, or why there is none, and who gets it.
pub(super) type Answer = (Client, Result<Unchecked, Refusal>);

/// A question that is open.
pub(super) struct Question {
    pub(super) asked: Asked,
    /// The key field, which the answer echoes.
    pub(super) key: u16,
    pub(super) since: Instant,
}

/// What was asked.
pub(super) enum Asked {
    Sign(Client, Box<Proof>),
    Keys,
    Pin,
    Status,
}

impl Asked {
    /// The operation of the question.
    pub(super) fn operation(&self) -> u8 {
        match self {
            Self::Sign(..) => operation::SIGN,
            Self::Keys => operation::KEYS,
            Self::Pin => operation::PIN,
            Self::Status => operation::CUSTODIAN_STATUS,
        }
    }
}

impl Question {
    /// When it is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.since
            + match self.asked {
                Asked::Sign(..) => DEADLINE,
                _ => LONG_DEADLINE,
            }
    }
}

/// What is told who waits for an answer that does not come.
pub(super) fn unanswered(question: Question) -> Option<Answer> {
    match question.asked {
        Asked::Sign(client, _) => Some((client, Err(Refusal::HardwareUnreachable))),
        _ => None,
    }
}

/// A custodian's refusal of a signature in the words for edge.
pub(super) fn translated(code: u8) -> Refusal {
    match code {
        4 => Refusal::Scheme,
        8 => Refusal::HardwareBusy,
        10..=14 => Refusal::HardwareUnreachable,
        _ => Refusal::HardwareRefused,
    }
}
