//! Python's door to the sealed-file crate: converts arguments, calls one function, maps one error. No logic.

mod bundle;
mod errors;
mod fd;
mod secret;
mod view;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use unlatch_locked::{LockedBytes, WipingAllocator};
use unlatch_sealed::curve::Curve;
use unlatch_sealed::jwk::{self, PrivateJwk, Use};
use unlatch_sealed::{Error, JwkFault, exchange, jwe, oct, signing, sss};

use crate::errors::raised;
use crate::secret::Secret;

/// Python's own objects are not ours; everything that Rust frees is wiped.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::always();

/// Open a compact JWE with its content key.
#[pyfunction]
#[pyo3(signature = (compact, key, /))]
fn jwe_open(py: Python<'_>, compact: &[u8], key: &Secret) -> PyResult<Secret> {
    secret(py, jwe::open(compact, &*key.bytes(py)?))
}

/// Refuse a content key that does not open a compact JWE.
#[pyfunction]
#[pyo3(signature = (compact, key, /))]
fn jwe_verify(py: Python<'_>, compact: &[u8], key: &Secret) -> PyResult<()> {
    jwe::verify(compact, &*key.bytes(py)?).map_err(|error| raised(py, &error))
}

/// Seal with a 32-byte content key.
#[pyfunction]
#[pyo3(signature = (header, plaintext, key, /))]
fn jwe_seal<'py>(
    py: Python<'py>,
    header: &[u8],
    plaintext: &Secret,
    key: &Secret,
) -> PyResult<Bound<'py, PyBytes>> {
    text(
        py,
        jwe::seal(header, &*plaintext.bytes(py)?, &*key.bytes(py)?),
    )
}

/// Seal to an EC public JWK by ECDH-ES with a fresh ephemeral.
#[pyfunction]
#[pyo3(signature = (header, plaintext, recipient, /))]
fn jwe_seal_to<'py>(
    py: Python<'py>,
    header: &[u8],
    plaintext: &Secret,
    recipient: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let recipient = jwk::parse_public(recipient).map_err(|fault| raised(py, &Error::Key(fault)))?;
    text(py, jwe::seal_to(header, &*plaintext.bytes(py)?, &recipient))
}

/// The content key of a symmetric JWK, as a TPM or token gives it back.
#[pyfunction]
#[pyo3(signature = (jwk, /))]
fn content_key_from_jwk(py: Python<'_>, jwk: &Secret) -> PyResult<Secret> {
    secret(py, oct::read(&*jwk.bytes(py)?))
}

/// A content key as the symmetric JWK that clevis wraps.
#[pyfunction]
#[pyo3(signature = (key, /))]
fn content_key_to_jwk(py: Python<'_>, key: &Secret) -> PyResult<Secret> {
    secret(py, oct::write(&*key.bytes(py)?))
}

/// One blinded recovery (client side of McCallum-Relyea).
#[pyclass(frozen, module = "unlatch.memguard._native")]
struct Exchange(exchange::Exchange);

#[pymethods]
impl Exchange {
    #[new]
    #[pyo3(signature = (header, server_key, /))]
    fn new(py: Python<'_>, header: &[u8], server_key: &[u8]) -> PyResult<Self> {
        exchange::Exchange::begin(header, server_key)
            .map(Self)
            .map_err(|error| raised(py, &error))
    }

    /// The JWK to POST.
    #[getter]
    fn request<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.request().as_bytes())
    }

    /// RFC 7638 SHA-256 of the requested point.
    #[getter]
    fn thumbprint(&self) -> String {
        self.0.thumbprint()
    }

    /// Unblind the server's JWK.
    #[pyo3(signature = (answer, /))]
    fn finish(&self, py: Python<'_>, answer: &[u8]) -> PyResult<Secret> {
        secret(py, self.0.finish(answer))
    }
}

/// Offline recovery: the content key from a header and the private exchange JWK.
#[pyfunction]
#[pyo3(signature = (header, private_key, /))]
fn derive_content_key(py: Python<'_>, header: &[u8], private_key: &Secret) -> PyResult<Secret> {
    let key = private(py, private_key)?;
    secret(py, exchange::derive_content_key(header, &key))
}

/// A new ECMR key: private JWK, public JWK.
#[pyfunction]
#[pyo3(signature = (curve, /))]
fn exchange_key_generate<'py>(
    py: Python<'py>,
    curve: &str,
) -> PyResult<(Secret, Bound<'py, PyBytes>)> {
    generate(py, curve, Use::Exchange)
}

/// Tang's server side.
#[pyfunction]
#[pyo3(signature = (private_key, point, /))]
fn exchange_answer<'py>(
    py: Python<'py>,
    private_key: &Secret,
    point: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let key = private(py, private_key)?;
    text(py, exchange::answer(&key, point))
}

/// A new ES256, ES384 or ES512 key: private JWK, public JWK.
#[pyfunction]
#[pyo3(signature = (curve, /))]
fn signing_key_generate<'py>(
    py: Python<'py>,
    curve: &str,
) -> PyResult<(Secret, Bound<'py, PyBytes>)> {
    generate(py, curve, Use::Signing)
}

/// JWS signature: raw r || s of full length.
#[pyfunction]
#[pyo3(signature = (private_key, message, /))]
fn signing_key_sign<'py>(
    py: Python<'py>,
    private_key: &Secret,
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let key = private(py, private_key)?;
    let signature = signing::sign(&key, message).map_err(|error| raised(py, &error))?;
    Ok(PyBytes::new(py, &signature))
}

/// A fresh prime, the content key at 0, and `count` shares.
#[pyfunction]
#[pyo3(signature = (threshold, count, /))]
fn sss_split<'py>(
    py: Python<'py>,
    threshold: usize,
    count: usize,
) -> PyResult<(Bound<'py, PyBytes>, Secret, Vec<Secret>)> {
    let (prime, key, shares) = py
        .detach(|| sss::split(threshold, count))
        .map_err(|error| raised(py, &error))?;
    Ok((
        PyBytes::new(py, &prime),
        Secret::new(key),
        shares.into_iter().map(Secret::new).collect(),
    ))
}

/// The content key from exactly the shares given.
#[pyfunction]
#[pyo3(signature = (prime, shares, /))]
fn sss_combine(py: Python<'_>, prime: &[u8], shares: Vec<PyRef<'_, Secret>>) -> PyResult<Secret> {
    let shares = shares
        .iter()
        .map(|share| share.bytes(py))
        .collect::<PyResult<Vec<_>>>()?;
    secret(py, sss::combine(prime, shares.iter().map(AsRef::as_ref)))
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::bundle::{Bundle, BundleWriter};
    #[pymodule_export]
    use super::secret::Secret;
    #[pymodule_export]
    use super::{
        Exchange, content_key_from_jwk, content_key_to_jwk, derive_content_key, exchange_answer,
        exchange_key_generate, jwe_open, jwe_seal, jwe_seal_to, jwe_verify, signing_key_generate,
        signing_key_sign, sss_combine, sss_split,
    };
}

fn secret(py: Python<'_>, result: Result<LockedBytes, Error>) -> PyResult<Secret> {
    result.map(Secret::new).map_err(|error| raised(py, &error))
}

fn text(py: Python<'_>, result: Result<String, Error>) -> PyResult<Bound<'_, PyBytes>> {
    result
        .map(|text| PyBytes::new(py, text.as_bytes()))
        .map_err(|error| raised(py, &error))
}

fn private(py: Python<'_>, key: &Secret) -> PyResult<PrivateJwk> {
    PrivateJwk::parse(&*key.bytes(py)?).map_err(|error| raised(py, &error))
}

fn generate<'py>(
    py: Python<'py>,
    curve: &str,
    purpose: Use,
) -> PyResult<(Secret, Bound<'py, PyBytes>)> {
    let make = || {
        let curve = Curve::named(curve).ok_or(Error::Key(JwkFault::Curve))?;
        let key = PrivateJwk::generate(curve, purpose)?;
        Ok((
            key.to_json(purpose)?,
            jwk::public_json(&key.public, purpose),
        ))
    };
    let (key, public) = make().map_err(|error: Error| raised(py, &error))?;
    Ok((Secret::new(key), PyBytes::new(py, public.as_bytes())))
}
