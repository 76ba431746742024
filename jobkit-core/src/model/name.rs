//! Names of queues and kinds, and checks of other texts that a storage keeps.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::bounds::{LABEL_BYTES, NAME_BYTES};
use crate::model::error::{Error, Result};

/// The name of a queue or of a kind: 1 to 64 bytes of `[A-Za-z0-9._@-]`.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks and takes a name; `field` is named in the error.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an empty or long name or another character.
    pub fn new(field: &'static str, name: impl Into<Arc<str>>) -> Result<Self> {
        let name = name.into();
        check_name(field, &name)?;
        Ok(Self(name))
    }

    /// A name that was checked before, such as one read back from a storage.
    pub fn from_stored(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The queue of jobs that name none: `default`.
    pub fn default_queue() -> Self {
        Self(Arc::from("default"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `name` may name a queue or a kind.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES {
        return Err(Error::invalid(
            field,
            format_args!("has {} bytes, where 1 to {NAME_BYTES} are allowed", name.len()),
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    match name.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(Error::invalid(
            field,
            format_args!("contains {c:?}, where only letters, digits and . _ @ - are allowed"),
        )),
        None => Ok(()),
    }
}

/// Whether `text` may be kept as a label of at most `max` bytes: not empty, no NUL.
pub(crate) fn check_text(field: &'static str, text: &str, max: usize) -> Result<()> {
    if text.is_empty() || text.len() > max {
        return Err(Error::invalid(
            field,
            format_args!("has {} bytes, where 1 to {max} are allowed", text.len()),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "contains a NUL character, which databases cannot keep"));
    }
    Ok(())
}

/// Whether a person's note may be stored; it may be empty.
pub(crate) fn check_note(field: &'static str, text: &str, max: usize) -> Result<()> {
    if text.is_empty() { Ok(()) } else { check_text(field, text, max) }
}

/// Whether `text` may be kept as a label of at most `max` bytes that a storage compares: also, no white space
/// at either end, since databases disagree whether that makes a difference.
pub(crate) fn check_compared(field: &'static str, text: &str, max: usize) -> Result<()> {
    check_text(field, text, max)?;
    if text.trim() == text {
        return Ok(());
    }
    let reason = "begins or ends with white space, which some databases ignore when they compare; leave it out";
    Err(Error::invalid(field, reason))
}

/// Whether `text` may name a limit, a lock, a recurring job or a batch: 1 to 200 bytes without NUL, and
/// without white space at either end.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput), with `field` and the reason.
pub fn check_label(field: &'static str, text: &str) -> Result<()> {
    check_compared(field, text, LABEL_BYTES)
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new("name", text).map_err(serde::de::Error::custom)
    }
}

/// As much of a text as the audit keeps of a reason or a target.
pub(crate) fn cut_note(text: &str) -> String {
    let mut end = text.len().min(crate::model::bounds::NOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_no_white_space_at_their_ends() {
        for good in ["l", "a b", "größe", "a\tb"] {
            check_label("limit", good).expect(good);
        }
        for bad in ["", " ", " l", "l ", "l\n", "\u{a0}l", "l\u{3000}", "a\0b", &"x".repeat(201)] {
            let error = check_label("limit", bad).expect_err(bad);
            assert_eq!(error.field(), Some("limit"), "{error}");
        }
        let error = check_label("limit", "l ").expect_err("a space");
        assert!(error.to_string().contains("ends with white space"), "{error}");
        check_text("display_name", " a ", 10).expect("nobody compares it");
    }

    #[test]
    fn names_allow_what_every_database_and_url_can_carry() {
        for good in ["mail", "a.b_c-d@2", &"x".repeat(64)] {
            assert!(Name::new("queue", good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a:b", "a/b", "ä", "a\0b", &"x".repeat(65)] {
            let error = Name::new("queue", bad).expect_err(bad);
            assert!(error.to_string().starts_with("queue: "), "{error}");
        }
    }
}
