//! One request up and its response down, at the same time: a client that sends and an upstream that answers early must
//! not wait for each other. Each direction holds one piece, and reads the next when that has gone.

use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::buffers::{self, HEADROOM, Upstream};
use crate::config::Timeouts;
use crate::deadlines::Deadline;
use crate::download::Download;
use crate::downstream::Downstream;
use crate::http::response::BadResponse;
use crate::pool::Conn;
use crate::tls_stream::Broken;
use crate::upload::Upload;
use crate::worker::Worker;

/// Why a request was not answered, or not to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client is gone.
    ClientGone,
    /// The client is too slow.
    ClientLate,
    /// The client's chunked body breaks the grammar.
    BadBody,
    /// No server takes connections.
    Connect,
    /// No server took the connection in time.
    ConnectLate,
    /// The server did not prove its name (egress).
    Untrusted,
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
            Self::ClientGone => None,
            Self::ClientLate => Some(408),
            Self::BadBody => Some(400),
            Self::Connect
            | Self::Untrusted
            | Self::UpstreamGone
            | Self::BadResponse(_)
            | Self::NoEgress => Some(502),
            Self::ConnectLate | Self::UpstreamLate => Some(504),
        }
    }

    /// The reason for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::ClientGone => "client gone",
            Self::ClientLate => "client too slow",
            Self::BadBody => "bad chunk from client",
            Self::Connect => "upstream refuses connections",
            Self::ConnectLate => "upstream takes no connection",
            Self::Untrusted => "upstream did not prove its name",
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

impl From<Broken> for Failure {
    fn from(_: Broken) -> Self {
        Self::ClientGone
    }
}

/// Both directions of one request.
pub(crate) struct Transfer<'c, D> {
    pub(crate) client: &'c mut D,
    pub(crate) deadline: &'c Deadline,
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

impl<D: Downstream> Transfer<'_, D> {
    /// Move both directions until the response is complete and sent.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let waiting = self.waiting();
            let mut has_moved = !self.is_sent() && self.poll_upload(cx)?;
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
            if has_moved || self.waiting() != waiting {
                self.deadline.set(self.patience());
            } else if self.deadline.has_passed() {
                return Poll::Ready(Err(self.lateness()));
            }
            if !has_moved {
                return Poll::Pending;
            }
        }
    }

    /// Bytes that wait to leave in each direction: a slow peer that takes some of them is not late.
    fn waiting(&self) -> (usize, usize) {
        (self.upload.unsent(), self.client.unsent())
    }

    /// Everything has left for the upstream, or never will.
    fn is_sent(&self) -> bool {
        self.upload.is_over() && self.conn.is_flushed()
    }

    /// How long nothing may move from here on.
    fn patience(&self) -> u64 {
        let awaits_response = self.upload.is_over() && !self.download.has_begun();
        if awaits_response {
            self.timeouts.response
        } else {
            self.timeouts.body
        }
    }

    /// Who kept us waiting.
    fn lateness(&self) -> Failure {
        let awaits_body =
            self.upload.is_idle() && !self.upload.is_received() && !self.download.has_begun();
        if awaits_body || !self.client.is_flushed() {
            Failure::ClientLate
        } else {
            Failure::UpstreamLate
        }
    }

    /// One step up; gives whether anything moved.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        if !self.upload.is_idle() || !self.conn.is_flushed() {
            return Ok(self.upload.poll_send(&mut self.conn, cx).is_ready());
        }
        if self.client.inbox().is_empty() {
            if std::mem::take(&mut self.continue_due) && !self.download.has_begun() {
                self.client.deliver(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let Poll::Ready(filled) = self.client.poll_fill(cx) else {
                return Ok(false);
            };
            filled?;
            if self.client.inbox().is_empty() {
                return if self.client.has_ended() {
                    Err(Failure::ClientGone)
                } else {
                    Ok(true)
                };
            }
        }
        self.continue_due = false;
        self.upload
            .take(self.client.inbox())
            .map_err(|_| Failure::BadBody)?;
        Ok(true)
    }

    /// Read once from the upstream into the worker's buffer, encrypt, send.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        buffers::with_upstream(|upstream| {
            let carried = self.download.carry.len();
            let wanted = self.download.wanted();
            let start = HEADROOM + carried;
            if wanted == 0 {
                return Poll::Ready(Err(Failure::BadResponse("head too large")));
            }
            let mut into = ReadBuf::new(&mut upstream.bytes[start..start + wanted]);
            if ready!(self.conn.poll_read(cx, &mut into)).is_err() {
                return Poll::Ready(Err(Failure::UpstreamGone));
            }
            let length = into.filled().len();
            if length == 0 {
                let is_unanswered = carried == 0 && !self.download.has_begun();
                return Poll::Ready(if is_unanswered {
                    Err(Failure::UpstreamGone)
                } else {
                    self.finish()
                });
            }
            upstream.bytes[HEADROOM..start].copy_from_slice(&self.download.carry);
            let passed = self.pass_on(upstream, start + length);
            if let Conn::Tls(_) = self.conn {
                // An upstream may have sent the token back.
                unlatch_locked::wipe(&mut upstream.bytes[..start + length]);
            }
            Poll::Ready(passed)
        })
    }

    /// The upstream closed its side.
    fn finish(&mut self) -> Result<(), Failure> {
        let rest = self.download.end()?;
        self.send(&rest)
    }

    fn send(&mut self, plain: &[u8]) -> Result<(), Failure> {
        if !plain.is_empty() {
            self.bytes += plain.len() as u64;
            self.client.deliver(plain)?;
        }
        Ok(())
    }

    fn pass_on(&mut self, upstream: &mut Upstream, end: usize) -> Result<(), Failure> {
        if !self.download.has_begun() {
            // The rest of a body that is not wanted any more cannot be told from a next request.
            self.download.close |= !self.upload.is_complete() || self.worker.is_draining();
        }
        let range = self
            .download
            .feed(&mut upstream.bytes, HEADROOM..end, &mut upstream.head)?;
        self.send(&upstream.bytes[range])
    }
}
