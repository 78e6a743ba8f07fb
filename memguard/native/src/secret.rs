//! `Secret`: locked bytes as a Python object that shows nothing.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use unlatch_locked::LockedBytes;
use unlatch_sealed::Error;

use crate::errors::{misuse, raised};
use crate::fd;
use crate::view::Exposed;

/// Bytes in locked pages, left out of core dumps, wiped when dropped. No repr, no copy, no pickle.
#[pyclass(frozen, module = "unlatch.memguard._native")]
pub(crate) struct Secret(Mutex<Option<Arc<LockedBytes>>>);

impl Secret {
    pub(crate) fn new(bytes: LockedBytes) -> Self {
        Self(Mutex::new(Some(Arc::new(bytes))))
    }

    /// The bytes, kept alive while they are used.
    pub(crate) fn bytes(&self, py: Python<'_>) -> PyResult<Arc<LockedBytes>> {
        let place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place
            .clone()
            .ok_or_else(|| misuse(py, "secret was wiped before this use"))
    }

    /// Take sole possession for a change, and put back what `change` returns.
    fn change(
        &self,
        py: Python<'_>,
        change: impl FnOnce(LockedBytes) -> Option<LockedBytes>,
    ) -> PyResult<()> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shared) = place.take() else {
            return Ok(());
        };
        match Arc::try_unwrap(shared) {
            Ok(bytes) => {
                *place = change(bytes).map(Arc::new);
                Ok(())
            }
            Err(shared) => {
                *place = Some(shared);
                Err(misuse(
                    py,
                    "secret is in use: leave the block that exposes it first",
                ))
            }
        }
    }
}

#[pymethods]
impl Secret {
    /// Fresh random bytes.
    #[staticmethod]
    #[pyo3(signature = (size, /))]
    fn random(py: Python<'_>, size: usize) -> PyResult<Self> {
        LockedBytes::random(size)
            .map(Self::new)
            .map_err(|error| system(py, error))
    }

    /// Copy bytes in. The caller's own copy stays where it is: for tests and public data only.
    #[staticmethod]
    #[pyo3(signature = (data, /))]
    fn copy_from(py: Python<'_>, data: PyBuffer<u8>) -> PyResult<Self> {
        let mut bytes = LockedBytes::zeroed(data.len_bytes()).map_err(|error| system(py, error))?;
        data.copy_to_slice(py, bytes.expose_mut())?;
        Ok(Self::new(bytes))
    }

    /// Read to the end of file straight into locked pages; more than `limit` bytes is a ConfigError.
    #[staticmethod]
    #[pyo3(signature = (fd, limit, /))]
    fn read_fd(py: Python<'_>, fd: i32, limit: usize) -> PyResult<Self> {
        match py.detach(|| fd::read_to_end(fd, limit))? {
            Some(bytes) => Ok(Self::new(bytes)),
            None => Err(misuse(
                py,
                &format!("more than {limit} bytes given as a secret"),
            )),
        }
    }

    /// Read one line straight into locked pages, without its newline.
    #[staticmethod]
    #[pyo3(signature = (fd, limit, /))]
    fn read_line_fd(py: Python<'_>, fd: i32, limit: usize) -> PyResult<Self> {
        match py.detach(|| fd::read_line(fd, limit))? {
            Some(bytes) => Ok(Self::new(bytes)),
            None => Err(misuse(
                py,
                &format!("more than {limit} bytes given as a secret"),
            )),
        }
    }

    /// Write every byte to a descriptor.
    #[pyo3(signature = (fd, /))]
    fn write_fd(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        let bytes = self.bytes(py)?;
        Ok(py.detach(|| fd::write_all(fd, bytes.expose()))?)
    }

    /// Drop one trailing newline (LF or CRLF), as a prompt or an editor leaves it.
    fn strip_newline(&self, py: Python<'_>) -> PyResult<()> {
        self.change(py, |mut bytes| {
            let text = bytes.expose();
            let cut = text
                .strip_suffix(b"\n")
                .map(|text| text.strip_suffix(b"\r").unwrap_or(text).len());
            if let Some(length) = cut {
                bytes.truncate(length);
            }
            Some(bytes)
        })
    }

    /// A read-only view, released (and unusable) when the block ends.
    fn expose(&self, py: Python<'_>) -> PyResult<Exposed> {
        Ok(Exposed::new(self.bytes(py)?))
    }

    /// Wipe now. Refused while a block exposes the secret.
    fn wipe(&self, py: Python<'_>) -> PyResult<()> {
        self.change(py, |_| None)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.bytes(py)?.len())
    }
}

fn system(py: Python<'_>, error: io::Error) -> PyErr {
    raised(py, &Error::System(error))
}
