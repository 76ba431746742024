//! What people are not shown: values whose names say that they are secrets.

use serde_json::Value;

/// What stands in the place of a hidden value.
pub const HIDDEN: &str = "(hidden)";

/// Parts of names that tell of a secret, without case, `-` and `_`.
const SECRETS: [&str; 19] = [
    "passphrase",
    "pwd",
    "accesskey",
    "credential",
    "sessionid",
    "jwt",
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

/// Hides what a text tells of secrets: the value behind `password=`, `"token": ` and the like, and user
/// and password of a URL. As far as a text can be understood: what matters belongs in arguments by name.
pub fn hide_in_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find([':', '=']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        if let Some(address) = after.strip_prefix("://") {
            out.push_str("://");
            let end = address.find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c));
            let authority = &address[..end.unwrap_or(address.len())];
            rest = match authority.rfind('@') {
                Some(at) => {
                    out.push_str(HIDDEN);
                    &address[at..]
                }
                None => address,
            };
            continue;
        }
        out.push_str(&after[..1]);
        rest = &after[1..];
        let name = before.trim_end().trim_end_matches(['"', '\'', '\\']);
        let begin = name
            .char_indices()
            .rev()
            .take_while(|(_, c)| c.is_alphanumeric() || matches!(c, '_' | '-'))
            .last();
        if begin.is_some_and(|(begin, _)| is_secret(&name[begin..])) {
            rest = skip_value(&name[begin.unwrap_or((0, ' ')).0..], rest, &mut out);
        }
    }
    out.push_str(rest);
    out
}

/// Leaves out a value, and writes that it is hidden.
fn skip_value<'a>(name: &str, rest: &'a str, out: &mut String) -> &'a str {
    let value =
        rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\\' | '=' | '>'));
    out.push_str(&rest[..rest.len() - value.len()]);
    if value.is_empty() {
        return value;
    }
    out.push_str(HIDDEN);
    let line = value.find(['\n', '\r']).unwrap_or(value.len());
    if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        // A quote that is escaped does not end the value, unless the first one was escaped, too.
        let escaped =
            rest.as_bytes().get((rest.len() - value.len()).wrapping_sub(1)) == Some(&b'\\');
        let inner = &value[1..];
        let ends = |(at, _): &(usize, &str)| escaped || !inner[..*at].ends_with('\\');
        let end = inner.match_indices(quote).find(ends);
        return end.map_or("", |(end, _)| &inner[end + 1..]);
    }
    // Of these the whole line is the value, and of what is nested nobody can tell where it ends.
    let name = name.to_ascii_lowercase();
    let whole_line = name.contains("cookie") || name.contains("authorization");
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | ')' | ']' | '}');
    // What was hidden before is a value by itself: a text may be told by whoever was told it.
    if let Some(after) = value.strip_prefix(HIDDEN)
        && !whole_line
        && (after.is_empty() || after.starts_with(ends))
    {
        return after;
    }
    if whole_line || value.starts_with(['{', '[', '(']) {
        return &value[line..];
    }
    if name.replace(['_', '-'], "").contains("privatekey") || value.starts_with("-----BEGIN") {
        return "";
    }
    let end = |value: &str| value.find(ends).unwrap_or(value.len());
    &value[end(value)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_texts_are_hidden() {
        for (text, shown) in [
            ("refused: password=hunter2, user=ann", "refused: password=(hidden), user=ann"),
            (r#"{"api_key": "a b", "n": 1}"#, r#"{"api_key": (hidden), "n": 1}"#),
            ("Authorization: Bearer abc.def next\nok", "Authorization: (hidden)\nok"),
            ("Cookie: lang=en; sid=abc", "Cookie: (hidden)"),
            ("password:\thunter2 x", "password:\t(hidden) x"),
            ("password == hunter2", "password == (hidden)"),
            (r#"{"password":"hun\"ter2","n":1}"#, r#"{"password":(hidden),"n":1}"#),
            (r#"{\"password\":\"hunter2\",1}"#, r#"{\"password\":\(hidden),1}"#),
            ("token: {\"old\": 1, \"new\": 2}", "token: (hidden)"),
            ("Pwd=a;Db=b", "Pwd=(hidden);Db=b"),
            ("postgres://ann:pw@host/db?a=b", "postgres://(hidden)@host/db?a=b"),
            ("https://host/path@2: fine", "https://host/path@2: fine"),
            ("the token: t0p", "the token: (hidden)"),
            ("a=b: c", "a=b: c"),
            ("password=", "password="),
            ("größe: 3 = ß", "größe: 3 = ß"),
            (r#"token="never closed"#, "token=(hidden)"),
        ] {
            assert_eq!(hide_in_text(text), shown);
            assert_eq!(hide_in_text(shown), shown, "what is hidden is hidden already");
        }
    }

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
