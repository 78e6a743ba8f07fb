//! One secret's bytes in locked pages.
#![allow(unsafe_code)]

use std::io;

use crate::pages;
use crate::pool::{self, Piece};

/// Secret bytes in locked pages, wiped when dropped, cut short or grown elsewhere.
///
/// The address stays the same until the value is dropped or grows. A child made by `fork` sees zeros.
///
/// Invariant: `piece` is used by this value alone, `len <= piece.capacity`, and bytes from `len` on are zero.
pub struct LockedBytes {
    piece: Piece,
    len: usize,
}

// SAFETY: the piece belongs to this value alone, and nothing in it depends on a thread.
unsafe impl Send for LockedBytes {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// No memory, or none that may be locked (RLIMIT_MEMLOCK).
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Ok(Self {
            piece: pool::take(len)?,
            len,
        })
    }

    /// Empty, with room for `capacity` bytes.
    ///
    /// # Errors
    /// As [`LockedBytes::zeroed`].
    pub fn with_capacity(capacity: usize) -> io::Result<Self> {
        Ok(Self {
            piece: pool::take(capacity)?,
            len: 0,
        })
    }

    /// `len` bytes from the kernel's random generator.
    ///
    /// # Errors
    /// As [`LockedBytes::zeroed`], or the generator failed.
    pub fn random(len: usize) -> io::Result<Self> {
        let mut bytes = Self::zeroed(len)?;
        pages::random(bytes.expose_mut())?;
        Ok(bytes)
    }

    /// A copy of `source`; the caller's own bytes stay where they are.
    ///
    /// # Errors
    /// As [`LockedBytes::zeroed`].
    pub fn copy_from(source: &[u8]) -> io::Result<Self> {
        let mut bytes = Self::zeroed(source.len())?;
        bytes.expose_mut().copy_from_slice(source);
        Ok(bytes)
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Read the secret.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        // SAFETY: by the invariant the range is ours; the borrow of self keeps it alive and unchanged.
        unsafe { std::slice::from_raw_parts(self.piece.start.as_ptr(), self.len) }
    }

    /// Change the secret in place.
    #[must_use]
    pub fn expose_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the invariant the range is ours; the exclusive borrow keeps every other reader out.
        unsafe { std::slice::from_raw_parts_mut(self.piece.start.as_ptr(), self.len) }
    }

    /// Keep the first `len` bytes and wipe the rest at once. A longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            pages::wipe(&mut self.expose_mut()[len..]);
            self.len = len;
        }
    }

    /// Append. Where the room does not suffice, the bytes move to a larger piece and the old one is wiped.
    ///
    /// # Errors
    /// As [`LockedBytes::zeroed`]; then nothing was appended.
    pub fn extend_from_slice(&mut self, more: &[u8]) -> io::Result<()> {
        let old = self.len;
        let new = old
            .checked_add(more.len())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        if new > self.piece.capacity {
            let mut larger = Self::zeroed(new.max(self.piece.capacity.saturating_mul(2)))?;
            larger.expose_mut()[..old].copy_from_slice(self.expose());
            *self = larger;
        }
        self.len = new;
        self.expose_mut()[old..].copy_from_slice(more);
        Ok(())
    }

    /// Wipe everything now; the length becomes 0.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Whether both hold the same bytes, in time that depends on the lengths only.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let differences = self
            .expose()
            .iter()
            .zip(other.expose())
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        self.len == other.len && std::hint::black_box(differences) == 0
    }
}

/// Appends; lets serialisers write straight into locked pages.
impl io::Write for LockedBytes {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(more)?;
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.clear();
        pool::give_back(&self.piece);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn new_bytes_are_zero_even_where_a_secret_was() {
        let address = LockedBytes::copy_from(&[0xa5; 4096])
            .unwrap()
            .expose()
            .as_ptr();
        let again = LockedBytes::zeroed(4096).unwrap();

        assert!(
            again.expose().iter().all(|byte| *byte == 0),
            "{address:?} {:?}",
            again.expose().as_ptr()
        );
    }

    #[test]
    fn truncated_tail_is_wiped() {
        let mut bytes = LockedBytes::copy_from(b"keep and drop").unwrap();
        bytes.truncate(4);
        bytes.len = 13;

        assert_eq!(bytes.expose(), b"keep\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn growing_keeps_contents_across_pieces_and_mappings() {
        let mut bytes = LockedBytes::with_capacity(1).unwrap();
        for round in 0..3000_u32 {
            bytes.write_all(&round.to_be_bytes()).unwrap();
        }

        assert_eq!(bytes.len(), 12000);
        assert_eq!(bytes.expose()[11996..], 2999_u32.to_be_bytes());
    }

    #[test]
    fn pieces_of_many_sizes_do_not_overlap() {
        let mut held: Vec<LockedBytes> = Vec::new();
        for round in 0..400_usize {
            let fill = u8::try_from(round % 251).unwrap();
            held.push(LockedBytes::copy_from(&vec![fill; round * 37 % 9000]).unwrap());
            if round % 3 == 0 {
                held.swap_remove(round * 7 % held.len());
            }
        }

        assert!(
            held.iter()
                .all(|one| one.expose().windows(2).all(|pair| pair[0] == pair[1]))
        );
    }

    #[test]
    fn sameness_needs_equal_length_and_bytes() {
        let one = LockedBytes::copy_from(b"secret").unwrap();

        assert!(one.is_same(&LockedBytes::copy_from(b"secret").unwrap()));
        assert!(!one.is_same(&LockedBytes::copy_from(b"secreT").unwrap()));
        assert!(!one.is_same(&LockedBytes::copy_from(b"secre").unwrap()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_are_locked_left_out_of_dumps_and_wiped_on_fork() {
        let bytes = LockedBytes::random(32).unwrap();
        let address = bytes.expose().as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();

        let flags = mapping_flags(&smaps, address).unwrap();

        for flag in ["lo", "dd", "wf"] {
            assert!(
                flags.split_whitespace().any(|one| one == flag),
                "{flag} missing in {flags}"
            );
        }
    }

    /// What follows runs in a child of its own: the preference is the whole process's.
    #[cfg(target_os = "linux")]
    fn in_child(work: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child touches memory of its own and ends by _exit, and asks for own mappings only,
        // not for the pool that another thread may hold locked.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends the child at once, without the parent's destructors.
            unsafe { libc::_exit(i32::from(!done.unwrap_or(false))) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the child's status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status == 0
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn secret_memory_cannot_be_read_through_proc() {
        use std::os::unix::fs::FileExt;

        assert!(in_child(|| {
            if !crate::prefer_secret_memory() {
                return true;
            }
            // Larger than a piece of a shared chunk: a mapping of its own.
            let bytes = LockedBytes::copy_from(&[7; 20_000]).unwrap();
            let memory = std::fs::File::open("/proc/self/mem").unwrap();
            let address = bytes.expose().as_ptr() as u64;
            let ordinary = [7; 20];

            memory.read_at(&mut [0; 16], address).is_err()
                && memory
                    .read_at(&mut [0; 16], ordinary.as_ptr() as u64)
                    .is_ok()
                && bytes.expose().iter().all(|byte| *byte == 7)
        }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_descriptor_of_secret_memory_stays_open() {
        assert!(in_child(|| {
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            crate::prefer_secret_memory();
            let _bytes = LockedBytes::zeroed(20_000).unwrap();
            open() == before
        }));
    }

    #[cfg(target_os = "linux")]
    fn mapping_flags(smaps: &str, address: usize) -> Option<&str> {
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((start, end)) = line
                .split_whitespace()
                .next()
                .and_then(|range| range.split_once('-'))
            {
                if let (Ok(start), Ok(end)) = (
                    usize::from_str_radix(start, 16),
                    usize::from_str_radix(end, 16),
                ) {
                    inside = (start..end).contains(&address);
                }
            }
            if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
                return Some(flags);
            }
        }
        None
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn forked_child_sees_zeros() {
        let bytes = LockedBytes::copy_from(&[7; 64]).unwrap();
        // SAFETY: the child only reads memory and calls _exit, both allowed after fork in a threaded process.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let wiped = bytes.expose().iter().all(|byte| *byte == 0);
            // SAFETY: ends the child at once, without the parent's destructors.
            unsafe { libc::_exit(i32::from(!wiped)) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the child's status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };

        assert_eq!(status, 0);
        assert_eq!(bytes.expose(), [7; 64]);
    }
}
