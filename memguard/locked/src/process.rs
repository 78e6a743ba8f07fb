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

/// A user to become, and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// Read `UID:GID`. Root is nobody's own user.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':')?;
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (uid != 0 && gid != 0).then_some(Self { uid, gid })
    }

    /// Become this user, for ever, without groups. Call before any thread is started, and before [`harden_process`]:
    /// some systems make a process dumpable again.
    ///
    /// # Errors
    /// This process is not root.
    pub fn assume(self) -> io::Result<()> {
        // SAFETY: an empty list of groups is not read.
        checked(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        #[cfg(target_os = "linux")]
        {
            // SAFETY: takes numbers only.
            checked(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })?;
            // SAFETY: takes numbers only.
            checked(unsafe { libc::setresuid(self.uid, self.uid, self.uid) })
        }
        #[cfg(not(target_os = "linux"))]
        {
            // SAFETY: as root, these two set all three numbers (setuid(2)).
            checked(unsafe { libc::setgid(self.gid) })?;
            // SAFETY: as above.
            checked(unsafe { libc::setuid(self.uid) })
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_two_numbers_and_never_root() {
        assert_eq!(User::parse("901:902"), Some(User { uid: 901, gid: 902 }));
        for text in [
            "",
            "901",
            "0:901",
            "901:0",
            "-1:5",
            "a:b",
            "901:902:903",
            "4294967296:1",
        ] {
            assert_eq!(User::parse(text), None, "{text}");
        }
    }
}
