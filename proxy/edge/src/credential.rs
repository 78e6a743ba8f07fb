//! What authorises one request: whole header lines in locked memory, wiped when dropped.

use std::io;
use std::ops::Range;

use unlatch_locked::LockedBytes;

/// Lines as they are written into a request, and the part of them that must not come back.
#[derive(Default)]
pub(crate) struct Credential {
    /// None where nothing is written.
    lines: Option<LockedBytes>,
    secret: Range<usize>,
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
            lines: Some(lines),
            secret: range,
        })
    }

    /// Each with its end of line.
    pub(crate) fn lines(&self) -> &[u8] {
        self.lines.as_ref().map_or(&[], LockedBytes::expose)
    }

    /// The token, or what guard computed.
    pub(crate) fn secret(&self) -> &[u8] {
        self.lines().get(self.secret.clone()).unwrap_or_default()
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

        assert_eq!(
            b"x-time: 7\r\nAuthorization: Bearer v1=abc\r\n"[..],
            *credential.lines()
        );
        assert_eq!(b"abc"[..], *credential.secret());
    }
}
