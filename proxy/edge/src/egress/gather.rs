//! A body that is held back until its digest is known: bounded for each request, and for all of them together.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::digest;

use crate::config::Body;
use crate::http::Framing;
use crate::http::chunked::Chunked;

/// All bodies that are held at once: with the default limit for each, 64 of the longest.
const MOST_BYTES: usize = 64 * 1024 * 1024;
static HELD: AtomicUsize = AtomicUsize::new(0);

/// A whole body.
pub(crate) struct Gathered {
    pub(crate) bytes: Vec<u8>,
    /// SHA-256.
    pub(crate) digest: [u8; 32],
    _room: Room,
}

/// A body of which more is to come.
pub(crate) struct Gathering {
    bytes: Vec<u8>,
    limit: usize,
    rest: Rest,
    room: Room,
}

enum Rest {
    Length(u64),
    Chunked(Chunked),
    Done,
}

/// Why a body is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHeld {
    TooLong,
    /// Too many are held already.
    NoRoom,
    BadChunk,
}

impl NotHeld {
    /// The status that the client gets.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TooLong => 413,
            Self::NoRoom => 503,
            Self::BadChunk => 400,
        }
    }
}

impl Gathering {
    /// Nothing where guard need not know the body.
    pub(crate) fn begin(
        wanted: Body,
        framing: Framing,
        limit: usize,
    ) -> Result<Option<Self>, NotHeld> {
        let (rest, room) = match (wanted, framing) {
            (Body::Unread, _) => return Ok(None),
            (_, Framing::Empty | Framing::UntilClose) => (Rest::Done, 0),
            (_, Framing::Chunked) => (Rest::Chunked(Chunked::default()), limit),
            (_, Framing::Length(length)) => match usize::try_from(length) {
                Ok(room) if room <= limit => (Rest::Length(length), room),
                _ if wanted == Body::Small => return Ok(None),
                _ => return Err(NotHeld::TooLong),
            },
        };
        Ok(Some(Self {
            bytes: Vec::new(),
            limit,
            rest,
            room: Room::take(room).ok_or(NotHeld::NoRoom)?,
        }))
    }

    /// Take what has come; gives whether that was all. What follows the body stays.
    pub(crate) fn take(&mut self, inbox: &mut Vec<u8>) -> Result<bool, NotHeld> {
        match &mut self.rest {
            Rest::Done => {}
            Rest::Length(left) => {
                let length =
                    usize::try_from(*left).map_or(inbox.len(), |left| left.min(inbox.len()));
                self.bytes.extend(inbox.drain(..length));
                *left -= length as u64;
                if *left == 0 {
                    self.rest = Rest::Done;
                }
            }
            Rest::Chunked(decoder) => {
                let filtered = decoder.filter(inbox, true).map_err(|_| NotHeld::BadChunk)?;
                self.bytes
                    .extend_from_slice(inbox.get(..filtered.kept).unwrap_or_default());
                inbox.drain(..filtered.used);
                if self.bytes.len() > self.limit {
                    return Err(NotHeld::TooLong);
                }
                if filtered.is_end {
                    self.rest = Rest::Done;
                }
            }
        }
        Ok(matches!(self.rest, Rest::Done))
    }

    /// The body, once it is whole.
    pub(crate) fn finish(self) -> Gathered {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, &self.bytes).as_ref());
        Gathered {
            bytes: self.bytes,
            digest: sha256,
            _room: self.room,
        }
    }
}

/// A share of [`MOST_BYTES`], given back when it is dropped.
struct Room(usize);

impl Room {
    fn take(bytes: usize) -> Option<Self> {
        let with = |held: usize| held.checked_add(bytes).filter(|held| *held <= MOST_BYTES);
        HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with)
            .ok()
            .map(|_| Self(bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(
        wanted: Body,
        framing: Framing,
        pieces: &[&[u8]],
    ) -> Result<Option<Vec<u8>>, NotHeld> {
        let Some(mut gathering) = Gathering::begin(wanted, framing, 5)? else {
            return Ok(None);
        };
        let mut inbox = Vec::new();
        for piece in pieces {
            inbox.extend_from_slice(piece);
            if gathering.take(&mut inbox)? {
                assert_eq!(b"GET"[..], inbox[..]);
            }
        }
        Ok(Some(gathering.finish().bytes))
    }

    #[test]
    fn body_within_the_limit_is_held_whole() {
        let hello = Ok(Some(b"hello".to_vec()));

        assert_eq!(
            hello,
            gather(Body::Whole, Framing::Length(5), &[b"he", b"lloGET"])
        );
        assert_eq!(
            hello,
            gather(
                Body::Small,
                Framing::Chunked,
                &[b"2\r\nhe\r\n3\r", b"\nllo\r\n0\r\n\r\nGET"]
            )
        );
        assert_eq!(
            Ok(Some(Vec::new())),
            gather(Body::Whole, Framing::Empty, &[b"GET"])
        );
        assert_eq!(
            Ok(None),
            gather(Body::Unread, Framing::Length(5), &[b"hello"])
        );
    }

    #[test]
    fn longer_body_is_refused_or_not_held() {
        let long = Framing::Length(6);
        assert_eq!(Err(NotHeld::TooLong), gather(Body::Whole, long, &[]));
        assert_eq!(Ok(None), gather(Body::Small, long, &[]));
        assert_eq!(
            Err(NotHeld::TooLong),
            gather(Body::Small, Framing::Chunked, &[b"6\r\nhello!"])
        );
        assert_eq!(
            Err(NotHeld::BadChunk),
            gather(Body::Whole, Framing::Chunked, &[b"x"])
        );
    }

    #[test]
    fn all_bodies_together_are_bounded() {
        let room = Room::take(MOST_BYTES / 2).unwrap();
        assert!(Room::take(MOST_BYTES / 2 + 1).is_none());
        drop(room);
        assert!(Room::take(MOST_BYTES / 2 + 1).is_some());
    }
}
