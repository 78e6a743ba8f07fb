//! What the second filter stops: answered with ENOSYS and counted.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers beyond are counted together, in the last place.
const NUMBERS: usize = 512;

/// Who says so on standard error.
static SPEAKER: OnceLock<&str> = OnceLock::new();

static COUNTS: [AtomicU32; NUMBERS] = [const { AtomicU32::new(0) }; NUMBERS];

/// How often each system call was trapped, by its number on this machine.
#[must_use]
pub fn counts() -> BTreeMap<usize, u32> {
    let counted = COUNTS.iter().enumerate();
    counted
        .map(|(number, count)| (number, count.load(Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Catch SIGSYS, in every thread. A program with a `name` says the first time of each call on standard error.
///
/// # Errors
/// The system refused.
pub fn catch(name: Option<&'static str>) -> io::Result<()> {
    if let Some(name) = name {
        // A second name changes nothing.
        let _ = SPEAKER.set(name);
    }
    // SAFETY: all zeros is a valid sigaction, with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = answer as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the action is valid, and its handler does what a signal handler may: it writes to atomics and to the
    // context that it was given.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The call was not made; its result becomes −ENOSYS.
extern "C" fn answer(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    const SYS_SECCOMP: c_int = 1;
    if info.is_null() || context.is_null() {
        return;
    }
    // SAFETY: the kernel gives a valid siginfo and ucontext to an SA_SIGINFO handler.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    if info.si_code != SYS_SECCOMP {
        return;
    }
    let number = usize::try_from(number(context)).unwrap_or(NUMBERS);
    let number = number.min(NUMBERS - 1);
    let before = COUNTS
        .get(number)
        .map(|count| count.fetch_add(1, Ordering::Relaxed));
    if let (Some(0), Some(name)) = (before, SPEAKER.get()) {
        say(name, number);
    }
    set_result(context, -i64::from(libc::ENOSYS));
}

/// Write a line, with no call but write(2) and no allocation.
fn say(name: &str, number: usize) {
    let mut digits = *b"000";
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        let power = [1, 10, 100].get(place).copied().unwrap_or(1);
        *digit += u8::try_from(number / power % 10).unwrap_or(0);
    }
    let mut line = [0; 128];
    let mut length = 0;
    for part in [name.as_bytes(), b": refused system call ", &digits, b"\n"] {
        let end = (length + part.len()).min(line.len());
        if let Some(room) = line.get_mut(length..end) {
            room.copy_from_slice(part.get(..end - length).unwrap_or_default());
        }
        length = end;
    }
    // SAFETY: reads `length` bytes of `line`. Nothing can be done if nobody listens.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast::<c_void>(), length) };
}

#[cfg(target_arch = "x86_64")]
fn number(context: &libc::ucontext_t) -> i64 {
    context.uc_mcontext.gregs[libc::REG_RAX as usize]
}

#[cfg(target_arch = "x86_64")]
fn set_result(context: &mut libc::ucontext_t, result: i64) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
}

#[cfg(target_arch = "aarch64")]
fn number(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.regs[8]
}

#[cfg(target_arch = "aarch64")]
fn set_result(context: &mut libc::ucontext_t, result: i64) {
    context.uc_mcontext.regs[0] = u64::from_ne_bytes(result.to_ne_bytes());
}
