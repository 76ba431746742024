//! What people are not shown: values whose names say that they are secrets.

use serde_json::Value;

/// What stands in the place of a hidden value.
pub const HIDDEN: &str = "(hidden)";

/// Parts of names that tell of a secret, without case, `-` and `_`.
const SECRETS: [&str; 13] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "authorization",
    "cookie",
    "privatekey",
    "ssn",
    "cardnumber",
    "creditcard",
    "cvv",
    "iban",
];

/// Whether a name tells of a secret: it contains `password`, `secret`, `token`, `api_key` and the like.
pub fn is_secret(name: &str) -> bool {
    let plain: String =
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    SECRETS.iter().any(|secret| plain.contains(secret)) || plain == "card"
}

/// Hides the values whose names tell of a secret, however deep they stand.
pub fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_secret(name) {
                    *value = HIDDEN.into();
                } else {
                    hide_secrets(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_however_deep() {
        let mut value = serde_json::json!({
            "user": 7,
            "auth": [{ "API-Key": "a", "note": "b" }],
            "passWord": { "old": 1 },
            "card": "4111", "cardinal": 2
        });
        hide_secrets(&mut value);
        let expected = serde_json::json!({
            "user": 7,
            "auth": [{ "API-Key": HIDDEN, "note": "b" }],
            "passWord": HIDDEN,
            "card": HIDDEN, "cardinal": 2
        });
        assert_eq!(value, expected);
    }
}
