//! Keys in the process keyring: bytes that the kernel keeps, and gives to this process's threads only.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_long};
use std::io;

/// 32 bytes in the kernel, under the process's own keyring, which ends with the process.
///
/// Only who possesses the key may read it: a thread of this process that is younger than the keyring. Neither another
/// process of this user nor root can ask for it.
pub struct ProcessKey {
    serial: c_long,
}

/// Bytes of a key.
const KEY_BYTES: usize = 32;

const KEY_SPEC_PROCESS_KEYRING: c_long = -2;
const KEYCTL_UPDATE: c_long = 2;
const KEYCTL_SETPERM: c_long = 5;
const KEYCTL_READ: c_long = 11;
/// The possessor may view, read, write and find it; user, group and others nothing.
const POSSESSOR_ONLY: c_long = 0x0f00_0000;

impl ProcessKey {
    /// Make a key. Call before any thread is started: an older thread has no part in the keyring.
    ///
    /// # Errors
    /// No keyring in this kernel, forbidden (container profiles), or over the user's quota.
    pub fn create(name: &CStr, content: &[u8; KEY_BYTES]) -> io::Result<Self> {
        // SAFETY: two C strings and `content`, of the length given, all read only.
        let serial = checked(unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                name.as_ptr(),
                content.as_ptr(),
                content.len(),
                KEY_SPEC_PROCESS_KEYRING,
            )
        })?;
        // SAFETY: takes numbers only.
        checked(unsafe {
            libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, POSSESSOR_ONLY)
        })?;
        Ok(Self { serial })
    }

    /// Copy the key out.
    ///
    /// # Errors
    /// This thread is older than the keyring, or the key is gone.
    pub fn read(&self, out: &mut [u8; KEY_BYTES]) -> io::Result<()> {
        // SAFETY: writes at most `out.len()` bytes.
        let length = checked(unsafe {
            libc::syscall(
                libc::SYS_keyctl,
                KEYCTL_READ,
                self.serial,
                out.as_mut_ptr(),
                out.len(),
            )
        })?;
        if usize::try_from(length) == Ok(KEY_BYTES) {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Replace the content; the kernel wipes the old one.
    ///
    /// # Errors
    /// As [`ProcessKey::read`].
    pub fn update(&self, content: &[u8; KEY_BYTES]) -> io::Result<()> {
        // SAFETY: reads `content`, of the length given.
        checked(unsafe {
            libc::syscall(
                libc::SYS_keyctl,
                KEYCTL_UPDATE,
                self.serial,
                content.as_ptr(),
                content.len(),
            )
        })?;
        Ok(())
    }
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
    fn key_holds_what_was_written_last() {
        let key = ProcessKey::create(c"unlatch test", &[7; 32]).unwrap();
        let mut out = [0; 32];
        key.read(&mut out).unwrap();
        assert_eq!(out, [7; 32]);

        key.update(&[8; 32]).unwrap();

        key.read(&mut out).unwrap();
        assert_eq!(out, [8; 32]);
    }

    #[test]
    fn younger_threads_read_it_and_other_processes_do_not() {
        let key = ProcessKey::create(c"unlatch other", &[7; 32]).unwrap();
        std::thread::scope(|scope| {
            let younger = scope.spawn(|| key.read(&mut [0; 32]).is_ok());
            assert!(younger.join().unwrap());
        });

        // SAFETY: the child makes one system call with a buffer of its own and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(key.read(&mut [0; 32]).is_ok())) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the child's status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };

        assert_eq!(status, 0);
    }
}
