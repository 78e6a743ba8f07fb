//! The three NIST curves, by point arithmetic only. Coordinates are big-endian and of full length.
//!
//! Rule 1: a `Point` is on its curve and not at infinity; only `Point::new` and arithmetic make one.
//! Rule 2: scalars live in locked memory; copies on the stack are wiped.

use p256::elliptic_curve::sec1::{EncodedPoint, FromEncodedPoint, ModulusSize, ToEncodedPoint};
use p256::elliptic_curve::{
    AffinePoint, CurveArithmetic, FieldBytes, FieldBytesSize, NonZeroScalar, PrimeField,
    ProjectivePoint, Scalar,
    group::{Curve as _, Group},
};
use rand_core::OsRng;
use zeroize::{Zeroize, Zeroizing};

use crate::LockedBytes;
use crate::error::{Error, JwkFault};

/// A curve that Tang knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}

impl Curve {
    /// By its JWK name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521]
            .into_iter()
            .find(|curve| curve.name() == name)
    }

    /// The JWK name (`crv`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate and of a scalar.
    #[must_use]
    pub fn field_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A public point, on its curve and not at infinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    curve: Curve,
    x: Vec<u8>,
    y: Vec<u8>,
}

/// Runs `$body` with `$C` as the curve's type.
macro_rules! on {
    ($curve:expr, $C:ident => $body:expr) => {
        match $curve {
            Curve::P256 => {
                type $C = p256::NistP256;
                $body
            }
            Curve::P384 => {
                type $C = p384::NistP384;
                $body
            }
            Curve::P521 => {
                type $C = p521::NistP521;
                $body
            }
        }
    };
}

impl Point {
    /// From affine coordinates.
    ///
    /// # Errors
    /// `Coordinate` for a wrong length, `OffCurve` for a point that is not on the curve.
    pub fn new(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, JwkFault> {
        if x.len() != curve.field_bytes() || y.len() != curve.field_bytes() {
            return Err(JwkFault::Coordinate);
        }
        on!(curve, C => decode::<C>(x, y).map(drop)).ok_or(JwkFault::OffCurve)?;
        Ok(Self {
            curve,
            x: x.to_vec(),
            y: y.to_vec(),
        })
    }

    /// The curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// The x coordinate.
    #[must_use]
    pub fn x(&self) -> &[u8] {
        &self.x
    }

    /// The y coordinate.
    #[must_use]
    pub fn y(&self) -> &[u8] {
        &self.y
    }

    /// `scalar` times this point, public: what a Tang server answers.
    ///
    /// # Errors
    /// `Private` when the scalar is zero or not below the order.
    pub fn times(&self, scalar: &LockedBytes) -> Result<Self, JwkFault> {
        on!(self.curve, C => {
            let product = Zeroizing::new(self.projective::<C>()? * *read_scalar::<C>(scalar)?);
            Self::from_projective::<C>(self.curve, &product)
        })
    }

    /// The x coordinate of `scalar` times this point: an ECDH secret.
    ///
    /// # Errors
    /// `Private` for a bad scalar, `System` when no locked memory is to be had; wrapped as `Key`.
    pub fn agree(&self, scalar: &LockedBytes) -> Result<LockedBytes, Error> {
        on!(self.curve, C => {
            let scalar = read_scalar::<C>(scalar).map_err(Error::Key)?;
            let product = Zeroizing::new(self.projective::<C>().map_err(Error::Key)? * *scalar);
            shared_x::<C>(&product, Error::Key)
        })
    }

    /// The point hidden by a fresh scalar e: (e, self + e·G).
    ///
    /// # Errors
    /// When no randomness or locked memory is to be had.
    pub fn blind(&self) -> Result<(LockedBytes, Self), Error> {
        let (scalar, public) = generate(self.curve)?;
        let blinded = on!(self.curve, C => {
            let sum = self.projective::<C>().map_err(Error::Ephemeral)? + public.projective::<C>().map_err(Error::Ephemeral)?;
            Self::from_projective::<C>(self.curve, &sum)
        });
        Ok((scalar, blinded.map_err(Error::Ephemeral)?))
    }

    /// x of self − e·server, where self is the server's answer to a blinded point.
    ///
    /// # Errors
    /// `Answer` when the difference is the point at infinity or the curves differ.
    pub fn unblind(&self, server: &Self, scalar: &LockedBytes) -> Result<LockedBytes, Error> {
        on!(self.curve, C => {
            let mask = Zeroizing::new(server.projective::<C>().map_err(Error::Answer)? * *read_scalar::<C>(scalar).map_err(Error::Key)?);
            let shared = Zeroizing::new(self.projective::<C>().map_err(Error::Answer)? - *mask);
            shared_x::<C>(&shared, Error::Answer)
        })
    }

    fn projective<C>(&self) -> Result<ProjectivePoint<C>, JwkFault>
    where
        C: CurveArithmetic,
        AffinePoint<C>: FromEncodedPoint<C>,
        FieldBytesSize<C>: ModulusSize,
    {
        decode::<C>(&self.x, &self.y)
            .map(ProjectivePoint::<C>::from)
            .ok_or(JwkFault::Curve)
    }

    fn from_projective<C>(curve: Curve, point: &ProjectivePoint<C>) -> Result<Self, JwkFault>
    where
        C: CurveArithmetic,
        AffinePoint<C>: ToEncodedPoint<C>,
        FieldBytesSize<C>: ModulusSize,
    {
        let encoded = point.to_affine().to_encoded_point(false);
        match (encoded.x(), encoded.y()) {
            (Some(x), Some(y)) => Ok(Self {
                curve,
                x: x.to_vec(),
                y: y.to_vec(),
            }),
            _ => Err(JwkFault::OffCurve),
        }
    }
}

/// A fresh scalar d in 1..n and d·G.
///
/// # Errors
/// When no randomness or locked memory is to be had.
pub fn generate(curve: Curve) -> Result<(LockedBytes, Point), Error> {
    on!(curve, C => {
        let scalar = Zeroizing::new(NonZeroScalar::<C>::random(&mut OsRng));
        let mut repr: FieldBytes<C> = scalar.to_repr();
        let locked = LockedBytes::copy_from(&repr)?;
        repr[..].zeroize();
        let public = ProjectivePoint::<C>::generator() * scalar.as_ref();
        Ok((locked, Point::from_projective::<C>(curve, &public).map_err(Error::Key)?))
    })
}

/// scalar·G, to check that a private key fits its public half.
///
/// # Errors
/// `Private` when the scalar is zero or not below the order.
pub fn public_of(curve: Curve, scalar: &LockedBytes) -> Result<Point, JwkFault> {
    on!(curve, C => {
        let product = ProjectivePoint::<C>::generator() * *read_scalar::<C>(scalar)?;
        Point::from_projective::<C>(curve, &product)
    })
}

fn decode<C>(x: &[u8], y: &[u8]) -> Option<AffinePoint<C>>
where
    C: CurveArithmetic,
    AffinePoint<C>: FromEncodedPoint<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let encoded = EncodedPoint::<C>::from_affine_coordinates(
        &field_bytes::<C>(x)?,
        &field_bytes::<C>(y)?,
        false,
    );
    AffinePoint::<C>::from_encoded_point(&encoded).into()
}

fn read_scalar<C: CurveArithmetic>(scalar: &LockedBytes) -> Result<Zeroizing<Scalar<C>>, JwkFault> {
    let mut repr = field_bytes::<C>(scalar.expose()).ok_or(JwkFault::Private)?;
    let value: Option<Scalar<C>> = Scalar::<C>::from_repr(repr.clone()).into();
    repr[..].zeroize();
    let value = Zeroizing::new(value.ok_or(JwkFault::Private)?);
    if bool::from(p256::elliptic_curve::Field::is_zero(&*value)) {
        return Err(JwkFault::Private);
    }
    Ok(value)
}

fn shared_x<C>(
    point: &ProjectivePoint<C>,
    fault: fn(JwkFault) -> Error,
) -> Result<LockedBytes, Error>
where
    C: CurveArithmetic,
{
    use p256::elliptic_curve::point::AffineCoordinates;
    if bool::from(point.is_identity()) {
        return Err(fault(JwkFault::OffCurve));
    }
    let affine = Zeroizing::new(point.to_affine());
    let mut x = affine.x();
    let locked = LockedBytes::copy_from(&x)?;
    x[..].zeroize();
    Ok(locked)
}

fn field_bytes<C: CurveArithmetic>(bytes: &[u8]) -> Option<FieldBytes<C>> {
    let mut field = FieldBytes::<C>::default();
    if bytes.len() != field.len() {
        return None;
    }
    field.copy_from_slice(bytes);
    Some(field)
}
