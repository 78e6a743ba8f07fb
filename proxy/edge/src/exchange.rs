//! One request of one client, from its head to the last byte of its response.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use rustls::{HandshakeKind, ProtocolVersion};

use crate::accesslog::Line;
use crate::counters::Count;
use crate::dial;
use crate::download::Download;
use crate::downstream::Client;
use crate::http::Framing;
use crate::live::{EdgeLive, Route};
use crate::plan::{Asker, Plan, Refused, Spans, plan};
use crate::pool::Conn;
use crate::reply::reply;
use crate::session::Session;
use crate::shared::RoleLive;
use crate::transfer::{Failure, Transfer};
use crate::upload::Upload;
use crate::worker::{View, Worker};

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    Next,
    /// It ends in good order.
    Close,
    /// As `Close`, but the client may still be sending.
    Linger,
    /// It breaks off, so that the client sees that the response is not complete.
    Abort,
}

/// What happened, for the log.
struct Outcome {
    status: u16,
    bytes: u64,
    upstream: Option<String>,
    error: Option<&'static str>,
    after: After,
}

/// Answer the request whose head was received.
pub(crate) async fn answer(session: &mut Session, head: Vec<u8>) -> After {
    let started = Instant::now();
    let view = session.worker.view();
    let RoleLive::Edge(live) = &view.live.role else {
        return After::Abort;
    };
    let mut spans = Spans::default();
    let outcome = match decide(session, &head, &view, live, &mut spans) {
        Ok(plan) => carry_out(session, plan, &view, live).await,
        Err(refused) => refuse(session, refused, view.live.timeouts.body).await,
    };
    if view.live.access_log {
        log(session, &head, &spans, &outcome, started);
    }
    outcome.after
}

fn decide(
    session: &mut Session,
    head: &[u8],
    view: &View,
    live: &EdgeLive,
    spans: &mut Spans,
) -> Result<Plan, Refused> {
    if !session.identify() {
        // A resumed session is not verified again by TLS: the certificate may have expired since.
        return Err(Refused {
            status: 403,
            reason: "client certificate not valid",
            keeps_connection: false,
            to_head: false,
        });
    }
    let asker = Asker {
        listener: session.listener_name(),
        address: session.address,
        certificate: session.certificate(),
    };
    let plan = plan(head, live, &view.live.limits, &asker, spans);
    session.worker.counters().add(if plan.is_ok() {
        Count::Requests
    } else {
        Count::Refused
    });
    plan
}

/// A short answer of our own. The client may be in the middle of a body.
async fn refuse(session: &mut Session, refused: Refused, patience: u64) -> Outcome {
    let keeps = refused.keeps_connection && !session.worker.is_draining();
    let response = reply(refused.status, !keeps, refused.to_head);
    let sent = session.send(&response, patience).await;
    let after = match (sent, keeps) {
        (Err(_), _) => After::Abort,
        (Ok(()), true) => After::Next,
        (Ok(()), false) => After::Linger,
    };
    Outcome {
        status: refused.status,
        bytes: response.len() as u64,
        upstream: None,
        error: Some(refused.reason),
        after,
    }
}

async fn carry_out(session: &mut Session, plan: Plan, view: &Rc<View>, live: &EdgeLive) -> Outcome {
    let Some(route) = live.routes.get(plan.route) else {
        return aborted(None, 0, "no route");
    };
    let worker = session.worker;
    let mut path = Path {
        view,
        route,
        number: plan.route,
        is_pooled: false,
        server: None,
    };
    let mut is_second_try = false;
    let mut upload = Upload::new(plan.outgoing, plan.framing);
    let failing = Failing {
        to_head: plan.to_head,
        keeps_connection: plan.framing == Framing::Empty && !plan.close,
    };
    if upload.take(&mut session.client.inbox).is_err() {
        return fail(session, Failure::BadBody, &path, failing).await;
    }
    loop {
        let conn = match path.connect(session, is_second_try).await {
            Ok(conn) => conn,
            Err(failure) => return fail(session, failure, &path, failing).await,
        };
        let mut transfer = Transfer {
            client: &mut session.client,
            deadline: &session.deadline,
            conn,
            upload,
            download: Download::new(plan.to_head, plan.is_http10, plan.close),
            worker,
            timeouts: view.live.timeouts,
            continue_due: plan.expects_continue,
            bytes: 0,
        };
        transfer.deadline.set(view.live.timeouts.response);
        let result = poll_fn(|cx| transfer.poll(cx)).await;
        let bytes = transfer.bytes;
        match result {
            Ok(()) => return path.finish(transfer),
            Err(Failure::UpstreamGone)
                if path.is_pooled && plan.is_repeatable && bytes == 0 && !is_second_try =>
            {
                // The server closed the idle connection just when it was used.
                worker.counters().add(Count::Repeated);
                is_second_try = true;
                upload = transfer.upload;
                upload.rewind();
            }
            Err(failure) if bytes > 0 => {
                count_failure(worker, failure, route);
                return Outcome {
                    bytes,
                    ..aborted(path.name(), transfer.download.status, failure.reason())
                };
            }
            Err(failure) => return fail(session, failure, &path, failing).await,
        }
    }
}

/// The way to the server that answers one request.
struct Path<'v> {
    view: &'v Rc<View>,
    route: &'v Route,
    number: usize,
    /// The connection served before.
    is_pooled: bool,
    /// Position of the server; none for egress.
    server: Option<usize>,
}

impl Path<'_> {
    /// An idle connection, or else a new one, to the servers in turn.
    async fn connect(&mut self, session: &Session, fresh: bool) -> Result<Conn, Failure> {
        let pools = &self.view.pools;
        self.is_pooled = false;
        if self.route.inject.is_some() {
            let idle = if fresh { None } else { pools.take_egress() };
            self.is_pooled = idle.is_some();
            return idle.map_or_else(|| dial::egress(&session.worker.shared), Ok);
        }
        let servers = &self.route.servers;
        let first = pools.next_turn(self.number);
        let mut failure = Failure::Connect;
        for step in 0..servers.len() {
            let Some(&server) = servers.get((first + step) % servers.len()) else {
                continue;
            };
            self.server = Some(server);
            if let (false, Some(conn)) = (fresh, pools.take(server)) {
                self.is_pooled = true;
                return Ok(conn);
            }
            let Some(address) = self.view.live.servers.get(server) else {
                continue;
            };
            match dial::server(address, &session.deadline, self.view.live.timeouts.connect).await {
                Ok(stream) => return Ok(Conn::Tcp(stream)),
                Err(late) => failure = late,
            }
        }
        Err(failure)
    }

    fn name(&self) -> Option<String> {
        match self.server {
            Some(server) => self.view.live.servers.get(server).cloned(),
            None => self
                .route
                .inject
                .is_some()
                .then(|| self.route.upstream.clone()),
        }
    }

    /// The response is complete: keep what can serve again.
    fn finish(&self, transfer: Transfer<'_, Client>) -> Outcome {
        let Transfer {
            conn,
            upload,
            download,
            bytes,
            ..
        } = transfer;
        if download.is_reusable() && upload.is_complete() {
            match self.server {
                Some(server) => self.view.pools.give(server, conn),
                None => self.view.pools.give_egress(conn),
            }
        }
        let after = match (upload.is_complete(), download.close) {
            (false, _) => After::Linger,
            (true, true) => After::Close,
            (true, false) => After::Next,
        };
        Outcome {
            status: download.status,
            bytes,
            upstream: self.name(),
            error: None,
            after,
        }
    }
}

/// What a failure's answer depends on.
#[derive(Clone, Copy)]
struct Failing {
    to_head: bool,
    /// The request had no body: the next one can be told from it.
    keeps_connection: bool,
}

/// No response, or none that can be passed on; the client has got nothing yet.
async fn fail(
    session: &mut Session,
    failure: Failure,
    path: &Path<'_>,
    failing: Failing,
) -> Outcome {
    count_failure(session.worker, failure, path.route);
    let Some(status) = failure.status() else {
        return aborted(path.name(), 499, failure.reason());
    };
    let patience = path.view.live.timeouts.body;
    let refused = Refused {
        status,
        reason: failure.reason(),
        keeps_connection: failing.keeps_connection,
        to_head: failing.to_head,
    };
    let outcome = refuse(session, refused, patience).await;
    Outcome {
        upstream: path.name(),
        ..outcome
    }
}

fn count_failure(worker: &Worker, failure: Failure, route: &Route) {
    if matches!(
        failure,
        Failure::ClientGone | Failure::ClientLate | Failure::BadBody
    ) {
        return;
    }
    worker.counters().add(Count::UpstreamFailed);
    if route.inject.is_some() {
        worker.counters().add(Count::InjectFailed);
    }
}

fn aborted(upstream: Option<String>, status: u16, error: &'static str) -> Outcome {
    Outcome {
        status,
        bytes: 0,
        upstream,
        error: Some(error),
        after: After::Abort,
    }
}

fn log(session: &Session, head: &[u8], spans: &Spans, outcome: &Outcome, started: Instant) {
    let text = |span: &std::ops::Range<usize>| {
        head.get(span.clone())
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    };
    let facts = session.client.facts();
    let cipher = facts
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    session.worker.log.add(&Line {
        listener: session.listener_name(),
        server_name: session.server_name.as_deref(),
        client: session.address,
        method: text(&spans.method),
        host: text(&spans.host),
        path: text(&spans.path),
        status: outcome.status,
        bytes: outcome.bytes,
        duration: started.elapsed(),
        upstream: outcome.upstream.as_deref(),
        tls: if facts.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
            "1.2"
        } else {
            "1.3"
        },
        cipher: cipher.unwrap_or_default(),
        resumed: facts.handshake_kind() == Some(HandshakeKind::Resumed),
        error: outcome.error,
    });
}
