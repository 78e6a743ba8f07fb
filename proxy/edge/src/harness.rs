//! Doors for tests/fuzz: everything that reads bytes of others, without a process around it. The program does not
//! use this.

use std::net::{IpAddr, Ipv4Addr};

use unlatch_protocol::Caller;

use crate::buffers::HEADROOM;
use crate::config::Limits;
use crate::credential::Credential;
use crate::download::{Download, TAILROOM};
use crate::echo::Echo;
use crate::egress;
use crate::http::Framing;
use crate::http::routes::Pattern;
use crate::live::{EdgeLive, Injected, Route, placeholders};
use crate::plan::{Asker, Spans, plan};

/// The field of the inject route.
pub const PLACEHOLDER: &str = "Authorization";
/// The path of the inject route.
pub const INJECT_PATH: &str = "/psp/*";

/// What edge sends up for a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Planned {
    /// For the inject route the preface stands first.
    pub outgoing: Vec<u8>,
    /// How the request's body is framed.
    pub framing: Framing,
    /// It goes to egress.
    pub is_injected: bool,
    /// Method, host and path as the log tells them.
    pub logged: [String; 3],
}

/// Plan one request with an inject route and a plain one; the status where it is refused.
///
/// # Errors
/// The request is refused with this status.
pub fn plan_request(head: &[u8]) -> Result<Planned, u16> {
    let route = |path, inject| Route {
        pattern: Pattern::new(None, None, path),
        strip_prefix: None,
        upstream: String::new(),
        servers: vec![0],
        inject,
    };
    let inject = Injected {
        id: 1,
        placeholders: placeholders(Some(PLACEHOLDER), &[]),
    };
    let live = EdgeLive {
        listeners: Vec::new(),
        routes: vec![route(Some(INJECT_PATH), Some(inject)), route(None, None)],
    };
    let asker = Asker {
        listener: "",
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: None,
    };
    let mut spans = Spans::default();
    let planned = plan(head, &live, &Limits::default(), &asker, &mut spans)
        .map_err(|refused| refused.status)?;
    let text = |span| String::from_utf8_lossy(head.get(span).unwrap_or_default()).into_owned();
    Ok(Planned {
        outgoing: planned.outgoing,
        framing: planned.framing,
        is_injected: planned.route == 0,
        logged: [spans.method, spans.host, spans.path].map(text),
    })
}

/// Read a preface as egress does: route, caller and length; nothing while it is not complete.
///
/// # Errors
/// It is not one.
pub fn preface(bytes: &[u8]) -> Result<Option<(u16, Caller, usize)>, unlatch_protocol::Malformed> {
    egress::preface(bytes)
}

/// Pass a response on that comes in these pieces: what the client gets and whether it is complete.
#[must_use]
pub fn pass_on(
    pieces: &[&[u8]],
    to_head: bool,
    is_http10: bool,
    token: &[u8],
) -> Option<(Vec<u8>, bool)> {
    let mut download = Download::new(to_head, is_http10, false);
    if !token.is_empty() {
        download = download.without_echo(Some(Echo {
            field: PLACEHOLDER.to_owned(),
            credential: Credential::new(&[(PLACEHOLDER, "", token)], 0, 0).ok()?,
        }));
    }
    let (mut seen, mut head) = (Vec::new(), Vec::new());
    for piece in pieces {
        let received = [&download.carry[..], piece].concat();
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(&received);
        buffer.resize(buffer.len() + TAILROOM, 0);
        let end = HEADROOM + received.len();
        let range = download.feed(&mut buffer, HEADROOM..end, &mut head).ok()?;
        seen.extend_from_slice(buffer.get(range)?);
    }
    let is_complete = match download.end() {
        Ok(rest) => {
            seen.extend_from_slice(&rest);
            true
        }
        Err(_) => false,
    };
    Some((seen, is_complete))
}

/// Whether a datagram of the control socket is an order.
#[must_use]
pub fn is_order(bytes: &[u8]) -> bool {
    crate::control::is_order(bytes)
}

/// Whether a text is a configuration that fits together.
#[must_use]
pub fn is_configuration(text: &str) -> bool {
    crate::config::Config::parse(text).is_ok()
}
