//! What edge and egress can still ask the kernel for, from before they start a thread.
//!
//! No program, no other process, no file but to read what naming a host takes, no listening socket. Connections may be
//! made: that is their work. Every call that a filter does not know fails with ENOSYS, is counted in `status`, and is said
//! once on standard error.

mod calls;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use unlatch_confine::Argument::{Bits, Is, IsNot};
use unlatch_confine::{Error, Filter, Ports, Program, TAKEOVER, apply_filter_all_threads};

use crate::error::StartError;
use crate::sys;

/// Whether this kernel knows landlock, once confined.
static HAS_LANDLOCK: OnceLock<bool> = OnceLock::new();

/// Give everything up that is not needed from here on. Before any thread is started, after no-new-privileges was set.
///
/// # Errors
/// The system refused: nothing may be served then.
pub(crate) fn confine() -> Result<(), StartError> {
    load_name_services();
    let has_landlock = unlatch_confine::restrict(&readable(), Ports::Connect)?;
    HAS_LANDLOCK.get_or_init(|| has_landlock);
    unlatch_confine::catch(Some("unlatch-edge"))?;
    let wrong = |error: Error| StartError::Io(std::io::Error::other(error));
    for program in [
        deadly().map_err(wrong)?,
        lacking().map_err(wrong)?,
        allowed().map_err(wrong)?,
    ] {
        apply_filter_all_threads(&program).map_err(wrong)?;
    }
    Ok(())
}

/// For `status`.
pub(crate) fn describe() -> Value {
    let refused: serde_json::Map<_, _> = unlatch_confine::trapped()
        .into_iter()
        .map(|(number, count)| (number.to_string(), count.into()))
        .collect();
    json!({"seccomp": true, "landlock": HAS_LANDLOCK.get().is_some_and(|has| *has), "refused_calls": refused})
}

/// What the C library reads to name a host. Where a link leads to a folder of its own under /run, whose owner replaces
/// the file, the folder.
fn readable() -> Vec<PathBuf> {
    const FILES: [&str; 6] = [
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/nsswitch.conf",
        "/etc/host.conf",
        "/etc/gai.conf",
        "/etc/services",
    ];
    let place = |file: &str| {
        let path = Path::new(file).canonicalize().ok()?;
        Some(match folder_in_run(&path) {
            Some(folder) => folder.to_owned(),
            None => path,
        })
    };
    FILES.iter().filter_map(|file| place(file)).collect()
}

fn folder_in_run(path: &Path) -> Option<&Path> {
    let folder = path.parent()?;
    (folder.strip_prefix("/run").ok()?.components().count() > 0).then_some(folder)
}

/// Load the libraries that /etc/nsswitch.conf names for hosts, while libraries can still be loaded.
fn load_name_services() {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    for service in name_services(&text) {
        if let Ok(name) = CString::new(format!("libnss_{service}.so.2")) {
            // One that is not installed is skipped by the C library too.
            sys::load_library(&name);
        }
    }
}

/// The services of the line `hosts:` that are libraries of their own.
fn name_services(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("hosts:"))
        .flat_map(str::split_whitespace)
        .take_while(|word| !word.starts_with('#'))
        .filter(|word| {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            word.bytes().all(is_name) && !["files", "dns"].contains(word)
        })
}

/// Signs of a takeover: they end the process.
fn deadly() -> Result<Program, Error> {
    let mut filter = Filter::new(TAKEOVER).also(&[libc::SYS_keyctl]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        filter = filter.with(call, &[bits(2, libc::PROT_EXEC)])?;
    }
    // To write, or to make.
    for flag in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC] {
        filter = filter.with(libc::SYS_openat, &[bits(2, flag)])?;
    }
    // A process, not a thread.
    let thread = number(libc::CLONE_THREAD);
    filter = filter.with(libc::SYS_clone, &[Bits(0, thread, 0)])?;
    filter = filter.with(libc::SYS_bind, &[IsNot(2, NETLINK_ADDRESS)])?;
    filter.kill()
}

/// glibc asks for a thread with it first, then with clone, whose flags a filter can read.
fn lacking() -> Result<Program, Error> {
    Filter::new(&[libc::SYS_clone3]).lack()
}

fn allowed() -> Result<Program, Error> {
    const KIND: u64 = 0xf;
    let mut filter = Filter::new(calls::ALLOWED);
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let conditions = [Is(0, number(family)), Bits(1, KIND, number(kind))];
            filter = filter.with(libc::SYS_socket, &conditions)?;
        }
    }
    filter = filter.with(libc::SYS_socket, &[Is(0, number(libc::AF_UNIX))])?;
    // getaddrinfo asks which kinds of addresses this host has.
    let routes = [
        Is(0, number(libc::AF_NETLINK)),
        Is(2, number(libc::NETLINK_ROUTE)),
    ];
    filter = filter.with(libc::SYS_socket, &routes)?;
    for request in [libc::FIONBIO, libc::FIONREAD] {
        filter = filter.with(libc::SYS_ioctl, &[Is(1, request)])?;
    }
    // Threads have names; so have, in newer C libraries, pieces of memory.
    for option in [libc::PR_SET_NAME, libc::PR_SET_VMA] {
        filter = filter.with(libc::SYS_prctl, &[Is(0, number(option))])?;
    }
    filter = filter.with(libc::SYS_socketpair, &[Is(0, number(libc::AF_UNIX))])?;
    filter.allow()
}

fn bits(argument: u8, bits: i32) -> unlatch_confine::Argument {
    Bits(argument, number(bits), number(bits))
}

fn number(value: i32) -> u64 {
    u64::from(value.unsigned_abs())
}

/// sizeof(struct sockaddr_nl). An internet address is longer, and nothing can be listened on anyway.
const NETLINK_ADDRESS: u64 = 12;

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use std::ffi::c_long;

    use super::*;

    /// Makes one call in a confined child; gives the child's wait status: 0 where the call succeeds.
    fn in_confined_child(call: c_long, arguments: [c_long; 4]) -> libc::c_int {
        let [a, b, c, d] = arguments;
        // SAFETY: the child confines itself, makes plain system calls and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let is_confined = confine().is_ok();
            // SAFETY: the tests pass numbers, null and pointers to constants; the kernel checks them.
            let result = unsafe { libc::syscall(call, a, b, c, d, 0, 0) };
            let status = if is_confined {
                i32::from(result < 0)
            } else {
                99
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the child's status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status
    }

    fn is_killed(call: c_long, arguments: [c_long; 4]) -> bool {
        let status = in_confined_child(call, arguments);
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS
    }

    fn open(path: &std::ffi::CStr, flags: i32) -> [c_long; 4] {
        [
            libc::AT_FDCWD.into(),
            path.as_ptr() as c_long,
            flags.into(),
            0,
        ]
    }

    #[test]
    fn programs_processes_listeners_and_writing_kill() {
        let path = c"/etc/hosts";
        let text = path.as_ptr() as c_long;
        let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
        for (call, arguments) in [
            (libc::SYS_execve, [text, 0, 0, 0]),
            (libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
            (libc::SYS_ptrace, [16, 1, 0, 0]),
            (libc::SYS_process_vm_readv, [1, 0, 0, 0]),
            (libc::SYS_listen, [-1, 1, 0, 0]),
            (libc::SYS_bind, [-1, 0, 16, 0]),
            (libc::SYS_openat, open(path, libc::O_WRONLY)),
            (libc::SYS_openat, open(path, libc::O_RDWR)),
            (libc::SYS_openat, open(path, libc::O_CREAT)),
            (
                libc::SYS_mmap,
                [0, 4096, executable, libc::MAP_PRIVATE.into()],
            ),
        ] {
            assert!(is_killed(call, arguments), "call {call}");
        }
    }

    #[test]
    fn names_of_hosts_can_be_read_and_other_files_cannot() {
        let read = |path| in_confined_child(libc::SYS_openat, open(path, libc::O_RDONLY));

        assert_eq!(read(c"/etc/hosts"), 0);
        // Kernels without landlock are named in `status`.
        if Path::new("/sys/kernel/security/landlock").exists() || read(c"/etc/group") != 0 {
            assert_ne!(read(c"/etc/passwd"), 0);
        }
    }

    #[test]
    fn connections_can_be_made_and_raw_sockets_cannot() {
        let socket = |family: i32, kind: i32| {
            in_confined_child(libc::SYS_socket, [family.into(), kind.into(), 0, 0])
        };

        assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM), 0);
        assert_eq!(socket(libc::AF_INET6, libc::SOCK_STREAM), 0);
        for (family, kind) in [
            (libc::AF_INET, libc::SOCK_RAW),
            (libc::AF_PACKET, libc::SOCK_RAW),
            (libc::AF_VSOCK, libc::SOCK_STREAM),
        ] {
            assert_eq!(libc::WEXITSTATUS(socket(family, kind)), 1, "{family}");
        }
    }

    #[test]
    fn unknown_calls_fail_without_harm() {
        for call in [libc::SYS_getppid, libc::SYS_setuid, libc::SYS_kill, 100_000] {
            let status = in_confined_child(call, [0; 4]);

            assert!(libc::WIFEXITED(status), "{call}");
            assert_eq!(libc::WEXITSTATUS(status), 1, "{call}");
        }
    }

    #[test]
    fn name_services_are_the_libraries_of_the_hosts_line() {
        let text = "passwd: files sss\n hosts: files mdns4_minimal [NOTFOUND=return] dns ../x myhostname # wins\n";

        assert_eq!(
            name_services(text).collect::<Vec<_>>(),
            ["mdns4_minimal", "myhostname"]
        );
    }

    #[test]
    fn links_into_run_open_their_folder_and_no_more() {
        let folder = |path| folder_in_run(Path::new(path));

        assert_eq!(
            folder("/run/systemd/resolve/stub-resolv.conf"),
            Some(Path::new("/run/systemd/resolve"))
        );
        assert_eq!(folder("/run/resolv.conf"), None);
        assert_eq!(folder("/etc/resolv.conf"), None);
    }
}
