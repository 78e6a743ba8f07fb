//! One request up and its response down, at the same time: a client that sends and an upstream that answers early must
//! not wait for each other. Each direction holds one piece, and reads the next when that has gone.

use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::buffers::{self, BODY_READ, Buffers, HEAD_READ, HEADROOM};
use crate::client::{Client, Gone};
use crate::config::Timeouts;
use crate::download::Download;
use crate::http::response::BadResponse;
use crate::pool::Conn;
use crate::upload::Upload;
use crate::worker::Worker;

/// Why a request was not answered, or not to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client is gone, or too slow.
    Client(Gone),
    /// The client's chunked body breaks the grammar.
    BadBody,
    /// No server takes connections.
    Connect,
    /// No server took the connection in time.
    ConnectLate,
    /// The connection ended before an answer came.
    UpstreamGone,
    /// The answer did not come in time.
    UpstreamLate,
    /// The answer is not HTTP/1.1.
    BadResponse(&'static str),
    /// Egress is not there.
    NoEgress,
}

impl Failure {
    /// The status that the client gets if it has got nothing yet; `None` when nobody is there to read it.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            Self::Client(Gone::Broken) => None,
            Self::Client(Gone::TimedOut) => Some(408),
            Self::BadBody => Some(400),
            Self::Connect | Self::UpstreamGone | Self::BadResponse(_) | Self::NoEgress => Some(502),
            Self::ConnectLate | Self::UpstreamLate => Some(504),
        }
    }

    /// The reason for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Client(Gone::Broken) => "client gone",
            Self::Client(Gone::TimedOut) => "client too slow",
            Self::BadBody => "bad chunk from client",
            Self::Connect => "upstream refuses connections",
            Self::ConnectLate => "upstream takes no connection",
            Self::UpstreamGone => "upstream closed the connection",
            Self::UpstreamLate => "upstream too slow",
            Self::BadResponse(reason) => reason,
            Self::NoEgress => "egress is gone",
        }
    }
}

impl From<BadResponse> for Failure {
    fn from(BadResponse(reason): BadResponse) -> Self {
        Self::BadResponse(reason)
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::Client(gone)
    }
}

/// Both directions of one request.
pub(crate) struct Transfer<'c> {
    pub(crate) client: &'c mut Client,
    pub(crate) conn: Conn,
    pub(crate) upload: Upload,
    pub(crate) download: Download,
    pub(crate) worker: &'static Worker,
    pub(crate) timeouts: Timeouts,
    /// The client waits for 100 before it sends the body.
    pub(crate) continue_due: bool,
    /// Bytes of the response that were sent on.
    pub(crate) bytes: u64,
}

impl Transfer<'_> {
    /// Move both directions until the response is complete and sent.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let mut has_moved = !self.upload.is_over() && self.poll_upload(cx)?;
            if !self.client.is_flushed() {
                if let Poll::Ready(flushed) = self.client.poll_flush(cx) {
                    flushed?;
                    has_moved = true;
                }
            }
            if self.client.is_flushed() && !self.download.is_done() {
                if let Poll::Ready(received) = self.poll_download(cx) {
                    received?;
                    has_moved = true;
                }
            }
            if self.client.is_flushed() && self.download.is_done() {
                return Poll::Ready(Ok(()));
            }
            if !has_moved {
                let is_late = self.client.deadline.has_passed();
                return if is_late { Poll::Ready(Err(self.lateness())) } else { Poll::Pending };
            }
            self.client.deadline.set(self.patience());
        }
    }

    /// How long nothing may move from here on.
    fn patience(&self) -> u64 {
        let awaits_response = self.upload.is_over() && !self.download.has_begun();
        if awaits_response { self.timeouts.response } else { self.timeouts.body }
    }

    fn lateness(&self) -> Failure {
        if self.client.is_flushed() { Failure::UpstreamLate } else { Failure::Client(Gone::TimedOut) }
    }

    /// One step up; gives whether anything moved.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        if !self.upload.is_idle() {
            return Ok(self.upload.poll_send(&mut self.conn, cx).is_ready());
        }
        if self.client.inbox.is_empty() {
            if std::mem::take(&mut self.continue_due) && !self.download.has_begun() {
                self.client.send_plain(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let Poll::Ready(filled) = self.client.poll_fill(cx) else { return Ok(false) };
            filled?;
            if self.client.inbox.is_empty() {
                return if self.client.has_ended() { Err(Failure::Client(Gone::Broken)) } else { Ok(true) };
            }
        }
        self.continue_due = false;
        self.upload.take(&mut self.client.inbox).map_err(|_| Failure::BadBody)?;
        Ok(true)
    }

    /// Read once from the upstream into the worker's buffer, encrypt, send.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        buffers::with(|buffers| {
            let carried = self.download.carry.len();
            let wanted = self.download.wanted(HEAD_READ, BODY_READ);
            let start = HEADROOM + carried;
            if wanted == 0 {
                return Poll::Ready(Err(Failure::BadResponse("head too large")));
            }
            let mut into = ReadBuf::new(&mut buffers.upstream[start..start + wanted]);
            if ready!(self.conn.poll_read(cx, &mut into)).is_err() {
                return Poll::Ready(Err(Failure::UpstreamGone));
            }
            let length = into.filled().len();
            if length == 0 {
                let is_unanswered = carried == 0 && !self.download.has_begun();
                return Poll::Ready(if is_unanswered { Err(Failure::UpstreamGone) } else { Ok(self.download.end()?) });
            }
            buffers.upstream[HEADROOM..start].copy_from_slice(&self.download.carry);
            Poll::Ready(self.pass_on(buffers, start + length))
        })
    }

    fn pass_on(&mut self, buffers: &mut Buffers, end: usize) -> Result<(), Failure> {
        if !self.download.has_begun() {
            // The rest of a body that is not wanted any more cannot be told from a next request.
            self.download.close |= !self.upload.is_complete() || self.worker.is_draining();
        }
        let range = self.download.feed(&mut buffers.upstream, HEADROOM..end, &mut buffers.head)?;
        if !range.is_empty() {
            self.bytes += range.len() as u64;
            let sealed = self.client.seal(&buffers.upstream[range], &mut buffers.sealed)?;
            self.client.send(&buffers.sealed[..sealed])?;
        }
        Ok(())
    }
}
