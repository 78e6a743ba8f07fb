//! HTTP/1.1 as bytes in, decisions out: no I/O, no clock.
//!
//! Rule 1: what is ambiguous is refused, never repaired (RFC 9112 section 11.2: request smuggling).
//! Rule 2: a head that goes on to an upstream or a client is written anew from what was understood; no byte of the
//! framing of one side reaches the other.

pub mod chunked;
pub mod fields;
pub mod forward;
pub mod head;
pub mod request;
pub mod response;
pub mod routes;
mod target;

/// Most header fields that any configuration may allow.
pub const MAX_HEADERS: usize = 256;

/// Room for the parsed fields of one head, on the caller's stack.
pub type Storage<'b> = [std::mem::MaybeUninit<httparse::Header<'b>>; MAX_HEADERS];

/// Uninitialised room: the parser fills only as many fields as the head has.
#[must_use]
pub fn storage<'b>() -> Storage<'b> {
    [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS]
}

/// How the end of a message's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// Exactly so many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// The peer closes the connection (responses only).
    UntilClose,
}

/// Why a request is refused before it is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Not HTTP/1.1 as this proxy reads it; the text says which rule.
    Malformed(&'static str),
    /// The head is longer, or has more fields, than the limits allow.
    TooLarge,
    /// CONNECT and TRACE are not proxied.
    Method,
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// HTTP/0.9, HTTP/2 preface, or another version.
    Version,
}

impl Reject {
    /// The status that the client gets.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooLarge => 431,
            Self::Method => 405,
            Self::Expectation => 417,
            Self::Version => 505,
        }
    }

    /// The reason for the log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(reason) => reason,
            Self::TooLarge => "head too large",
            Self::Method => "method not proxied",
            Self::Expectation => "unknown expectation",
            Self::Version => "version not spoken",
        }
    }
}
