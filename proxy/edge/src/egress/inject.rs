//! A token's way through this process: from guard into locked memory, into the last line of a head in locked memory,
//! into ciphertext. Every copy is wiped as soon as the next one exists; the one that is kept, until the response's
//! head is there, finds echoes.

use std::cell::RefCell;

use unlatch_locked::LockedBytes;
use unlatch_protocol::datagram::MAX_WORKER_BYTES;
use unlatch_protocol::{Refusal, TokenRequest};

use crate::config::Scheme;
use crate::counters::Count;
use crate::guard::GuardError;
use crate::worker::Worker;

thread_local! {
    /// Where guard's answers are received; zero between them.
    static ANSWER: RefCell<Option<LockedBytes>> = const { RefCell::new(None) };
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoToken {
    /// Guard's rules exclude this caller, upstream, method or path.
    Forbidden,
    /// Guard is gone, silent, locked, or has no such route.
    Unavailable,
    /// The secret is no field value: it would end the line.
    NotAField,
}

impl NoToken {
    /// The status that the client gets.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::Unavailable | Self::NotAField => 502,
        }
    }
}

/// Ask guard for the token of this request.
pub(crate) fn fetch(worker: &Worker, request: &TokenRequest<'_>) -> Result<LockedBytes, NoToken> {
    ANSWER.with_borrow_mut(|place| {
        if place.is_none() {
            *place = LockedBytes::zeroed(MAX_WORKER_BYTES).ok();
        }
        let room = place.as_mut().ok_or(NoToken::Unavailable)?.expose_mut();
        let answer = worker.shared.guard.token(request, room);
        let token = match answer {
            Ok(span) => copy_token(&room[span]),
            Err(GuardError::Refused(Refusal::Caller | Refusal::Outside)) => Err(NoToken::Forbidden),
            Err(_) => Err(NoToken::Unavailable),
        };
        unlatch_locked::wipe(room);
        if token.is_ok() {
            worker.counters().add(Count::Tokens);
        }
        token
    })
}

fn copy_token(bytes: &[u8]) -> Result<LockedBytes, NoToken> {
    let is_field = !bytes.is_empty() && bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    if !is_field {
        return Err(NoToken::NotAField);
    }
    LockedBytes::copy_from(bytes).map_err(|_| NoToken::Unavailable)
}

/// The whole head, with the token as its last line.
pub(crate) fn compose(
    head: &[u8],
    field: &str,
    scheme: Scheme,
    token: &LockedBytes,
) -> Result<LockedBytes, NoToken> {
    let scheme: &[u8] = match scheme {
        Scheme::Bearer => b"Bearer ",
        Scheme::Raw => b"",
    };
    let parts = [
        head,
        field.as_bytes(),
        b": ",
        scheme,
        token.expose(),
        b"\r\n\r\n",
    ];
    let length = parts.iter().map(|part| part.len()).sum();
    // As large as it will be: growing would move it.
    let mut whole = LockedBytes::with_capacity(length).map_err(|_| NoToken::Unavailable)?;
    for part in parts {
        whole
            .extend_from_slice(part)
            .map_err(|_| NoToken::Unavailable)?;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_the_last_line() {
        let token = copy_token(b"tok-1").unwrap();
        let head = b"GET / HTTP/1.1\r\nHost: x\r\n";

        let bearer = compose(head, "Authorization", Scheme::Bearer, &token).unwrap();
        let raw = compose(head, "X-Api-Key", Scheme::Raw, &token).unwrap();

        assert_eq!(
            b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tok-1\r\n\r\n"[..],
            *bearer.expose()
        );
        assert_eq!(
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: tok-1\r\n\r\n"[..],
            *raw.expose()
        );
    }

    #[test]
    fn secret_that_would_end_the_line_is_no_token() {
        for secret in [&b"a\r\nB: c"[..], b"a\n", b"", b"a\0", b"\xff"] {
            assert_eq!(Some(NoToken::NotAField), copy_token(secret).err());
        }
    }
}
