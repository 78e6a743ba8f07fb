//! Where a head begins and ends in bytes that arrive piece by piece.

use super::Reject;

/// Length of the empty lines at the front, which are ignored (RFC 9112 section 2.2).
#[must_use]
pub fn empty_lines(buffer: &[u8]) -> usize {
    let lines = buffer.chunks_exact(2);
    2 * lines.take_while(|line| *line == b"\r\n").count()
}

/// Find the end of a head that grows: the offset behind its empty line.
///
/// `scanned` remembers, from call to call, what was looked at; set it to 0 for a new head.
///
/// # Errors
/// A bare LF, or more than `limit` bytes without an end.
pub fn find_end(buffer: &[u8], scanned: &mut usize, limit: usize) -> Result<Option<usize>, Reject> {
    for at in memchr::memchr_iter(b'\n', buffer.get(*scanned..).unwrap_or_default()) {
        let line_feed = *scanned + at;
        let before = &buffer[..line_feed];
        if !before.ends_with(b"\r") {
            return Err(Reject::Malformed("bare line feed"));
        }
        if before.ends_with(b"\r\n\r") || before == b"\r" {
            return if line_feed < limit {
                Ok(Some(line_feed + 1))
            } else {
                Err(Reject::TooLarge)
            };
        }
    }
    *scanned = buffer.len();
    if buffer.len() >= limit {
        Err(Reject::TooLarge)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_empty_lines_are_skipped() {
        for (buffer, expected) in [
            (&b"\r\n\r\nGET"[..], 4),
            (b"\r\n\r", 2),
            (b"\r\n\n", 2),
            (b"\n\r\n", 0),
            (b"", 0),
        ] {
            assert_eq!(expected, empty_lines(buffer), "{buffer:?}");
        }
    }

    #[test]
    fn end_is_found_byte_by_byte() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut scanned = 0;
        for length in 0..head.len() {
            assert_eq!(Ok(None), find_end(&head[..length], &mut scanned, 4096));
        }

        assert_eq!(Ok(Some(head.len())), find_end(head, &mut scanned, 4096));
    }
}
