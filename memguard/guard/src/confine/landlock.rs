//! Landlock with nothing allowed: no file, no port, no signal or abstract socket outside.
#![allow(unsafe_code)]

use std::ffi::c_long;
use std::io;

/// linux/landlock.h, `struct landlock_ruleset_attr`; older kernels read the first members only.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

const CREATE_RULESET_VERSION: c_long = 1;

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

/// Take everything away that this kernel can take. Gives `false` where it knows no landlock. Call before any thread is
/// started, after no-new-privileges was set.
pub(crate) fn restrict() -> io::Result<bool> {
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
        handled_access_net: all(*ports),
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
    // SAFETY: takes numbers only.
    let restricted =
        checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, descriptor, 0) });
    // SAFETY: closes the descriptor that was just made.
    unsafe { libc::syscall(libc::SYS_close, descriptor) };
    restricted.map(|_| true)
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

    #[test]
    fn no_file_opens_behind_it() {
        // SAFETY: the child makes system calls only, and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let path = c"/etc/passwd";
            // SAFETY: a constant C string.
            let before = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
            let restricted = restrict();
            // SAFETY: a constant C string.
            let after = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
            let right = match restricted {
                Ok(true) => before >= 0 && after < 0,
                Ok(false) => before >= 0 && after >= 0,
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
