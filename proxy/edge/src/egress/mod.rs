//! The role that puts tokens into requests. No listener: requests come from edge over inherited sockets, tokens from
//! guard, for one request each; responses go back without an echo of the token.

mod asked;
mod gather;
mod inject;
mod preface;
mod session;
mod upstream;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use unlatch_protocol::{Caller, Malformed};

use crate::config::{self, Ask, Body, Config, Scheme};
use crate::error::StartError;
use crate::guard::Guard;
use crate::live::placeholders;
use crate::shared::{Live, RoleLive};
use crate::sys;
use crate::worker::Worker;
use upstream::Target;

pub(crate) use upstream::load_system_roots;

/// What only egress has.
pub(crate) struct EgressLive {
    pub(crate) routes: Vec<Route>,
}

/// An inject route.
pub(crate) struct Route {
    pub(crate) id: u16,
    /// The field that carries the secret.
    pub(crate) header: String,
    pub(crate) scheme: Scheme,
    pub(crate) ask: Ask,
    /// Fields that nobody but this process sets, in lower case; `header` first.
    pub(crate) placeholders: Vec<String>,
    /// What guard must know of bodies.
    pub(crate) body: Body,
    /// Guard is told every field whose name begins so.
    pub(crate) covers: Option<String>,
    pub(crate) targets: Vec<Target>,
}

/// Check the configuration and build everything from it.
pub(crate) fn build(
    config: &Config,
    generation: u64,
    guard: &Arc<Guard>,
) -> Result<Live, StartError> {
    let mut servers = Vec::new();
    let routes = config
        .routes
        .iter()
        .map(|route| build_route(route, config, guard, &mut servers))
        .collect::<Result<_, _>>()?;
    Ok(Live {
        generation,
        timeouts: config.timeouts_ms,
        limits: config.limits,
        servers,
        access_log: false,
        slow_keys: 0,
        role: RoleLive::Egress(EgressLive { routes }),
    })
}

fn build_route(
    route: &config::Route,
    config: &Config,
    guard: &Arc<Guard>,
    servers: &mut Vec<String>,
) -> Result<Route, StartError> {
    let wrong = |what: &str| StartError::Config(format!("route to {}: {what}", route.upstream));
    let upstream = config
        .upstreams
        .get(&route.upstream)
        .ok_or_else(|| wrong("no such upstream"))?;
    let tls = upstream
        .tls
        .as_ref()
        .ok_or_else(|| wrong("a token goes over TLS only"))?;
    let header = match route.ask {
        Ask::Nothing => String::new(),
        Ask::Token | Ask::Authorize => route.header.clone().ok_or_else(|| wrong("no header"))?,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    for name in route.others.iter().chain(&route.header) {
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(wrong("header is not a field name"));
        }
    }
    let tls = upstream::client_config(tls, guard, &format!("upstream {}", route.upstream))?;
    let target = |server: &String| Target::new(&route.upstream, server, &tls, servers);
    Ok(Route {
        id: route.id.ok_or_else(|| wrong("no id"))?,
        placeholders: placeholders(route.header.as_deref(), &route.others),
        header,
        ask: route.ask,
        body: route.body,
        covers: route.covers.clone(),
        scheme: route.scheme.unwrap_or(Scheme::Bearer),
        targets: upstream
            .servers
            .iter()
            .map(target)
            .collect::<Result<_, _>>()?,
    })
}

/// Read a preface: route, caller and length; nothing while it is not complete.
pub(crate) fn preface(bytes: &[u8]) -> Result<Option<(u16, Caller, usize)>, Malformed> {
    let found = preface::take(bytes)?;
    Ok(found.map(|(preface, length)| (preface.route, preface.caller, length)))
}

/// Take connections from every edge that the supervisor introduces.
pub(crate) fn accept_all(
    worker: &'static Worker,
) -> std::io::Result<impl Future<Output = ()> + 'static> {
    Ok(async move {
        let mut served: Option<Arc<OwnedFd>> = None;
        worker.watch().await;
        std::future::poll_fn(|_| {
            let newest = worker.shared.peer();
            let is_new = match (&newest, &served) {
                (Some(newest), Some(served)) => !Arc::ptr_eq(newest, served),
                (newest, None) => newest.is_some(),
                (None, _) => false,
            };
            if let (true, Some(peer)) = (is_new, newest) {
                spawn_local(accept(worker, Arc::clone(&peer)));
                served = Some(peer);
            }
            if worker.is_draining() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    })
}

/// Until this edge ends, or the worker drains.
async fn accept(worker: &'static Worker, peer: Arc<OwnedFd>) {
    let Ok(Ok(peer)) = peer.try_clone().map(sys::watched) else {
        return;
    };
    while !worker.is_draining() {
        let Ok(mut ready) = peer.readable().await else {
            return;
        };
        match receive(&peer) {
            Ok(Some(stream)) => {
                spawn_local(session::serve(worker, stream, worker.admit()));
            }
            Ok(None) => return,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => ready.clear_ready(),
            // A message of another form: that one is dropped, with its descriptors.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
            Err(_) => return,
        }
    }
}

/// One byte `c` and one stream socket; nothing at the end of file.
fn receive(peer: &AsyncFd<OwnedFd>) -> std::io::Result<Option<UnixStream>> {
    let mut byte = [0];
    let (length, mut descriptors) =
        sys::receive_with_descriptors(peer.get_ref().as_fd(), &mut byte)?;
    if length == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    match (byte, descriptors.pop(), descriptors.pop()) {
        ([b'c'], Some(socket), None) => {
            let stream = std::os::unix::net::UnixStream::from(socket);
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream).map(Some)
        }
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
