//! The database: an ordered key-value store in one append-only file.
//!
//! Everything lives in a sorted map; the file is how it comes back. A transaction is a set of puts and
//! deletes that is appended as one record with its length and a checksum, and only then enters the map.
//! A record that was torn by a crash is the last one, does not fit its checksum, and is dropped.
//!
//! There is no `fsync`, so what is appended survives the crash of the process but not that of the machine,
//! and no compaction: the file grows with every change.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::iter::Peekable;
use std::ops::Bound;
use std::path::Path;

/// The first bytes of every file, with the version of its format.
const MAGIC: &[u8; 8] = b"jktoy\0\0\x01";
/// Length and checksum in front of each record.
const HEADER: usize = 12;

/// An open store. One process has it at a time.
#[derive(Debug)]
pub(crate) struct Kv {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    file: File,
    /// Where the last whole record ends.
    end: u64,
    /// A failed append could not be undone: nothing may be written behind it.
    broken: bool,
}

// [guide: kv]
impl Kv {
    /// Opens or makes the file, and reads what is in it up to the first record that is torn.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path)?;
        // Another process would append behind our back.
        file.try_lock().map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            file.write_all(MAGIC)?;
            bytes.extend(MAGIC);
        }
        let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is no file of this store"));
        };
        let mut map = BTreeMap::new();
        while let Some((record, behind)) = split_record(rest) {
            replay(&mut map, record);
            rest = behind;
        }
        let end = (bytes.len() - rest.len()) as u64;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { map, file, end, broken: false })
    }

    /// Begins a transaction. Dropped without a commit it changes nothing.
    pub(crate) fn begin(&mut self) -> Tx<'_> {
        Tx { kv: self, writes: BTreeMap::new() }
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed half-way; open the file again"));
        }
        let written = self.file.write_all(record);
        if written.is_err() {
            // Half a record in the middle would hide all that comes behind it.
            let undone = self.file.set_len(self.end);
            let undone = undone.and_then(|()| self.file.seek(SeekFrom::Start(self.end)));
            self.broken = undone.is_err();
            return written;
        }
        self.end += record.len() as u64;
        Ok(())
    }
}
// [end]

/// A transaction: it reads its own writes, and nobody else does before the commit.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    kv: &'a mut Kv,
    /// What is put, or deleted.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Tx<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.writes.get(key) {
            Some(written) => written.as_deref(),
            None => self.kv.map.get(key).map(Vec::as_slice),
        }
    }

    pub(crate) fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), None);
    }

    /// The keys from `from` on and before `to`, in order.
    pub(crate) fn keys<'t>(
        &'t self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = &'t [u8]> + use<'t> {
        // An empty range, where the two are the wrong way round.
        let range = (Bound::Included(from), Bound::Excluded(to.max(from)));
        let stored = self.kv.map.range::<[u8], _>(range).map(|(key, _)| key.as_slice());
        let stored = stored.filter(|key| !self.writes.contains_key(*key));
        let own = self.writes.range::<[u8], _>(range).filter(|(_, value)| value.is_some());
        Merged { a: stored.peekable(), b: own.map(|(key, _)| key.as_slice()).peekable() }
    }

    /// Whether anything was written.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.writes.is_empty()
    }

    // [guide: commit]
    /// Writes everything at once: it is in the file before it is in the map, and in the map before
    /// anybody is answered.
    pub(crate) fn commit(self) -> io::Result<()> {
        let mut body = Vec::new();
        for (key, value) in &self.writes {
            body.push(u8::from(value.is_some()));
            for part in [Some(key), value.as_ref()].into_iter().flatten() {
                let length = u32::try_from(part.len()).map_err(io::Error::other)?;
                body.extend(length.to_be_bytes());
                body.extend(part);
            }
        }
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(HEADER + body.len());
        record.extend(length.to_be_bytes());
        record.extend(checksum(&body).to_be_bytes());
        record.extend(body);
        self.kv.append(&record)?;
        self.apply();
        Ok(())
    }
    // [end]

    fn apply(self) {
        for (key, value) in self.writes {
            match value {
                Some(value) => self.kv.map.insert(key, value),
                None => self.kv.map.remove(&key),
            };
        }
    }

    /// Forgets the file: a planted fault.
    #[cfg(feature = "_faults")]
    pub(crate) fn commit_to_memory_alone(self) {
        self.apply();
    }
}

/// Two sorted runs of keys as one.
struct Merged<A: Iterator, B: Iterator> {
    a: Peekable<A>,
    b: Peekable<B>,
}

impl<'t, A: Iterator<Item = &'t [u8]>, B: Iterator<Item = &'t [u8]>> Iterator for Merged<A, B> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        match (self.a.peek(), self.b.peek()) {
            (Some(a), Some(b)) if b < a => self.b.next(),
            (None, _) => self.b.next(),
            _ => self.a.next(),
        }
    }
}

/// The first record and what is behind it; `None` where there is no whole one.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let body = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let whole = checksum(body) == u64::from_be_bytes(*sum);
    whole.then(|| (body, &rest[body.len()..]))
}

fn replay(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, mut body: &[u8]) {
    while let Some((put, rest)) = body.split_first() {
        let Some((key, rest)) = split_part(rest) else { return };
        body = rest;
        if *put == 0 {
            map.remove(key);
        } else if let Some((value, rest)) = split_part(rest) {
            map.insert(key.to_vec(), value.to_vec());
            body = rest;
        }
    }
}

fn split_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// FNV-1a: enough to tell a torn record from a whole one.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kv: &mut Kv) -> Vec<Vec<u8>> {
        kv.begin().keys(b"", b"\xff").map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn a_torn_record_is_dropped_and_the_rest_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toy");
        let mut kv = Kv::open(&path).unwrap();
        for key in ["a", "b"] {
            let mut tx = kv.begin();
            tx.put(key, "1");
            tx.commit().unwrap();
        }
        drop(kv);
        let whole = std::fs::metadata(&path).unwrap().len();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[0, 0, 0, 9, 1, 2]).unwrap();
        let mut kv = Kv::open(&path).unwrap();
        assert_eq!(all(&mut kv), [b"a", b"b"]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
        drop(kv);
        file.set_len(whole - 1).unwrap();
        assert_eq!(all(&mut Kv::open(&path).unwrap()), [b"a"]);
    }

    #[test]
    fn a_transaction_sees_its_own_writes_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut kv = Kv::open(&folder.path().join("toy")).unwrap();
        let mut tx = kv.begin();
        tx.put("b", "1");
        tx.put("d", "1");
        tx.commit().unwrap();
        let mut tx = kv.begin();
        tx.put("a", "2");
        tx.put("c", "2");
        tx.delete("d");
        assert_eq!(tx.keys(b"", b"z").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!((tx.get(b"d"), tx.get(b"b")), (None, Some(&b"1"[..])));
        drop(tx);
        assert_eq!(all(&mut kv), [b"b", b"d"]);
    }

    #[test]
    fn what_is_committed_is_in_the_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut kv = Kv::open(&folder.path().join("toy")).unwrap();
        let mut tx = kv.begin();
        tx.put("a", "1");
        tx.commit().unwrap();
        // As the process would leave it behind, if it were killed now.
        let left = folder.path().join("left");
        std::fs::copy(folder.path().join("toy"), &left).unwrap();
        assert_eq!(all(&mut Kv::open(&left).unwrap()), [b"a"]);
    }

    #[test]
    fn two_processes_cannot_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toy");
        let _kv = Kv::open(&path).unwrap();
        assert!(Kv::open(&path).is_err());
    }
}
