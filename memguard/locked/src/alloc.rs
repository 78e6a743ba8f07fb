//! A global allocator that overwrites what it frees.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::pages;

/// The system's allocator, with every block overwritten before it is freed or moved.
///
/// `static ALLOCATOR: WipingAllocator = WipingAllocator::always();` for a process that holds secrets;
/// [`WipingAllocator::idle`] for a program of which only one role does, which then calls
/// [`WipingAllocator::start`] before it meets the first secret.
pub struct WipingAllocator {
    wipes: AtomicBool,
}

impl WipingAllocator {
    /// Wipes from the first block on.
    #[must_use]
    pub const fn always() -> Self {
        Self {
            wipes: AtomicBool::new(true),
        }
    }

    /// Costs nothing until [`WipingAllocator::start`].
    #[must_use]
    pub const fn idle() -> Self {
        Self {
            wipes: AtomicBool::new(false),
        }
    }

    /// Wipe from now on.
    pub fn start(&self) {
        self.wipes.store(true, Ordering::Release);
    }
}

// SAFETY: every block comes from and goes back to `System` with the layout it was asked with.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up a live block of this layout: it is ours to overwrite, then to free.
        unsafe {
            if self.wipes.load(Ordering::Relaxed) {
                pages::wipe(std::slice::from_raw_parts_mut(block, layout.size()));
            }
            System.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.wipes.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller promises a valid size; the new block is at least as long as what is copied; the old
        // one is live until `dealloc`.
        unsafe {
            let new = System.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_block_keeps_its_contents() {
        let allocator = WipingAllocator::always();
        let layout = Layout::from_size_align(32, 8).unwrap();
        // SAFETY: the block is used within its size and freed once, with its last layout.
        unsafe {
            let block = allocator.alloc(layout);
            std::ptr::write_bytes(block, 0x5a, 32);
            let block = allocator.realloc(block, layout, 4096);
            let kept = std::slice::from_raw_parts(block, 32).to_vec();
            allocator.dealloc(block, Layout::from_size_align(4096, 8).unwrap());

            assert_eq!(kept, [0x5a; 32]);
        }
    }
}
