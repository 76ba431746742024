//! Which file is open, and whether its path still names it.
//!
//! SQLite keeps using a file that was removed or replaced, or that has another name elsewhere. What it
//! then writes is lost, or damages what others write. Nothing here opens the file a second time:
//! closing it again would drop the locks that SQLite holds in this process
//! (<https://www.sqlite.org/howtocorrupt.html>, sections 2.2 and 2.4).

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use jobkit_core::{Error, ErrorKind, Result};

/// What distinguishes a file from every other one that exists at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix says what a file is"))]
struct Identity {
    device: u64,
    number: u64,
}

/// The file that is open.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    /// Its path with symbolic links resolved: SQLite keeps its log next to it.
    place: PathBuf,
    /// The path that the options name, made absolute. It may be a symbolic link.
    main: Part,
    log: Part,
    /// The memory that the processes share.
    shared: Part,
}

/// One of the files that belong together. The path is kept, since it is checked after each commit.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    /// `None` if there was no such file, or if the system does not identify files; there nobody can
    /// remove an open file.
    opened: Option<Identity>,
}

impl Part {
    fn at(path: PathBuf, place: &Path) -> Self {
        let opened = look(place).ok().flatten().as_ref().and_then(identity_of);
        Self { path, opened }
    }

    fn beside(place: &Path, ending: &str) -> Self {
        let path = beside(place, ending);
        Self::at(path.clone(), &path)
    }
}

#[cfg(unix)]
fn identity_of(file: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    Some(Identity { device: file.dev(), number: file.ino() })
}

#[cfg(not(unix))]
fn identity_of(_: &Metadata) -> Option<Identity> {
    None
}

/// How many names a file has.
#[cfg(unix)]
fn names_of(file: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.nlink()
}

#[cfg(not(unix))]
fn names_of(_: &Metadata) -> u64 {
    1
}

/// The file that a path names; `None` if it names none.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some(file)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A file next to the database.
fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// How many names (hard links) the file at a path has, if more than one. Such a file must not be
/// written: a process that opens it by another name keeps another log, and both damage the file.
fn other_names(path: &Path) -> Option<u64> {
    let file = look(path).ok().flatten()?;
    Some(names_of(&file)).filter(|names| file.is_file() && *names > 1)
}

/// Where a path leads, through symbolic links; the path itself where it leads nowhere yet.
pub(crate) fn place_of(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The size of the write-ahead log of the database at a place.
pub(crate) fn log_bytes(place: &Path) -> u64 {
    fs::metadata(beside(place, "-wal")).map_or(0, |file| file.len())
}

/// What a path names, to be compared with what it names once it is open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen(Option<Identity>);

impl Seen {
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) if the file has several names.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        if let Some(names) = other_names(path) {
            return Err(Error::new(ErrorKind::Configuration, hard_linked(names)));
        }
        Ok(Self(look(path).ok().flatten().as_ref().and_then(identity_of)))
    }
}

fn hard_linked(names: u64) -> String {
    format!(
        "path: the file has {names} names (hard links), and processes that open it by different ones \
         damage it, since each name has a log of its own; remove the other names, or copy the file"
    )
}

impl DatabaseFile {
    /// The file that was opened at a path, once it has been written or read.
    pub(crate) fn opened(path: &Path) -> Self {
        let place = place_of(path);
        Self {
            main: Part::at(path.to_owned(), &place),
            log: Part::beside(&place, "-wal"),
            shared: Part::beside(&place, "-shm"),
            place,
        }
    }

    /// The size of the write-ahead log.
    pub(crate) fn log_bytes(&self) -> u64 {
        log_bytes(&self.place)
    }

    /// Refuses when the path does not name the open file any more, or its log is not the open one. Then
    /// nobody else sees what is committed, and it is gone when this process ends.
    ///
    /// # Errors
    /// [`NotWritable`](ErrorKind::NotWritable), not applied.
    pub(crate) fn check(&self) -> Result<()> {
        match self.what_is_wrong(false) {
            None => Ok(()),
            Some(what) => Err(Error::new(ErrorKind::NotWritable, what)),
        }
    }

    /// As [`check`](Self::check), for every file that belongs to the database.
    pub(crate) fn check_all(&self) -> Result<()> {
        match self.what_is_wrong(true) {
            None => Ok(()),
            Some(what) => Err(Error::new(ErrorKind::NotWritable, what)),
        }
    }

    /// What happened to the open file, if the path does not name it any more.
    pub(crate) fn what_is_wrong(&self, all: bool) -> Option<String> {
        for Part { path, opened } in
            [&self.main, &self.log].into_iter().chain(all.then_some(&self.shared))
        {
            let Some(opened) = *opened else { continue };
            // A folder that cannot be read now proves nothing about its files.
            let Ok(found) = look(path) else { continue };
            let what = match found {
                None => "was removed or renamed",
                Some(file) if identity_of(&file) == Some(opened) => continue,
                Some(_) => "was replaced by another one",
            };
            return Some(format!(
                "the file {} {what} while it was open, so that nothing written now would be kept; put \
                 it back, or restart every process that uses it",
                path.display()
            ));
        }
        None
    }

    /// Why another process may reach other files by the same path, or this file by another path.
    pub(crate) fn hazards(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if let Some(names) = other_names(&self.main.path) {
            found.push(("hard-linked", hard_linked(names)));
        }
        if is_mounted(&self.place) {
            let what = format!(
                "the file {} is mounted alone, so that its log lies outside of the mount, and another \
                 process that uses the file keeps another log, which damages the file; mount its folder",
                self.place.display()
            );
            found.push(("file-mounted", what));
        }
        found
    }
}

/// Whether a file is a mount by itself, as containers make them.
#[cfg(target_os = "linux")]
fn is_mounted(place: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(mounts) = fs::read("/proc/self/mountinfo") else { return false };
    mounts.split(|byte| *byte == b'\n').any(|line| {
        let point = line.split(|byte| *byte == b' ').nth(4);
        point.is_some_and(|point| unescaped(point) == place.as_os_str().as_bytes())
    })
}

#[cfg(not(target_os = "linux"))]
fn is_mounted(_: &Path) -> bool {
    false
}

/// The list of mounts writes blanks and the like as octal numbers.
#[cfg(target_os = "linux")]
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn places_in_the_list_of_mounts_are_read() {
        assert_eq!(unescaped(br"/my\040jobs/a\134b"), br"/my jobs/a\b");
        assert_eq!(unescaped(br"/plain\0"), br"/plain\0");
        assert!(is_mounted(Path::new("/")), "the root is a mount");
        assert!(!is_mounted(Path::new("/proc/self/mountinfo")));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_gone_or_replaced_is_noticed_and_one_that_is_back_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("jobs.db");
        let other = folder.path().join("other.db");
        fs::write(&path, "a").expect("writes");
        fs::write(beside(&path, "-wal"), "a").expect("writes");
        let file = DatabaseFile::opened(&path);
        file.check_all().expect("all is there");
        for part in [path.clone(), beside(&path, "-wal")] {
            fs::rename(&part, &other).expect("renames");
            let error = file.check().expect_err("is gone");
            assert_eq!(error.kind(), ErrorKind::NotWritable);
            assert!(error.to_string().contains("was removed or renamed"), "{error}");
            fs::write(&part, "b").expect("writes");
            let error = file.check().expect_err("is another one");
            assert!(error.to_string().contains("was replaced"), "{error}");
            fs::rename(&other, &part).expect("renames");
            file.check_all().expect("is back");
        }
    }
}
