//! Requests that guard authorises with headers which it computes.

use crate::caller::Caller;
use crate::datagram::{Malformed, Reader, push_field};
use crate::message::TokenRequest;

/// What guard signs for a request. It sets the time itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizeRequest<'a> {
    /// Route, method, upstream, path and caller.
    pub request: TokenRequest<'a>,
    /// What follows `?`, as it is sent; empty for none.
    pub query: &'a str,
    /// SHA-256 of the body; `None`: not known before it is sent.
    pub body: Option<&'a [u8; 32]>,
    /// Other headers that are to be covered, names in lower case.
    pub headers: Vec<(&'a str, &'a str)>,
}

/// Most headers that one request names.
pub const MAX_SIGNED_HEADERS: usize = 64;

impl<'a> AuthorizeRequest<'a> {
    pub(crate) fn decode(route: u16, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (method, upstream, path, query) = (
            reader.text()?,
            reader.text()?,
            reader.text()?,
            reader.text()?,
        );
        let body = match reader.u8()? {
            0 => None,
            1 => Some(reader.reference()?),
            _ => return Err(Malformed),
        };
        let headers = pairs(reader)?;
        let request = TokenRequest {
            route,
            method,
            upstream,
            path,
            caller: Caller::decode(reader)?,
        };
        Ok(Self {
            request,
            query,
            body,
            headers,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let request = &self.request;
        for field in [request.method, request.upstream, request.path, self.query] {
            push_field(out, field.as_bytes())?;
        }
        out.push(u8::from(self.body.is_some()));
        out.extend_from_slice(self.body.map_or(&[][..], |body| body));
        push_pairs(out, &self.headers)?;
        request.caller.encode(out)
    }
}

/// u16 count ‖ count × (field: name ‖ field: value).
pub(crate) fn pairs<'a>(reader: &mut Reader<'a>) -> Result<Vec<(&'a str, &'a str)>, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > MAX_SIGNED_HEADERS {
        return Err(Malformed);
    }
    (0..count)
        .map(|_| Ok((reader.text()?, reader.text()?)))
        .collect()
}

/// Append headers as [`crate::Reply::Headers`] and [`AuthorizeRequest`] carry them.
///
/// # Errors
/// More than [`MAX_SIGNED_HEADERS`], or a field over 65535 bytes.
pub fn push_pairs<T: AsRef<str>>(out: &mut Vec<u8>, pairs: &[(T, T)]) -> Result<(), Malformed> {
    let count = Some(pairs.len()).filter(|count| *count <= MAX_SIGNED_HEADERS);
    let count = count.and_then(|count| u16::try_from(count).ok());
    out.extend_from_slice(&count.ok_or(Malformed)?.to_be_bytes());
    for (name, value) in pairs {
        push_field(out, name.as_ref().as_bytes())?;
        push_field(out, value.as_ref().as_bytes())?;
    }
    Ok(())
}
