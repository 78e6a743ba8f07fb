//! What guard can still ask the kernel for, once its threads run.
//!
//! Two filters, of which the stricter answer holds: the first kills the process for calls that only a taken-over
//! guard would make (network, files, programs, other processes' memory, executable pages); the second lets the calls
//! through that guard needs and traps everything else, which is answered with ENOSYS, as an older kernel would, and
//! counted ([`trapped`]). Before them, landlock takes the whole file system and every port away.

use libc::c_long;
use unlatch_confine::Argument::{Bits, Is, IsNot};
use unlatch_confine::{Filter, Program, TAKEOVER, apply_filter_all_threads};

/// The filters could not be built or applied.
pub(crate) type ConfineError = unlatch_confine::Error;

pub(crate) use unlatch_confine::trapped;

/// No file, no port. Gives `false` where this kernel knows no landlock.
pub(crate) fn landlock() -> std::io::Result<bool> {
    unlatch_confine::restrict(&[], unlatch_confine::Ports::None)
}

/// Apply both filters to every thread, for ever.
pub(crate) fn confine() -> Result<(), ConfineError> {
    #[cfg(feature = "test-variant")]
    if crate::variant::is("unconfined") {
        return Ok(());
    }
    unlatch_confine::catch(None).map_err(ConfineError::Prctl)?;
    for program in programs()? {
        apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// In the order in which they are applied.
pub(crate) fn programs() -> Result<[Program; 2], ConfineError> {
    const KEYCTL_UPDATE: u64 = 2;
    const KEYCTL_READ: u64 = 11;
    let mut deadly = Filter::new(TAKEOVER).also(NOTHING_NEW);
    let exec = u64::try_from(libc::PROT_EXEC).unwrap_or(4);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        deadly = deadly.with(call, &[Bits(2, exec, exec)])?;
    }
    // Everything but reading and replacing the roots of `store`.
    let others = [IsNot(0, KEYCTL_UPDATE), IsNot(0, KEYCTL_READ)];
    deadly = deadly.with(libc::SYS_keyctl, &others)?;
    // Whether a descriptor is open, which the standard library asks in debug builds before it closes one.
    let is_open = u64::try_from(libc::F_GETFD).unwrap_or(1);
    let allowed = Filter::new(ALLOWED).with(libc::SYS_fcntl, &[Is(1, is_open)])?;
    Ok([deadly.kill()?, allowed.allow()?])
}

/// Guard has all its sockets, files and threads when it is confined.
const NOTHING_NEW: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_openat,
    libc::SYS_clone,
    libc::SYS_clone3,
];

/// What a running guard does: messages, time, memory, waiting, ending.
const ALLOWED: &[c_long] = &[
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_getrandom,
    // More secret memory, and roots of new generations.
    libc::SYS_memfd_secret,
    libc::SYS_ftruncate,
    libc::SYS_keyctl,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Installs the second filter.
    libc::SYS_seccomp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    type Arguments = [c_long; 6];

    /// Makes one call in a child under the filters; gives the child's wait status.
    fn in_confined_child(number: c_long, arguments: Arguments) -> libc::c_int {
        let programs = programs().unwrap();
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: the child makes plain system calls only and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let trapping = unlatch_confine::catch(None).is_ok();
            // SAFETY: takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let applied = programs
                .iter()
                .all(|program| unlatch_confine::apply_filter(program).is_ok());
            // SAFETY: the tests pass numbers, null and pointers to constants; the kernel checks them.
            let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
            // SAFETY: ends the child at once.
            unsafe {
                libc::_exit(if applied && trapping {
                    i32::from(result < 0)
                } else {
                    99
                });
            };
        }
        let mut status = 0;
        // SAFETY: `status` is a valid place for the child's status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status
    }

    fn is_killed(status: libc::c_int) -> bool {
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS
    }

    fn map(protection: libc::c_int) -> libc::c_int {
        let flags = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        in_confined_child(
            libc::SYS_mmap,
            [0, 4096, c_long::from(protection), flags, -1, 0],
        )
    }

    #[test]
    fn network_files_programs_and_other_processes_kill() {
        let path = c"/etc/passwd".as_ptr() as c_long;
        for (number, arguments) in [
            (
                libc::SYS_socket,
                [
                    c_long::from(libc::AF_INET),
                    c_long::from(libc::SOCK_STREAM),
                    0,
                    0,
                    0,
                    0,
                ],
            ),
            (libc::SYS_connect, [-1, 0, 0, 0, 0, 0]),
            (
                libc::SYS_openat,
                [c_long::from(libc::AT_FDCWD), path, 0, 0, 0, 0],
            ),
            (libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
            (libc::SYS_clone, [0; 6]),
            (libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0]),
            (libc::SYS_ptrace, [16, 1, 0, 0, 0, 0]),
        ] {
            assert!(
                is_killed(in_confined_child(number, arguments)),
                "call {number}"
            );
        }
    }

    #[test]
    fn executable_memory_kills_and_other_memory_does_not() {
        assert!(is_killed(map(libc::PROT_READ | libc::PROT_EXEC)));
        assert!(is_killed(map(libc::PROT_READ
            | libc::PROT_WRITE
            | libc::PROT_EXEC)));
        assert_eq!(map(libc::PROT_READ | libc::PROT_WRITE), 0);
    }

    #[test]
    fn keyrings_are_out_of_reach_but_for_the_roots() {
        const KEYCTL_DESCRIBE: c_long = 6;
        const KEYCTL_SETPERM: c_long = 5;
        const KEYCTL_CLEAR: c_long = 7;
        for command in [KEYCTL_DESCRIBE, KEYCTL_SETPERM, KEYCTL_CLEAR] {
            assert!(is_killed(in_confined_child(
                libc::SYS_keyctl,
                [command, -2, 0, 0, 0, 0]
            )));
        }
        assert!(is_killed(in_confined_child(libc::SYS_add_key, [0; 6])));
        // Reading a key that is not there fails, and that is all.
        let status = in_confined_child(libc::SYS_keyctl, [11, 1, 0, 0, 0, 0]);
        assert!(libc::WIFEXITED(status));
    }

    #[test]
    fn unknown_calls_fail_without_harm() {
        for number in [libc::SYS_getppid, libc::SYS_setuid, libc::SYS_kill, 100_000] {
            let status = in_confined_child(number, [0; 6]);

            assert!(libc::WIFEXITED(status), "{number}");
            assert_eq!(libc::WEXITSTATUS(status), 1, "{number}");
        }
    }
}
