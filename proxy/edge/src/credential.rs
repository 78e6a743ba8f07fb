//! What authorises one request: whole header lines in locked memory, masked while nobody reads them, wiped when dropped.
//!
//! They are kept until the response has come, which may take long: masked, no moment of that shows them.

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use unlatch_locked::LockedBytes;

/// Lines as they are written into a request, and the part of them that must not come back.
#[derive(Default)]
pub(crate) struct Credential {
    /// None where nothing is written.
    lines: Option<RefCell<Masked>>,
    secret: Range<usize>,
}

/// Bytes XOR `pad`.
struct Masked {
    bytes: LockedBytes,
    pad: LockedBytes,
}

impl Credential {
    /// Names, what stands before each value, and values; the secret is in the one of number `secret`, from `start` on.
    ///
    /// # Errors
    /// No memory that can be locked.
    pub(crate) fn new(
        parts: &[(&str, &str, &[u8])],
        secret: usize,
        start: usize,
    ) -> io::Result<Self> {
        let length = |(name, before, value): &(&str, &str, &[u8])| {
            name.len() + before.len() + value.len() + ": \r\n".len()
        };
        // As large as it will be: growing would move it.
        let mut lines = LockedBytes::with_capacity(parts.iter().map(length).sum())?;
        let mut range = 0..0;
        for (number, (name, before, value)) in parts.iter().enumerate() {
            for part in [name.as_bytes(), b": ", before.as_bytes()] {
                lines.extend_from_slice(part)?;
            }
            if number == secret {
                range = lines.len() + start..lines.len() + value.len();
            }
            lines.extend_from_slice(value)?;
            lines.extend_from_slice(b"\r\n")?;
        }
        Ok(Self {
            lines: Some(RefCell::new(Masked::new(lines)?)),
            secret: range,
        })
    }

    /// Each with its end of line, in clear for `read` alone.
    pub(crate) fn with_lines<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        match &self.lines {
            Some(lines) => lines.borrow_mut().with(read),
            None => read(&[]),
        }
    }

    /// The token, or what guard computed, in clear for `read` alone.
    pub(crate) fn with_secret<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        self.with_lines(|lines| read(lines.get(self.secret.clone()).unwrap_or_default()))
    }
}

impl Masked {
    fn new(bytes: LockedBytes) -> io::Result<Self> {
        let pad = LockedBytes::random(bytes.len())?;
        let mut masked = Self { bytes, pad };
        masked.toggle();
        Ok(masked)
    }

    fn with<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        self.toggle();
        let result = read(self.bytes.expose());
        self.toggle();
        result
    }

    fn toggle(&mut self) {
        for (byte, pad) in self.bytes.expose_mut().iter_mut().zip(self.pad.expose()) {
            *byte ^= pad;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_a_part_of_its_line() {
        let parts: [(&str, &str, &[u8]); 2] = [
            ("x-time", "", b"7"),
            ("Authorization", "Bearer ", b"v1=abc"),
        ];
        let credential = Credential::new(&parts, 1, 3).unwrap();

        credential.with_lines(|lines| {
            assert_eq!(b"x-time: 7\r\nAuthorization: Bearer v1=abc\r\n"[..], *lines);
        });
        credential.with_secret(|secret| assert_eq!(b"abc"[..], *secret));
    }

    #[test]
    fn nothing_is_in_clear_while_nobody_reads() {
        let credential = Credential::new(&[("X", "", b"tok-123456789abcdef")], 0, 0).unwrap();
        let kept = credential.lines.as_ref().unwrap();
        let is_clear = || {
            let bytes = kept.borrow();
            bytes.bytes.expose().starts_with(b"X: tok")
        };

        assert!(!is_clear());
        credential.with_secret(|secret| assert_eq!(b"tok-123456789abcdef"[..], *secret));
        assert!(!is_clear());
    }
}
