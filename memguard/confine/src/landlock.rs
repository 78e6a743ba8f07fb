//! Landlock: no file but some to read, no port, no signal or abstract socket outside.
#![allow(unsafe_code)]

use std::ffi::c_long;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// linux/landlock.h, `struct landlock_ruleset_attr`; older kernels read the first members only.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// linux/landlock.h, `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Which TCP ports are left; kernels before 6.7 leave all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// None.
    None,
    /// To connect to, none to bind.
    Connect,
}

const CREATE_RULESET_VERSION: c_long = 1;
const RULE_PATH_BENEATH: c_long = 1;
const ACCESS_READ_FILE: u64 = 1 << 2;
const ACCESS_BIND_TCP: u64 = 1;

/// For each ABI version from 1 on: file system rights, network rights, scopes, and the size of the struct so far.
const ABI: [(u32, u32, u32, usize); 7] = [
    (13, 0, 0, 8),
    (14, 0, 0, 8),
    (15, 0, 0, 8),
    (15, 2, 0, 16),
    (16, 2, 0, 16),
    (16, 2, 2, 24),
    (16, 2, 2, 24),
];

/// Take everything away that this kernel can take, but for reading `readable`: files, or all files in folders, as they
/// are now; what does not exist is left out. Gives `false` where the kernel knows no landlock. Call before any thread is
/// started, after no-new-privileges was set.
///
/// # Errors
/// The system refused although it knows landlock.
pub fn restrict(readable: &[PathBuf], left: Ports) -> io::Result<bool> {
    // SAFETY: asks for a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            0,
            0,
            CREATE_RULESET_VERSION,
        )
    };
    let Some((files, ports, scopes, size)) = usize::try_from(version)
        .ok()
        .and_then(|version| ABI.get(version.min(ABI.len()).checked_sub(1)?))
    else {
        return Ok(false);
    };
    let all = |bits: u32| (1_u64 << bits) - 1;
    let ruleset = Ruleset {
        handled_access_fs: all(*files),
        handled_access_net: match left {
            Ports::None => all(*ports),
            Ports::Connect => all(*ports) & ACCESS_BIND_TCP,
        },
        scoped: all(*scopes),
    };
    // SAFETY: reads `size` bytes of a struct that has at least as many.
    let descriptor = checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            *size,
            0,
        )
    })?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the descriptor was made just now and is nobody else's.
    let ruleset = unsafe { OwnedFd::from_raw_fd(descriptor) };
    for path in readable {
        allow_reading(&ruleset, path)?;
    }
    // SAFETY: takes numbers only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
        .map(|_| true)
}

fn allow_reading(ruleset: &OwnedFd, path: &PathBuf) -> io::Result<()> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    let Ok(opened) = opened else { return Ok(()) };
    let rule = PathBeneath {
        allowed_access: ACCESS_READ_FILE,
        parent_fd: opened.as_raw_fd(),
    };
    // SAFETY: reads one struct of the kind that the rule's type names.
    checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    })
    .map(drop)
}

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a constant path opens.
    fn opens(path: &std::ffi::CStr, flags: i32) -> bool {
        // SAFETY: a constant C string.
        unsafe { libc::open(path.as_ptr(), flags) >= 0 }
    }

    #[test]
    fn only_named_files_open_behind_it_and_only_to_read() {
        let named = [PathBuf::from("/etc/passwd"), PathBuf::from("/nowhere")];
        // SAFETY: the child makes system calls and small allocations only, and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let before = opens(c"/etc/group", libc::O_RDONLY);
            let restricted = restrict(&named, Ports::None);
            let after = opens(c"/etc/group", libc::O_RDONLY);
            let named = opens(c"/etc/passwd", libc::O_RDONLY);
            let right = match restricted {
                Ok(true) => before && !after && named && !opens(c"/etc/passwd", libc::O_RDWR),
                Ok(false) => before && after,
                Err(_) => false,
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the child's status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };

        assert_eq!(status, 0);
    }
}
