//! Identifiers: jobs, batches, servers' lives, operations; and the source new ones come from.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::clock::{Clock, SystemClock, Timestamp};
use crate::model::error::{Error, Result};

/// Where the time and the random bits of new ids come from.
///
/// The default reads the system's clock and random generator; tests replace it with
/// [`with_id_source`].
pub trait IdSource: Send + Sync + fmt::Debug + 'static {
    /// The time to put in a new id.
    fn now(&self) -> Timestamp;
    /// Random bits.
    fn random(&self) -> u128;
}

#[derive(Debug)]
struct SystemIds;

impl IdSource for SystemIds {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn random(&self) -> u128 {
        thread_local! {
            // One system call fills many ids: asking the kernel for each of a thousand jobs shows.
            static POOL: RefCell<(Vec<u8>, usize)> = const { RefCell::new((Vec::new(), 0)) };
        }
        POOL.with_borrow_mut(|(bytes, used)| {
            if *used + 16 > bytes.len() {
                bytes.resize(1024, 0);
                getrandom::fill(bytes).expect("the operating system gives random bytes");
                *used = 0;
            }
            let mut random = [0; 16];
            random.copy_from_slice(&bytes[*used..*used + 16]);
            // A pool that is forked or read from memory must not hold ids already given out.
            bytes[*used..*used + 16].fill(0);
            *used += 16;
            u128::from_be_bytes(random)
        })
    }
}

tokio::task_local! {
    static ID_SOURCE: Arc<dyn IdSource>;
}

thread_local! {
    static THREAD_SOURCE: RefCell<Option<Arc<dyn IdSource>>> = const { RefCell::new(None) };
}

/// Lets `source` give all ids and all random bits of this thread until the guard is dropped, those of
/// spawned tasks too, unless [`with_id_source`] names another; for runtimes with a single thread whose
/// runs are to be repeated.
pub fn use_id_source(source: Arc<dyn IdSource>) -> IdSourceGuard {
    IdSourceGuard { former: THREAD_SOURCE.replace(Some(source)), _of_this_thread: PhantomData }
}

/// Puts the former source back when it is dropped.
#[derive(Debug)]
#[must_use = "the source is used as long as the guard lives"]
pub struct IdSourceGuard {
    former: Option<Arc<dyn IdSource>>,
    // What it puts back is the thread's own.
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for IdSourceGuard {
    fn drop(&mut self) {
        THREAD_SOURCE.set(self.former.take());
    }
}

/// Runs `future` with `source` giving the ids of all jobs made inside it.
pub async fn with_id_source<F: Future>(source: Arc<dyn IdSource>, future: F) -> F::Output {
    ID_SOURCE.scope(source, future).await
}

fn from_source<T>(read: impl Fn(&dyn IdSource) -> T) -> T {
    ID_SOURCE.try_with(|source| read(&**source)).unwrap_or_else(|_| {
        THREAD_SOURCE.with_borrow(|source| match source {
            Some(source) => read(&**source),
            None => read(&SystemIds),
        })
    })
}

/// 32 random bytes from the operating system, whatever the id source.
pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Random bits from the task's id source.
pub(crate) fn random() -> u128 {
    from_source(|source| source.random())
}

/// The time that the task's id source puts in new ids.
pub(crate) fn source_now() -> Timestamp {
    from_source(|source| source.now())
}

/// A UUIDv7 ([RFC 9562, 5.7](https://www.rfc-editor.org/rfc/rfc9562#section-5.7)).
fn uuid_v7() -> Uuid {
    let (at, random) = from_source(|source| (source.now(), source.random()));
    uuid_v7_of(at, random)
}

fn uuid_v7_of(at: Timestamp, random: u128) -> Uuid {
    let millis = u128::try_from(at.as_millis().max(0)).unwrap_or(0) & ((1 << 48) - 1);
    let bits = (millis << 80)
        | (0x7 << 76)
        | ((random >> 64) & 0xfff) << 64
        | (0b10 << 62)
        | (random & ((1 << 62) - 1));
    Uuid::from_u128(bits)
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id from the task's id source.
            #[allow(clippy::new_without_default, reason = "two calls give different ids")]
            pub fn new() -> Self {
                Self(uuid_v7())
            }

            /// From the 16 bytes that a storage kept.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes, big-endian, which sort by time.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The instant in the id; `None` for one derived from a key.
            pub fn created_at(&self) -> Option<Timestamp> {
                (self.0.get_version_num() == 7).then(|| {
                    let millis = i64::try_from(self.0.as_u128() >> 80).unwrap_or(i64::MAX / 1000);
                    Timestamp::from_micros(millis * 1000)
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let id = Uuid::try_parse(text)
                    .map_err(|_| Error::invalid($what, "is not a UUID, such as 0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d"))?;
                Ok(Self(id))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id! {
    /// The id of a job: a UUIDv7, or a UUIDv8 derived from a key.
    ///
    /// A job has it from the moment its value is made, so that a submit whose answer was lost can be
    /// repeated without making a second job.
    JobId, "job id"
}

uuid_id! {
    /// The id of a batch: a UUIDv7, or a UUIDv8 derived from a key.
    BatchId, "batch id"
}

uuid_id! {
    /// The id of one change, by which a repeated call is recognised.
    OperationId, "operation id"
}

/// A UUIDv8 ([RFC 9562, 5.8](https://www.rfc-editor.org/rfc/rfc9562#section-5.8)) of SHA-256.
fn uuid_v8(parts: [&str; 3]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        // With the length in front, ("ab", "c") and ("a", "bc") stay different.
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    let bits = u128::from_be_bytes(bytes);
    let bits = bits & !(0xf << 76) | (0x8 << 76);
    Uuid::from_u128(bits & !(0b11 << 62) | (0b10 << 62))
}

impl JobId {
    /// A new id whose time is `at`, where the storage's clock is known: it judges the id by that.
    pub fn new_at(at: Timestamp) -> Self {
        Self(uuid_v7_of(at, random()))
    }

    /// The id that `key` always has for this kind: submitting it twice makes one job, as long as its
    /// record is kept.
    ///
    /// # Example: one job per webhook delivery
    /// ```
    /// use jobkit_core::JobId;
    /// let id = JobId::from_key("charge", "delivery-4711");
    /// assert_eq!(id, JobId::from_key("charge", "delivery-4711"));
    /// assert!(id.created_at().is_none());
    /// ```
    pub fn from_key(kind: &str, key: &str) -> Self {
        Self(uuid_v8(["job", kind, key]))
    }
}

impl OperationId {
    /// The id of a bulk operation's change of one job, which is always the same.
    pub fn of_step(bulk: Self, job: JobId) -> Self {
        Self(uuid_v8(["step", &bulk.to_string(), &job.to_string()]))
    }
}

impl BatchId {
    /// The id that `key` always has.
    pub fn from_key(key: &str) -> Self {
        Self(uuid_v8(["batch", "", key]))
    }
}

/// One life of a server, from start to exit: a random number that leases are tied to.
///
/// A restarted server has another one, so that it can never be taken for its former self.
/// At most 63 bits, so that it fits a signed column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(i64);

impl Incarnation {
    /// A new one from the task's id source.
    #[allow(clippy::new_without_default, reason = "two calls give different numbers")]
    pub fn new() -> Self {
        let bits = random() & ((1 << 63) - 1);
        Self(i64::try_from(bits).unwrap_or(1).max(1))
    }

    /// From the number that a storage kept.
    pub const fn from_i64(number: i64) -> Self {
        Self(number)
    }

    /// The number; never negative when made by [`new`](Self::new).
    pub const fn as_i64(self) -> i64 {
        self.0
    }
}

/// Whether a new id may be accepted at the storage's `now` (G2).
///
/// Ids derived from a key carry no time and are always accepted.
pub fn id_age(created_at: Option<Timestamp>, now: Timestamp) -> IdAge {
    match created_at {
        Some(at) if at.plus(crate::model::bounds::ID_MEMORY) < now => IdAge::TooOld,
        Some(at) if at > now.plus(crate::model::bounds::ID_AHEAD) => IdAge::TooFarAhead,
        _ => IdAge::Fine,
    }
}

/// The answer of [`id_age`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdAge {
    /// Within the hour before and the ten minutes after the storage's clock.
    Fine,
    /// More than an hour old: it may have been used and forgotten.
    TooOld,
    /// More than ten minutes ahead of the storage's clock.
    TooFarAhead,
}

/// A random fraction in `[0, 1)` from the task's id source.
pub(crate) fn random_fraction() -> f64 {
    let bits = u32::try_from(random() & u128::from(u32::MAX)).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// `length` times a random factor between 0.8 and 1.2, so that servers do not act in step.
pub(crate) fn jittered(length: Duration) -> Duration {
    length.mul_f64(0.8 + 0.4 * random_fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_carry_time_and_version() {
        let before = SystemClock.now().as_millis();
        let id = JobId::new();
        let after = SystemClock.now().as_millis();
        let at = id.created_at().expect("a time").as_millis();
        assert!((before..=after).contains(&at));
        assert_eq!(id.to_string().as_bytes()[14], b'7');
        assert_ne!(id, JobId::new());
        assert_eq!(id.to_string().parse::<JobId>().expect("parses"), id);
    }

    #[derive(Debug)]
    struct Counting(std::sync::atomic::AtomicU64);

    impl IdSource for Counting {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(0)
        }

        fn random(&self) -> u128 {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst).into()
        }
    }

    #[tokio::test]
    async fn a_source_of_the_thread_reaches_spawned_tasks() {
        let guard = use_id_source(Arc::new(Counting(7.into())));
        let id = tokio::spawn(async { JobId::new() }).await.expect("joins");
        assert!(id.to_string().ends_with('7'), "{id}");
        drop(guard);
        assert_ne!(JobId::new().created_at(), Some(Timestamp::from_micros(0)));
    }

    #[test]
    fn keys_give_stable_ids_that_differ_by_kind() {
        assert_eq!(JobId::from_key("a", "k"), JobId::from_key("a", "k"));
        assert_ne!(JobId::from_key("a", "k"), JobId::from_key("b", "k"));
        assert_ne!(JobId::from_key("ab", "c"), JobId::from_key("a", "bc"));
        assert_eq!(JobId::from_key("a", "k").to_string().as_bytes()[14], b'8');
    }

    #[test]
    fn ids_are_accepted_for_an_hour_back_and_ten_minutes_ahead() {
        let now = SystemClock.now();
        assert_eq!(id_age(Some(now.minus(Duration::from_secs(3599))), now), IdAge::Fine);
        assert_eq!(id_age(Some(now.minus(Duration::from_secs(3601))), now), IdAge::TooOld);
        assert_eq!(id_age(Some(now.plus(Duration::from_secs(601))), now), IdAge::TooFarAhead);
        assert_eq!(id_age(None, now), IdAge::Fine);
    }
}
