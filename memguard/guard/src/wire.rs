//! Datagrams and descriptors on UNIX sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, Shutdown, SocketType, recv, recvmsg, sendmsg, shutdown,
    sockopt,
};
use unlatch_protocol::datagram::header;

/// More descriptors than one in a message are a mistake of the supervisor; the kernel closes what does not fit.
const MAX_DESCRIPTORS: usize = 4;

/// What a receive gave.
pub(crate) enum Received {
    /// The peer is gone.
    End,
    /// So many bytes at the start of the buffer.
    Bytes(usize),
    /// A datagram longer than the buffer.
    Truncated,
}

/// Wait for a datagram. Descriptors that come with it are discarded by the kernel.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let length = loop {
        match recv(&socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok((_, length)) => break length,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    Ok(match length {
        0 => Received::End,
        length if length > buffer.len() => Received::Truncated,
        length => Received::Bytes(length),
    })
}

/// Wait for a datagram and the descriptors that come with it.
pub(crate) fn receive_with_descriptors(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(Received, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let parts = &mut [IoSliceMut::new(buffer)];
        match recvmsg(&socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    let received = if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        Received::Truncated
    } else if message.bytes == 0 {
        Received::End
    } else {
        Received::Bytes(message.bytes)
    };
    Ok((received, descriptors))
}

/// Send one reply: header and payload from where they lie.
pub(crate) fn send(
    socket: impl AsFd,
    operation: u8,
    key: u16,
    request_id: u32,
    payload: &[u8],
) -> io::Result<()> {
    let header = header(operation, key, request_id, payload.len());
    let parts = [IoSlice::new(&header), IoSlice::new(payload)];
    loop {
        match sendmsg(
            &socket,
            &parts,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Send one message without waiting. Gives `false` when there is no room for it.
pub(crate) fn try_send(
    socket: impl AsFd,
    operation: u8,
    key: u16,
    request_id: u32,
    payload: &[&[u8]],
) -> io::Result<bool> {
    let length = payload.iter().map(|part| part.len()).sum();
    let header = header(operation, key, request_id, length);
    let mut parts = vec![IoSlice::new(&header)];
    parts.extend(payload.iter().map(|part| IoSlice::new(part)));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(&socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Wait until one of the sockets can be read, or `wake` was written, which is read. Gives the numbers of the sockets.
pub(crate) fn wait_any(
    wake: Option<&OwnedFd>,
    sockets: &[(u8, Arc<OwnedFd>)],
    at_most: Duration,
) -> Vec<u8> {
    let mut polled: Vec<_> = sockets
        .iter()
        .map(|(_, socket)| PollFd::new(socket, PollFlags::IN))
        .collect();
    polled.extend(wake.map(|wake| PollFd::new(wake, PollFlags::IN)));
    // Interrupted is as good as nothing yet: the caller waits again.
    let _ = poll(&mut polled, Some(&timespec(at_most)));
    if let Some(wake) = wake {
        // Nothing to read is what it mostly finds.
        let _ = rustix::io::read(wake, &mut [0; 8]);
    }
    let ready = sockets.iter().zip(&polled);
    ready
        .filter(|(_, polled)| !polled.revents().is_empty())
        .map(|((number, _), _)| *number)
        .collect()
}

/// Send bytes on a stream.
pub(crate) fn send_all(socket: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Fill the whole buffer from a stream before the deadline.
pub(crate) fn receive_exact(
    socket: impl AsFd,
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !wait_readable(&socket, left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match recv(&socket, &mut buffer[filled..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, length)) => filled += length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Wait until there is something to read, at most so long.
pub(crate) fn wait_readable(socket: impl AsFd, at_most: Duration) -> io::Result<bool> {
    let timeout = timespec(at_most);
    match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// Whether the descriptor is a UNIX socket of the wanted type.
pub(crate) fn is_unix_socket(socket: impl AsFd, wanted: SocketType) -> bool {
    let is_unix = sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX);
    is_unix && sockopt::socket_type(&socket).is_ok_and(|found| found == wanted)
}

/// End both directions; whoever waits on it wakes up.
pub(crate) fn close_both_ways(socket: impl AsFd) {
    // A socket whose peer is gone already needs no shutting.
    let _ = shutdown(socket, Shutdown::Both);
}
