//! What the whole process gives up before it meets a secret.
#![allow(unsafe_code)]

use std::io;

/// What [`harden_process`] reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardening {
    /// `/proc/PID/mem` and ptrace are closed to this user's other processes (Linux).
    pub not_dumpable: bool,
    /// execve gains no privileges any more (Linux).
    pub no_new_privileges: bool,
}

/// No core file, not dumpable, no new privileges. Elsewhere than on Linux only the first.
///
/// # Errors
/// The system refused; the process must then not meet a secret.
pub fn harden_process() -> io::Result<Hardening> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid limit for the whole call.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    #[cfg(target_os = "linux")]
    {
        // SAFETY: these two commands take plain numbers and touch no memory.
        checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
        // SAFETY: as above.
        checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    }
    let linux = cfg!(target_os = "linux");
    Ok(Hardening {
        not_dumpable: linux,
        no_new_privileges: linux,
    })
}

/// Lock every page of the process, those to come included, as they are touched. Gives `false` where RLIMIT_MEMLOCK
/// is finite and this process has no CAP_IPC_LOCK: then later mappings would fail, so only
/// [`crate::LockedBytes`] are locked.
///
/// # Errors
/// The system refused although it should not.
#[cfg(target_os = "linux")]
pub fn lock_all_memory() -> io::Result<bool> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    if limit.rlim_cur != libc::RLIM_INFINITY && !may_lock_without_limit()? {
        return Ok(false);
    }
    // SAFETY: locking pages changes no memory.
    checked(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })?;
    Ok(true)
}

/// Not offered by this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn lock_all_memory() -> io::Result<bool> {
    Ok(false)
}

/// Whether the effective capabilities hold CAP_IPC_LOCK.
#[cfg(target_os = "linux")]
fn may_lock_without_limit() -> io::Result<bool> {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    Ok(bits.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1))
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
