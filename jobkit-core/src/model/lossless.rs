//! Encoding as JSON what comes back equal, and refusing the rest (G20).
//!
//! JSON has no word for NaN and the infinities, and `serde_json` writes `null` for them; `Some(None)` and
//! `Some(())` are written as `null`, and come back as `None`. Such a job would fail when it runs, or run
//! with other arguments in silence.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};

/// The JSON of a value.
///
/// # Errors
/// Where in the value is what JSON cannot hold, and why; or the value's own error.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Loss> {
    value.serialize(Check)?;
    serde_json::to_vec(value).map_err(|error| Loss::new(error.to_string()))
}

/// What does not come back equal.
#[derive(Debug)]
pub(crate) struct Loss {
    /// The fields and places on the way to it, innermost first.
    path: Vec<String>,
    reason: String,
}

impl Loss {
    fn new(reason: impl Into<String>) -> Self {
        Self { path: Vec::new(), reason: reason.into() }
    }

    fn inside(mut self, step: impl FnOnce() -> String) -> Self {
        self.path.push(step());
        self
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.path.iter().rev() {
            f.write_str(step)?;
        }
        if !self.path.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Loss {}

impl ser::Error for Loss {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(text.to_string())
    }
}

/// Walks through a value without writing anything. The answer is whether JSON writes it as `null`.
struct Check;

fn finite(is_finite: bool) -> Result<bool, Loss> {
    match is_finite {
        true => Ok(false),
        false => Err(Loss::new("is not a finite number, which JSON cannot hold")),
    }
}

macro_rules! not_null {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, _: $type) -> Result<bool, Loss> {
            Ok(false)
        })*
    };
}

impl Serializer for Check {
    type Ok = bool;
    type Error = Loss;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Fields;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Fields;

    not_null! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
    }

    fn serialize_f32(self, value: f32) -> Result<bool, Loss> {
        finite(value.is_finite())
    }

    fn serialize_f64(self, value: f64) -> Result<bool, Loss> {
        finite(value.is_finite())
    }

    fn serialize_none(self) -> Result<bool, Loss> {
        Ok(true)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, Loss> {
        match value.serialize(Self)? {
            true => Err(Loss::new(
                "is `Some` of what JSON writes as null, so it would come back as `None`",
            )),
            false => Ok(false),
        }
    }

    fn serialize_unit(self) -> Result<bool, Loss> {
        Ok(true)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, Loss> {
        Ok(true)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<bool, Loss> {
        Ok(false)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, Loss> {
        value.serialize(Self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<bool, Loss> {
        value.serialize(Self).map_err(|loss| loss.inside(|| format!(".{variant}")))?;
        Ok(false)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items, Loss> {
        Ok(Items(0))
    }

    fn serialize_tuple(self, _: usize) -> Result<Items, Loss> {
        Ok(Items(0))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items, Loss> {
        Ok(Items(0))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Items, Loss> {
        Ok(Items(0))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields, Loss> {
        Ok(Fields)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields, Loss> {
        Ok(Fields)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields, Loss> {
        Ok(Fields)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<bool, Loss> {
        Ok(false)
    }
}

/// The items of an array.
struct Items(usize);

impl Items {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Loss> {
        value.serialize(Check).map_err(|loss| loss.inside(|| format!("[{}]", self.0)))?;
        self.0 += 1;
        Ok(())
    }
}

/// The fields of an object.
struct Fields;

impl Fields {
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Loss> {
        value.serialize(Check).map_err(|loss| loss.inside(|| format!(".{name}")))?;
        Ok(())
    }
}

macro_rules! items {
    ($($trait:ident $method:ident)*) => {
        $(impl ser::$trait for Items {
            type Ok = bool;
            type Error = Loss;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Loss> {
                self.item(value)
            }

            fn end(self) -> Result<bool, Loss> {
                Ok(false)
            }
        })*
    };
}

items! {
    SerializeSeq serialize_element
    SerializeTuple serialize_element
    SerializeTupleStruct serialize_field
    SerializeTupleVariant serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl ser::$trait for Fields {
            type Ok = bool;
            type Error = Loss;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Loss> {
                self.field(name, value)
            }

            fn end(self) -> Result<bool, Loss> {
                Ok(false)
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Fields {
    type Ok = bool;
    type Error = Loss;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Loss> {
        key.serialize(Check).map_err(|loss| loss.inside(|| "a key".to_owned())).map(drop)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Loss> {
        value.serialize(Check).map_err(|loss| loss.inside(|| ".*".to_owned())).map(drop)
    }

    fn end(self) -> Result<bool, Loss> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::to_json;

    #[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
    struct Args {
        ratio: f64,
        limit: Option<f32>,
        nested: Vec<BTreeMap<String, Option<f64>>>,
        twice: Option<Option<u8>>,
        unit: Option<()>,
        shape: Shape,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
    enum Shape {
        #[default]
        None,
        Circle(f64),
        Box {
            width: f64,
        },
    }

    fn refused(args: &Args) -> String {
        to_json(args).expect_err("JSON loses it").to_string()
    }

    #[test]
    fn what_json_loses_is_refused_with_its_place() {
        let of = |change: fn(&mut Args)| {
            let mut args = Args::default();
            change(&mut args);
            refused(&args)
        };
        assert!(of(|args| args.ratio = f64::NAN).starts_with(".ratio: is not a finite number"));
        assert!(of(|args| args.limit = Some(f32::INFINITY)).starts_with(".limit: is not a finite"));
        let nested = of(|args| {
            let map = [("a".to_owned(), Some(f64::NEG_INFINITY))].into();
            args.nested = vec![BTreeMap::new(), map];
        });
        assert!(nested.starts_with(".nested[1].*: is not a finite number"), "{nested}");
        assert!(of(|args| args.twice = Some(None)).starts_with(".twice: is `Some` of what"));
        assert!(of(|args| args.unit = Some(())).starts_with(".unit: is `Some` of what"));
        assert!(
            of(|args| args.shape = Shape::Circle(f64::NAN)).starts_with(".shape.Circle: is not")
        );
        assert!(
            of(|args| args.shape = Shape::Box { width: f64::NAN }).starts_with(".shape.width: is")
        );
    }

    #[test]
    fn everything_else_comes_back_equal() {
        let mut args = Args { limit: Some(0.1), twice: Some(Some(1)), ..Args::default() };
        // Neighbours of what a parser that is not exact gives.
        for ratio in [0.1, 5e-324, f64::MAX, -0.0, 1.0 / 3.0, 9_007_199_254_740_993.0, 1e23] {
            args.ratio = ratio;
            args.nested = vec![[("a".to_owned(), Some(ratio)), ("b".to_owned(), None)].into()];
            let json = to_json(&args).expect("JSON holds it");
            let back: Args = serde_json::from_slice(&json).expect("reads");
            assert_eq!(back, args);
            assert_eq!(back.ratio.to_bits(), ratio.to_bits());
        }
    }
}
