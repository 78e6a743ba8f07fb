//! Misbehaviour on purpose, for the tests that must notice it. The environment variable `UNLATCH_TEST_VARIANT` names
//! what this build does wrong, separated by commas:
//!
//! * `unconfined` – no system call filter, so that a test can read secret memory from inside.
//! * `dumpable` – the process stays dumpable.
//! * `fixed-random` – the generator is stuck, so that a test can foretell nonces and look for them.
//! * `leak-pkcs8`, `leak-joined` – leaves a loaded key, or the sum of a scalar's parts at each use, on the heap.
//! * `leak-token` – leaves tokens on the heap.
//! * `socket`, `open`, `exec`, `other-process` – makes such a call when it is asked for its status.

#[cfg(not(debug_assertions))]
compile_error!("test-variant makes guard misbehave: never in a release build");

use std::sync::OnceLock;

/// Whether this process is to misbehave in this way.
pub(crate) fn is(name: &str) -> bool {
    static VARIANT: OnceLock<String> = OnceLock::new();
    VARIANT
        .get_or_init(|| std::env::var("UNLATCH_TEST_VARIANT").unwrap_or_default())
        .split(',')
        .any(|one| one == name)
}

/// What a stuck generator gives.
pub(crate) fn fill(out: &mut [u8]) {
    for (place, byte) in (0_u8..=255).cycle().zip(out) {
        *byte = place.wrapping_mul(89).wrapping_add(0x5a);
    }
}

/// Leave a copy on the heap for ever, if this is what is wrong.
pub(crate) fn leak(name: &str, secret: &[u8]) {
    if is(name) {
        std::mem::forget(secret.to_vec());
    }
}

/// Undo the hardening, if this is what is wrong.
#[allow(unsafe_code)]
pub(crate) fn after_hardening() -> std::io::Result<()> {
    // SAFETY: takes plain numbers.
    if is("dumpable") && unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Do what the filter forbids, if this is what is wrong.
#[allow(unsafe_code)]
pub(crate) fn misbehave() {
    let path = c"/etc/passwd";
    let call = |name, number, arguments: [libc::c_long; 3]| {
        if is(name) {
            let [one, two, three] = arguments;
            // SAFETY: numbers, null and a constant string; the kernel checks them.
            unsafe { libc::syscall(number, one, two, three) };
        }
    };
    let path = path.as_ptr() as libc::c_long;
    call("socket", libc::SYS_socket, [2, 1, 0]);
    call("open", libc::SYS_openat, [-100, path, 0]);
    call("exec", libc::SYS_execve, [path, 0, 0]);
    call("other-process", libc::SYS_process_vm_readv, [1, 0, 0]);
}
