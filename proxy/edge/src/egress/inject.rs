//! A secret's way through this process: from guard into locked memory, into the last lines of a head in locked memory,
//! into ciphertext. Every copy is wiped as soon as the next one exists; the one that is kept, masked, until the response
//! is there finds echoes.

use std::cell::RefCell;

use unlatch_locked::LockedBytes;
use unlatch_protocol::datagram::MAX_WORKER_BYTES;
use unlatch_protocol::{Refusal, Reply, Request};

use super::Route;
use crate::config::{Ask, Scheme};
use crate::counters::Count;
use crate::credential::Credential;
use crate::guard::GuardError;
use crate::worker::Worker;

thread_local! {
    /// Where guard's answers are received; zero between them.
    static ANSWER: RefCell<Option<LockedBytes>> = const { RefCell::new(None) };
}

/// Why there is no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoCredential {
    /// Guard's rules exclude this caller, upstream, method or path.
    Forbidden,
    /// Guard is gone, silent, locked, or has no such route.
    Unavailable,
    /// The secret is no field value: it would end the line.
    NotAField,
    /// Guard must be told more than one datagram holds.
    TooLong,
}

impl NoCredential {
    /// The status that the client gets.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::Unavailable | Self::NotAField => 502,
            Self::TooLong => 431,
        }
    }
}

/// Ask guard for what authorises this request.
pub(crate) fn fetch(
    worker: &Worker,
    route: &Route,
    asked: &Request<'_>,
) -> Result<Credential, NoCredential> {
    ANSWER.with_borrow_mut(|place| {
        if place.is_none() {
            *place = LockedBytes::zeroed(MAX_WORKER_BYTES).ok();
        }
        let room = place
            .as_mut()
            .ok_or(NoCredential::Unavailable)?
            .expose_mut();
        let answer = worker.shared.guard.credential(asked, room);
        let credential = match answer {
            Ok(span) => read(route, &room[span]),
            Err(GuardError::Refused(Refusal::Caller | Refusal::Outside)) => {
                Err(NoCredential::Forbidden)
            }
            Err(GuardError::TooLong) => Err(NoCredential::TooLong),
            Err(_) => Err(NoCredential::Unavailable),
        };
        unlatch_locked::wipe(room);
        if credential.is_ok() {
            worker.counters().add(Count::Tokens);
        }
        credential
    })
}

fn read(route: &Route, payload: &[u8]) -> Result<Credential, NoCredential> {
    match route.ask {
        Ask::Token => from_token(&route.header, route.scheme, payload),
        Ask::Authorize => from_headers(&route.placeholders, payload),
        Ask::Nothing => Ok(Credential::default()),
    }
}

fn from_token(header: &str, scheme: Scheme, token: &[u8]) -> Result<Credential, NoCredential> {
    let before = match scheme {
        Scheme::Bearer => "Bearer ",
        Scheme::Raw => "",
    };
    if !is_field(token) {
        return Err(NoCredential::NotAField);
    }
    Credential::new(&[(header, before, token)], 0, 0).map_err(|_| NoCredential::Unavailable)
}

/// `expected`: the names that this route takes off requests, the secret's own first.
fn from_headers(expected: &[String], payload: &[u8]) -> Result<Credential, NoCredential> {
    let headers = Reply::headers(payload).map_err(|_| NoCredential::Unavailable)?;
    let is_right = |(name, value): &(&str, &str)| {
        expected.iter().any(|expected| expected == name) && is_field(value.as_bytes())
    };
    if headers.is_empty() || !headers.iter().all(is_right) {
        return Err(NoCredential::NotAField);
    }
    let parts: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, "", value.as_bytes()))
        .collect();
    let own = |(name, _): &(&str, &str)| Some(*name) == expected.first().map(String::as_str);
    let secret = headers.iter().position(own).unwrap_or(0);
    // What comes before it, such as `Bearer` or an access key's name, is no secret, and may be echoed without it.
    let start = headers
        .get(secret)
        .and_then(|(_, value)| value.rfind(' '))
        .map_or(0, |space| space + 1);
    Credential::new(&parts, secret, start).map_err(|_| NoCredential::Unavailable)
}

fn is_field(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| (0x20..0x7f).contains(byte))
}

/// The whole head, with the credential as its last lines.
pub(crate) fn compose(head: &[u8], credential: &Credential) -> Result<LockedBytes, NoCredential> {
    credential.with_lines(|lines| {
        let parts = [head, lines, b"\r\n"];
        let length = parts.iter().map(|part| part.len()).sum();
        // As large as it will be: growing would move it.
        let mut whole =
            LockedBytes::with_capacity(length).map_err(|_| NoCredential::Unavailable)?;
        for part in parts {
            whole
                .extend_from_slice(part)
                .map_err(|_| NoCredential::Unavailable)?;
        }
        Ok(whole)
    })
}

#[cfg(test)]
mod tests {
    use unlatch_protocol::authorize::push_pairs;

    use super::*;

    #[test]
    fn token_is_the_last_line() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\n";
        let composed = |header, scheme| {
            let credential = from_token(header, scheme, b"tok-1").unwrap();
            compose(head, &credential).unwrap().expose().to_vec()
        };

        assert_eq!(
            b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tok-1\r\n\r\n"[..],
            composed("Authorization", Scheme::Bearer)
        );
        assert_eq!(
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: tok-1\r\n\r\n"[..],
            composed("X-Api-Key", Scheme::Raw)
        );
    }

    #[test]
    fn secret_that_would_end_the_line_is_no_token() {
        for secret in [&b"a\r\nB: c"[..], b"a\n", b"", b"a\0", b"\xff"] {
            let credential = from_token("X", Scheme::Raw, secret);
            assert_eq!(Some(NoCredential::NotAField), credential.err());
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> Result<Credential, NoCredential> {
        let mut payload = Vec::new();
        push_pairs(&mut payload, pairs).unwrap();
        from_headers(&["x-sign".to_owned(), "x-time".to_owned()], &payload)
    }

    #[test]
    fn computed_headers_stand_together_and_the_last_word_is_the_secret() {
        let credential = headers(&[("x-time", "7"), ("x-sign", "key=a code=b")]).unwrap();

        credential.with_lines(|lines| {
            assert_eq!(b"x-time: 7\r\nx-sign: key=a code=b\r\n"[..], *lines);
        });
        credential.with_secret(|secret| assert_eq!(b"code=b"[..], *secret));
    }

    #[test]
    fn headers_that_clients_could_set_too_are_refused() {
        for pairs in [
            &[("x-sign", "a"), ("x-other", "b")][..],
            &[("x-sign", "a\r\nb: c")],
            &[("X-Sign", "a")],
            &[],
        ] {
            assert_eq!(Some(NoCredential::NotAField), headers(pairs).err());
        }
        assert_eq!(
            Some(NoCredential::Unavailable),
            from_headers(&[], &[0]).err()
        );
    }
}
