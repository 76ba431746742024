//! What two submits of one id must have in common: the kind, and arguments that mean the same.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::model::name::Name;

/// How deep arguments are looked into; what lies deeper is compared as it is written.
const DEPTH: usize = 128;

/// 16 bytes of SHA-256 of kind and arguments as they are written.
pub(crate) fn digest(kind: &Name, args: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(kind.as_bytes());
    hash.update([0]);
    hash.update(args);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

/// Whether two JSON texts mean the same: the order of the fields of an object, white space and escapes
/// do not count. What is not JSON must be the same bytes.
pub(crate) fn is_same_json(a: &[u8], b: &[u8]) -> bool {
    a == b || {
        let read = |bytes| serde_json::from_slice::<&RawValue>(bytes).ok();
        matches!((read(a), read(b)), (Some(a), Some(b)) if is_same(a.get(), b.get(), DEPTH))
    }
}

fn is_same(a: &str, b: &str, depth: usize) -> bool {
    if a == b {
        return true;
    }
    if depth == 0 {
        return false;
    }
    let same = |a: &RawValue, b: &RawValue| is_same(a.get(), b.get(), depth - 1);
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => {
            let read = |text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text);
            let (Ok(a), Ok(b)) = (read(a), read(b)) else { return false };
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }
        (Some(b'['), Some(b'[')) => {
            let read = |text| serde_json::from_str::<Vec<&RawValue>>(text);
            let (Ok(a), Ok(b)) = (read(a), read(b)) else { return false };
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a, b))
        }
        (Some(b'"'), Some(b'"')) => {
            let read = |text| serde_json::from_str::<String>(text);
            matches!((read(a), read(b)), (Ok(a), Ok(b)) if a == b)
        }
        // Numbers, true, false and null have one spelling each where JobKit writes them.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_compared_by_what_it_means() {
        let same = [
            (r#"{"a":1,"b":{"c":[1,2],"d":null}}"#, r#"{ "b": {"d":null,"c":[1, 2]}, "a":1 }"#),
            (r#""\u00e4""#, r#""ä""#),
            ("not json", "not json"),
        ];
        for (a, b) in same {
            assert!(is_same_json(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
        let other = [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            ("[1,2]", "[2,1]"),
            ("[1]", r#"{"0":1}"#),
            ("18446744073709551616", "18446744073709551617"),
            ("not json", "not  json"),
            (r#"{"a":1}"#, "not json"),
        ];
        for (a, b) in other {
            assert!(!is_same_json(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }

    #[test]
    fn what_is_nested_without_end_is_compared_as_it_is_written() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let spaced = nested(100).replacen("[1", "[ 1", 1);
        assert!(is_same_json(nested(100).as_bytes(), spaced.as_bytes()));
        let spaced = nested(100_000).replacen("[1", "[ 1", 1);
        assert!(!is_same_json(nested(100_000).as_bytes(), spaced.as_bytes()));
    }
}
