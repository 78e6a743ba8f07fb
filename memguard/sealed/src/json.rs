//! Strict JSON: no member twice at any depth, and a borrowing reader that leaves no copy of a secret behind.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

use crate::error::Error;

/// Public JSON, every object free of repeated members. Depth is bounded by `serde_json` (128).
///
/// # Errors
/// `Header` when it is not one object, `DuplicateMember` when a member repeats.
pub(crate) fn object(data: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice::<Strict>(data) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) => Err(Error::Header),
        Err(error) if error.to_string().starts_with(DUPLICATE) => Err(Error::DuplicateMember),
        Err(_) => Err(Error::Header),
    }
}

/// A JSON object's members, borrowed from `data` and unparsed. Names with escapes are refused.
pub(crate) struct Members<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Read one object. `None`: not an object, a member twice, or more than `LIMIT` members.
    pub(crate) fn parse(data: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(data).ok()
    }

    /// Take one member out.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(key, _)| *key == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// True when nothing was left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was not taken.
    pub(crate) fn rest(self) -> Vec<(&'a str, &'a RawValue)> {
        self.0
    }
}

/// More members than any of our objects has; bounds the work of the quadratic comparison.
const LIMIT: usize = 512;
const DUPLICATE: &str = "member twice";

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(&'de str, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Self::Value = Vec::new();
                while let Some((key, value)) = map.next_entry::<&'de str, &'de RawValue>()? {
                    if members.len() == LIMIT || members.iter().any(|(other, _)| *other == key) {
                        return Err(de::Error::custom(DUPLICATE));
                    }
                    members.push((key, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Reader).map(Members)
    }
}

/// A short public string without escapes, borrowed.
pub(crate) fn plain_string(value: &RawValue) -> Option<&str> {
    serde_json::from_str(value.get()).ok()
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if members.insert(key, value).is_some() {
                return Err(de::Error::custom(DUPLICATE));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_members_are_refused_at_every_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert!(
                matches!(object(text.as_bytes()), Err(Error::DuplicateMember)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "{", "{}x", "\"a\"", "{\"a\":NaN}", "{'a':1}"] {
            assert!(
                matches!(object(text.as_bytes()), Err(Error::Header)),
                "{text}"
            );
        }
        let deep = format!(
            "{}{}",
            "{\"a\":".repeat(5000),
            "1".to_owned() + &"}".repeat(5000)
        );
        assert!(matches!(object(deep.as_bytes()), Err(Error::Header)));
    }

    #[test]
    fn members_are_borrowed_and_unparsed() {
        let mut members = Members::parse(br#"{"a": "x\ny", "b": {"c": 1}}"#).unwrap();

        assert_eq!(members.take("b").unwrap().get(), r#"{"c": 1}"#);
        assert_eq!(members.take("a").unwrap().get(), r#""x\ny""#);
        assert!(members.is_empty());
    }

    #[test]
    fn members_refuse_repetition_escaped_names_and_crowds() {
        let crowd = format!(
            "{{{}}}",
            (0..=LIMIT)
                .map(|at| format!("\"{at}\":1"))
                .collect::<Vec<_>>()
                .join(",")
        );
        for text in [r#"{"a":1,"a":1}"#, r#"{"\u0061":1}"#, "[]", &crowd] {
            assert!(Members::parse(text.as_bytes()).is_none());
        }
    }
}
