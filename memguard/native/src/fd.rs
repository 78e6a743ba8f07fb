//! Reading and writing descriptors without a buffer outside locked pages.
#![allow(unsafe_code)]

use std::io;

use unlatch_locked::LockedBytes;

/// Most bytes of one system call; also the step by which room grows.
const STEP: usize = 4096;

/// Everything up to the end of file. `None`: more than `limit` bytes.
pub(crate) fn read_to_end(fd: i32, limit: usize) -> io::Result<Option<LockedBytes>> {
    let mut bytes = LockedBytes::with_capacity(STEP)?;
    loop {
        let mut chunk = LockedBytes::zeroed(STEP)?;
        let count = read(fd, chunk.expose_mut())?;
        if count == 0 {
            return Ok(Some(bytes));
        }
        if bytes.len() + count > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk.expose()[..count])?;
    }
}

/// One line without its newline, or what stands before the end of file. `None`: more than `limit` bytes.
pub(crate) fn read_line(fd: i32, limit: usize) -> io::Result<Option<LockedBytes>> {
    let mut line = LockedBytes::with_capacity(STEP)?;
    // Byte by byte: what follows the line belongs to the next reader.
    let mut byte = LockedBytes::zeroed(1)?;
    while read(fd, byte.expose_mut())? == 1 && byte.expose() != b"\n" {
        if line.len() == limit {
            return Ok(None);
        }
        line.extend_from_slice(byte.expose())?;
    }
    Ok(Some(line))
}

/// Every byte, through partial writes.
pub(crate) fn write_all(fd: i32, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length describe a live slice; the kernel only reads it.
        let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(())
}

fn read(fd: i32, place: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and length describe a live, exclusively borrowed slice.
        let count = unsafe { libc::read(fd, place.as_mut_ptr().cast(), place.len()) };
        match usize::try_from(count) {
            Ok(count) => return Ok(count),
            Err(_) => retry_if_interrupted()?,
        }
    }
}

fn retry_if_interrupted() -> io::Result<()> {
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}
