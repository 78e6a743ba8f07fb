//! System calls that std and tokio do not offer. The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_void};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most descriptors that one control message carries.
pub(crate) const MAX_FDS: usize = 64;
const FD_BYTES: usize = size_of::<RawFd>();
/// Room for `MAX_FDS` descriptors, aligned as cmsghdr wants it.
const CONTROL_WORDS: usize = (MAX_FDS * FD_BYTES + 64) / 8;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Take over a descriptor that the parent passed by number; it is closed on exec from now on.
pub(crate) fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD on any number touches no memory; it fails for one that is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the number is open, and each number of the configuration is taken over once, at start.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A second descriptor for the same open file.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory and fails for a number that is not open.
    let fresh = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: `fresh` was made just now and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fresh) })
}

/// Set or clear O_NONBLOCK.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: F_GETFL touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let flags = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: F_SETFL touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

fn set_option<T>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which is that long.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<c_void>(),
            length,
        )
    })
    .map(drop)
}

/// Accepted connections inherit TCP_NODELAY from the listening socket.
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

/// Whether connections can be accepted: the supervisor binds early and listens late.
pub(crate) fn is_listening(fd: BorrowedFd<'_>) -> bool {
    let mut value: c_int = 0;
    #[allow(clippy::cast_possible_truncation, reason = "four bytes")]
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut value).cast::<c_void>(),
            &raw mut length,
        )
    };
    result == 0 && value != 0
}

/// Load a library for good, as the C library would when it first needs it; nothing happens where there is none.
pub(crate) fn load_library(name: &CStr) {
    #[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
    // SAFETY: `name` is a C string; the system's own libraries are loaded before any thread is started.
    unsafe {
        libc::dlopen(name.as_ptr(), libc::RTLD_NOW)
    };
    #[cfg(not(all(target_env = "gnu", not(target_feature = "crt-static"))))]
    let _ = name;
}

/// Bound how long a blocking send or receive waits.
pub(crate) fn set_time_limit(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: libc::time_t::try_from(limit.as_secs()).map_err(io::Error::other)?,
        tv_usec: limit.subsec_micros().into(),
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)
}

/// Send one datagram in two parts; a peer that is gone is an error, not a signal.
pub(crate) fn send_datagram(fd: BorrowedFd<'_>, head: &[u8], rest: &[u8]) -> io::Result<()> {
    let mut parts = [part(head), part(rest)];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    // SAFETY: `message` points at two parts that live until the call returns; the kernel only reads them.
    let sent = check_length(unsafe {
        libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    })?;
    if sent == head.len() + rest.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(),
        iov_len: bytes.len(),
    }
}

/// Receive one datagram. 0 is end of file; one that is longer than `buffer` is an error.
pub(crate) fn receive_datagram(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
    let length = check_length(unsafe {
        libc::recv(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast::<c_void>(),
            buffer.len(),
            libc::MSG_TRUNC,
        )
    })?;
    if length > buffer.len() {
        Err(io::ErrorKind::InvalidData.into())
    } else {
        Ok(length)
    }
}

/// Send a datagram with one descriptor, without waiting for room.
pub(crate) fn send_with_descriptor(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    passed: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut parts = [part(bytes)];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast::<c_void>();
    let payload = u32::try_from(FD_BYTES).map_err(io::Error::other)?;
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
    let (space, length) = unsafe { (libc::CMSG_SPACE(payload), libc::CMSG_LEN(payload)) };
    message.msg_controllen = space as usize;
    // SAFETY: `control` has room for one header with one descriptor and is aligned for it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = length as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(passed.as_raw_fd());
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: everything that `message` points at lives until the call returns.
    check_length(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) }).map(drop)
}

/// Receive one datagram and the descriptors that came with it, without waiting. 0 bytes is end of file.
pub(crate) fn receive_with_descriptors(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut parts = [libc::iovec {
        iov_base: buffer.as_mut_ptr().cast::<c_void>(),
        iov_len: buffer.len(),
    }];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast::<c_void>();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes within the lengths that `message` names.
    let length = check_length(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })?;
    let descriptors = collect_descriptors(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((length, descriptors))
}

fn collect_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    // SAFETY: the kernel filled the control buffer; the macros walk it within msg_controllen. Every descriptor in an
    // SCM_RIGHTS part was made for this process and is taken over exactly once.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(part) = header.as_ref() {
            if part.cmsg_level == libc::SOL_SOCKET && part.cmsg_type == libc::SCM_RIGHTS {
                #[allow(clippy::unnecessary_cast, reason = "musl's cmsg_len has 32 bits")]
                let length = part.cmsg_len as usize;
                let count = (length - libc::CMSG_LEN(0) as usize) / FD_BYTES;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                found.extend(
                    (0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())),
                );
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    found
}

/// Wait until one of the descriptors is readable or closed, at most so many milliseconds.
pub(crate) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    milliseconds: i32,
) -> io::Result<[bool; N]> {
    let mut entries = fds.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let count = libc::nfds_t::try_from(N).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes `count` entries.
    match check(unsafe { libc::poll(entries.as_mut_ptr(), count, milliseconds) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(entries.map(|entry| entry.revents != 0)),
    }
}

/// Block SIGTERM in this thread and all that it starts, and get a descriptor that becomes readable on it.
pub(crate) fn catch_terminate() -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid sigset_t to initialise.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set for the three calls.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        check(libc::pthread_sigmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
    }
    // SAFETY: `set` is valid; the answer is a fresh descriptor.
    unsafe {
        let fd = check(libc::signalfd(
            -1,
            &raw const set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A descriptor that [`ring`] makes readable and [`silence`] makes quiet again.
pub(crate) fn bell() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; the answer is a fresh descriptor.
    unsafe {
        let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Make a bell readable.
pub(crate) fn ring(bell: BorrowedFd<'_>) {
    let one = 1_u64;
    // SAFETY: eight bytes are read from `one`. A full counter means that the bell rings already.
    unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast::<c_void>(), 8) };
}

/// Read the counter of a bell or a timer away: how often it rang.
pub(crate) fn silence(fd: BorrowedFd<'_>) -> u64 {
    let mut count = 0_u64;
    // SAFETY: eight bytes are written to `count`; it stays 0 if it did not ring.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast::<c_void>(), 8) };
    count
}

/// A descriptor that this thread's runtime watches for reading.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, and the same, until it is dropped, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// A timer descriptor, not running.
pub(crate) fn timer() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; the answer is a fresh descriptor.
    unsafe {
        let fd = check(libc::timerfd_create(
            libc::CLOCK_MONOTONIC,
            libc::TFD_CLOEXEC | libc::TFD_NONBLOCK,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Let a timer tick every `period` milliseconds; 0 stops it.
pub(crate) fn set_timer(timer: BorrowedFd<'_>, period: u32) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (period / 1000).into(),
        tv_nsec: (period % 1000 * 1_000_000).into(),
    };
    let setting = libc::itimerspec {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: `setting` is valid; no old value is asked for.
    check(unsafe {
        libc::timerfd_settime(
            timer.as_raw_fd(),
            0,
            &raw const setting,
            std::ptr::null_mut(),
        )
    })
    .map(drop)
}

/// Milliseconds of the monotonic clock, as coarse as the kernel's tick and as cheap as a memory read.
pub(crate) fn coarse_ms() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
