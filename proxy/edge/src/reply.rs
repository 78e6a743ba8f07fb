//! The proxy's own answers: short, fixed, and the same for every cause that the client need not know.

/// The whole response for a status of our own.
pub(crate) fn reply(status: u16, close: bool, to_head: bool) -> Vec<u8> {
    let reason = reason(status);
    let body = format!("{status} {}\n", reason.to_ascii_lowercase());
    let close = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{close}\r\n"
    );
    let mut response = head.into_bytes();
    if !to_head {
        response.extend_from_slice(body.as_bytes());
    }
    response
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_says_its_length_even_to_head() {
        let expected = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 16\r\nConnection: close\r\n\r\n";

        assert_eq!(expected.as_bytes(), reply(502, true, true));
        assert_eq!(
            [expected.as_bytes(), b"502 bad gateway\n"].concat(),
            reply(502, true, false)
        );
    }
}
