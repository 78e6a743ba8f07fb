//! Requests and replies of worker sockets.

use crate::authorize::{AuthorizeRequest, pairs};
use crate::caller::Caller;
use crate::datagram::{Datagram, Malformed, Reader, push_field};

/// Numbers of the operations. A reply has the top bit set.
pub mod operation {
    /// Edge: sign a server handshake message.
    pub const SIGN: u8 = 0x01;
    /// Edge: ticket keys of this socket's node.
    pub const TICKET_KEYS: u8 = 0x02;
    /// Edge: open a ticket that another node gave.
    pub const TICKET_OPEN: u8 = 0x03;
    /// Egress: the token of an inject route.
    pub const TOKEN: u8 = 0x10;
    /// Egress: the headers that authorise a request, computed by guard.
    pub const AUTHORIZE: u8 = 0x11;
    /// Supervisor: take a stream from unlock.
    pub const LOAD: u8 = 0x40;
    /// Supervisor: check and adopt a configuration.
    pub const CONFIGURE: u8 = 0x41;
    /// Supervisor: a socket for a worker.
    pub const WORKER: u8 = 0x42;
    /// Supervisor: a certificate request.
    pub const CSR: u8 = 0x43;
    /// Supervisor: counters and memory facts.
    pub const STATUS: u8 = 0x44;
    /// Supervisor: forget every secret.
    pub const DROP: u8 = 0x45;
    /// Supervisor: how guard keeps secrets.
    pub const SETTINGS: u8 = 0x46;
    /// Supervisor: change every share now.
    pub const RESHARE: u8 = 0x47;
    /// Supervisor: the socket of a custodian.
    pub const CUSTODIAN: u8 = 0x48;
    /// Guard to a custodian: look the keys up and describe them.
    pub const KEYS: u8 = 0x30;
    /// Guard to a custodian: the PIN.
    pub const PIN: u8 = 0x31;
    /// Guard to a custodian: counters.
    pub const CUSTODIAN_STATUS: u8 = 0x32;
    /// A custodian to guard, unasked: its state changed.
    pub const EVENT: u8 = 0x33;
    /// Set in every reply.
    pub const REPLY: u8 = 0x80;
    /// The reply that says no.
    pub const REFUSED: u8 = 0xff;
}

/// Why guard said no. The number is the one payload byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// No message of this protocol; the socket is closed.
    Malformed = 1,
    /// Unknown key or inject route.
    Unknown = 2,
    /// This socket may not ask for that.
    NotForThisSocket = 3,
    /// The signature scheme does not fit key or protocol version.
    Scheme = 4,
    /// Not a server handshake message.
    Context = 5,
    /// The caller is not allowed.
    Caller = 6,
    /// Upstream, method or path lies outside the rules.
    Outside = 7,
    /// More requests than this socket may make.
    TooMany = 8,
    /// Guard failed.
    Internal = 9,
    /// No secrets are loaded.
    Locked = 10,
    /// A ticket of an epoch that is over, or no ticket of this fleet.
    Ticket = 11,
    /// The key's hardware has as many questions as it may have open.
    HardwareBusy = 12,
    /// The key's hardware does not answer, or not with this key, or waits for its PIN.
    HardwareUnreachable = 13,
    /// The key's hardware refused, or holds another key under this name.
    HardwareRefused = 14,
}

impl Refusal {
    /// Every reason, in the order of the numbers.
    pub const ALL: [Self; 14] = [
        Self::Malformed,
        Self::Unknown,
        Self::NotForThisSocket,
        Self::Scheme,
        Self::Context,
        Self::Caller,
        Self::Outside,
        Self::TooMany,
        Self::Internal,
        Self::Locked,
        Self::Ticket,
        Self::HardwareBusy,
        Self::HardwareUnreachable,
        Self::HardwareRefused,
    ];

    /// From the payload byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code)
    }

    /// The payload byte.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The name under which guard counts and logs it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::NotForThisSocket => "not_for_this_socket",
            Self::Scheme => "scheme",
            Self::Context => "context",
            Self::Caller => "caller",
            Self::Outside => "outside",
            Self::TooMany => "too_many",
            Self::Internal => "internal",
            Self::Locked => "locked",
            Self::Ticket => "ticket",
            Self::HardwareBusy => "hardware_busy",
            Self::HardwareUnreachable => "hardware_unreachable",
            Self::HardwareRefused => "hardware_refused",
        }
    }
}

/// What a worker asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Edge: sign this unhashed handshake message.
    Sign {
        /// The key's number.
        key: u16,
        /// TLS SignatureScheme.
        scheme: u16,
        /// The unhashed message.
        message: &'a [u8],
    },
    /// Edge: its node's ticket keys.
    TicketKeys,
    /// Edge: a ticket of another node.
    TicketOpen(SealedTicket<'a>),
    /// Egress: the token of a route.
    Token(TokenRequest<'a>),
    /// Egress: headers for a request.
    Authorize(AuthorizeRequest<'a>),
}

/// A session ticket as edge received it: AES-256-GCM under a node's key of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedTicket<'a> {
    /// Whose: the first bytes of SHA-256 of the node's name.
    pub node: &'a [u8; NODE_TAG_BYTES],
    /// When.
    pub epoch: u64,
    /// Of AES-GCM.
    pub nonce: &'a [u8; 12],
    /// What the ticket is bound to.
    pub additional_data: &'a [u8],
    /// Ciphertext and tag.
    pub sealed: &'a [u8],
}

/// Bytes of a node's name in tickets.
pub const NODE_TAG_BYTES: usize = 16;

/// For which request egress wants a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest<'a> {
    /// The inject route's number.
    pub route: u16,
    /// HTTP method.
    pub method: &'a str,
    /// `https://host:port`, as verified by TLS.
    pub upstream: &'a str,
    /// Normalised path without query.
    pub path: &'a str,
    /// Who asked edge.
    pub caller: Caller,
}

impl<'a> Request<'a> {
    /// Read a worker's datagram. Control operations are malformed here.
    ///
    /// # Errors
    /// Unknown operation, missing or surplus bytes, a key number where none belongs.
    pub fn decode(datagram: &Datagram<'a>) -> Result<Self, Malformed> {
        let mut reader = Reader::new(datagram.payload);
        let request = match datagram.operation {
            operation::SIGN => Self::Sign {
                key: datagram.key,
                scheme: reader.u16()?,
                message: reader.rest(),
            },
            operation::TICKET_KEYS if datagram.key == 0 => Self::TicketKeys,
            operation::TICKET_OPEN if datagram.key == 0 => Self::TicketOpen(SealedTicket {
                node: reader.reference()?,
                epoch: reader.u64()?,
                nonce: reader.reference()?,
                additional_data: reader.field()?,
                sealed: reader.rest(),
            }),
            operation::TOKEN => Self::Token(TokenRequest {
                route: datagram.key,
                method: reader.text()?,
                upstream: reader.text()?,
                path: reader.text()?,
                caller: Caller::decode(&mut reader)?,
            }),
            operation::AUTHORIZE => {
                Self::Authorize(AuthorizeRequest::decode(datagram.key, &mut reader)?)
            }
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(request)
    }

    /// The whole datagram.
    ///
    /// # Errors
    /// A field over 65535 bytes.
    pub fn encode(&self, request_id: u32) -> Result<Vec<u8>, Malformed> {
        let mut payload = Vec::new();
        let (operation, key) = match self {
            Self::Sign {
                key,
                scheme,
                message,
            } => {
                payload.extend_from_slice(&scheme.to_be_bytes());
                payload.extend_from_slice(message);
                (operation::SIGN, *key)
            }
            Self::TicketKeys => (operation::TICKET_KEYS, 0),
            Self::TicketOpen(ticket) => {
                payload.extend_from_slice(ticket.node);
                payload.extend_from_slice(&ticket.epoch.to_be_bytes());
                payload.extend_from_slice(ticket.nonce);
                push_field(&mut payload, ticket.additional_data)?;
                payload.extend_from_slice(ticket.sealed);
                (operation::TICKET_OPEN, 0)
            }
            Self::Token(token) => {
                for field in [token.method, token.upstream, token.path] {
                    push_field(&mut payload, field.as_bytes())?;
                }
                token.caller.encode(&mut payload)?;
                (operation::TOKEN, token.route)
            }
            Self::Authorize(authorize) => {
                authorize.encode(&mut payload)?;
                (operation::AUTHORIZE, authorize.request.route)
            }
        };
        Ok(Datagram {
            operation,
            key,
            request_id,
            payload: &payload,
        }
        .encode())
    }
}

/// Ticket keys of one node. Field by field what reply 0x82 carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TicketKeys<'a> {
    /// Number of the current epoch, counted from guard's start.
    pub epoch: u64,
    /// Seconds until the next one.
    pub seconds_left: u32,
    /// Key of the epoch before; in the first epoch a key that never encrypted anything.
    pub previous: &'a [u8; 32],
    /// Key of the current epoch.
    pub current: &'a [u8; 32],
}

/// What guard answers. Borrowed from the datagram, so that a token is read where it was received.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To sign.
    Signature(&'a [u8]),
    /// To ticket keys.
    TicketKeys(TicketKeys<'a>),
    /// To open ticket: the session that was in it.
    Ticket(&'a [u8]),
    /// To token.
    Token(&'a [u8]),
    /// To authorize: headers to set, in place of any that the client sent under these names. See [`Reply::headers`].
    Headers(&'a [u8]),
    /// To anything.
    Refused(Refusal),
}

impl<'a> Reply<'a> {
    /// Read guard's datagram; compare its `request_id` with the one that was sent.
    ///
    /// # Errors
    /// Unknown operation or refusal, missing or surplus bytes.
    pub fn decode(datagram: &Datagram<'a>) -> Result<Self, Malformed> {
        const SIGNED: u8 = operation::SIGN | operation::REPLY;
        const TICKET_KEYS: u8 = operation::TICKET_KEYS | operation::REPLY;
        const TICKET: u8 = operation::TICKET_OPEN | operation::REPLY;
        const TOKEN: u8 = operation::TOKEN | operation::REPLY;
        const HEADERS: u8 = operation::AUTHORIZE | operation::REPLY;
        let mut reader = Reader::new(datagram.payload);
        let reply = match datagram.operation {
            SIGNED => Self::Signature(reader.rest()),
            TICKET_KEYS => Self::TicketKeys(TicketKeys {
                epoch: reader.u64()?,
                seconds_left: reader.u32()?,
                previous: reader.reference()?,
                current: reader.reference()?,
            }),
            TICKET => Self::Ticket(reader.rest()),
            TOKEN => Self::Token(reader.rest()),
            HEADERS => {
                let bytes = reader.rest();
                Self::headers(bytes)?;
                Self::Headers(bytes)
            }
            operation::REFUSED => Self::Refused(Refusal::from_code(reader.u8()?).ok_or(Malformed)?),
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(reply)
    }

    /// The headers in the payload of a reply to authorize.
    ///
    /// # Errors
    /// Missing or surplus bytes.
    pub fn headers(payload: &'a [u8]) -> Result<Vec<(&'a str, &'a str)>, Malformed> {
        let mut reader = Reader::new(payload);
        let headers = pairs(&mut reader)?;
        reader.end()?;
        Ok(headers)
    }
}

#[cfg(test)]
mod tests;
