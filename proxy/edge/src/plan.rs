//! What is to be done with one request: decided once from its head, before anything is sent anywhere.

use std::net::IpAddr;
use std::ops::Range;

use unlatch_protocol::path::Target;
use unlatch_protocol::{Caller, CallerCertificate};

use crate::config::Limits;
use crate::http::forward::Forward;
use crate::http::request::Request;
use crate::http::routes::strip_prefix;
use crate::http::{Framing, Reject, storage};
use crate::live::{EdgeLive, Injected, Route};

/// Version of the preface to egress.
const PREFACE_VERSION: u8 = 1;

/// Where the asker stands.
pub(crate) struct Asker<'a> {
    pub(crate) listener: &'a str,
    pub(crate) address: IpAddr,
    pub(crate) certificate: Option<&'a CallerCertificate>,
}

/// A request that goes on.
pub(crate) struct Plan {
    /// What is sent first: for inject routes the preface, then the head.
    pub(crate) outgoing: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) route: usize,
    pub(crate) to_head: bool,
    pub(crate) is_http10: bool,
    /// The client wants the connection closed.
    pub(crate) close: bool,
    pub(crate) expects_continue: bool,
    /// Sending it twice is harmless and possible.
    pub(crate) is_repeatable: bool,
}

/// A request that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    /// Nothing is wrong with the connection: the next request may come, unless a body is in between.
    pub(crate) keeps_connection: bool,
    pub(crate) to_head: bool,
}

/// Where method, host and path stand in the head, for the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spans {
    pub(crate) method: Range<usize>,
    pub(crate) host: Range<usize>,
    pub(crate) path: Range<usize>,
}

/// Decide. `spans` is filled as soon as the head is understood.
pub(crate) fn plan(
    head: &[u8],
    live: &EdgeLive,
    limits: &Limits,
    asker: &Asker<'_>,
    spans: &mut Spans,
) -> Result<Plan, Refused> {
    let mut room = storage();
    let request = Request::parse(head, &mut room, limits.headers)?;
    *spans = Spans::of(&request, head);
    let refuse = |status, reason| Refused {
        status,
        reason,
        keeps_connection: request.keep_alive && request.framing == Framing::Empty,
        to_head: request.method == "HEAD",
    };
    let (number, route) = live
        .routes
        .iter()
        .enumerate()
        .find(|(_, route)| {
            let Request { host, path, .. } = request;
            route.pattern.matches(asker.listener, host, path)
        })
        .ok_or_else(|| refuse(404, "no route"))?;
    let outgoing = match &route.inject {
        None => plain(&request, route, asker),
        Some(inject) => {
            injected(&request, route, inject, asker).map_err(|reason| refuse(400, reason))?
        }
    };
    Ok(Plan {
        outgoing,
        framing: request.framing,
        route: number,
        to_head: request.method == "HEAD",
        is_http10: request.is_http10,
        close: !request.keep_alive,
        expects_continue: request.expects_continue,
        is_repeatable: request.is_repeatable(),
    })
}

impl Spans {
    fn of(request: &Request<'_, '_>, head: &[u8]) -> Self {
        // The parser copies nothing: every part lies within the head.
        let span = |part: &str| {
            let start = (part.as_ptr() as usize).saturating_sub(head.as_ptr() as usize);
            start..start.saturating_add(part.len())
        };
        Self {
            method: span(request.method),
            host: span(request.host),
            path: span(request.path),
        }
    }
}

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Self {
            status: reject.status(),
            reason: reject.reason(),
            keeps_connection: false,
            to_head: false,
        }
    }
}

fn stripped<'p>(path: &'p str, route: &Route) -> &'p str {
    route
        .strip_prefix
        .as_deref()
        .and_then(|prefix| strip_prefix(path, prefix))
        .unwrap_or(path)
}

/// The head for an upstream that needs no secret.
fn plain(request: &Request<'_, '_>, route: &Route, asker: &Asker<'_>) -> Vec<u8> {
    let path = stripped(request.path, route);
    let how = Forward {
        path,
        host: request.host,
        client: Some(asker.address),
        placeholders: &[],
        is_whole: false,
    };
    let mut out = Vec::new();
    how.write(request, &mut out);
    out.extend_from_slice(b"\r\n");
    out
}

/// Preface and head for egress. The path is read in one way only, or not at all; the upstream learns nothing of the
/// client.
fn injected(
    request: &Request<'_, '_>,
    route: &Route,
    inject: &Injected,
    asker: &Asker<'_>,
) -> Result<Vec<u8>, &'static str> {
    if request.is_absolute {
        return Err("absolute target on an inject route");
    }
    let target =
        Target::parse(request.path.as_bytes()).map_err(|_| "path could be read in two ways")?;
    let caller = Caller {
        address: Some(asker.address),
        certificate: asker.certificate.cloned(),
        uid: None,
    };
    let mut preface = vec![PREFACE_VERSION];
    preface.extend_from_slice(&inject.id.to_be_bytes());
    caller
        .encode(&mut preface)
        .map_err(|_| "caller's names too long")?;
    let length = u32::try_from(preface.len()).map_err(|_| "caller's names too long")?;
    let mut out = length.to_be_bytes().to_vec();
    out.append(&mut preface);
    let path = stripped(target.path(), route);
    Forward {
        path,
        host: request.host,
        client: None,
        placeholders: &inject.placeholders,
        is_whole: false,
    }
    .write(request, &mut out);
    out.extend_from_slice(b"\r\n");
    Ok(out)
}
