//! What guard, edge and egress say to each other, and the rules that decide. No I/O, no clock, no secret kept.
//!
//! * [`datagram`] – the header of every message, and the reader and writer of fields (docs/protocol.md section 1).
//! * [`message`] – requests and replies of worker sockets: [`Request`], [`Reply`], [`Refusal`].
//! * [`authorize`] – what guard signs for a request: [`AuthorizeRequest`].
//! * [`caller`] – who asked edge: [`Caller`].
//! * [`control`] – the supervisor's JSON, sections 1.4 and 1.5.
//! * [`rules`] – the sealed rules (`use`), what a configuration may ask for within them, what a request may.
//! * [`names`], [`network`], [`origin`] – certificate names, address ranges and upstreams as the rules compare them.
//! * [`path`] – the one path normaliser: [`path::Target`].
#![forbid(unsafe_code)]

pub mod authorize;
pub mod caller;
pub mod control;
pub mod datagram;
pub mod digest;
pub mod message;
pub mod names;
pub mod network;
pub mod origin;
pub mod path;
pub mod rules;

pub use authorize::AuthorizeRequest;
pub use caller::{Caller, CallerCertificate};
pub use datagram::{Datagram, Malformed};
pub use digest::Digest;
pub use message::{Refusal, Reply, Request, SealedTicket, TicketKeys, TokenRequest};
