//! Structures that are read from JSON objects alone. A derived structure would be read from an array too, field by field
//! in the order of its source.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Value that was read from an object.
#[derive(Debug, Default)]
pub struct JsonObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = JsonObject<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, fields: M) -> Result<JsonObject<T>, M::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(JsonObject)
    }
}

#[cfg(test)]
mod tests {
    use super::JsonObject;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        left: u8,
        right: u8,
    }

    #[test]
    fn an_object_is_read_and_an_array_is_not() {
        let read = |text| serde_json::from_str::<JsonObject<Pair>>(text);
        let JsonObject(pair) = read(r#"{"left": 1, "right": 2}"#).unwrap();
        assert_eq!((pair.left, pair.right), (1, 2));
        for (bad, why) in [
            ("[1, 2]", "expected an object"),
            ("7", "expected an object"),
            (r#"{"left": 1, "left": 2, "right": 3}"#, "duplicate field"),
            (r#"{"left": 1, "right": 2, "more": 3}"#, "unknown field"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("line 1"), "{bad}: {error}");
        }
    }
}
