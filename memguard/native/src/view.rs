//! The window through which Python may look at a secret: a read-only memoryview that ends with its block.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyBufferError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use pyo3::{ffi, intern};
use unlatch_locked::LockedBytes;

/// Context manager of `Secret.expose`.
#[pyclass(frozen, module = "unlatch.memguard._native")]
pub(crate) struct Exposed {
    bytes: Arc<LockedBytes>,
    view: Mutex<Option<Py<PyMemoryView>>>,
}

impl Exposed {
    pub(crate) fn new(bytes: Arc<LockedBytes>) -> Self {
        Self {
            bytes,
            view: Mutex::new(None),
        }
    }
}

#[pymethods]
impl Exposed {
    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let mut place = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() {
            return Err(PyRuntimeError::new_err(
                "secret is already exposed by this block",
            ));
        }
        let window = Bound::new(
            py,
            Window {
                bytes: Arc::clone(&self.bytes),
            },
        )?;
        let view = PyMemoryView::from(window.as_any())?;
        *place = Some(view.clone().unbind());
        Ok(view)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let view = self
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(view) = view {
            view.call_method0(py, intern!(py, "release"))?;
        }
        Ok(())
    }
}

/// Owner of the exported buffer: keeps the pages alive while a view exists.
#[pyclass(frozen)]
struct Window {
    bytes: Arc<LockedBytes>,
}

#[pymethods]
impl Window {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let bytes = slf.get().bytes.expose();
        let length =
            isize::try_from(bytes.len()).map_err(|_| PyBufferError::new_err("too long"))?;
        // SAFETY: `view` is the caller's to fill; the buffer is read-only, does not move while `Window` holds its
        // `Arc`, and the view holds a reference to `Window`.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                length,
                1,
                flags,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}
