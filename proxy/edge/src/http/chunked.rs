//! Chunked transfer coding, RFC 9112 section 7.1.
//!
//! Stricter than the grammar where leniency has been used to smuggle requests: no bare LF, no white space around
//! the size, at most 15 hexadecimal digits, and bounded extensions and trailers.

/// Longest chunk-size line with extensions; more is an attack (CVE-2023-39326 and its like).
const MAX_LINE: u16 = 512;
/// All trailer lines together.
const MAX_TRAILERS: u16 = 8192;

/// The body does not follow the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadChunk;

/// What [`Chunked::filter`] left of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filtered {
    /// Bytes of the buffer that belong to this body.
    pub used: usize,
    /// Bytes at the front of the buffer that are to be passed on.
    pub kept: usize,
    /// The body ended.
    pub is_end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { digits: u8 },
    Extension { length: u16 },
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart { total: u16 },
    Trailer { total: u16 },
    TrailerLf { total: u16 },
    FinalLf,
    Done,
}

/// Follows one chunked body through any number of buffers.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    left: u64,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
        }
    }
}

impl Chunked {
    /// Check the front of `buffer` and drop, in place, what is not passed on: extensions and trailers, and with
    /// `content_only` all framing.
    ///
    /// # Errors
    /// The body breaks the grammar or a bound; the connection is of no further use.
    pub fn filter(&mut self, buffer: &mut [u8], content_only: bool) -> Result<Filtered, BadChunk> {
        let (mut at, mut kept) = (0, 0);
        while at < buffer.len() && self.state != State::Done {
            if self.state == State::Data {
                let length = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len() - at);
                if kept != at {
                    buffer.copy_within(at..at + length, kept);
                }
                self.left -= length as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                at += length;
                kept += length;
                continue;
            }
            let byte = buffer[at];
            let was_trailer = matches!(self.state, State::TrailerLf { .. });
            self.state = self.step(byte)?;
            if !(content_only || was_trailer || self.state.is_dropped()) {
                buffer[kept] = byte;
                kept += 1;
            }
            at += 1;
        }
        Ok(Filtered {
            used: at,
            kept,
            is_end: self.state == State::Done,
        })
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                self.left = self.left << 4 | u64::from(hex(byte));
                Ok(State::Size { digits: digits + 1 })
            }
            (State::Size { digits: 1.. }, b'\r') => Ok(State::SizeLf),
            (State::Size { digits: 1.. }, b';') => Ok(State::Extension { length: 0 }),
            (State::Extension { .. }, b'\r') => Ok(State::SizeLf),
            (State::Extension { length }, _) if is_text(byte) && length < MAX_LINE => {
                Ok(State::Extension { length: length + 1 })
            }
            (State::SizeLf, b'\n') if self.left == 0 => Ok(State::TrailerStart { total: 0 }),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0 }),
            (State::TrailerStart { .. }, b'\r') => Ok(State::FinalLf),
            (State::TrailerStart { total }, _) if is_token(byte) => {
                Ok(State::Trailer { total: total + 1 })
            }
            (State::Trailer { total }, b'\r') => Ok(State::TrailerLf { total }),
            (State::Trailer { total }, _) if is_text(byte) && total < MAX_TRAILERS => {
                Ok(State::Trailer { total: total + 1 })
            }
            (State::TrailerLf { total }, b'\n') if total < MAX_TRAILERS => {
                Ok(State::TrailerStart { total })
            }
            (State::FinalLf, b'\n') => Ok(State::Done),
            _ => Err(BadChunk),
        }
    }
}

impl State {
    /// The byte that led here is part of an extension or a trailer.
    fn is_dropped(self) -> bool {
        matches!(
            self,
            Self::Extension { .. } | Self::Trailer { .. } | Self::TrailerLf { .. }
        )
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on and how much is used, fed in pieces of `step` bytes; nothing for an unfinished body.
    fn filter(
        body: &[u8],
        step: usize,
        content_only: bool,
    ) -> Result<Option<(Vec<u8>, usize)>, BadChunk> {
        let (mut chunked, mut passed, mut used) = (Chunked::default(), Vec::new(), 0);
        for part in body.chunks(step) {
            let mut part = part.to_vec();
            let filtered = chunked.filter(&mut part, content_only)?;
            passed.extend_from_slice(&part[..filtered.kept]);
            used += filtered.used;
            if filtered.is_end {
                return Ok(Some((passed, used)));
            }
        }
        Ok(None)
    }

    #[test]
    fn extensions_and_trailers_are_dropped_however_the_body_is_cut() {
        let body =
            b"5\r\nhello\r\nA;name=\"v\"\r\n0123456789\r\n0;x\r\nDigest: x\r\nB: c\r\n\r\nGET";
        for step in 1..=body.len() {
            let (content, used) = filter(body, step, true).unwrap().unwrap();
            let (coded, _) = filter(body, step, false).unwrap().unwrap();

            assert_eq!(b"hello0123456789", &content[..], "step {step}");
            assert_eq!(
                b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
                &coded[..],
                "step {step}"
            );
            assert_eq!(body.len() - 3, used, "step {step}");
        }
    }

    #[test]
    fn unfinished_body_has_no_end() {
        assert_eq!(Ok(None), filter(b"5\r\nhel", 2, true));
    }

    #[test]
    fn everything_lenient_is_refused() {
        let bodies: [&[u8]; 14] = [
            b"\r\n",
            b"5\nhello",
            b"5 \r\nhello",
            b" 5\r\nhello",
            b"+5\r\n",
            b"0x5\r\n",
            b"-1\r\n",
            b"5\r\nhello0\r\n",
            b"5\r\nhello\n0\r\n",
            b"1234567890123456\r\n",
            b"0\r\n Folded: x\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"5;a\0\r\n",
            b"0\r\n\n",
        ];
        for body in bodies {
            assert_eq!(
                Err(BadChunk),
                filter(body, 64, true),
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = [b"5;".to_vec(), vec![b'x'; 600]].concat();
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(3000)].concat();

        assert_eq!(Err(BadChunk), filter(&extension, 64, true));
        assert_eq!(Err(BadChunk), filter(&trailers, 64, true));
    }
}
