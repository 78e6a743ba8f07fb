//! Small secrets share pages.
//!
//! A chunk is one mapping of [`CHUNK`] bytes, cut into pieces of whole [`GRAIN`]s, first fit. Every byte that is not
//! handed out is zero. What is larger than [`LARGEST_PIECE`] gets a mapping of its own.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pages::Pages;

/// A hundred P-256 keys fit; two chunks fit under the oldest default RLIMIT_MEMLOCK of 64 KiB.
const CHUNK: usize = 32 * 1024;
const GRAIN: usize = 64;
const LARGEST_PIECE: usize = CHUNK / 4;

static POOL: Mutex<Pool> = Mutex::new(Pool { chunks: Vec::new() });
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Bytes of locked memory that are handed out now, rounded up to pieces.
#[must_use]
pub fn locked_bytes_in_use() -> usize {
    IN_USE.load(Ordering::Relaxed)
}

/// Where a piece lies.
pub(crate) enum Place {
    Shared,
    Own(#[allow(dead_code, reason = "owned for its Drop")] Pages),
}

/// Exclusive use of `capacity` zero bytes at `start` until [`give_back`].
pub(crate) struct Piece {
    pub(crate) start: NonNull<u8>,
    pub(crate) capacity: usize,
    place: Place,
}

/// Take at least `len` zero bytes.
pub(crate) fn take(len: usize) -> io::Result<Piece> {
    let piece = if len > LARGEST_PIECE {
        let pages = Pages::map(len)?;
        Piece {
            start: pages.start(),
            capacity: pages.len(),
            place: Place::Own(pages),
        }
    } else {
        lock_pool().take(len.max(1).next_multiple_of(GRAIN))?
    };
    IN_USE.fetch_add(piece.capacity, Ordering::Relaxed);
    Ok(piece)
}

/// Hand a piece back. Its bytes must be wiped already.
pub(crate) fn give_back(piece: &Piece) {
    IN_USE.fetch_sub(piece.capacity, Ordering::Relaxed);
    if matches!(piece.place, Place::Shared) {
        lock_pool().give_back(piece.start.as_ptr() as usize, piece.capacity);
    }
}

fn lock_pool() -> MutexGuard<'static, Pool> {
    // Every change of the pool is complete before anything in it can panic.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pool {
    chunks: Vec<Chunk>,
}

struct Chunk {
    pages: Pages,
    free: FreeList,
}

impl Pool {
    fn take(&mut self, len: usize) -> io::Result<Piece> {
        for chunk in &mut self.chunks {
            if let Some(offset) = chunk.free.take(len) {
                return Ok(chunk.piece(offset, len));
            }
        }
        let pages = Pages::map(CHUNK)?;
        let mut chunk = Chunk {
            free: FreeList::whole(pages.len()),
            pages,
        };
        let offset = chunk.free.take(len).ok_or(io::ErrorKind::OutOfMemory)?;
        let piece = chunk.piece(offset, len);
        self.chunks.push(chunk);
        Ok(piece)
    }

    fn give_back(&mut self, address: usize, len: usize) {
        let holder = self.chunks.iter().position(|chunk| chunk.holds(address));
        let Some(chunk) = holder.and_then(|index| self.chunks.get_mut(index)) else {
            return;
        };
        chunk.free.give_back(address - chunk.base(), len);
        // One empty chunk stays, so that a secret per request does not map pages per request.
        if self.chunks.iter().filter(|chunk| chunk.is_empty()).count() > 1 {
            if let Some(index) = self.chunks.iter().rposition(Chunk::is_empty) {
                self.chunks.swap_remove(index);
            }
        }
    }
}

impl Chunk {
    fn base(&self) -> usize {
        self.pages.start().as_ptr() as usize
    }

    fn holds(&self, address: usize) -> bool {
        (self.base()..self.base() + self.pages.len()).contains(&address)
    }

    fn is_empty(&self) -> bool {
        self.free.gaps == [(0, self.pages.len())]
    }

    fn piece(&self, offset: usize, len: usize) -> Piece {
        Piece {
            start: self.pages.start().map_addr_by(offset),
            capacity: len,
            place: Place::Shared,
        }
    }
}

/// Free ranges (offset, length) in order; neighbours are merged.
struct FreeList {
    gaps: Vec<(usize, usize)>,
}

impl FreeList {
    fn whole(len: usize) -> Self {
        Self {
            gaps: vec![(0, len)],
        }
    }

    fn take(&mut self, len: usize) -> Option<usize> {
        let index = self.gaps.iter().position(|&(_, free)| free >= len)?;
        let (offset, free) = self.gaps[index];
        if free == len {
            self.gaps.remove(index);
        } else {
            self.gaps[index] = (offset + len, free - len);
        }
        Some(offset)
    }

    fn give_back(&mut self, offset: usize, len: usize) {
        let index = self.gaps.partition_point(|&(start, _)| start < offset);
        self.gaps.insert(index, (offset, len));
        self.merge(index);
        if index > 0 {
            self.merge(index - 1);
        }
    }

    fn merge(&mut self, index: usize) {
        let (Some(&(start, len)), Some(&(next, more))) =
            (self.gaps.get(index), self.gaps.get(index + 1))
        else {
            return;
        };
        if start + len == next {
            self.gaps[index] = (start, len + more);
            self.gaps.remove(index + 1);
        }
    }
}

trait Offset {
    fn map_addr_by(self, offset: usize) -> Self;
}

impl Offset for NonNull<u8> {
    fn map_addr_by(self, offset: usize) -> Self {
        self.map_addr(|address| address.saturating_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returned_neighbours_become_one_gap() {
        let mut list = FreeList::whole(256);
        let taken: Vec<_> = (0..4).map(|_| list.take(64).unwrap()).collect();
        assert_eq!(list.take(64), None);

        for &index in &[2, 0, 3, 1] {
            list.give_back(taken[index], 64);
        }

        assert_eq!(list.gaps, [(0, 256)]);
    }

    #[test]
    fn first_gap_that_fits_is_used() {
        let mut list = FreeList::whole(512);
        let (first, _second) = (list.take(64).unwrap(), list.take(64).unwrap());
        list.give_back(first, 64);

        assert_eq!(list.take(128), Some(128));
        assert_eq!(list.take(64), Some(0));
    }
}
