//! A request head: found, parsed, judged.
//!
//! Refused rather than repaired: a bare LF, both Content-Length and Transfer-Encoding, a repeated Content-Length,
//! any coding but `chunked`, obs-fold, white space before a colon, no Host or two, a Host that differs from an absolute
//! target. Sources: RFC 9112 sections 2.2, 3.2, 5.1, 6.1 to 6.3; RFC 9110 section 7.2.

use httparse::Header;

use super::fields::{Field, decimal, members};
use super::target::Target;
use super::{Framing, MAX_HEADERS, Reject, Storage};

/// One request head that may be proxied.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// The method, a token.
    pub method: &'b str,
    /// Path of the target, `/…`, or `*` for OPTIONS; no query.
    pub path: &'b str,
    /// What follows `?`.
    pub query: Option<&'b str>,
    /// Authority of the target, or the Host field.
    pub host: &'b str,
    /// The target was a whole URI.
    pub is_absolute: bool,
    /// HTTP/1.0.
    pub is_http10: bool,
    /// How the body ends.
    pub framing: Framing,
    /// The client keeps the connection for another request.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// All fields, in order.
    pub headers: &'h [Header<'b>],
    /// `Connection` names fields that must not be passed on.
    pub has_options: bool,
}

/// Longest list of connection options: every field is compared with every option.
const MAX_OPTIONS_BYTES: usize = 512;

impl<'h, 'b> Request<'h, 'b> {
    /// Read one whole head, as [`find_end`] found it.
    ///
    /// # Errors
    /// The head is not one that may be proxied; see [`Reject`].
    pub fn parse(
        head: &'b [u8],
        storage: &'h mut Storage<'b>,
        max_headers: usize,
    ) -> Result<Self, Reject> {
        let mut parsed = httparse::Request::new(&mut []);
        let room = &mut storage[..max_headers.min(MAX_HEADERS)];
        match parsed.parse_with_uninit_headers(head, room) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(Reject::Malformed("head ends early")),
            Err(error) => return Err(refusal(error, head)),
        }
        let (Some(method), Some(target), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Reject::Malformed("no request line"));
        };
        if method == "CONNECT" || method == "TRACE" {
            return Err(Reject::Method);
        }
        let target = Target::parse(method, target)?;
        let facts = Facts::gather(parsed.headers)?;
        Ok(Self {
            method,
            path: target.path,
            query: target.query,
            host: facts.host(target.authority)?,
            is_absolute: target.authority.is_some(),
            is_http10: version == 0,
            framing: facts.framing(version)?,
            keep_alive: if version == 0 {
                facts.keep_alive
            } else {
                !facts.close
            },
            expects_continue: facts.expects_continue && version == 1,
            headers: parsed.headers,
            has_options: facts.has_options,
        })
    }

    /// Whether repeating the request on another connection is harmless (RFC 9110 section 9.2.1) and possible.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.framing == Framing::Empty && matches!(self.method, "GET" | "HEAD" | "OPTIONS")
    }
}

fn refusal(error: httparse::Error, head: &[u8]) -> Reject {
    let mut parts = head
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default()
        .split(|byte| *byte == b' ');
    let names_version =
        parts.nth(2).is_some_and(|part| part.starts_with(b"HTTP/")) && parts.next().is_none();
    match error {
        httparse::Error::TooManyHeaders => Reject::TooLarge,
        httparse::Error::Version if names_version => Reject::Version,
        httparse::Error::HeaderName => Reject::Malformed("bad field name"),
        httparse::Error::HeaderValue => Reject::Malformed("bad field value"),
        _ => Reject::Malformed("bad request line"),
    }
}

/// What the fields say about the message itself.
#[derive(Default)]
struct Facts<'b> {
    host: Option<&'b str>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    has_options: bool,
    options_bytes: usize,
    expects_continue: bool,
}

impl<'b> Facts<'b> {
    fn gather(headers: &[Header<'b>]) -> Result<Self, Reject> {
        let mut facts = Self::default();
        for header in headers {
            match Field::of(header.name) {
                Field::Host => facts.take_host(header.value)?,
                Field::ContentLength => facts.take_length(header.value)?,
                Field::TransferEncoding => facts.take_coding(header.value)?,
                Field::Connection => facts.take_connection(header.value)?,
                Field::Expect if header.value.eq_ignore_ascii_case(b"100-continue") => {
                    facts.expects_continue = true
                }
                Field::Expect => return Err(Reject::Expectation),
                _ => {}
            }
        }
        Ok(facts)
    }

    fn take_host(&mut self, value: &'b [u8]) -> Result<(), Reject> {
        if self.host.is_some() {
            return Err(Reject::Malformed("two Host fields"));
        }
        self.host = Some(std::str::from_utf8(value).map_err(|_| Reject::Malformed("bad Host"))?);
        Ok(())
    }

    fn take_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.length.is_some() {
            return Err(Reject::Malformed("two Content-Length fields"));
        }
        self.length = Some(decimal(value).ok_or(Reject::Malformed("bad Content-Length"))?);
        Ok(())
    }

    fn take_coding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reject::Malformed("bad Transfer-Encoding"));
        }
        self.chunked = true;
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) -> Result<(), Reject> {
        self.options_bytes += value.len();
        if self.options_bytes > MAX_OPTIONS_BYTES {
            return Err(Reject::Malformed("too many connection options"));
        }
        for member in members(value) {
            if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.has_options = true;
            }
        }
        Ok(())
    }

    fn host(&self, authority: Option<&'b str>) -> Result<&'b str, Reject> {
        let host = self.host.ok_or(Reject::Malformed("no Host"))?;
        if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
            return Err(Reject::Malformed("Host differs from target"));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if host.is_empty() || host.len() > 262 || !host.bytes().all(is_name) {
            return Err(Reject::Malformed("bad Host"));
        }
        Ok(host)
    }

    fn framing(&self, version: u8) -> Result<Framing, Reject> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Reject::Malformed("Content-Length with Transfer-Encoding")),
            (true, None) if version == 0 => Err(Reject::Malformed("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked),
            (false, None | Some(0)) => Ok(Framing::Empty),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::find_end;
    use super::super::storage;
    use super::*;

    fn reject(head: &str) -> Option<Reject> {
        let mut scanned = 0;
        match find_end(head.as_bytes(), &mut scanned, 4096) {
            Err(reject) => Some(reject),
            Ok(None) => panic!("{head:?} has no end"),
            Ok(Some(end)) => Request::parse(&head.as_bytes()[..end], &mut storage(), 10).err(),
        }
    }

    #[test]
    fn parts_of_a_target_are_told_apart() {
        let cases = [
            (
                "GET /a/b?c=d?e HTTP/1.1\r\nHost: x.example:80\r\n\r\n",
                "/a/b",
                Some("c=d?e"),
                "x.example:80",
            ),
            (
                "GET http://x/a HTTP/1.1\r\nHost: X\r\n\r\n",
                "/a",
                None,
                "X",
            ),
            (
                "GET HTTPS://x?q HTTP/1.1\r\nHost: x\r\n\r\n",
                "/",
                Some("q"),
                "x",
            ),
            ("GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", "/", None, "x"),
            ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "*", None, "x"),
        ];
        for (head, path, query, host) in cases {
            let mut room = storage();
            let request = Request::parse(head.as_bytes(), &mut room, 10).unwrap();

            assert_eq!(
                (path, query, host),
                (request.path, request.query, request.host)
            );
            // Log lines name the parts by their place in the head.
            let within = head.as_bytes().as_ptr_range();
            for part in [request.method, request.path, request.host] {
                assert!(within.contains(&part.as_ptr()), "{head}");
            }
        }
    }

    #[test]
    fn framing_and_persistence_follow_the_version() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Framing::Empty, true),
            (
                "GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n",
                Framing::Empty,
                false,
            ),
            ("GET / HTTP/1.0\r\nHost: x\r\n\r\n", Framing::Empty, false),
            (
                "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
                Framing::Empty,
                true,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n",
                Framing::Length(7),
                true,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n",
                Framing::Chunked,
                true,
            ),
        ];
        for (head, framing, keep_alive) in cases {
            let mut room = storage();
            let request = Request::parse(head.as_bytes(), &mut room, 10).unwrap();

            assert_eq!(
                (framing, keep_alive),
                (request.framing, request.keep_alive),
                "{head}"
            );
        }
    }

    #[test]
    fn what_smuggling_is_made_of_is_refused() {
        let fields = [
            "Host: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "Host: x\r\nContent-Length: 1\r\nContent-Length: 1",
            "Host: x\r\nContent-Length: 1, 1",
            "Host: x\r\nContent-Length: +1",
            "Host: x\r\nContent-Length : 1",
            "Host: x\r\nTransfer-Encoding: identity",
            "Host: x\r\nTransfer-Encoding: gzip, chunked",
            "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Host: x\r\nTransfer-Encoding:\x0bchunked",
            "Host: x\r\nA: b\r\n folded",
            " Host: x",
            "Host: x\nA: b",
            "Host: x\r\nA: b\rC: d",
            "Host: x\r\nA: b\0c",
            "Host: x\r\nHost: x",
            "Host: x, y",
            "Host: u@x",
            "Host: x/y",
            "Host: ",
            "A: b",
        ];
        for field in fields {
            let status = reject(&format!("POST / HTTP/1.1\r\n{field}\r\n\r\n")).map(Reject::status);

            assert_eq!(Some(400), status, "{field:?}");
        }
    }

    #[test]
    fn bad_request_lines_are_refused_with_their_status() {
        let cases = [
            ("GET http://y/ HTTP/1.1\r\nHost: x", 400),
            ("GET  / HTTP/1.1\r\nHost: x", 400),
            ("GET /a b HTTP/1.1\r\nHost: x", 400),
            ("GET a HTTP/1.1\r\nHost: x", 400),
            ("GET * HTTP/1.1\r\nHost: x", 400),
            ("GET /# HTTP/1.1\r\nHost: x", 400),
            ("GET /\u{e9} HTTP/1.1\r\nHost: x", 400),
            (
                "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked",
                400,
            ),
            ("CONNECT x:443 HTTP/1.1\r\nHost: x", 405),
            ("TRACE / HTTP/1.1\r\nHost: x", 405),
            ("GET / HTTP/2.0\r\nHost: x", 505),
            ("POST / HTTP/1.1\r\nHost: x\r\nExpect: miracles", 417),
        ];
        for (head, expected) in cases {
            assert_eq!(
                Some(expected),
                reject(&format!("{head}\r\n\r\n")).map(Reject::status),
                "{head:?}"
            );
        }
    }

    #[test]
    fn options_of_the_connection_are_bounded() {
        let options = "a,".repeat(MAX_OPTIONS_BYTES / 4);
        let twice = format!("Connection: {options}\r\nConnection: {options}\r\n");

        assert_eq!(
            None,
            reject(&format!("GET / HTTP/1.1\r\nHost: x\r\n{twice}\r\n"))
        );
        assert_eq!(
            Some(400),
            reject(&format!(
                "GET / HTTP/1.1\r\nHost: x\r\n{twice}Connection: a\r\n\r\n"
            ))
            .map(Reject::status)
        );
    }

    #[test]
    fn limits_hold_whether_the_head_ends_or_not() {
        let many = "A: b\r\n".repeat(10);
        let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(5000));

        assert_eq!(
            Some(Reject::TooLarge),
            reject(&format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"))
        );
        assert_eq!(Some(Reject::TooLarge), reject(&long));
        assert_eq!(Err(Reject::TooLarge), find_end(&[b'x'; 4096], &mut 0, 4096));
    }
}
