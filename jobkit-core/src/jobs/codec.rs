//! Codecs: arguments and results are stored compressed or encrypted.
//!
//! What a codec made is kept in an envelope of JSON, `{"$codec":"name","key":"k1","data":"…"}` with
//! base64, so that storages, exports and dashboards handle it as they handle all arguments.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::model::error::{Error, ErrorKind, Result};
use crate::model::record::Payload;

/// Makes what is stored of arguments, results, memos and checkpoints, and reads it back.
///
/// Given to clients with [`ClientOptions::codec`](crate::ClientOptions::codec), and to servers with such
/// a client. The codec added first writes; all of them read, so that a new one can be rolled out while
/// the old one's jobs are still there. Kind, queue, tags, metadata, unique keys and error messages are
/// not touched: keep secrets out of them.
///
/// # Example: small things as they are, others shorter
/// ```
/// use jobkit::codec::{Codec, Encoded, Place};
/// use jobkit::Result;
/// # fn shorter(plain: &[u8]) -> Vec<u8> { plain.to_vec() }
/// # fn as_before(short: &[u8]) -> Result<Vec<u8>> { Ok(short.to_vec()) }
///
/// struct Shorter;
///
/// impl Codec for Shorter {
///     fn name(&self) -> &str {
///         "shorter"
///     }
///     fn encode(&self, _: Place<'_>, plain: &[u8]) -> Result<Option<Encoded>> {
///         if plain.len() < 1024 {
///             return Ok(None);
///         }
///         Ok(Some(Encoded { key: None, data: shorter(plain) }))
///     }
///     fn decode(&self, _: Place<'_>, encoded: &Encoded) -> Result<Vec<u8>> {
///         as_before(&encoded.data)
///     }
/// }
/// ```
pub trait Codec: Send + Sync + 'static {
    /// Its name in the envelope: stable, and another one when the format changes.
    fn name(&self) -> &str;

    /// What is stored in the place of `plain`; `None` to store it as it is.
    ///
    /// The same place and bytes must give the same answer: a job value that is enqueued again after a
    /// lost answer is compared with what is stored. So a cipher derives its nonce from both, or is one
    /// that a repeated nonce does not harm, such as AES-GCM-SIV.
    ///
    /// # Errors
    /// Refuses the submit, or fails the attempt.
    fn encode(&self, place: Place<'_>, plain: &[u8]) -> Result<Option<Encoded>>;

    /// What `encode` was given.
    ///
    /// # Errors
    /// A key is missing, or the bytes were changed: the attempt fails, and is retried.
    fn decode(&self, place: Place<'_>, encoded: &Encoded) -> Result<Vec<u8>>;
}

/// What a codec made.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Which key it was encrypted with, so that keys can change.
    pub key: Option<String>,
    /// The bytes.
    pub data: Vec<u8>,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes, key {:?}>", self.data.len(), self.key)
    }
}

/// What the bytes belong to: bind a ciphertext to it, so that it cannot be moved to another job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The job's id, or the id of the recurring job.
    pub owner: &'a str,
    /// `args`, `result`, `memo` or `checkpoint`.
    pub part: &'static str,
}

/// The codecs of a client, the writing one first.
#[derive(Clone, Default)]
pub struct Codecs(Arc<Vec<Arc<dyn Codec>>>);

impl fmt::Debug for Codecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|codec| codec.name())).finish()
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "$codec")]
    codec: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    data: std::borrow::Cow<'a, str>,
}

impl Codecs {
    pub(crate) fn push(&mut self, codec: impl Codec) {
        Arc::make_mut(&mut self.0).push(Arc::new(codec));
    }

    /// Whether there are none, so that everything is stored as it is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is stored of `plain`.
    ///
    /// # Errors
    /// The codec's.
    pub fn seal(&self, place: Place<'_>, plain: Payload) -> Result<Payload> {
        let Some(codec) = self.0.first() else { return Ok(plain) };
        let Some(encoded) = codec.encode(place, &plain)? else { return Ok(plain) };
        let data = STANDARD_NO_PAD.encode(&encoded.data);
        let envelope = Envelope { codec: codec.name().into(), key: encoded.key, data: data.into() };
        let bytes = serde_json::to_vec(&envelope)
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        Ok(bytes.into())
    }

    /// What was sealed; bytes that are no envelope are returned as they are.
    ///
    /// # Errors
    /// None of the codecs is the one that sealed them, or it cannot read them.
    pub fn open(&self, place: Place<'_>, stored: &Payload) -> Result<Payload> {
        if !stored.is_sealed() {
            return Ok(stored.clone());
        }
        let corrupt = |error: &dyn fmt::Display| {
            Error::corrupt(format!("the {} cannot be opened: {error}", place.part))
        };
        let envelope: Envelope<'_> =
            serde_json::from_slice(stored).map_err(|error| corrupt(&error))?;
        let Some(codec) = self.0.iter().find(|codec| codec.name() == envelope.codec) else {
            return Err(corrupt(&format_args!(
                "they were stored by the codec {:?}, which this process does not have",
                envelope.codec
            )));
        };
        let data = STANDARD_NO_PAD.decode(&*envelope.data).map_err(|error| corrupt(&error))?;
        let encoded = Encoded { key: envelope.key, data };
        codec.decode(place, &encoded).map(Into::into).map_err(|error| corrupt(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns bytes round, and refuses those of another place.
    struct Mirror;

    impl Codec for Mirror {
        fn name(&self) -> &str {
            "mirror"
        }
        fn encode(&self, place: Place<'_>, plain: &[u8]) -> Result<Option<Encoded>> {
            if plain.len() < 4 {
                return Ok(None);
            }
            let data = plain.iter().rev().copied().collect();
            Ok(Some(Encoded { key: Some(place.owner.to_owned()), data }))
        }
        fn decode(&self, place: Place<'_>, encoded: &Encoded) -> Result<Vec<u8>> {
            if encoded.key.as_deref() != Some(place.owner) {
                return Err(Error::corrupt("it belongs to another job"));
            }
            Ok(encoded.data.iter().rev().copied().collect())
        }
    }

    #[test]
    fn what_is_sealed_is_opened_in_its_place_alone() {
        let mut codecs = Codecs::default();
        codecs.push(Mirror);
        let place = Place { owner: "a", part: "args" };
        let plain = Payload::from(&br#"{"secret":"\u00e4"}"#[..]);
        let sealed = codecs.seal(place, plain.clone()).expect("sealed");
        assert!(!String::from_utf8_lossy(&sealed).contains("secret"));
        assert_eq!(codecs.open(place, &sealed).expect("opened"), plain);
        let elsewhere = Place { owner: "b", part: "args" };
        let error = codecs.open(elsewhere, &sealed).expect_err("another job's");
        assert!(error.to_string().contains("another job"), "{error}");
        let error = Codecs::default().open(place, &sealed).expect_err("no codec");
        assert!(error.to_string().contains("\"mirror\""), "{error}");
    }

    #[test]
    fn what_is_not_sealed_passes() {
        let mut codecs = Codecs::default();
        codecs.push(Mirror);
        let place = Place { owner: "a", part: "args" };
        let small = Payload::from(&b"{}"[..]);
        assert_eq!(codecs.seal(place, small.clone()).expect("as it is"), small);
        assert_eq!(codecs.open(place, &small).expect("as it is"), small);
        for bad in [&br#"{"$codec":}"#[..], br#"{"$codec":"mirror","data":"*"}"#] {
            assert!(codecs.open(place, &Payload::from(bad)).is_err());
        }
    }
}
