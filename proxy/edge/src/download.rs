//! A response on its way to the client: what of the received bytes goes on, and when it is over.

use std::ops::Range;

use crate::buffers::{BODY_READ, MAX_HEAD};
use crate::echo::Echo;
use crate::http::chunked::Chunked;
use crate::http::response::{BadResponse, Outbound, Response};
use crate::http::{Framing, storage};

/// Bytes behind `filled` that [`Download::feed`] may use.
pub(crate) const TAILROOM: usize = CHUNK_END.len();
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What is left of a response.
pub(crate) struct Download {
    phase: Phase,
    /// Received and not used: the front of a head, or of what may be a token, that is not complete.
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
    /// What must not come back; given up with the response's last byte.
    echo: Option<Echo>,
}

enum Phase {
    Head,
    Length(u64),
    Chunked(Chunked),
    /// Until the upstream closes. `is_coded`: the client gets chunks, so that it can tell the end from a breakdown.
    UntilClose {
        is_coded: bool,
    },
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

    /// Let nothing through that holds what was injected.
    pub(crate) fn without_echo(self, echo: Option<Echo>) -> Self {
        Self { echo, ..self }
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

    /// How much to read next; nothing when a head is too long. One byte more than is expected: a read that does not
    /// fill its buffer proves that nothing else came, without another system call.
    pub(crate) fn wanted(&self) -> usize {
        match self.phase {
            Phase::Head if self.carry.len() >= MAX_HEAD => 0,
            Phase::Length(left) => usize::try_from(left)
                .unwrap_or(BODY_READ)
                .saturating_add(1)
                .min(BODY_READ - self.carry.len()),
            // A small body comes in the same read as its head.
            _ => BODY_READ - self.carry.len(),
        }
    }

    /// The upstream closed its side. Gives what the client gets for it.
    ///
    /// # Errors
    /// The response is not complete.
    pub(crate) fn end(&mut self) -> Result<Vec<u8>, BadResponse> {
        let Phase::UntilClose { is_coded } = self.phase else {
            return if self.is_done() {
                Ok(Vec::new())
            } else {
                Err(BadResponse("connection closed early"))
            };
        };
        self.phase = Phase::Done;
        self.echo = None;
        let rest = std::mem::take(&mut self.carry);
        Ok(match (is_coded, rest.is_empty()) {
            (false, _) => rest,
            (true, true) => LAST_CHUNK.to_vec(),
            (true, false) => [&chunk_line(rest.len()), &rest[..], CHUNK_END, LAST_CHUNK].concat(),
        })
    }

    /// Take `filled` of `buffer`: received bytes, behind what was carried. Gives the range to send on, which may begin
    /// before `filled` with a head and end behind it with the end of a chunk. `scratch` is used for that head.
    ///
    /// # Errors
    /// The upstream does not speak HTTP/1.1 as this proxy reads it.
    pub(crate) fn feed(
        &mut self,
        buffer: &mut [u8],
        filled: Range<usize>,
        scratch: &mut Vec<u8>,
    ) -> Result<Range<usize>, BadResponse> {
        scratch.clear();
        let mut body = filled.start;
        if matches!(self.phase, Phase::Head) {
            body = self.take_heads(buffer, filled.clone(), scratch)?;
            if !self.has_begun() {
                self.carry = buffer.get(body..filled.end).unwrap_or_default().to_vec();
                return write_before(buffer, scratch, body..body);
            }
        }
        let received = body..filled.end;
        let length = self.pass_body(buffer.get_mut(received).unwrap_or_default())?;
        let is_coded = matches!(self.phase, Phase::UntilClose { is_coded: true });
        if is_coded && length > 0 {
            scratch.extend_from_slice(&chunk_line(length));
            let end = body + length;
            buffer
                .get_mut(end..end + TAILROOM)
                .ok_or(BadResponse("no room behind a chunk"))?
                .copy_from_slice(CHUNK_END);
            return write_before(buffer, scratch, body..end + TAILROOM);
        }
        write_before(buffer, scratch, body..body + length)
    }

    /// What of a piece of the body goes on, from its front. What may be the front of a token is carried.
    fn pass_body(&mut self, body: &mut [u8]) -> Result<usize, BadResponse> {
        let held = match (&self.phase, &self.echo) {
            (_, None) | (Phase::Done, _) => 0,
            (Phase::Length(left), _) if *left <= body.len() as u64 => 0,
            (_, Some(echo)) => echo.held_back(body),
        };
        let (body, rest) = body.split_at_mut(body.len() - held);
        self.carry = rest.to_vec();
        let length = self.take_body(body)?;
        if let (Some(echo), Some(passed)) = (&self.echo, body.get_mut(..length)) {
            echo.mask(passed);
        }
        if self.is_done() {
            self.echo = None;
        }
        Ok(length)
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
                102..200 => self.write_head(&response, Outbound::default(), scratch),
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
        let is_coded = response.framing == Framing::UntilClose && !self.is_http10;
        self.close |=
            self.is_http10 && matches!(response.framing, Framing::UntilClose | Framing::Chunked);
        self.phase = match response.framing {
            Framing::Empty => Phase::Done,
            Framing::Length(length) => Phase::Length(length),
            Framing::Chunked => Phase::Chunked(Chunked::default()),
            Framing::UntilClose => Phase::UntilClose { is_coded },
        };
        let how = Outbound {
            close: self.close,
            is_http10: self.is_http10,
            is_coded,
            echo: None,
        };
        self.write_head(response, how, scratch);
    }

    /// Without echoes.
    fn write_head(&self, response: &Response<'_, '_>, how: Outbound<'_>, scratch: &mut Vec<u8>) {
        match &self.echo {
            Some(Echo { field, credential }) => credential.with_secret(|secret| {
                let echo = Some((field.as_str(), secret));
                response.write(Outbound { echo, ..how }, scratch);
            }),
            None => response.write(how, scratch),
        }
    }

    /// Gives how many bytes at the front of `body` go on to the client.
    fn take_body(&mut self, body: &mut [u8]) -> Result<usize, BadResponse> {
        let used = match &mut self.phase {
            Phase::Head => 0,
            Phase::UntilClose { .. } => return Ok(body.len()),
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

/// What stands in front of a chunk of so many bytes.
fn chunk_line(length: usize) -> Vec<u8> {
    format!("{length:x}\r\n").into_bytes()
}

/// Put `front` right before `range`; gives both together.
fn write_before(
    buffer: &mut [u8],
    front: &[u8],
    range: Range<usize>,
) -> Result<Range<usize>, BadResponse> {
    let start = range.start.checked_sub(front.len());
    let start = start.ok_or(BadResponse("head grew too long"))?;
    if let Some(place) = buffer.get_mut(start..range.start) {
        place.copy_from_slice(front);
    }
    Ok(start..range.end)
}

#[cfg(test)]
mod tests;
