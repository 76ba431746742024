//! Bytes that JobKit keeps and never looks into.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Bytes that JobKit keeps and never looks into, such as a job's arguments.
///
/// Cheap to clone. `Debug` shows the length alone, since arguments may hold secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload(Arc<[u8]>);

/// What a sealed payload begins with: the first field of its envelope.
const SEALED: &[u8] = b"{\"$codec\":";

impl Payload {
    /// The JSON object without fields, `{}`.
    pub fn empty_object() -> Self {
        Self(Arc::from(&b"{}"[..]))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a [codec](crate::codec) has sealed them.
    pub fn is_sealed(&self) -> bool {
        self.starts_with(SEALED)
    }
}

impl Default for Payload {
    /// No bytes.
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl<T: Into<Arc<[u8]>>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// As text where it is UTF-8, as JSON is; else as an array of its bytes.
impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Text(text) => text.into_bytes().into(),
            Stored::Bytes(bytes) => bytes.into(),
        })
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}
