//! A response on its way to the client: what of the received bytes goes on, and when it is over.

use std::ops::Range;

use unlatch_locked::LockedBytes;

use crate::http::chunked::Chunked;
use crate::http::response::{BadResponse, Outbound, Response};
use crate::http::{Framing, storage};

/// What is left of a response.
pub(crate) struct Download {
    phase: Phase,
    /// The front of a head that is not complete.
    pub(crate) carry: Vec<u8>,
    /// The answer is to HEAD.
    to_head: bool,
    /// The client speaks HTTP/1.0.
    is_http10: bool,
    /// The client's connection ends behind this response.
    pub(crate) close: bool,
    /// The upstream's connection can serve again.
    is_reusable: bool,
    /// Status of the final response, 0 before it.
    pub(crate) status: u16,
    /// What must not come back in a head; given up with the final one.
    echo: Option<Echo>,
}

/// A token that was sent up, and the field that it stood in.
pub(crate) struct Echo {
    pub(crate) field: String,
    pub(crate) token: LockedBytes,
}

enum Phase {
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

impl Download {
    pub(crate) fn new(to_head: bool, is_http10: bool, close: bool) -> Self {
        Self {
            phase: Phase::Head,
            carry: Vec::new(),
            to_head,
            is_http10,
            close,
            is_reusable: false,
            status: 0,
            echo: None,
        }
    }

    /// Drop every field that holds what was injected.
    pub(crate) fn without_echo(self, echo: Echo) -> Self {
        Self {
            echo: Some(echo),
            ..self
        }
    }

    /// Take the token back, for another try.
    pub(crate) fn into_echo(self) -> Option<Echo> {
        self.echo
    }

    /// The final response's head has been passed on.
    pub(crate) fn has_begun(&self) -> bool {
        self.status != 0
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    pub(crate) fn is_reusable(&self) -> bool {
        self.is_done() && self.is_reusable
    }

    /// How much to read next, when `head_read` and `body_read` are the most. One byte more than is expected: a read
    /// that does not fill its buffer proves that nothing else came, without another system call.
    pub(crate) fn wanted(&self, head_read: usize, body_read: usize) -> usize {
        match self.phase {
            Phase::Head => head_read.saturating_sub(self.carry.len()),
            Phase::Length(left) => usize::try_from(left)
                .unwrap_or(body_read)
                .saturating_add(1)
                .min(body_read),
            _ => body_read,
        }
    }

    /// The upstream closed its side.
    ///
    /// # Errors
    /// The response is not complete.
    pub(crate) fn end(&mut self) -> Result<(), BadResponse> {
        match self.phase {
            Phase::UntilClose => {
                self.phase = Phase::Done;
                Ok(())
            }
            Phase::Done => Ok(()),
            _ => Err(BadResponse("connection closed early")),
        }
    }

    /// Take `filled` of `buffer`: received bytes, behind what was carried. Gives the range to send on; before it may
    /// stand a head that was written in front of the body. `scratch` is used for that head.
    ///
    /// # Errors
    /// The upstream does not speak HTTP/1.1 as this proxy reads it.
    pub(crate) fn feed(
        &mut self,
        buffer: &mut [u8],
        filled: Range<usize>,
        scratch: &mut Vec<u8>,
    ) -> Result<Range<usize>, BadResponse> {
        if !matches!(self.phase, Phase::Head) {
            let length = self.take_body(buffer.get_mut(filled.clone()).unwrap_or_default())?;
            return Ok(filled.start..filled.start + length);
        }
        scratch.clear();
        let body = self.take_heads(buffer, filled.clone(), scratch)?;
        let length = if self.has_begun() {
            self.carry = Vec::new();
            self.take_body(buffer.get_mut(body..filled.end).unwrap_or_default())?
        } else {
            self.carry = buffer.get(body..filled.end).unwrap_or_default().to_vec();
            0
        };
        let start = body
            .checked_sub(scratch.len())
            .ok_or(BadResponse("head grew too long"))?;
        if let Some(place) = buffer.get_mut(start..body) {
            place.copy_from_slice(scratch);
        }
        Ok(start..body + length)
    }

    /// Read interim heads and the final one; write what the client gets to `scratch`. Gives where they end.
    fn take_heads(
        &mut self,
        buffer: &[u8],
        filled: Range<usize>,
        scratch: &mut Vec<u8>,
    ) -> Result<usize, BadResponse> {
        let mut at = filled.start;
        loop {
            let mut room = storage();
            let received = buffer.get(at..filled.end).unwrap_or_default();
            let Some(response) = Response::parse(received, &mut room, self.to_head)? else {
                return Ok(at);
            };
            at += response.length;
            match response.status {
                101 => return Err(BadResponse("protocol switched unasked")),
                // The proxy answered the client's expectation itself.
                100 => {}
                102..200 if self.is_http10 => {}
                102..200 => response.write(
                    Outbound {
                        echo: self.echo(),
                        ..Outbound::default()
                    },
                    scratch,
                ),
                _ => {
                    self.begin(&response, scratch);
                    return Ok(at);
                }
            }
        }
    }

    fn begin(&mut self, response: &Response<'_, '_>, scratch: &mut Vec<u8>) {
        self.status = response.status;
        self.is_reusable = response.keep_alive;
        self.close |= match response.framing {
            Framing::UntilClose => true,
            Framing::Chunked => self.is_http10,
            _ => false,
        };
        self.phase = match response.framing {
            Framing::Empty => Phase::Done,
            Framing::Length(length) => Phase::Length(length),
            Framing::Chunked => Phase::Chunked(Chunked::default()),
            Framing::UntilClose => Phase::UntilClose,
        };
        response.write(
            Outbound {
                close: self.close,
                is_http10: self.is_http10,
                echo: self.echo(),
            },
            scratch,
        );
        self.echo = None;
    }

    fn echo(&self) -> Option<(&str, &[u8])> {
        self.echo
            .as_ref()
            .map(|echo| (echo.field.as_str(), echo.token.expose()))
    }

    /// Gives how many bytes at the front of `body` go on to the client.
    fn take_body(&mut self, body: &mut [u8]) -> Result<usize, BadResponse> {
        let used = match &mut self.phase {
            Phase::Head => 0,
            Phase::UntilClose => return Ok(body.len()),
            Phase::Done => 0,
            Phase::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(body.len());
                *left -= length as u64;
                if *left == 0 {
                    self.phase = Phase::Done;
                }
                length
            }
            Phase::Chunked(_) => return self.take_chunks(body),
        };
        // What follows the end was not asked for: the connection cannot be trusted to serve again.
        self.is_reusable &= used == body.len();
        Ok(used)
    }

    /// Chunked content goes on without extensions and trailers; clients of HTTP/1.0 get the content alone.
    fn take_chunks(&mut self, body: &mut [u8]) -> Result<usize, BadResponse> {
        let Phase::Chunked(decoder) = &mut self.phase else {
            return Ok(0);
        };
        let filtered = decoder
            .filter(body, self.is_http10)
            .map_err(|_| BadResponse("bad chunk"))?;
        if filtered.is_end {
            self.is_reusable &= filtered.used == body.len();
            self.phase = Phase::Done;
        }
        Ok(filtered.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 256;

    /// Feed the pieces one after the other; gives what the client sees.
    fn run(download: &mut Download, pieces: &[&str]) -> Result<String, BadResponse> {
        let mut seen = Vec::new();
        for piece in pieces {
            let received = [&download.carry[..], piece.as_bytes()].concat();
            let mut buffer = vec![b'-'; ROOM];
            buffer.extend_from_slice(&received);
            let sent = download.feed(&mut buffer, ROOM..ROOM + received.len(), &mut Vec::new())?;
            seen.extend_from_slice(&buffer[sent]);
        }
        Ok(String::from_utf8(seen).unwrap())
    }

    #[test]
    fn body_of_known_length_is_passed_on_wherever_it_is_cut() {
        let whole = "HTTP/1.1 200 OK\r\nConnection: x\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 1..whole.len() {
            let mut download = Download::new(false, false, false);
            let seen = run(&mut download, &[&whole[..cut], &whole[cut..]]).unwrap();

            assert_eq!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", seen,
                "cut at {cut}"
            );
            assert!(download.is_reusable() && !download.close);
        }
    }

    #[test]
    fn chunked_body_goes_on_as_it_came_or_decoded_for_old_clients() {
        let whole =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        for cut in 1..whole.len() {
            let mut download = Download::new(false, false, false);
            assert_eq!(
                whole,
                run(&mut download, &[&whole[..cut], &whole[cut..]]).unwrap(),
                "cut at {cut}"
            );
            assert!(download.is_reusable() && !download.close);

            let mut old = Download::new(false, true, false);
            let seen = run(&mut old, &[&whole[..cut], &whole[cut..]]).unwrap();
            assert_eq!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde", seen,
                "cut at {cut}"
            );
            assert!(old.close);
        }
    }

    #[test]
    fn end_by_close_closes_the_client_too() {
        let mut download = Download::new(false, false, false);
        let seen = run(&mut download, &["HTTP/1.1 200 OK\r\n\r\nab", "cd"]).unwrap();
        assert!(!download.is_done());
        download.end().unwrap();

        assert_eq!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcd", seen);
        assert!(download.is_done() && !download.is_reusable());
    }

    #[test]
    fn interim_responses_come_before_the_final_one() {
        let mut download = Download::new(false, false, false);
        let seen = run(
            &mut download,
            &[
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ],
        );

        assert_eq!(
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            seen.unwrap()
        );
        assert_eq!(204, download.status);
    }

    #[test]
    fn answer_to_head_has_no_body() {
        let mut download = Download::new(true, false, false);
        run(
            &mut download,
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
        )
        .unwrap();

        assert!(download.is_reusable());
    }

    #[test]
    fn surplus_bytes_spoil_the_connection_and_stay_out() {
        let mut download = Download::new(false, false, false);
        let seen = run(
            &mut download,
            &["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n"],
        )
        .unwrap();

        assert!(seen.ends_with("\r\n\r\na"));
        assert!(download.is_done() && !download.is_reusable());
    }

    #[test]
    fn injected_token_does_not_come_back_in_any_head() {
        let echo = Echo {
            field: "Authorization".to_owned(),
            token: LockedBytes::copy_from(b"tok-1").unwrap(),
        };
        let mut download = Download::new(false, false, false).without_echo(echo);
        let seen = run(
            &mut download,
            &[
                "HTTP/1.1 103 Hints\r\nLink: tok-1\r\n\r\n",
                "HTTP/1.1 204 No\r\nX: Bearer tok-1\r\nAuthorization: y\r\nZ: z\r\n\r\n",
            ],
        );

        assert_eq!(
            "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 No\r\nZ: z\r\n\r\n",
            seen.unwrap()
        );
        assert!(download.echo.is_none());
    }

    #[test]
    fn unfinished_and_wrong_responses_are_errors() {
        let mut download = Download::new(false, false, false);
        run(
            &mut download,
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"],
        )
        .unwrap();
        assert!(download.end().is_err());

        for wrong in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
        ] {
            assert!(
                run(&mut Download::new(false, false, false), &[wrong]).is_err(),
                "{wrong}"
            );
        }
    }
}
