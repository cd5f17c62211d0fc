//! Canonical JSON as a borrowed tree: parsed once, sorted, pruned in place, written as bytes.
//!
//! ruma's `CanonicalJsonObject` allocates every key and string and goes through
//! `serde_json::Value`; this one borrows from the input. It agrees with ruma's byte for byte (a
//! property test). It does not hash or sign.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// Greatest absolute value of an integer in canonical JSON: 2^53 − 1.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// Deepest nesting of arrays and objects. An event wraps its content, and `unsigned` wraps other
/// events, so this stays well below the 127 levels that serde_json and others read.
pub const NESTING_MAX: u8 = 100;

/// What numbers are allowed while parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Integers of at most 53 bits, as room versions 6 and later demand.
    Strict,
    /// Also floats and 64-bit integers, as room versions 1 to 5 tolerate.
    Lenient,
}

/// The members of an object, sorted by key, each key once.
pub type Object<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// A JSON value that borrows its strings where the input has no escapes in them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer
    Integer(i64),
    /// A number that canonical JSON does not allow; only after [`Numbers::Lenient`].
    Number(serde_json::Number),
    /// A string
    String(Cow<'a, str>),
    /// An array
    Array(Vec<Value<'a>>),
    /// An object
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// Parses JSON text. The last of several equal keys wins, as in every other implementation.
    pub fn parse(json: &'a [u8], numbers: Numbers) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = Seed { numbers, nesting: 0 }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }

    /// The value as string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as object.
    pub fn as_object_mut(&mut self) -> Option<&mut Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Appends the canonical form.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Integer(integer) => write_display(out, integer),
            Self::Number(number) => write_display(out, number),
            Self::String(text) => write_string(out, text),
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(object) => write_object(out, object),
        }
    }
}

/// The canonical form of JSON text; with [`Numbers::Strict`] also the check that it has one.
pub fn canonicalise(json: &[u8], numbers: Numbers) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(json.len());
    Value::parse(json, numbers)?.write(&mut out);
    Ok(out)
}

/// Looks a key up in a sorted object.
pub fn get<'o, 'a>(object: &'o Object<'a>, key: &str) -> Option<&'o Value<'a>> {
    let index = object.binary_search_by(|(other, _)| other.as_ref().cmp(key)).ok()?;
    object.get(index).map(|(_, value)| value)
}

/// Sets a key of a sorted object, keeping the order.
pub fn set<'a>(object: &mut Object<'a>, key: &'a str, value: Value<'a>) {
    match object.binary_search_by(|(other, _)| other.as_ref().cmp(key)) {
        Ok(index) => {
            if let Some(entry) = object.get_mut(index) {
                entry.1 = value;
            }
        }
        Err(index) => object.insert(index, (Cow::Borrowed(key), value)),
    }
}

/// Takes a key out of a sorted object.
pub fn take<'a>(object: &mut Object<'a>, key: &str) -> Option<Value<'a>> {
    let index = object.binary_search_by(|(other, _)| other.as_ref().cmp(key)).ok()?;
    Some(object.remove(index).1)
}

/// Appends the canonical form of an object.
pub fn write_object(out: &mut Vec<u8>, object: &Object<'_>) {
    out.push(b'{');
    for (index, (key, value)) in object.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, key);
        out.push(b':');
        value.write(out);
    }
    out.push(b'}');
}

/// Appends a string in quotes with the escapes of canonical JSON.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // serde_json's escapes are those of canonical JSON; writing into a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends what `Display` prints.
pub fn write_display(out: &mut Vec<u8>, value: &impl fmt::Display) {
    use std::io::Write as _;
    let _ = write!(out, "{value}");
}

/// Carries the choice of [`Numbers`] and the depth through the parse.
#[derive(Clone, Copy)]
struct Seed {
    numbers: Numbers,
    nesting: u8,
}

impl Seed {
    /// The seed for what is inside an array or object.
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        if self.nesting >= NESTING_MAX {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { nesting: self.nesting.saturating_add(1), ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value<'de>, E> {
        if self.numbers == Numbers::Strict && !(-INTEGER_MAX..=INTEGER_MAX).contains(&value) {
            return Err(E::custom("integer out of range of canonical JSON"));
        }
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value<'de>, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) if self.numbers == Numbers::Lenient => Ok(Value::Number(value.into())),
            Err(_) => Err(E::custom("integer out of range of canonical JSON")),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value<'de>, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) if self.numbers == Numbers::Lenient => Ok(Value::Number(number)),
            _ => Err(E::custom("floats are not allowed in canonical JSON")),
        }
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value<'de>, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value<'de>, A::Error> {
        let inner = self.inner()?;
        let mut object: Object<'de> = Vec::new();
        let mut sorted = true;
        while let Some(key) = access.next_key_seed(KeySeed)? {
            sorted = sorted && object.last().is_none_or(|(last, _)| *last < key);
            object.push((key, access.next_value_seed(inner)?));
        }
        if !sorted {
            // Stable, so that of equal keys the last stays last; dedup keeps the first, hence the
            // reversal.
            object.reverse();
            object.sort_by(|left, right| left.0.cmp(&right.0));
            object.dedup_by(|later, kept| later.0 == kept.0);
        }
        Ok(Value::Object(object))
    }
}

/// A key, borrowed where possible.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::CanonicalJsonValue;

    use super::*;

    fn canonical(json: &str) -> Option<String> {
        let out = canonicalise(json.as_bytes(), Numbers::Strict).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    /// The examples of the specification's appendix (§Canonical JSON), and the numbers it forbids.
    #[test]
    fn specification_examples() {
        let cases = [
            ("{}", Some("{}")),
            (r#"{"one": 1, "two": "Two"}"#, Some(r#"{"one":1,"two":"Two"}"#)),
            (r#"{"b": "2", "a": "1"}"#, Some(r#"{"a":"1","b":"2"}"#)),
            (
                r#"{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"medium":"email","address":"john.doe@example.org"},{"medium":"msisdn","address":"123456789"}]}}}"#,
                Some(
                    r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
                ),
            ),
            (r#"{"a": "日本語"}"#, Some(r#"{"a":"日本語"}"#)),
            (r#"{"本": 2, "日": 1}"#, Some(r#"{"日":1,"本":2}"#)),
            (r#"{"a": "\u65E5"}"#, Some(r#"{"a":"日"}"#)),
            (r#"{"a": null}"#, Some(r#"{"a":null}"#)),
            (r#"{"a": 1, "b": 2, "a": 3}"#, Some(r#"{"a":3,"b":2}"#)),
            (r#"{"a": 9007199254740991}"#, Some(r#"{"a":9007199254740991}"#)),
            (r#"{"a": 9007199254740992}"#, None),
            (r#"{"a": -9007199254740992}"#, None),
            (r#"{"a": 1.0}"#, None),
            (r#"{"a": 1e3}"#, None),
            (r#"{"a": -0}"#, None),
            (r#"{"a": 18446744073709551615}"#, None),
        ];
        for (input, expected) in cases {
            assert_eq!(canonical(input).as_deref(), expected, "{input}");
        }
    }

    /// Room versions before 6 did not demand canonical JSON: what was said then can still be read.
    #[test]
    fn numbers_of_old_versions() {
        for (input, expected) in [
            ("9007199254740992", "9007199254740992"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("1.0", "1.0"),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
            ("0.1", "0.1"),
        ] {
            let strict = canonicalise(input.as_bytes(), Numbers::Strict);
            assert!(strict.is_err(), "{input}");
            let lenient = canonicalise(input.as_bytes(), Numbers::Lenient).unwrap();
            assert_eq!(String::from_utf8(lenient).unwrap(), expected, "{input}");
        }
        // No JSON, in no version.
        for input in ["NaN", "Infinity", "1e999", "01", "+1", ".5"] {
            assert!(canonicalise(input.as_bytes(), Numbers::Lenient).is_err(), "{input}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(canonical(&nested(usize::from(NESTING_MAX))).is_some());
        assert!(canonical(&nested(usize::from(NESTING_MAX) + 1)).is_none());
        assert!(canonical(&nested(100_000)).is_none());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(|n| (n >> 8).into()),
            any::<f64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
            "[\\x00-\\x20\"\\\\/]{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::Array),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().rev().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_ruma(json in any_json()) {
            let text = json.to_string();
            let ours = canonical(&text);
            let theirs = serde_json::from_str::<CanonicalJsonValue>(&text).ok();
            prop_assert_eq!(ours, theirs.map(|value| value.to_string()));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Value::parse(&bytes, Numbers::Lenient);
        }
    }
}
