//! The system calls behind locked pages. Linux has all of it; elsewhere pages are locked, and that is all.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{NonNull, null_mut};

/// A private anonymous mapping, locked, left out of core dumps, zero in forked children.
///
/// Invariant: `start` and `len` are exactly what `mmap` gave, and nobody else unmaps them.
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; which thread uses it makes no difference to the kernel.
unsafe impl Send for Pages {}
// SAFETY: a shared `Pages` only tells its address and length.
unsafe impl Sync for Pages {}

impl Pages {
    /// Map and lock at least `len` bytes, all zero.
    pub(crate) fn map(len: usize) -> io::Result<Self> {
        let len = len
            .max(1)
            .checked_next_multiple_of(page_size())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping touches no memory that exists.
        let address = unsafe {
            libc::mmap(
                null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = Self { start, len };
        pages.lock()?;
        Ok(pages)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is our own mapping.
        if unsafe { libc::mlock(self.start.as_ptr().cast(), self.len) } != 0 {
            let error = io::Error::last_os_error();
            let message = format!(
                "cannot lock {} bytes of memory ({error}): raise RLIMIT_MEMLOCK",
                self.len
            );
            return Err(io::Error::new(error.kind(), message));
        }
        #[cfg(target_os = "linux")]
        for advice in [libc::MADV_DONTDUMP, libc::MADV_WIPEONFORK] {
            // SAFETY: the range is our own mapping, and both advices keep its contents.
            if unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping; `Pool` and `LockedBytes` hand it back only when no slice lives.
        unsafe {
            wipe(std::slice::from_raw_parts_mut(
                self.start.as_ptr(),
                self.len,
            ));
            libc::munmap(self.start.as_ptr().cast(), self.len);
        }
    }
}

/// Overwrite with zeros in a way that the optimiser must keep.
pub(crate) fn wipe(bytes: &mut [u8]) {
    // SAFETY: the pointer and length come from one exclusive slice.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len());
    }
    #[cfg(not(target_os = "linux"))]
    zeroize::Zeroize::zeroize(bytes);
}

/// Fill from the kernel's generator.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    for part in bytes.chunks_mut(256) {
        // SAFETY: the pointer and length come from one exclusive slice of at most 256 bytes.
        if unsafe { libc::getentropy(part.as_mut_ptr().cast(), part.len()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
