//! The request head that goes on to an upstream.

use std::fmt::Write as _;
use std::net::IpAddr;

use httparse::Header;

use super::Framing;
use super::fields::{Field, is_connection_option, is_named};
use super::request::Request;

/// What becomes of a request on its way.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Path at the upstream.
    pub path: &'a str,
    /// Host at the upstream.
    pub host: &'a str,
    /// Who asks: written into X-Forwarded-For and Forwarded. Without it the upstream learns nothing of the client.
    pub client: Option<IpAddr>,
    /// Fields that only this proxy may set, in lower case; copies from the client are dropped.
    pub placeholders: &'a [String],
    /// Ask for the whole body as it is: fields by which a client asks for a part of it, or compressed, are dropped.
    pub is_whole: bool,
}

/// How clients ask for less, or for other bytes, than the plain body.
const PARTIAL: [&str; 3] = ["accept-encoding", "range", "if-range"];

impl Forward<'_> {
    /// Append the request line and all fields, without the empty line that ends the head.
    pub fn write(&self, request: &Request<'_, '_>, out: &mut Vec<u8>) {
        self.write_fields(request, out);
        write_framing(request.method, request.framing, out);
        if let Some(client) = self.client {
            write_identity(client, request.host, out);
        }
    }

    /// Without the fields that frame the body and those that name the client.
    pub fn write_fields(&self, request: &Request<'_, '_>, out: &mut Vec<u8>) {
        out.reserve(512);
        out.extend_from_slice(request.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.path.as_bytes());
        if let Some(query) = request.query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(b"\r\n");
        for header in self.passing(request) {
            out.extend_from_slice(header.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(header.value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The client's fields that go on.
    pub fn passing<'h, 'b>(
        &self,
        request: &Request<'h, 'b>,
    ) -> impl Iterator<Item = &'h Header<'b>> {
        let headers = request.headers.iter();
        headers.filter(|header| self.passes(request, header.name))
    }

    fn passes(&self, request: &Request<'_, '_>, name: &str) -> bool {
        let is_placeholder = self
            .placeholders
            .iter()
            .any(|placeholder| is_named(name, placeholder));
        let is_partial = self.is_whole && PARTIAL.iter().any(|partial| is_named(name, partial));
        let is_option = request.has_options && is_connection_option(request.headers, name);
        Field::of(name) == Field::Other && !is_placeholder && !is_partial && !is_option
    }
}

/// The field that says how the body ends.
pub fn write_framing(method: &str, framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Length(length) => write_decimal(b"Content-Length: ", length, out),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        // RFC 9110 section 8.6: a method that anticipates content says that there is none.
        Framing::Empty if matches!(method, "POST" | "PUT" | "PATCH") => {
            write_decimal(b"Content-Length: ", 0, out)
        }
        Framing::Empty | Framing::UntilClose => {}
    }
}

fn write_decimal(name: &[u8], value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(value.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// X-Forwarded-* as upstreams know them, and RFC 7239.
fn write_identity(client: IpAddr, host: &str, out: &mut Vec<u8>) {
    let mut text = String::with_capacity(160);
    let quote = if host.contains([':', '[']) { "\"" } else { "" };
    let node = if client.is_ipv6() {
        ("\"[", "]\"")
    } else {
        ("", "")
    };
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "X-Forwarded-For: {client}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: {host}\r\n\
         Forwarded: for={}{client}{};host={quote}{host}{quote};proto=https\r\n",
        node.0, node.1,
    );
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::storage;
    use super::*;

    fn forwarded(head: &str, how: &Forward<'_>) -> String {
        let mut room = storage();
        let request = Request::parse(head.as_bytes(), &mut room, 20).unwrap();
        let mut out = Vec::new();
        how.write(&request, &mut out);
        String::from_utf8(out).unwrap()
    }

    const PLAIN: Forward<'_> = Forward {
        path: "/p",
        host: "h",
        client: None,
        placeholders: &[],
        is_whole: false,
    };

    #[test]
    fn fields_of_this_connection_stay_here() {
        let head = "GET /a?q HTTP/1.1\r\nHost: h\r\nConnection: X-Own, close\r\nX-Own: 1\r\nTE: trailers\r\n\
                    Upgrade: h2c\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\nAccept: */*\r\n\r\n";

        assert_eq!(
            "GET /p?q HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n",
            forwarded(head, &PLAIN)
        );
    }

    #[test]
    fn client_cannot_say_who_it_is() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\
                    Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n";
        let how = Forward {
            client: Some("2001:db8::1".parse().unwrap()),
            ..PLAIN
        };

        assert_eq!(
            "GET /p HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: h\r\nForwarded: for=\"[2001:db8::1]\";host=h;proto=https\r\n",
            forwarded(head, &how)
        );
    }

    #[test]
    fn inbound_copies_of_the_placeholder_are_dropped() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: mine\r\nx_api_key: mine\r\nX-Api-Keys: other\r\n\r\n";
        let how = Forward {
            placeholders: &["x-api-key".to_owned()],
            ..PLAIN
        };

        assert_eq!(
            "GET /p HTTP/1.1\r\nHost: h\r\nX-Api-Keys: other\r\n",
            forwarded(head, &how)
        );
    }

    #[test]
    fn whole_plain_body_is_asked_for_where_it_is_searched() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\nRANGE: bytes=0-9\r\nif_range: x\r\nAccept: y\r\n\r\n";
        let how = Forward {
            is_whole: true,
            ..PLAIN
        };

        assert_eq!(
            "GET /p HTTP/1.1\r\nHost: h\r\nAccept: y\r\n",
            forwarded(head, &how)
        );
        assert!(forwarded(head, &PLAIN).contains("gzip"));
    }

    #[test]
    fn framing_is_written_anew() {
        for (field, expected) in [
            ("Content-Length: 007", "Content-Length: 7\r\n"),
            (
                "Transfer-Encoding: CHUNKED",
                "Transfer-Encoding: chunked\r\n",
            ),
            ("A: b", "A: b\r\nContent-Length: 0\r\n"),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");

            assert_eq!(
                format!("POST /p HTTP/1.1\r\nHost: h\r\n{expected}"),
                forwarded(&head, &PLAIN)
            );
        }
    }

    #[test]
    fn connection_options_cannot_remove_what_the_proxy_writes() {
        let head = "POST / HTTP/1.1\r\nHost: h\r\nConnection: Host, Content-Length, X-Forwarded-For\r\nContent-Length: 2\r\n\r\n";
        let how = Forward {
            client: Some("10.0.0.1".parse().unwrap()),
            ..PLAIN
        };
        let out = forwarded(head, &how);

        assert!(
            out.contains("Host: h\r\n")
                && out.contains("Content-Length: 2\r\n")
                && out.contains("X-Forwarded-For: 10.0.0.1\r\n")
        );
    }
}
