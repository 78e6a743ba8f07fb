//! One stream from edge: requests one after the other, each with its preface.
//!
//! Edge may have been taken over. Nothing that it sends is trusted beyond what guard's rules allow: the head is read
//! and written anew, the path normalised again, the upstream chosen by the route alone.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::net::UnixStream;
use unlatch_protocol::Caller;

use super::asked::Asked;
use super::gather::{Gathered, Gathering, NotHeld};
use super::inject::{self, NoCredential};
use super::preface;
use super::upstream::Target;
use super::{EgressLive, Route};
use crate::config::Ask;
use crate::counters::Count;
use crate::credential::Credential;
use crate::deadlines::Deadline;
use crate::dial::before;
use crate::download::Download;
use crate::downstream::{Downstream, EdgeLink};
use crate::echo::Echo;
use crate::http::head::find_end;
use crate::pool::Conn;
use crate::reply::reply;
use crate::shared::RoleLive;
use crate::tls_stream::Broken;
use crate::transfer::{Failure, Transfer};
use crate::upload::Upload;
use crate::worker::{Admission, View, Worker};

/// Longest head from edge: what edge allows, and what it adds.
const MAX_HEAD: usize = 96 * 1024;
/// How long edge may take over a preface and head: it has them when it begins.
const HEAD_MS: u64 = 10_000;
/// Edge closes idle streams itself.
const IDLE_MS: u64 = 600_000;

/// Why a request is not sent on.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// With this status.
    Status(u16),
    /// The stream makes no sense: it is closed.
    Garbage,
}

impl From<NoCredential> for Refused {
    fn from(reason: NoCredential) -> Self {
        Self::Status(reason.status())
    }
}

impl From<NotHeld> for Refused {
    fn from(reason: NotHeld) -> Self {
        Self::Status(reason.status())
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        failure.status().map_or(Self::Garbage, Self::Status)
    }
}

/// Serve one stream to its end.
pub(crate) async fn serve(worker: &'static Worker, io: UnixStream, admission: Admission) {
    let deadline = poll_fn(|cx| Poll::Ready(worker.deadlines.enter(cx))).await;
    let mut session = Session {
        link: EdgeLink::new(io),
        worker,
        deadline,
    };
    while session.wait_for_request().await.is_ok() {
        match Box::pin(session.answer()).await {
            Ok(true) => {}
            Ok(false) | Err(Refused::Garbage) => break,
            Err(Refused::Status(status)) => {
                worker.counters().add(Count::InjectFailed);
                // Its body was not read: the stream cannot serve again.
                let _ = session.send(&reply(status, true, false)).await;
                break;
            }
        }
    }
    drop(admission);
}

struct Session {
    link: EdgeLink,
    worker: &'static Worker,
    deadline: Deadline,
}

impl Session {
    /// Until the first byte of a request is there.
    async fn wait_for_request(&mut self) -> Result<(), Broken> {
        self.deadline.set(IDLE_MS);
        while self.link.inbox().is_empty() {
            if self.link.has_ended() || self.worker.is_draining() {
                return Err(Broken);
            }
            self.fill().await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        let Self {
            link,
            deadline,
            worker,
        } = self;
        poll_fn(|cx| match link.poll_fill(cx) {
            Poll::Pending
                if deadline.has_passed() || (worker.is_draining() && link.inbox().is_empty()) =>
            {
                Poll::Ready(Err(Broken))
            }
            other => other,
        })
        .await
    }

    async fn send(&mut self, plain: &[u8]) -> Result<(), Broken> {
        self.deadline.set(HEAD_MS);
        self.link.deliver(plain)?;
        before(&self.deadline, poll_fn(|cx| self.link.poll_flush(cx)))
            .await
            .unwrap_or(Err(Broken))
    }

    /// Read a request, get its token, send it, send the response back. Gives whether the stream can serve again.
    async fn answer(&mut self) -> Result<bool, Refused> {
        self.deadline.set(HEAD_MS);
        let view = self.worker.view();
        let RoleLive::Egress(live) = &view.live.role else {
            return Err(Refused::Garbage);
        };
        let (id, caller) = self.read_preface().await?;
        let head = self.read_head().await?;
        let route = live.route(id).ok_or(Refused::Status(502))?;
        let target = view.turn(route).ok_or(Refused::Status(502))?;
        let mut asked = Asked::read(&head, caller, route, target).map_err(Refused::Status)?;
        drop(head);
        let gathered = self.gather(&mut asked, route, &view).await?;
        asked.frame(gathered);
        let mut conn = view.pools.take(target.server);
        let is_pooled = conn.is_some();
        if conn.is_none() {
            conn = Some(
                target
                    .connect(&self.deadline, view.live.timeouts.connect)
                    .await?,
            );
        }
        let conn = conn.ok_or(Refused::Garbage)?;
        let credential = asked.credential(self.worker, route, target)?;
        let (result, credential) = self
            .attempt(&mut asked, conn, credential, &view, route, target)
            .await;
        let can_repeat = is_pooled && asked.is_repeatable;
        match (result, credential) {
            (Err(Failure::UpstreamGone), Some(credential)) if can_repeat => {
                self.worker.counters().add(Count::Repeated);
                let conn = target
                    .connect(&self.deadline, view.live.timeouts.connect)
                    .await?;
                Ok(self
                    .attempt(&mut asked, conn, credential, &view, route, target)
                    .await
                    .0?)
            }
            (result, _) => Ok(result?),
        }
    }

    async fn read_preface(&mut self) -> Result<(u16, Caller), Refused> {
        loop {
            if let Some((preface, used)) =
                preface::take(self.link.inbox()).map_err(|_| Refused::Garbage)?
            {
                self.link.inbox().drain(..used);
                return Ok((preface.route, preface.caller));
            }
            self.fill_more().await?;
        }
    }

    async fn read_head(&mut self) -> Result<Vec<u8>, Refused> {
        let mut scanned = 0;
        loop {
            if let Some(end) =
                find_end(self.link.inbox(), &mut scanned, MAX_HEAD).map_err(|_| Refused::Garbage)?
            {
                let rest = self.link.inbox().split_off(end);
                return Ok(std::mem::replace(self.link.inbox(), rest));
            }
            self.fill_more().await?;
        }
    }

    /// Hold the body back, where guard must know it before the request goes up.
    async fn gather(
        &mut self,
        asked: &mut Asked,
        route: &Route,
        view: &View,
    ) -> Result<Option<Gathered>, Refused> {
        let limit = view.live.limits.signed_body_bytes;
        let Some(mut gathering) = Gathering::begin(route.body, asked.framing, limit)? else {
            return Ok(None);
        };
        if std::mem::take(&mut asked.expects_continue) {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .map_err(|_| Refused::Garbage)?;
        }
        while !gathering.take(self.link.inbox())? {
            // Edge, which knows the client, is to lose patience first.
            self.deadline
                .set(view.live.timeouts.body.saturating_add(HEAD_MS));
            self.fill_more().await?;
        }
        Ok(Some(gathering.finish()))
    }

    async fn fill_more(&mut self) -> Result<(), Refused> {
        let before = self.link.inbox().len();
        self.fill().await.map_err(|_| Refused::Garbage)?;
        if self.link.inbox().len() == before && self.link.has_ended() {
            Err(Refused::Garbage)
        } else {
            Ok(())
        }
    }

    /// Send the request on one connection. Gives the credential back when there was no answer at all.
    async fn attempt(
        &mut self,
        asked: &mut Asked,
        mut conn: Conn,
        credential: Credential,
        view: &Rc<View>,
        route: &Route,
        target: &Target,
    ) -> (Result<bool, Failure>, Option<Credential>) {
        if send_head(&mut conn, &asked.head, &credential).is_err() {
            return (Err(Failure::UpstreamGone), Some(credential));
        }
        let mut transfer = self.transfer(asked, conn, credential, view, route);
        let result = poll_fn(|cx| transfer.poll(cx)).await;
        let Transfer {
            conn,
            upload,
            download,
            bytes,
            ..
        } = transfer;
        match result {
            Ok(()) => {
                let keeps = upload.is_complete() && !download.close;
                if upload.is_complete() && download.is_reusable() {
                    view.pools.give(target.server, conn);
                }
                (Ok(keeps), None)
            }
            // Part of the response has gone: edge must see that it is not complete.
            Err(_) if bytes > 0 => (Err(Failure::ClientGone), None),
            Err(failure) => {
                let nothing = (route.ask == Ask::Nothing).then(Credential::default);
                let credential = download.into_echo().map(|echo| echo.credential);
                (Err(failure), credential.or(nothing))
            }
        }
    }

    fn transfer(
        &mut self,
        asked: &mut Asked,
        conn: Conn,
        credential: Credential,
        view: &View,
        route: &Route,
    ) -> Transfer<'_, EdgeLink> {
        let echo = (route.ask != Ask::Nothing).then(|| Echo {
            field: route.header.clone(),
            credential,
        });
        let (body, framing) = asked.take_body();
        self.deadline.set(view.live.timeouts.response);
        Transfer {
            client: &mut self.link,
            deadline: &self.deadline,
            conn,
            upload: Upload::new(body, framing),
            download: Download::new(asked.method == "HEAD", false, false).without_echo(echo),
            worker: self.worker,
            timeouts: view.live.timeouts,
            continue_due: asked.expects_continue,
            bytes: 0,
        }
    }
}

/// The one place where a secret meets a request.
fn send_head(conn: &mut Conn, head: &[u8], credential: &Credential) -> Result<(), Broken> {
    let Conn::Tls(stream) = conn else {
        return Err(Broken);
    };
    let whole = inject::compose(head, credential).map_err(|_| Broken)?;
    stream.deliver(whole.expose())
}

impl EgressLive {
    fn route(&self, id: u16) -> Option<&Route> {
        self.routes.iter().find(|route| route.id == id)
    }
}

impl View {
    /// The server whose turn it is.
    fn turn<'r>(&self, route: &'r Route) -> Option<&'r Target> {
        let turn = self.pools.next_turn(usize::from(route.id));
        route.targets.get(turn % route.targets.len().max(1))
    }
}
