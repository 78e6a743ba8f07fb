//! One worker's socket without the socket: a datagram in, a reply out, within the socket's rights.

use std::os::fd::OwnedFd;
use std::sync::Weak;

use unlatch_locked::LockedBytes;
use unlatch_protocol::authorize::push_pairs;
use unlatch_protocol::datagram::MAX_WORKER_BYTES;
use unlatch_protocol::message::operation;
use unlatch_protocol::{Datagram, Refusal, Request};

use crate::clock;
use crate::context::Side;
use crate::custodian::{Client, FIRST_NUMBER};
use crate::rate::Bucket;
use crate::vault::Vault;

/// What a socket may ask for.
pub(crate) enum Rights {
    Edge {
        node: String,
        /// `None`: every key of the configuration in force.
        keys: Option<Vec<u16>>,
        rate: u32,
    },
    Egress {
        /// Most signatures in a second.
        rate: u32,
    },
}

/// One socket's rights and what they were used for.
pub(crate) struct Peer<'a> {
    vault: &'a Vault,
    rights: &'a Rights,
    bucket: Bucket,
    /// Where answers of hardware go.
    socket: Weak<OwnedFd>,
}

/// What goes back.
pub(crate) struct Reply {
    pub(crate) operation: u8,
    pub(crate) key: u16,
    pub(crate) request_id: u32,
    pub(crate) answer: Answer,
    /// The socket is closed behind it.
    pub(crate) is_last: bool,
}

/// A payload, wiped when it is a secret.
pub(crate) enum Answer {
    Public(Vec<u8>),
    Secret(LockedBytes),
}

impl Answer {
    /// The reply's payload.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Public(bytes) => bytes,
            Self::Secret(bytes) => bytes.expose(),
        }
    }
}

impl<'a> Peer<'a> {
    /// `socket`: where answers of hardware go when they come.
    pub(crate) fn new(vault: &'a Vault, rights: &'a Rights, socket: Weak<OwnedFd>) -> Self {
        let (Rights::Edge { rate, .. } | Rights::Egress { rate }) = rights;
        Self {
            vault,
            rights,
            bucket: Bucket::new(*rate, clock::running()),
            socket,
        }
    }

    /// Answer one datagram. `None`: the answer comes from hardware, later.
    pub(crate) fn respond(&mut self, bytes: &[u8]) -> Option<Reply> {
        let datagram = Datagram::decode(bytes).ok();
        let request = datagram
            .as_ref()
            .filter(|_| bytes.len() <= MAX_WORKER_BYTES)
            .and_then(|datagram| Request::decode(datagram).ok());
        let (Some(datagram), Some(request)) = (datagram, request) else {
            return Some(self.malformed(datagram.map_or(0, |datagram| datagram.request_id)));
        };
        match self.answer(&request, datagram.request_id) {
            Ok(answer) => Some(Reply {
                operation: datagram.operation | operation::REPLY,
                key: datagram.key,
                request_id: datagram.request_id,
                answer: answer?,
                is_last: false,
            }),
            Err(refusal) => Some(self.refuse(refusal, datagram.key, datagram.request_id)),
        }
    }

    /// To bytes that are no message: the socket is closed.
    pub(crate) fn malformed(&self, request_id: u32) -> Reply {
        self.refuse(Refusal::Malformed, 0, request_id)
    }

    fn refuse(&self, refusal: Refusal, key: u16, request_id: u32) -> Reply {
        self.vault.count(refusal);
        Reply {
            operation: operation::REFUSED,
            key,
            request_id,
            answer: Answer::Public(vec![refusal.code()]),
            is_last: refusal == Refusal::Malformed,
        }
    }

    fn answer(
        &mut self,
        request: &Request<'_>,
        request_id: u32,
    ) -> Result<Option<Answer>, Refusal> {
        let answer = match (request, self.rights) {
            (
                Request::Sign {
                    key,
                    scheme,
                    message,
                },
                rights,
            ) => {
                let side = match rights {
                    Rights::Edge {
                        keys: Some(keys), ..
                    } if !keys.contains(key) => return Err(Refusal::NotForThisSocket),
                    Rights::Edge { .. } => Side::Server,
                    Rights::Egress { .. } => Side::Client,
                };
                self.take()?;
                if *key >= FIRST_NUMBER {
                    let admitted = self.vault.admit(side, *key, *scheme, message)?;
                    let client = Client {
                        socket: Weak::clone(&self.socket),
                        key: *key,
                        request_id,
                    };
                    let custodians = self.vault.custodians();
                    custodians.sign(*key, admitted, message, client)?;
                    return Ok(None);
                }
                let signature = self.vault.sign(side, *key, *scheme, message);
                signature.map(Answer::Public)
            }
            (Request::TicketKeys, Rights::Edge { node, .. }) => {
                self.vault.ticket_keys(node).map(Answer::Secret)
            }
            (Request::TicketOpen(ticket), Rights::Edge { .. }) => {
                self.take()?;
                self.vault.open_ticket(ticket).map(Answer::Secret)
            }
            (Request::Token(request), Rights::Egress { .. }) => {
                self.vault.token(request).map(Answer::Secret)
            }
            (Request::Authorize(request), Rights::Egress { .. }) => {
                let headers = self.vault.authorize(request)?;
                let mut payload = Vec::new();
                push_pairs(&mut payload, &headers).map_err(|_| Refusal::Internal)?;
                Ok(Answer::Public(payload))
            }
            _ => Err(Refusal::NotForThisSocket),
        };
        answer.map(Some)
    }

    /// One of what this socket may have in a second.
    fn take(&mut self) -> Result<(), Refusal> {
        if self.bucket.take(clock::running()) {
            Ok(())
        } else {
            Err(Refusal::TooMany)
        }
    }
}
