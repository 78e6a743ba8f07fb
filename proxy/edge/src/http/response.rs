//! A response head: parsed, judged, written anew for the client.

use httparse::Header;

use super::fields::{Field, decimal, is_connection_option, is_named, members};
use super::{Framing, MAX_HEADERS, Storage};

/// The upstream's head cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadResponse(pub &'static str);

/// One response head.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// Bytes of the head.
    pub length: usize,
    /// 100 to 999.
    pub status: u16,
    /// How the body ends; interim responses and answers to HEAD have none.
    pub framing: Framing,
    /// The upstream keeps the connection.
    pub keep_alive: bool,
    reason: &'b str,
    headers: &'h [Header<'b>],
    has_options: bool,
}

/// How a response head is written for the side that asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outbound<'a> {
    /// Say `Connection: close`.
    pub close: bool,
    /// The client speaks HTTP/1.0: no chunked coding, and keep-alive must be said.
    pub is_http10: bool,
    /// Announce chunked coding, which the upstream did not use.
    pub is_coded: bool,
    /// A field and a value that must not come back: the injected token.
    pub echo: Option<(&'a str, &'a [u8])>,
}

impl<'h, 'b> Response<'h, 'b> {
    /// Read a head if `buffer` holds all of it.
    ///
    /// # Errors
    /// Not HTTP/1.x, or framing that two readers could understand differently.
    pub fn parse(
        buffer: &'b [u8],
        storage: &'h mut Storage<'b>,
        to_head: bool,
    ) -> Result<Option<Self>, BadResponse> {
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(
            &mut parsed,
            buffer,
            &mut storage[..MAX_HEADERS],
        ) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(BadResponse("not an HTTP/1.1 response")),
        };
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(BadResponse("no status line"));
        };
        let mut response = Self {
            length,
            status,
            framing: Framing::UntilClose,
            keep_alive: version == 1,
            reason: parsed.reason.unwrap_or_default(),
            headers: parsed.headers,
            has_options: false,
        };
        if status < 100 {
            return Err(BadResponse("status below 100"));
        }
        let declared = response.gather()?;
        response.framing = match status {
            100..=199 | 204 | 304 => Framing::Empty,
            _ if to_head => Framing::Empty,
            _ => declared,
        };
        response.keep_alive &= response.framing != Framing::UntilClose;
        Ok(Some(response))
    }

    /// The framing that the fields declare; also notes what `Connection` says.
    fn gather(&mut self) -> Result<Framing, BadResponse> {
        let (mut length, mut chunked) = (None, false);
        for header in self.headers {
            match Field::of(header.name) {
                Field::ContentLength if length.is_some() => {
                    return Err(BadResponse("two Content-Length fields"));
                }
                Field::ContentLength => {
                    length = Some(decimal(header.value).ok_or(BadResponse("bad Content-Length"))?)
                }
                Field::TransferEncoding
                    if chunked || !header.value.eq_ignore_ascii_case(b"chunked") =>
                {
                    return Err(BadResponse("bad Transfer-Encoding"));
                }
                Field::TransferEncoding => chunked = true,
                Field::Connection => {
                    for member in members(header.value) {
                        let is_close = member.eq_ignore_ascii_case(b"close");
                        self.keep_alive &= !is_close;
                        self.has_options |=
                            !is_close && !member.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ => {}
            }
        }
        match (chunked, length) {
            (true, Some(_)) => Err(BadResponse("Content-Length with Transfer-Encoding")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(0)) => Ok(Framing::Empty),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::UntilClose),
        }
    }

    /// Append the whole head as the client gets it.
    pub fn write(&self, how: Outbound<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        let digits = [
            self.status / 100 % 10,
            self.status / 10 % 10,
            self.status % 10,
        ];
        out.extend(digits.map(|digit| b'0' + u8::try_from(digit).unwrap_or(0)));
        out.push(b' ');
        if !is_echo(self.reason.as_bytes(), how) {
            out.extend_from_slice(self.reason.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        for header in self.headers {
            if self.passes(header, how) {
                let start = out.len();
                out.extend_from_slice(header.name.as_bytes());
                out.extend_from_slice(b": ");
                out.extend_from_slice(header.value);
                out.extend_from_slice(b"\r\n");
                // The whole line: a token may stand in the name, or across the colon.
                if is_echo(out.get(start..).unwrap_or_default(), how) {
                    out.truncate(start);
                }
            }
        }
        if self.status >= 200 {
            let connection: &[u8] = match (how.close, how.is_http10) {
                (true, _) => b"Connection: close\r\n",
                (false, true) => b"Connection: keep-alive\r\n",
                (false, false) => b"",
            };
            out.extend_from_slice(connection);
            if how.is_coded {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Interim responses and 204 never have content.
    fn is_bare(&self) -> bool {
        self.status < 200 || self.status == 204
    }

    fn passes(&self, header: &Header<'_>, how: Outbound<'_>) -> bool {
        let known = match Field::of(header.name) {
            Field::Connection | Field::HopByHop => false,
            // RFC 9110 section 8.6, RFC 9112 section 6.1: these have no content, whatever they say.
            Field::TransferEncoding | Field::ContentLength if self.is_bare() => false,
            Field::TransferEncoding => !how.is_http10,
            _ => true,
        };
        let is_option = self.has_options && is_connection_option(self.headers, header.name);
        known
            && !is_option
            && !how
                .echo
                .is_some_and(|(name, _)| is_named(header.name, &name.to_ascii_lowercase()))
    }
}

fn is_echo(text: &[u8], how: Outbound<'_>) -> bool {
    how.echo
        .is_some_and(|(_, token)| !token.is_empty() && memchr::memmem::find(text, token).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::storage;
    use super::*;

    fn written(head: &str, how: Outbound<'_>) -> String {
        let mut room = storage();
        let response = Response::parse(head.as_bytes(), &mut room, false)
            .unwrap()
            .unwrap();
        let mut out = Vec::new();
        response.write(how, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn framing(head: &str, to_head: bool) -> Result<(Framing, bool), BadResponse> {
        let mut room = storage();
        let response = Response::parse(head.as_bytes(), &mut room, to_head)?.unwrap();
        Ok((response.framing, response.keep_alive))
    }

    #[test]
    fn framing_follows_status_method_and_fields() {
        let cases = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                false,
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                true,
                Framing::Empty,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
                Framing::Chunked,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", false, Framing::UntilClose, false),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                false,
                Framing::Empty,
                true,
            ),
            (
                "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
                false,
                Framing::Empty,
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
                false,
                Framing::Length(1),
                false,
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", false, Framing::Empty, true),
        ];
        for (head, to_head, expected, keep_alive) in cases {
            assert_eq!(Ok((expected, keep_alive)), framing(head, to_head), "{head}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: x",
            "Transfer-Encoding: gzip, chunked",
            "Content-Length : 1",
            "A: b\r\n folded",
        ] {
            assert!(
                framing(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), false).is_err(),
                "{fields}"
            );
        }
        for line in [
            "HTTP/2 200",
            "HTTP/1.1 000 X",
            "HTTP/1.1 099 X",
            "HTTP/1.1 20",
        ] {
            assert!(
                framing(&format!("{line}\r\n\r\n"), false).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn unfinished_head_is_waited_for() {
        let mut room = storage();

        assert!(
            Response::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n", &mut room, false)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn fields_of_the_upstream_connection_stay_there() {
        let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\
                    Content-Length: 2\r\n\r\n";

        assert_eq!(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
            written(head, Outbound::default())
        );
        let close = Outbound {
            close: true,
            ..Outbound::default()
        };
        assert_eq!(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
            written(head, close)
        );
    }

    #[test]
    fn old_clients_get_no_chunked_coding() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let how = Outbound {
            close: true,
            is_http10: true,
            ..Outbound::default()
        };

        assert_eq!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            written(head, how)
        );
    }

    #[test]
    fn content_that_cannot_be_is_not_announced() {
        let head = "HTTP/1.1 204 No\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nA: b\r\n\r\n";
        assert!(framing(head, false).is_err());

        for (status, fields, expected) in [
            (204, "Content-Length: 5\r\n", ""),
            (103, "Transfer-Encoding: chunked\r\n", ""),
            (304, "Content-Length: 5\r\n", "Content-Length: 5\r\n"),
        ] {
            assert_eq!(
                format!("HTTP/1.1 {status} X\r\n{expected}\r\n"),
                written(
                    &format!("HTTP/1.1 {status} X\r\n{fields}\r\n"),
                    Outbound::default()
                )
            );
        }
    }

    #[test]
    fn token_does_not_come_back() {
        let head = "HTTP/1.1 200 tok-123\r\nauthorization: Bearer other\r\nX-Debug: got Bearer tok-123.\r\n\
                    X-tok-123: x\r\nX-Ok: tok\r\n\r\n";
        let how = Outbound {
            echo: Some(("Authorization", b"tok-123")),
            ..Outbound::default()
        };

        assert_eq!("HTTP/1.1 200 \r\nX-Ok: tok\r\n\r\n", written(head, how));

        let across = Outbound {
            echo: Some(("Authorization", b"a: b")),
            ..Outbound::default()
        };
        assert_eq!(
            "HTTP/1.1 200 OK\r\n\r\n",
            written("HTTP/1.1 200 OK\r\nX-a:b\r\n\r\n", across)
        );
    }
}
