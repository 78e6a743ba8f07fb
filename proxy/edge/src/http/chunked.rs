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

/// What the next bytes of a chunked body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// `len` bytes of content, `from` bytes into the buffer.
    Data {
        /// Offset of the content.
        from: usize,
        /// Its length, at least 1.
        len: usize,
    },
    /// The body ends `used` bytes into the buffer.
    End {
        /// Bytes of the buffer that belong to this body.
        used: usize,
    },
    /// The whole buffer was framing, and more follows.
    More,
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
        Self { state: State::Size { digits: 0 }, left: 0 }
    }
}

impl Chunked {
    /// Classify the front of `buffer`. The caller goes on behind what the answer covers.
    ///
    /// # Errors
    /// The body breaks the grammar or a bound; the connection is of no further use.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Piece, BadChunk> {
        for (at, &byte) in buffer.iter().enumerate() {
            if self.state == State::Data {
                let rest = (buffer.len() - at) as u64;
                let len = rest.min(self.left);
                self.left -= len;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Piece::Data { from: at, len: usize::try_from(len).map_err(|_| BadChunk)? });
            }
            self.state = self.step(byte)?;
            if self.state == State::Done {
                return Ok(Piece::End { used: at + 1 });
            }
        }
        Ok(Piece::More)
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
            (State::TrailerStart { total }, _) if is_token(byte) => Ok(State::Trailer { total: total + 1 }),
            (State::Trailer { total }, b'\r') => Ok(State::TrailerLf { total }),
            (State::Trailer { total }, _) if is_text(byte) && total < MAX_TRAILERS => {
                Ok(State::Trailer { total: total + 1 })
            }
            (State::TrailerLf { total }, b'\n') if total < MAX_TRAILERS => Ok(State::TrailerStart { total }),
            (State::FinalLf, b'\n') => Ok(State::Done),
            _ => Err(BadChunk),
        }
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

    /// Content and length of the body, fed in pieces of `step` bytes.
    fn decode(body: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, BadChunk> {
        let (mut chunked, mut content, mut used) = (Chunked::default(), Vec::new(), 0);
        for part in body.chunks(step) {
            let mut at = 0;
            loop {
                match chunked.next(&part[at..])? {
                    Piece::Data { from, len } => {
                        content.extend_from_slice(&part[at + from..at + from + len]);
                        at += from + len;
                    }
                    Piece::End { used: last } => return Ok(Some((content, used + at + last))),
                    Piece::More => break,
                }
            }
            used += part.len();
        }
        Ok(None)
    }

    #[test]
    fn content_is_the_same_however_it_is_cut() {
        let body = b"5\r\nhello\r\nA;name=\"v\"\r\n0123456789\r\n0\r\nDigest: x\r\n\r\nGET";
        for step in 1..=body.len() {
            let (content, used) = decode(body, step).unwrap().unwrap();

            assert_eq!(b"hello0123456789", &content[..], "step {step}");
            assert_eq!(body.len() - 3, used, "step {step}");
        }
    }

    #[test]
    fn unfinished_body_has_no_end() {
        assert_eq!(Ok(None), decode(b"5\r\nhel", 2));
    }

    #[test]
    fn everything_lenient_is_refused() {
        let bodies: [&[u8]; 14] = [
            b"\r\n", b"5\nhello", b"5 \r\nhello", b" 5\r\nhello", b"+5\r\n", b"0x5\r\n", b"-1\r\n", b"5\r\nhello0\r\n",
            b"5\r\nhello\n0\r\n", b"1234567890123456\r\n", b"0\r\n Folded: x\r\n\r\n", b"0\r\nA: b\n\r\n", b"5;a\0\r\n", b"0\r\n\n",
        ];
        for body in bodies {
            assert_eq!(Err(BadChunk), decode(body, 64), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = [b"5;".to_vec(), vec![b'x'; 600]].concat();
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(3000)].concat();

        assert_eq!(Err(BadChunk), decode(&extension, 64));
        assert_eq!(Err(BadChunk), decode(&trailers, 64));
    }
}
