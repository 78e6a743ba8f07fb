//! The frame of every datagram, and the fields inside it. Integers are big-endian.

use std::fmt;

/// The only version there is.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 12;
/// Largest datagram on an edge or egress socket.
pub const MAX_WORKER_BYTES: usize = 16 * 1024;
/// Largest datagram on the control socket: a configuration of many routes.
pub const MAX_CONTROL_BYTES: usize = 192 * 1024;

/// Bytes that are no message. The socket they came from is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message of this protocol's version 1")
    }
}

impl std::error::Error for Malformed {}

/// One message: the header's members and the payload behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// See [`crate::message::operation`].
    pub operation: u8,
    /// Key (sign) or inject route (token), else 0.
    pub key: u16,
    /// Chosen by the asker, echoed in the reply.
    pub request_id: u32,
    /// Everything after the header.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Split a datagram.
    ///
    /// # Errors
    /// Another version, or a length that is not the payload's.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        let (operation, key, request_id) = (reader.u8()?, reader.u16()?, reader.u32()?);
        let length = reader.u32()?;
        let payload = reader.rest();
        if u32::try_from(payload.len()) != Ok(length) {
            return Err(Malformed);
        }
        Ok(Self {
            operation,
            key,
            request_id,
            payload,
        })
    }

    /// The datagram's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = header(
            self.operation,
            self.key,
            self.request_id,
            self.payload.len(),
        )
        .to_vec();
        out.extend_from_slice(self.payload);
        out
    }
}

/// A header alone, for a payload of `length` bytes that is sent from where it lies (`sendmsg` with two parts).
///
/// Lengths beyond `u32` do not occur: a datagram is at most [`MAX_CONTROL_BYTES`].
#[must_use]
pub fn header(operation: u8, key: u16, request_id: u32, length: usize) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0] = VERSION;
    out[1] = operation;
    out[2..4].copy_from_slice(&key.to_be_bytes());
    out[4..8].copy_from_slice(&request_id.to_be_bytes());
    out[8..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out
}

/// Reads a payload from front to back; running out of bytes is [`Malformed`].
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// Fewer are left; so for every method below.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    /// The next `N` bytes where they lie.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn reference<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A field: `u16 length ‖ bytes`.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn field(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// A field of UTF-8.
    ///
    /// # Errors
    /// As [`Reader::bytes`], or other bytes than UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.field()?).map_err(|_| Malformed)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Bytes are left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// Append a field: `u16 length ‖ bytes`.
///
/// # Errors
/// More than 65535 bytes.
pub fn push_field(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Malformed> {
    let length = u16::try_from(bytes.len()).map_err(|_| Malformed)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_is_laid_out_as_documented() {
        let datagram = Datagram {
            operation: 0x01,
            key: 0x0203,
            request_id: 0x0405_0607,
            payload: b"xy",
        };

        assert_eq!(
            datagram.encode(),
            [1, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 2, b'x', b'y']
        );
    }

    #[test]
    fn wrong_version_and_wrong_lengths_are_refused() {
        let good = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9];
        assert!(Datagram::decode(&good).is_ok());

        let mut other_version = good;
        other_version[0] = 2;
        let mut too_long = good;
        too_long[11] = 2;
        for bad in [&other_version[..], &too_long, &good[..12], &good[..11], &[]] {
            assert_eq!(Datagram::decode(bad), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(datagram) = Datagram::decode(&bytes) {
                prop_assert_eq!(datagram.encode(), bytes);
            }
        }

        #[test]
        fn encoded_datagrams_decode(operation: u8, key: u16, request_id: u32, payload: Vec<u8>) {
            let datagram = Datagram { operation, key, request_id, payload: &payload };
            let bytes = datagram.encode();
            prop_assert_eq!(Datagram::decode(&bytes), Ok(datagram));
        }
    }
}
