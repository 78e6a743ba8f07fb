//! A heap in locked pages, for a library that keeps secrets in objects of its own.
//!
//! Blocks come in powers of two and are wiped when they come back; free ones wait in a list for each size. What is
//! larger than [`LARGEST_BLOCK`] gets a mapping of its own. Chunks are never given back.
#![allow(unsafe_code)]

use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use crate::pages::{self, Pages};

/// Blocks of this and the next powers of two, header included.
const SMALLEST_BLOCK: usize = 64;
const CLASSES: usize = 9;
const LARGEST_BLOCK: usize = SMALLEST_BLOCK << (CLASSES - 1);
/// Mapped at once for small blocks.
const CHUNK: usize = 64 * 1024;

static HEAP: Mutex<Heap> = Mutex::new(Heap {
    free: [null_mut(); CLASSES],
    unused: null_mut(),
    left: 0,
});

/// Stands before each block. Sixteen bytes, so that what follows is aligned as malloc aligns.
#[repr(C, align(16))]
struct Header {
    /// Bytes behind the header.
    capacity: usize,
    /// Of a free block: the next one.
    next: *mut Header,
}

const HEADER: usize = size_of::<Header>();

/// Invariant: every pointer in `free` is a wiped block of its class that nobody uses, or null; `left` bytes at `unused`
/// belong to the heap and were never handed out.
struct Heap {
    free: [*mut Header; CLASSES],
    unused: *mut u8,
    left: usize,
}

// SAFETY: the pointers are to mappings that live for ever, and only the holder of the lock follows them.
unsafe impl Send for Heap {}

/// `size` bytes, or null when no more memory can be locked. Their contents are zero.
#[must_use]
pub fn heap_take(size: usize) -> *mut u8 {
    let Some(whole) = size.checked_add(HEADER) else {
        return null_mut();
    };
    let block = if whole > LARGEST_BLOCK {
        own_mapping(whole)
    } else {
        let mut heap = HEAP.lock().unwrap_or_else(PoisonError::into_inner);
        heap.take(class(whole))
    };
    if block.is_null() {
        return null_mut();
    }
    // SAFETY: a block begins with its header, and at least `size` bytes follow.
    unsafe { block.cast::<u8>().add(HEADER) }
}

/// Wipe a block and take it back. Null is ignored.
///
/// # Safety
/// `place` came from [`heap_take`] or [`heap_resize`] and is not used any more.
pub unsafe fn heap_give_back(place: *mut u8) {
    if place.is_null() {
        return;
    }
    // SAFETY: by the caller's promise a header stands before the place, and `capacity` bytes behind it are ours.
    let (block, capacity) = unsafe {
        let block = place.sub(HEADER).cast::<Header>();
        let capacity = (*block).capacity;
        pages::wipe(std::slice::from_raw_parts_mut(place, capacity));
        (block, capacity)
    };
    let whole = capacity + HEADER;
    if whole > LARGEST_BLOCK {
        // SAFETY: a mapping of its own, of exactly this length, which nobody uses any more.
        drop(unsafe { Pages::from_raw(block.cast(), whole) });
        return;
    }
    let mut heap = HEAP.lock().unwrap_or_else(PoisonError::into_inner);
    let class = class(whole);
    // SAFETY: the block is ours; its header may be written.
    unsafe { (*block).next = heap.free[class] };
    heap.free[class] = block;
}

/// A block of another size with the same contents; the old one is wiped. Null when no more memory can be locked: then
/// the old one stays.
///
/// # Safety
/// As [`heap_give_back`].
pub unsafe fn heap_resize(place: *mut u8, size: usize) -> *mut u8 {
    let larger = heap_take(size);
    if !larger.is_null() && !place.is_null() {
        // SAFETY: both blocks are ours and apart; the shorter of both lengths is copied.
        unsafe {
            let capacity = (*place.sub(HEADER).cast::<Header>()).capacity;
            std::ptr::copy_nonoverlapping(place, larger, capacity.min(size));
            heap_give_back(place);
        }
    }
    larger
}

fn class(whole: usize) -> usize {
    let power = whole.max(SMALLEST_BLOCK).next_power_of_two();
    (power / SMALLEST_BLOCK).trailing_zeros() as usize
}

fn own_mapping(whole: usize) -> *mut Header {
    let Ok(pages) = Pages::map(whole) else {
        return null_mut();
    };
    let (start, len) = pages.into_raw();
    let block = start.cast::<Header>();
    // SAFETY: the mapping is fresh, page aligned and longer than a header.
    unsafe { (*block).capacity = len - HEADER };
    block
}

impl Heap {
    fn take(&mut self, class: usize) -> *mut Header {
        let block = self.free[class];
        if !block.is_null() {
            // SAFETY: by the invariant a free block.
            unsafe {
                self.free[class] = (*block).next;
                (*block).next = null_mut();
            }
            return block;
        }
        let whole = SMALLEST_BLOCK << class;
        if self.left < whole {
            // The rest of the old chunk is lost: less than one block of the largest class.
            let Ok(pages) = Pages::map(CHUNK) else {
                return null_mut();
            };
            (self.unused, self.left) = pages.into_raw();
        }
        let block = self.unused.cast::<Header>();
        // SAFETY: by the invariant `left` bytes are ours, and that is at least `whole`.
        unsafe {
            self.unused = self.unused.add(whole);
            (*block).capacity = whole - HEADER;
        }
        self.left -= whole;
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(size: usize, byte: u8) -> *mut u8 {
        let place = heap_take(size);
        assert!(!place.is_null() && (place as usize).is_multiple_of(16));
        // SAFETY: `size` bytes were handed out.
        unsafe { std::ptr::write_bytes(place, byte, size) };
        place
    }

    fn contents<'a>(place: *mut u8, size: usize) -> &'a [u8] {
        // SAFETY: the tests read what they hold.
        unsafe { std::slice::from_raw_parts(place, size) }
    }

    #[test]
    fn blocks_do_not_overlap_and_new_ones_are_zero() {
        let mut held = Vec::new();
        for round in 0..2000_usize {
            let size = round * 37 % 20_000;
            let place = heap_take(size);
            assert!(contents(place, size).iter().all(|byte| *byte == 0));
            // SAFETY: `size` bytes were handed out.
            unsafe { std::ptr::write_bytes(place, u8::try_from(round % 251).unwrap(), size) };
            held.push((place, size, u8::try_from(round % 251).unwrap()));
            if round % 3 == 0 {
                let (place, size, byte) = held.swap_remove(round * 7 % held.len());
                assert!(contents(place, size).iter().all(|one| *one == byte));
                // SAFETY: taken above, given back once.
                unsafe { heap_give_back(place) };
            }
        }
        for (place, size, byte) in held {
            assert!(contents(place, size).iter().all(|one| *one == byte));
            // SAFETY: taken above, given back once.
            unsafe { heap_give_back(place) };
        }
    }

    #[test]
    fn resized_blocks_keep_their_contents() {
        let mut place = filled(10, 7);
        for size in [100, 5000, 40_000, 20] {
            // SAFETY: the block is replaced by the new one.
            place = unsafe { heap_resize(place, size) };
            assert_eq!(contents(place, 10), [7; 10]);
        }
        // SAFETY: given back once.
        unsafe { heap_give_back(place) };
        // SAFETY: null is allowed.
        unsafe { heap_give_back(null_mut()) };
        assert!(heap_take(usize::MAX).is_null());
    }
}
