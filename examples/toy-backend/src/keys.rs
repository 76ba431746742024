//! Keys that sort as they are looked for, and so are the indexes.

use jobkit_core::edge::{On, Parent};
use jobkit_core::record::JobRecord;
use jobkit_core::{BatchId, Incarnation, JobId, Timestamp, bounds};

/// A key under construction: a table, then parts that sort by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(Vec<u8>);

// [guide: keys]
/// The beginning of all keys of a table.
pub(crate) fn table(name: &str) -> Key {
    Key(name.as_bytes().to_vec()).byte(b'/')
}

impl Key {
    pub(crate) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// Names hold no NUL, so one behind them keeps `a` apart from `ab` and before it.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self.byte(0)
    }

    /// Big-endian, so that 9 comes before 10.
    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// With the sign turned, so that what lies before 1970 comes first.
    pub(crate) fn at(self, at: Timestamp) -> Self {
        self.number(at.as_micros().cast_unsigned() ^ (1 << 63))
    }
}
// [end]

impl Key {
    pub(crate) fn id(mut self, id: &[u8; 16]) -> Self {
        self.0.extend(id);
        self
    }

    pub(crate) fn life(self, life: Incarnation) -> Self {
        self.number(life.as_i64().cast_unsigned())
    }

    pub(crate) fn parent(self, parent: Parent) -> Self {
        match parent {
            Parent::Job(id) => self.byte(b'j').id(id.as_bytes()),
            Parent::Batch(id) => self.byte(b'b').id(id.as_bytes()),
        }
    }

    /// Where a job stands in the order of claims: 9 minus its priority, then its sequence.
    pub(crate) fn rank(self, job: &JobRecord) -> Self {
        self.byte(bounds::MAX_PRIORITY - job.priority).number(job.sequence)
    }

    pub(crate) fn lane(self, queue: &str, kind: &str) -> Self {
        self.text(queue).text(kind)
    }

    /// The first key behind all that begin with this one.
    pub(crate) fn end(&self) -> Vec<u8> {
        end_of(&self.0)
    }
}

/// The first key behind all that begin with these bytes.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Key> for Vec<u8> {
    fn from(key: Key) -> Self {
        key.0
    }
}

pub(crate) fn job(sequence: u64) -> Key {
    table("job").number(sequence)
}

pub(crate) fn id(id: JobId) -> Key {
    table("id").id(id.as_bytes())
}

/// What belongs to a job and is kept beside its record: arguments, result, errors, logs.
pub(crate) fn beside(sequence: u64, what: &str) -> Key {
    table("with").number(sequence).text(what)
}

pub(crate) fn batch(id: BatchId) -> Key {
    table("batch").id(id.as_bytes())
}

/// Open edges of a parent that wait for one kind of end.
pub(crate) fn open_edges(parent: Parent, on: On) -> Key {
    table("open").parent(parent).byte(on_byte(on))
}

fn on_byte(on: On) -> u8 {
    match on {
        On::Any => 0,
        On::Success => 1,
        On::Failed => 2,
    }
}

/// The number at the end of a key, such as a job's sequence.
pub(crate) fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The instant that follows a table's name.
pub(crate) fn instant(table: &Key, key: &[u8]) -> Timestamp {
    let bytes = key.get(table.len()..).and_then(<[u8]>::first_chunk);
    let number = bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes)) ^ (1 << 63);
    Timestamp::from_micros(number.cast_signed())
}

/// The id of 16 bytes at the end of a key.
pub(crate) fn last_id(key: &[u8]) -> BatchId {
    BatchId::from_bytes(key.last_chunk().copied().unwrap_or_default())
}

/// The texts that follow a prefix of this many bytes, and what is behind them.
pub(crate) fn texts<const N: usize>(prefix: usize, key: &[u8]) -> [String; N] {
    let mut rest = key.get(prefix..).unwrap_or_default().split(|byte| *byte == 0);
    std::array::from_fn(|_| String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned())
}
