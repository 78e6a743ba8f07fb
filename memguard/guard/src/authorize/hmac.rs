//! A message authentication code over lines of the request.

use std::time::Duration;

use unlatch_protocol::rules::{HmacSigning, Line, MacEncoding, MacHash};
use unlatch_protocol::{AuthorizeRequest, Refusal};

use super::{Headers, hex};
use crate::crypto::mac;

pub(super) fn headers(
    rules: &HmacSigning,
    secret: &[u8],
    header: &str,
    request: &AuthorizeRequest<'_>,
    wall: Duration,
) -> Result<Headers, Refusal> {
    let time = wall.as_secs().to_string();
    let mut lines = Vec::new();
    for line in &rules.over {
        lines.push(match line {
            Line::Method => request.request.method.to_owned(),
            Line::Path => request.request.path.to_owned(),
            Line::Query => request.query.to_owned(),
            Line::Time => time.clone(),
            Line::Body => hex(request.body.ok_or(Refusal::Outside)?),
        });
    }
    let text = lines.join("\n");
    let code = match rules.hash {
        MacHash::Sha256 => mac::sha256(secret, &[text.as_bytes()]).map(|code| code.to_vec()),
        MacHash::Sha512 => mac::sha512(secret, &[text.as_bytes()]).map(|code| code.to_vec()),
    };
    let code = code.map_err(|_| Refusal::Internal)?;
    let code = match rules.encoding {
        MacEncoding::Hex => hex(&code),
        MacEncoding::Base64 => base64(&code),
    };
    let mut headers = vec![(
        header.to_ascii_lowercase(),
        format!("{}{code}", rules.prefix),
    )];
    if let Some(name) = &rules.time_header {
        headers.push((name.to_ascii_lowercase(), time));
    }
    Ok(headers)
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain(&[0, 0])
            .take(3)
            .fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for place in 0..4 {
            let digit = ALPHABET[word >> (18 - 6 * place) & 63];
            text.push(if place <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use unlatch_protocol::{Caller, TokenRequest};

    use super::*;

    fn request() -> AuthorizeRequest<'static> {
        AuthorizeRequest {
            request: TokenRequest {
                route: 1,
                method: "POST",
                upstream: "https://api.example:443",
                path: "/v1/x",
                caller: Caller::from_address("::1".parse().unwrap()),
            },
            query: "a=b",
            body: Some(&[0xab; 32]),
            headers: vec![],
        }
    }

    fn rules(over: Vec<Line>) -> HmacSigning {
        HmacSigning {
            hash: MacHash::Sha256,
            encoding: MacEncoding::Hex,
            prefix: "v1=".to_owned(),
            over,
            time_header: Some("X-Time".to_owned()),
        }
    }

    #[test]
    fn lines_stand_in_their_order() {
        let over = vec![
            Line::Time,
            Line::Method,
            Line::Path,
            Line::Query,
            Line::Body,
        ];
        let found = headers(
            &rules(over),
            b"key",
            "X-Signature",
            &request(),
            Duration::from_secs(77),
        );
        let text = format!("77\nPOST\n/v1/x\na=b\n{}", "ab".repeat(32));
        let expected = hex(&mac::sha256(b"key", &[text.as_bytes()]).unwrap());

        assert_eq!(
            found.unwrap(),
            [
                ("x-signature".to_owned(), format!("v1={expected}")),
                ("x-time".to_owned(), "77".to_owned())
            ]
        );
    }

    #[test]
    fn body_that_is_not_known_is_not_covered_by_leaving_it_out() {
        let request = AuthorizeRequest {
            body: None,
            ..request()
        };

        let found = headers(
            &rules(vec![Line::Body]),
            b"key",
            "x",
            &request,
            Duration::ZERO,
        );

        assert_eq!(found, Err(Refusal::Outside));
    }

    /// RFC 4648 section 10.
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
