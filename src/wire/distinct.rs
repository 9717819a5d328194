//! JSON documents in which no member stands twice.
//!
//! `serde_json::Value` takes the last of two members of one name. Who asked may mean the first: neither is better than the
//! other, so the document is refused, as it is where its members are known.

use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads any document, for `deserialize_with`.
///
/// # Errors
/// When a member stands twice, or a number is not finite.
pub(crate) fn distinct<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    deserializer.deserialize_any(Distinct)
}

/// As [`distinct`], where it has to be an object.
///
/// # Errors
/// As [`distinct`], and when it is none.
pub(crate) fn distinct_object<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Value>, D::Error> {
    match distinct(deserializer)? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::custom("invalid type, expected an object")),
    }
}

struct Distinct;

impl<'de> serde::de::DeserializeSeed<'de> for Distinct {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        distinct(deserializer)
    }
}

impl<'de> Visitor<'de> for Distinct {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        distinct(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.insert(name, members.next_value_seed(Self)?).is_some() {
                return Err(Error::custom("duplicate field"));
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        distinct(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_wherever_it_is() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":{"a":1,"a":2}}"#, r#"[{"a":{"b":[{"c":0,"d":1,"c":0}]}}]"#] {
            assert!(read(text).unwrap_err().starts_with("duplicate field"), "{text}");
        }
        assert_eq!(read(r#"{"a":{"a":1},"b":{"a":2}}"#), Ok(json!({ "a": { "a": 1 }, "b": { "a": 2 } })));
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        let mut bytes = Vec::new();
        ciborium::into_writer(&f64::NAN, &mut bytes).unwrap();
        #[derive(Debug, serde::Deserialize)]
        struct Any(#[serde(deserialize_with = "distinct")] Value);
        let error = ciborium::from_reader(bytes.as_slice()).map(|Any(value)| value).unwrap_err();
        assert!(error.to_string().contains("finite"), "{error}");
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_other_document_is_read_as_it_is(value in document()) {
            prop_assert_eq!(read(&value.to_string()), Ok(value.clone()));
            let mut bytes = Vec::new();
            ciborium::into_writer(&value, &mut bytes).unwrap();
            let text = ciborium::from_reader::<serde_json::Value, _>(bytes.as_slice()).unwrap();
            prop_assert_eq!(text, value);
        }
    }
}
