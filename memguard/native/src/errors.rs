//! One error enum to the exceptions of `unlatch.errors`.

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyType};
use pyo3::{PyTypeInfo, import_exception};
use unlatch_sealed::{Error, Origin};

import_exception!(unlatch.errors, ConfigError);
import_exception!(unlatch.errors, DamagedFileError);
import_exception!(unlatch.errors, UntrustedGateError);

/// The exception for `error`, with its hint.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error.origin() {
        Origin::File => DamagedFileError::type_object(py),
        Origin::Peer => UntrustedGateError::type_object(py),
        Origin::Caller | Origin::System => ConfigError::type_object(py),
    };
    made(&class, &error.to_string(), error.hint()).unwrap_or_else(|failure| failure)
}

/// A ConfigError with a message of the binding's own.
pub(crate) fn misuse(py: Python<'_>, message: &str) -> PyErr {
    made(&ConfigError::type_object(py), message, None).unwrap_or_else(|failure| failure)
}

fn made(class: &Bound<'_, PyType>, message: &str, hint: Option<&str>) -> PyResult<PyErr> {
    let keywords = [("hint", hint)].into_py_dict(class.py())?;
    Ok(PyErr::from_value(class.call((message,), Some(&keywords))?))
}
