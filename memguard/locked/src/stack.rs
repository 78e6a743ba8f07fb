//! A thread's stack in secret memory, so that what a computation leaves in a frame is out of reach as well.
#![allow(unsafe_code)]

use std::io;

use crate::pages::{self, Pages};

/// Pages for one thread's stack, with one page below it that ends the process when touched.
pub struct LockedStack {
    /// `None` once leaked.
    pages: Option<Pages>,
}

impl LockedStack {
    /// Map a stack of about `len` bytes. Only after [`crate::prefer_secret_memory`] does it lie in secret memory.
    ///
    /// # Errors
    /// No memory that may be locked.
    pub fn map(len: usize) -> io::Result<Self> {
        let pages = Pages::map(len)?;
        protect(&pages, libc::PROT_NONE)?;
        Ok(Self { pages: Some(pages) })
    }

    /// Lowest usable address and usable length. The pages stay mapped for ever: a thread runs on them.
    #[must_use]
    pub fn leak(mut self) -> (*mut u8, usize) {
        let (start, len) = self
            .pages
            .take()
            .map_or((std::ptr::null_mut(), 0), Pages::into_raw);
        let guard = pages::page_size().min(len);
        // SAFETY: the lowest page of a mapping that has at least one.
        (unsafe { start.add(guard) }, len - guard)
    }
}

impl Drop for LockedStack {
    fn drop(&mut self) {
        let Some(pages) = self.pages.take() else {
            return;
        };
        // Pages that cannot be written cannot be wiped: then they stay mapped.
        if protect(&pages, libc::PROT_READ | libc::PROT_WRITE).is_err() {
            std::mem::forget(pages);
        }
    }
}

/// Change what the first page allows.
fn protect(pages: &Pages, protection: libc::c_int) -> io::Result<()> {
    // SAFETY: the first page is our own mapping, and nothing is in it.
    let done = unsafe {
        libc::mprotect(
            pages.start().as_ptr().cast(),
            pages::page_size(),
            protection,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_part_can_be_written_and_an_unused_stack_goes() {
        drop(LockedStack::map(64 * 1024).unwrap());
        let (start, len) = LockedStack::map(64 * 1024).unwrap().leak();
        // SAFETY: the range was just mapped and is nobody else's.
        unsafe { std::ptr::write_bytes(start, 7, len) };

        assert_eq!(len, 64 * 1024 - pages::page_size());
    }
}
