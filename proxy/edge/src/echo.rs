//! What must not come back to a client: the token that was sent up, wherever an upstream writes it in clear.
//!
//! In a head the whole line goes (`http::response`); in a body the bytes are overwritten where they stand, so that no
//! length changes. What an upstream compresses or encodes is not recognised: egress asks for whole, plain bodies.

use memchr::memmem;

use crate::credential::Credential;

/// Shorter secrets would be found by chance, in the framing too.
const SHORTEST: usize = 8;

/// What was sent, and the field that the secret stood in.
pub(crate) struct Echo {
    pub(crate) field: String,
    pub(crate) credential: Credential,
}

impl Echo {
    /// Overwrite every copy in a piece of a body.
    pub(crate) fn mask(&self, body: &mut [u8]) {
        self.credential.with_secret(|token| mask(token, body));
    }

    /// How many bytes at the end of a piece may be the front of a copy: they wait for what follows.
    pub(crate) fn held_back(&self, body: &[u8]) -> usize {
        self.credential.with_secret(|token| held_back(token, body))
    }
}

fn mask(token: &[u8], body: &mut [u8]) {
    if token.len() < SHORTEST {
        return;
    }
    let finder = memmem::Finder::new(token);
    let mut from = 0;
    while let Some(at) = body.get(from..).and_then(|rest| finder.find(rest)) {
        let end = from + at + token.len();
        if let Some(copy) = body.get_mut(from + at..end) {
            copy.fill(b'*');
        }
        from = end;
    }
}

fn held_back(token: &[u8], body: &[u8]) -> usize {
    if token.len() < SHORTEST {
        return 0;
    }
    (1..token.len())
        .rev()
        .find(|length| body.ends_with(&token[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(token: &[u8]) -> Echo {
        Echo {
            field: "A".to_owned(),
            credential: Credential::new(&[("A", "", token)], 0, 0).unwrap(),
        }
    }

    #[test]
    fn every_copy_is_overwritten() {
        let mut body = b"tok-1234tok-1234, tok-123 and tok-1234".to_vec();
        echo(b"tok-1234").mask(&mut body);

        assert_eq!(b"****************, tok-123 and ********"[..], body[..]);
    }

    #[test]
    fn longest_front_is_held_back() {
        for (body, expected) in [
            (&b"xtok-"[..], 4),
            (b"xt", 1),
            (b"tok-to", 2),
            (b"tok-1234", 0),
            (b"", 0),
        ] {
            assert_eq!(expected, echo(b"tok-1234").held_back(body), "{body:?}");
        }
    }

    #[test]
    fn short_secrets_leave_bodies_alone() {
        let mut body = b"a 5 b".to_vec();
        echo(b"5").mask(&mut body);

        assert_eq!(b"a 5 b"[..], body[..]);
        assert_eq!(0, echo(b"55").held_back(b"5"));
    }
}
