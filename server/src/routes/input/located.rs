//! Reads a JSON document into a type so that an error names the offending part by its JSON pointer (RFC 6901).
//!
//! serde_json tells a line and a column, and for values that a type refuses itself (an id, a currency) not even the right ones. Here each step down
//! the document adds its key or index to an error on the way up.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// What is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedError {
    /// From the offending part up to the root.
    path: Vec<String>,
    pub message: String,
}

impl LocatedError {
    /// The offending part; empty for the whole document.
    pub fn pointer(&self) -> String {
        self.path.iter().rev().fold(String::new(), |pointer, step| pointer + "/" + &step.replace('~', "~0").replace('/', "~1"))
    }

    fn below(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }
}

impl std::fmt::Display for LocatedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LocatedError {}

impl de::Error for LocatedError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom("this field is needed").below(field)
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        // The key itself is added by whoever read it.
        Self::custom(format_args!("there is no such field; expected {}", expected.join(", ")))
    }
}

/// Reads `document` into a `T`.
pub fn from_value<'de, T: de::Deserialize<'de>>(document: &'de Value) -> Result<T, LocatedError> {
    T::deserialize(Node(document))
}

#[derive(Clone, Copy)]
struct Node<'de>(&'de Value);

impl<'de> Node<'de> {
    fn unexpected(self) -> Unexpected<'de> {
        match self.0 {
            Value::Null => Unexpected::Other("null"),
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(_) => Unexpected::Other("a number"),
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = LocatedError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LocatedError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i64(value),
                (None, None, Some(value)) => visitor.visit_f64(value),
                (None, None, None) => Err(de::Error::invalid_type(self.unexpected(), &visitor)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Object(map) => visitor.visit_map(Fields { rest: map.iter(), value: None, map }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LocatedError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, LocatedError> {
        visitor.visit_newtype_struct(self)
    }

    /// A list with a struct's fields in order is not one, though serde's own formats take it.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, LocatedError> {
        if self.0.is_object() { self.deserialize_any(visitor) } else { Err(de::Error::invalid_type(self.unexpected(), &visitor)) }
    }

    /// Only enums of plain words occur in request bodies.
    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, LocatedError> {
        let Value::String(word) = self.0 else { return Err(de::Error::invalid_type(self.unexpected(), &visitor)) };
        let word: StrDeserializer<'_, LocatedError> = word.as_str().into_deserializer();
        visitor.visit_enum(word)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

struct Items<'de> {
    items: &'de [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = LocatedError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, LocatedError> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Node(item)).map(Some).map_err(|error| error.below(index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Fields<'de> {
    rest: serde_json::map::Iter<'de>,
    /// The field whose key was read last.
    value: Option<(&'de String, &'de Value)>,
    map: &'de Map<String, Value>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = LocatedError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, LocatedError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, value));
        let name: StrDeserializer<'_, LocatedError> = key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|error| error.below(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, LocatedError> {
        let (key, value) = self.value.take().ok_or_else(|| de::Error::custom("a value was read before its key"))?;
        seed.deserialize(Node(value)).map_err(|error| error.below(key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use protocol::rest::{NewRelease, NewUpload, NewVouchers};
    use serde_json::json;

    use super::*;

    fn fault<T: serde::de::DeserializeOwned + std::fmt::Debug>(document: &Value) -> (String, String) {
        let error = from_value::<T>(document).unwrap_err();
        (error.pointer(), error.message)
    }

    #[test]
    fn each_kind_of_fault_is_named_by_the_pointer_of_its_part() {
        let good = json!({"count": 1, "value": {"amount": 5, "currency": "EUR"}});
        assert!(from_value::<NewVouchers>(&good).is_ok());
        for (change, value, pointer) in [
            ("/count", json!("one"), "/count"),
            ("/count", json!(-1), "/count"),
            ("/count", json!(4_294_967_296_u64), "/count"),
            ("/count", json!(1.5), "/count"),
            ("/count", Value::Null, "/count"),
            ("/value", json!([5, "EUR"]), "/value"),
            ("/value", json!({"amount": 5}), "/value/currency"),
            ("/value/amount", json!(9_007_199_254_740_992_u64), "/value/amount"),
            ("/value/currency", json!("eur"), "/value/currency"),
        ] {
            let mut document = good.clone();
            *document.pointer_mut(change).unwrap() = value.clone();
            assert_eq!(fault::<NewVouchers>(&document).0, pointer, "{change} = {value}");
        }
    }

    #[test]
    fn an_unknown_or_missing_field_is_named_itself() {
        let document = json!({"count": 1, "value": {"amount": 5, "currency": "EUR", "a/b~c": 0}});
        let (pointer, message) = fault::<NewVouchers>(&document);
        assert_eq!((pointer.as_str(), message.as_str()), ("/value/a~1b~0c", "there is no such field; expected amount, currency"));
        assert_eq!(fault::<NewVouchers>(&json!({"count": 1})), ("/value".to_owned(), "this field is needed".to_owned()));
        assert_eq!(fault::<NewVouchers>(&json!([])).0, "");
    }

    #[test]
    fn a_fault_inside_a_list_has_the_index() {
        let document = json!({"label": "en", "files": [{"path": "a", "length": 1}, {"path": "b", "length": "1"}]});
        assert_eq!(fault::<NewUpload>(&document).0, "/files/1/length");
        assert_eq!(fault::<NewUpload>(&json!({"label": "en", "files": {}})).0, "/files");
    }

    #[test]
    fn words_times_and_shares_are_checked_where_they_stand() {
        let mut document = json!({
            "content_id": "01010101-0101-0101-0101-010101010101", "title": "t", "editions": [], "ranks": [], "selection": "auction",
            "reserve": {"amount": 0, "currency": "EUR"}, "opens_at": "2026-01-01T00:00:00Z", "closes_at": "2026-01-02T00:00:00Z",
            "starts_at": "2026-01-03T00:00:00Z", "origin_budget": 1, "relay_share": 5000, "fee": 100, "limit_s": 60
        });
        assert!(from_value::<NewRelease>(&document).is_ok());
        for (field, bad) in [
            ("selection", json!("lottery")),
            ("selection", json!(1)),
            ("opens_at", json!("tomorrow")),
            ("fee", json!(10_001)),
            ("content_id", json!("42")),
            ("origin_budget", json!(1e30)),
        ] {
            let good = document[field].take();
            document[field] = bad.clone();
            assert_eq!(fault::<NewRelease>(&document).0, format!("/{field}"), "{bad}");
            document[field] = good;
        }
        document["editions"] = json!(["00"]);
        assert_eq!(fault::<NewRelease>(&document).0, "/editions/0");
    }
}
