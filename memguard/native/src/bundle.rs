//! Bundles as Python objects that hold names and rules, and give secrets only as `Secret`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use unlatch_locked::LockedBytes;
use unlatch_sealed::bundle::{self, Kind};
use unlatch_sealed::{self as sealed, Error, keys};

use crate::errors::{misuse, raised};
use crate::secret::Secret;

/// Builds a bundle's JSON in locked memory.
#[pyclass(frozen, module = "unlatch.memguard._native")]
pub(crate) struct BundleWriter(Mutex<Option<sealed::BundleWriter>>);

impl BundleWriter {
    fn with<T>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut sealed::BundleWriter) -> Result<T, Error>,
    ) -> PyResult<T> {
        let mut place = self.place();
        let writer = place
            .as_mut()
            .ok_or_else(|| misuse(py, "bundle is finished"))?;
        act(writer).map_err(|error| raised(py, &error))
    }

    fn place(&self) -> MutexGuard<'_, Option<sealed::BundleWriter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl BundleWriter {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let writer = sealed::BundleWriter::new().map_err(|error| raised(py, &error))?;
        Ok(Self(Mutex::new(Some(writer))))
    }

    /// Public half (JWK JSON) of the bundle key.
    #[getter]
    fn recipient<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let recipient = self.with(py, |writer| Ok(writer.recipient()))?;
        Ok(PyBytes::new(py, recipient.as_bytes()))
    }

    /// PEM in PKCS#8, SEC1 or PKCS#1; kept as PKCS#8.
    #[pyo3(signature = (name, pem, rules, /))]
    fn add_private_key(
        &self,
        py: Python<'_>,
        name: &str,
        pem: &Secret,
        rules: Option<&[u8]>,
    ) -> PyResult<()> {
        let pem = pem.bytes(py)?;
        self.with(py, |writer| writer.add_private_key(name, &pem, rules))
    }

    /// A fresh key; gives a CSR (PEM) for the rules' names.
    #[pyo3(signature = (name, algorithm, rules, /))]
    fn generate_private_key<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        algorithm: &str,
        rules: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let request = self.with(py, |writer| {
            writer.generate_private_key(name, algorithm, rules)
        })?;
        Ok(PyBytes::new(py, request.as_bytes()))
    }

    /// Text that goes into a request.
    #[pyo3(signature = (name, value, rules, /))]
    fn add_token(
        &self,
        py: Python<'_>,
        name: &str,
        value: &Secret,
        rules: Option<&[u8]>,
    ) -> PyResult<()> {
        let value = value.bytes(py)?;
        self.with(py, |writer| writer.add_token(name, &value, rules))
    }

    /// Where a fleet's session ticket keys come from.
    #[pyo3(signature = (name, epoch, /))]
    fn generate_ticket_secret(&self, py: Python<'_>, name: &str, epoch: u64) -> PyResult<()> {
        self.with(py, |writer| writer.generate_ticket_secret(name, epoch))
    }

    /// Rules of a key in hardware, which 32 bytes of SHA-256 over its SubjectPublicKeyInfo name.
    #[pyo3(signature = (name, spki_sha256, rules, /))]
    fn add_hardware_key(
        &self,
        py: Python<'_>,
        name: &str,
        spki_sha256: [u8; 32],
        rules: &[u8],
    ) -> PyResult<()> {
        self.with(py, |writer| {
            writer.add_hardware_key(name, &spki_sha256, rules)
        })
    }

    /// The PIN of a token (hardware).
    #[pyo3(signature = (name, value, rules, /))]
    fn add_pin(&self, py: Python<'_>, name: &str, value: &Secret, rules: &[u8]) -> PyResult<()> {
        let value = value.bytes(py)?;
        self.with(py, |writer| writer.add_pin(name, &value, rules))
    }

    /// The payload; the writer is empty afterwards.
    #[pyo3(signature = (sealers, /))]
    fn finish(&self, py: Python<'_>, sealers: Vec<String>) -> PyResult<Secret> {
        let writer = self
            .place()
            .take()
            .ok_or_else(|| misuse(py, "bundle is finished"))?;
        writer
            .finish(&sealers)
            .map(Secret::new)
            .map_err(|error| raised(py, &error))
    }
}

/// An opened payload.
#[pyclass(frozen, module = "unlatch.memguard._native")]
pub(crate) struct Bundle(bundle::Bundle);

#[pymethods]
impl Bundle {
    #[new]
    #[pyo3(signature = (plaintext, /))]
    fn new(py: Python<'_>, plaintext: &Secret) -> PyResult<Self> {
        bundle::Bundle::parse(&*plaintext.bytes(py)?)
            .map(Self)
            .map_err(|error| raised(py, &error))
    }

    /// JSON of everything but the secrets.
    fn describe<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.describe().as_bytes())
    }

    /// A private key as PEM, a token, PIN or ticket secret as its bytes.
    #[pyo3(signature = (name, /))]
    fn secret(&self, py: Python<'_>, name: &str) -> PyResult<Secret> {
        let give = || {
            let secret = self.0.secret(name)?;
            match secret.kind {
                Kind::PrivateKey(_) => keys::to_pem(&secret.bytes),
                Kind::HardwareKey => Err(Error::NoSuchSecret),
                Kind::Token | Kind::TicketSecret { .. } | Kind::Pin => {
                    Ok(LockedBytes::copy_from(secret.bytes.expose())?)
                }
            }
        };
        give()
            .map(Secret::new)
            .map_err(|error: Error| raised(py, &error))
    }
}
