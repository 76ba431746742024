//! Where the database is, and how it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jobkit_core::{Clock, Error, ErrorKind, Result, SystemClock};

use crate::schema::{VERSION, print_migrations};

/// What a committed job survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SqliteDurability {
    /// The crash of every process (`synchronous = NORMAL`). After a power loss the last commits can be
    /// missing; the database is sound all the same.
    #[default]
    Normal,
    /// Power loss (`synchronous = FULL`): every commit waits for the disk.
    Full,
}

/// Options of [`SqliteStorage`](crate::SqliteStorage).
///
/// # Example: a database that survives power loss
/// ```no_run
/// use jobkit_sqlite::{SqliteDurability, SqliteOptions};
///
/// # async fn example() -> jobkit_core::Result<()> {
/// let storage =
///     SqliteOptions::new("jobs.db").durability(SqliteDurability::Full).open().await?;
/// # drop(storage);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteOptions {
    pub(crate) path: PathBuf,
    pub(crate) durability: SqliteDurability,
    pub(crate) namespace: String,
    pub(crate) readers: usize,
    pub(crate) busy_timeout: Duration,
    pub(crate) migrate: bool,
    pub(crate) max_finished: Option<u64>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl SqliteOptions {
    /// The database at `path`, which is created if it does not exist, unless
    /// [`migrate_on_open`](Self::migrate_on_open) says otherwise; its directory must.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            durability: SqliteDurability::default(),
            namespace: "jobkit".to_owned(),
            readers: 2,
            busy_timeout: Duration::from_secs(5),
            migrate: true,
            max_finished: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// From `sqlite://path`, `sqlite:path` or `sqlite:///absolute/path`, with any of the parameters
    /// `namespace`, `durability` (`normal`, `full`), `readers`, `busy_timeout_ms` and `max_finished`.
    ///
    /// Path and values may hold any byte as `%` and two hexadecimal digits; `%`, `?` and `#` must be
    /// written so (`%25`, `%3F`, `%23`).
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) for another scheme, parameter or value, for a fragment,
    /// and for a `%` that two hexadecimal digits do not follow.
    pub fn from_url(url: &str) -> Result<Self> {
        let bad = |what: String| Error::new(ErrorKind::Configuration, what);
        let rest = url
            .strip_prefix("sqlite:")
            .ok_or_else(|| bad("url: does not begin with sqlite:".into()))?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        if rest.contains('#') {
            let what = "url: has a fragment, which means nothing here; write %23 for # in a path";
            return Err(bad(what.into()));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path_of(decoded(path).ok_or_else(|| bad(BAD_PERCENT.into()))?)
            .ok_or_else(|| bad("url: the path is no text that this system can name".into()))?;
        let mut options = Self::new(path);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| bad(BAD_PERCENT.into()))?;
            let value = String::from_utf8(value)
                .map_err(|_| bad(format!("url: the value of {name} is no text")))?;
            let value = value.as_str();
            let number =
                || value.parse::<u32>().map_err(|_| bad(format!("url: {name} is not a number")));
            options = match name {
                "namespace" => options.namespace(value),
                "readers" => options.readers(usize::try_from(number()?).unwrap_or(usize::MAX)),
                "busy_timeout_ms" => {
                    options.busy_timeout(Duration::from_millis(u64::from(number()?)))
                }
                "max_finished" => options.max_finished(u64::from(number()?)),
                "durability" => options.durability(match value {
                    "normal" => SqliteDurability::Normal,
                    "full" => SqliteDurability::Full,
                    _ => return Err(bad("url: durability is neither normal nor full".into())),
                }),
                _ => return Err(bad(format!("url: {name} is not a known parameter"))),
            };
        }
        options.check()?;
        Ok(options)
    }

    /// What a committed job survives; [`Normal`](SqliteDurability::Normal) by default.
    #[must_use]
    pub fn durability(mut self, durability: SqliteDurability) -> Self {
        self.durability = durability;
        self
    }

    /// The prefix of every table, so that several JobKits share a file; `jobkit` by default.
    ///
    /// 1 to 32 lowercase letters, digits and underscores, beginning with a letter: SQLite does not
    /// tell capitals apart.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How many connections read beside the one that writes: 1 to 64, 2 by default. More help when
    /// many dashboards are open; each takes a thread and its own page cache.
    #[must_use]
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// How long a call waits for another process that writes; 5 s by default. Zero fails at once, and
    /// a long wait makes calls slow instead of failing.
    #[must_use]
    pub fn busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// Whether [`open`](Self::open) brings the schema up to date; it does by default. Without it a
    /// missing file or schema is an error, which leaves everything as it was, and migrations are
    /// printed by [`print_migrations`](crate::print_migrations).
    #[must_use]
    pub fn migrate_on_open(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// How many finished jobs of each state are kept, besides the time that each is kept; any number by
    /// default, one at least. Servers remove what is beyond it, the oldest first, whatever the retention
    /// says. Succeeded, Failed and Deleted are counted apart, so that successes never push out failures;
    /// what a batch still needs stays. While jobs run fast, up to a fifth more
    /// may be there, or some hundreds more where the number is small.
    ///
    /// An id is remembered as long as its record. So a number below what finishes in a minute shortens
    /// how long a repeated submit finds its job, and a caller who waits may find it gone. Give all
    /// processes that share a file the same number: each removes by its own.
    #[must_use]
    pub fn max_finished(mut self, max_finished: u64) -> Self {
        self.max_finished = Some(max_finished);
        self
    }

    /// The clock that decides leases and due instants; the system's by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The SQL that brings the schema of this namespace from version `from` (0: nothing) to the present
    /// one, to be read or run by hand. See [`print_migrations`](crate::print_migrations).
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a version that this release does not know;
    /// [`Configuration`](ErrorKind::Configuration) for an option out of range.
    pub fn print_migrations(&self, from: u32) -> Result<String> {
        self.check()?;
        if from > VERSION {
            return Err(Error::invalid(
                "from",
                format_args!("is {from}, where this release writes schema {VERSION}"),
            ));
        }
        Ok(print_migrations(&self.namespace, from))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bad = |what: &'static str| Err(Error::new(ErrorKind::Configuration, what));
        let name = self.namespace.as_bytes();
        if !(1..=32).contains(&name.len())
            || !name[0].is_ascii_lowercase()
            || !name.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'_')
        {
            return bad(
                "namespace: must be 1 to 32 lowercase letters, digits and underscores, beginning with a letter",
            );
        }
        if self.namespace.starts_with("sqlite") {
            return bad("namespace: names that begin with sqlite are SQLite's own");
        }
        if !(1..=64).contains(&self.readers) {
            return bad("readers: must be 1 to 64");
        }
        if self.max_finished == Some(0) {
            return bad("max_finished: must be 1 or more; leave it out for no bound");
        }
        if self.path.as_os_str().as_encoded_bytes().contains(&0) {
            return bad("path: must not hold the character NUL");
        }
        if self.path.as_os_str().is_empty() || self.path.as_os_str() == ":memory:" {
            return bad("path: must name a file; the storage in memory is part of jobkit-core");
        }
        Ok(())
    }
}

const BAD_PERCENT: &str =
    "url: two hexadecimal digits must follow each %; write %25 for % in a path";

/// A part of a URL without its percent-encoding (<https://www.rfc-editor.org/rfc/rfc3986#section-2.1>);
/// `None` if that is broken.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        let digits = part.get(..2).filter(|it| it.bytes().all(|c| c.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(part[2..].bytes());
    }
    Some(bytes)
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere a path is text")]
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_file_and_options() {
        let options = SqliteOptions::from_url("sqlite:///tmp/j.db?namespace=a&durability=full")
            .expect("fine");
        assert_eq!(options.path, Path::new("/tmp/j.db"));
        assert_eq!((options.namespace.as_str(), options.durability), ("a", SqliteDurability::Full));
        assert_eq!(SqliteOptions::from_url("sqlite:j.db").expect("fine").path, Path::new("j.db"));
        assert_eq!(SqliteOptions::from_url("sqlite:x").expect("fine").max_finished, None);
        let options = SqliteOptions::from_url("sqlite:x?max_finished=5000").expect("fine");
        assert_eq!(options.max_finished, Some(5000));
        for bad in [
            "postgres://x",
            "sqlite:x?colour=red",
            "sqlite:x?namespace=a-b",
            "sqlite:x?max_finished=0",
            "sqlite:x?max_finished=-1",
            "sqlite:",
        ] {
            assert_eq!(
                SqliteOptions::from_url(bad).expect_err(bad).kind(),
                ErrorKind::Configuration
            );
        }
    }

    #[test]
    fn urls_are_percent_decoded_and_what_they_cannot_say_is_refused() {
        for (url, path) in [
            ("sqlite:my%20jobs.db", "my jobs.db"),
            ("sqlite:///var/J%C3%B6rg/a%23b%3Fc%25d%2b.db", "/var/J\u{f6}rg/a#b?c%d+.db"),
            ("sqlite:a+b%2Fc.db?namespace=%61b", "a+b/c.db"),
            ("sqlite:plain-\u{f6}.db", "plain-\u{f6}.db"),
        ] {
            assert_eq!(SqliteOptions::from_url(url).expect(url).path, Path::new(path));
        }
        let options = SqliteOptions::from_url("sqlite:x?name%73pace=a").expect_err("is no name");
        assert_eq!(options.kind(), ErrorKind::Configuration);
        let options = SqliteOptions::from_url("sqlite:x?namespace=%61b").expect("fine");
        assert_eq!(options.namespace, "ab");
        for (url, says) in [
            ("sqlite:jobs.db#fragment", "%23"),
            ("sqlite:jobs.db?readers=2#fragment", "%23"),
            ("sqlite:#", "%23"),
            ("sqlite:100%.db", "%25"),
            ("sqlite:a%2", "%25"),
            ("sqlite:a%zz.db", "%25"),
            ("sqlite:a%+1.db", "%25"),
            ("sqlite:a%\u{e9}\u{e9}.db", "%25"),
            ("sqlite:a?namespace=%4", "%25"),
            ("sqlite:a?durability=%ff", "durability"),
            ("sqlite:a%00b", "NUL"),
            ("sqlite:%3Amemory%3A", "must name a file"),
        ] {
            let error = SqliteOptions::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn migrations_are_printed_for_the_namespace_from_what_there_is() {
        let options = SqliteOptions::from_url("sqlite:x?namespace=a&namespace=b").expect("fine");
        let all = options.print_migrations(0).expect("fine");
        assert!(all.contains("CREATE TABLE b_job") && !all.contains("CREATE TABLE a_job"), "{all}");
        let rest = options.print_migrations(VERSION).expect("fine");
        assert!(!rest.contains("CREATE TABLE"), "{rest}");
        let error = options.print_migrations(VERSION + 1).expect_err("is not known");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
