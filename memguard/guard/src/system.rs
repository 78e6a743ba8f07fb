//! The process itself: inherited descriptors, signals, the C library's arenas.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Take over an inherited descriptor and close every other one but the standard three.
pub(crate) fn adopt_only(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor <= libc::STDERR_FILENO {
        return Err(io::Error::other("control descriptor must be above 2"));
    }
    // SAFETY: asks whether the descriptor is open; touches no memory.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let kept = u32::try_from(descriptor).map_err(io::Error::other)?;
    for (first, last) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: called before anything in this process owns a descriptor in the range.
            let result = unsafe { libc::close_range(first, last, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    // SAFETY: open, as `fcntl` said, and owned by nobody else in this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Lift the limit of locked memory while this process may: the user that it becomes may not.
pub(crate) fn unlimit_locked_memory() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: reads a valid limit. A refusal (containers) leaves the old one, which status names.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

/// Everything that would need a forbidden system call later is done now.
///
/// aws-lc's generator looks for devices on first use; glibc would count processors from /sys before it makes another
/// arena, so the number of arenas is fixed. An interrupt from the terminal is the supervisor's business: guard ends
/// when the control socket does.
pub(crate) fn prepare() -> io::Result<()> {
    SystemRandom::new()
        .fill(&mut [0; 32])
        .map_err(|_| io::Error::other("no random numbers"))?;
    // SAFETY: sets a number inside the C library, before any thread is started.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}
