//! The system calls behind locked pages. Linux has all of it; elsewhere pages are locked, and that is all.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};

static SECRET: AtomicBool = AtomicBool::new(false);

/// Map what follows with memfd_secret where the kernel offers it: pages that are in no process's reach but this one's,
/// whoever asks (`/proc/PID/mem`, ptrace and process_vm_readv fail on them, the kernel's own map lacks them), are never
/// swapped and in no core file. Gives whether the kernel does.
///
/// Not for programs that fork with secrets in hand: the pages are shared with children.
pub fn prefer_secret_memory() -> bool {
    let offered = cfg!(target_os = "linux") && secret::map(page_size()).map(secret::unmap).is_ok();
    SECRET.store(offered, Ordering::Relaxed);
    offered
}

/// A mapping that stays out of swap and core files: secret memory, or an anonymous one that is locked and zero in
/// forked children.
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
        if SECRET.load(Ordering::Relaxed) {
            return secret::map(len).map(|start| Self { start, len });
        }
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
        let pages = Self {
            start: mapped(address)?,
            len,
        };
        pages.lock()?;
        Ok(pages)
    }

    /// Leave the mapping to a caller who keeps address and length.
    pub(crate) fn into_raw(self) -> (*mut u8, usize) {
        let pages = std::mem::ManuallyDrop::new(self);
        (pages.start.as_ptr(), pages.len)
    }

    /// Take a mapping back.
    ///
    /// # Safety
    /// Address and length are what `into_raw` gave, and nobody uses the mapping.
    pub(crate) unsafe fn from_raw(start: *mut u8, len: usize) -> Self {
        // SAFETY: by the caller's promise the address of a mapping, which is not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        Self { start, len }
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

fn mapped(address: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?)
}

#[cfg(target_os = "linux")]
mod secret {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::{NonNull, io, mapped, null_mut};

    /// `len` bytes, a multiple of the page size. The descriptor is closed at once: an open one could be taken from
    /// the process by pidfd_getfd and mapped elsewhere.
    pub(super) fn map(len: usize) -> io::Result<NonNull<u8>> {
        // SAFETY: makes a descriptor, touches no memory.
        let descriptor = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let size = libc::off_t::try_from(len).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open; sets a size.
        if unsafe { libc::ftruncate(file.as_raw_fd(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh mapping touches no memory that exists; it outlives its descriptor.
        let address = unsafe {
            libc::mmap(
                null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        mapped(address).map_err(|error| match error.raw_os_error() {
            // The kernel's word for "over RLIMIT_MEMLOCK" here.
            Some(libc::EAGAIN) => io::Error::new(
                error.kind(),
                format!("cannot map {len} bytes of secret memory ({error}): raise RLIMIT_MEMLOCK"),
            ),
            _ => error,
        })
    }

    /// Give one page of a probe back.
    pub(super) fn unmap(start: NonNull<u8>) {
        // SAFETY: the probe's own mapping, of one page, which nobody else knows.
        unsafe { libc::munmap(start.as_ptr().cast(), super::page_size()) };
    }
}

#[cfg(not(target_os = "linux"))]
mod secret {
    use super::{NonNull, io};

    pub(super) fn map(_len: usize) -> io::Result<NonNull<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn unmap(_start: NonNull<u8>) {}
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

pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
