//! The target of a request line: origin form, absolute form, or `*` for OPTIONS (RFC 9112 section 3.2).

use super::Reject;

/// The request target in its parts, all of them within the head.
pub(super) struct Target<'b> {
    pub(super) path: &'b str,
    pub(super) query: Option<&'b str>,
    pub(super) authority: Option<&'b str>,
}

impl<'b> Target<'b> {
    pub(super) fn parse(method: &str, target: &'b str) -> Result<Self, Reject> {
        let is_visible = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'#';
        if !target.bytes().all(is_visible) {
            return Err(Reject::Malformed("bad byte in target"));
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(Self {
                path: target,
                query: None,
                authority: None,
            });
        }
        let (slash, authority, rest) = split_scheme(target);
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        // RFC 9112 section 3.2.1: an empty path is sent as "/".
        let path = if path.is_empty() { slash } else { path };
        if !path.starts_with('/') {
            return Err(Reject::Malformed("bad target"));
        }
        Ok(Self {
            path,
            query,
            authority,
        })
    }
}

/// A slash to use for an empty path, the authority, and what follows. In origin form there is neither.
fn split_scheme(target: &str) -> (&str, Option<&str>, &str) {
    let end_of_scheme = ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(scheme.len())
    });
    let Some(end) = end_of_scheme else {
        return ("", None, target);
    };
    let (scheme, rest) = target.split_at(end);
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (&scheme[end - 1..], Some(authority), rest)
}
