//! New connections: to servers, and through the inherited socket to egress.

use std::future::{Future, poll_fn};
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;

use tokio::net::{TcpStream, UnixStream};

use crate::deadlines::Deadline;
use crate::pool::Conn;
use crate::shared::Shared;
use crate::sys;
use crate::transfer::Failure;

/// What `future` gives, or nothing when the deadline passes first.
pub(crate) async fn before<F: Future>(deadline: &Deadline, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if deadline.has_passed() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Connect to `host:port` within `milliseconds`.
pub(crate) async fn server(
    address: &str,
    deadline: &Deadline,
    milliseconds: u64,
) -> Result<TcpStream, Failure> {
    deadline.set(milliseconds);
    match before(deadline, TcpStream::connect(address)).await {
        None => Err(Failure::ConnectLate),
        Some(Err(_)) => Err(Failure::Connect),
        Some(Ok(stream)) => {
            // Without it small requests wait for acknowledgements; they are right either way.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
    }
}

/// A new stream to egress: one byte and one end of a socket pair (docs/protocol.md section 3).
pub(crate) fn egress(shared: &Shared) -> Result<Conn, Failure> {
    let peer = shared.peer().ok_or(Failure::NoEgress)?;
    let open = || -> std::io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        sys::send_with_descriptor(peer.as_fd(), b"c", theirs.as_fd())?;
        UnixStream::from_std(ours)
    };
    open().map(Conn::Unix).map_err(|_| Failure::NoEgress)
}
