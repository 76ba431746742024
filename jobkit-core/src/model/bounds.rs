//! Every bound of the storage contract, as named constants.
//!
//! What a caller sends beyond a bound is refused before it reaches a storage, with the bound in the
//! message; storages may rely on them.

use std::time::Duration;

/// Jobs in one submission.
pub const SUBMISSION_JOBS: usize = 1_000;
/// Edges in one submission: the parents that its jobs name, added up.
pub const SUBMISSION_EDGES: usize = 5_000;
/// Bytes of arguments, metadata and context in one submission: 4 MiB.
pub const SUBMISSION_BYTES: usize = 4 << 20;
/// Items the engine puts in one claim, settle or renew; fewer where the storage takes fewer well.
pub const STEP_ITEMS: usize = 300;
/// Items a storage must accept in one claim, settle or renew.
pub const MAX_STEP_ITEMS: usize = 500;
/// Parents of one child.
pub const PARENTS: usize = 100;
/// Children decided in the step that finishes their parent; the rest is left to a sweep.
pub const CHILDREN_IN_SETTLE: usize = 100;
/// Children decided in one call that settles many parents; the rest is left to a sweep.
pub const CHILDREN_IN_CALL: usize = 500;
/// Depth of nested batches.
pub const BATCH_NESTING: usize = 5;
/// Bytes of a job's arguments: 1 MiB.
pub const ARGS_BYTES: usize = 1 << 20;
/// Bytes of a result or a checkpoint: 64 KiB.
pub const RESULT_BYTES: usize = 64 << 10;
/// Bytes of one log line.
pub const LOG_LINE_BYTES: usize = 4 << 10;
/// Log lines kept of one attempt; older ones go and are counted.
pub const LOG_LINES: usize = 1_000;
/// Bytes of a job's metadata, and of its captured context: 4 KiB each.
pub const METADATA_BYTES: usize = 4 << 10;
/// History entries kept at the beginning of a job's life.
pub const HISTORY_FIRST: usize = 4;
/// History entries kept at the end of a job's life.
pub const HISTORY_LAST: usize = 28;
/// Bytes of error detail kept of one attempt: 16 KiB.
pub const ERROR_DETAIL_BYTES: usize = 16 << 10;
/// Failed attempts of one job whose errors are kept; older ones go.
pub const ATTEMPT_ERRORS: usize = 32;
/// Bytes of the name of a queue or kind.
pub const NAME_BYTES: usize = 64;
/// Bytes of the name of a limit, lock, recurring job or server, and of a unique key.
pub const LABEL_BYTES: usize = 200;
/// Bytes of a filter in the filter language; ids of many jobs are the longest ones.
pub const FILTER_BYTES: usize = 64 << 10;
/// Bytes of what a person writes to an operation, such as its reason: 4 KiB.
pub const NOTE_BYTES: usize = 4 << 10;
/// Error groups that are kept; the one that was seen longest ago goes first.
pub const ERROR_GROUPS: usize = 1_000;
/// A server that has been silent for so long loses its name to another one that asks for it: two and a
/// half heartbeats of the slowest.
pub const SERVER_FRESH: Duration = Duration::from_secs(25);
/// A server that has been silent for so long is not counted on.
pub const SERVER_SILENT: Duration = Duration::from_secs(60);
/// How long an error group is kept after its last failure.
pub const ERROR_GROUP_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the counts of an error group by the hour are kept.
pub const ERROR_HOURS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a bulk operation is remembered after its end.
pub const BULK_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an entry of the audit is kept.
pub const AUDIT_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long nothing is due, as a claim tells it where nothing is due at all.
pub const NOTHING_DUE: Duration = Duration::from_secs(3600);
/// How far jobs are counted at most, where no index counts them.
pub const COUNTED: u64 = 10_000;
/// Bytes of a unique key's text.
pub const UNIQUE_KEY_BYTES: usize = 1_000;
/// The shortest and longest period for which a unique key is held: 1 s to 366 days.
pub const UNIQUE_PERIOD: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
/// Tags of one job.
pub const TAGS: usize = 8;
/// Bytes of one tag.
pub const TAG_BYTES: usize = 64;
/// Limits of one job.
pub const LIMITS: usize = 4;
/// The highest number of holders, or of starts in a window, that a limit may name.
pub const LIMIT_HOLDERS: u32 = 100_000;
/// The shortest and longest window of a rate limit: 1 s to 31 days.
pub const RATE_WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(31 * 24 * 3600);
/// The highest priority; it goes first.
pub const MAX_PRIORITY: u8 = 9;
/// The priority of a job that names none.
pub const DEFAULT_PRIORITY: u8 = 5;
/// Kinds one server may serve.
pub const SERVER_KINDS: usize = 500;
/// Queues one server may serve.
pub const SERVER_QUEUES: usize = 50;
/// Rows of one page of a list.
pub const PAGE: usize = 200;
/// Kinds, and queues, that have statistics of their own; the rest is counted as [`OTHER`].
pub const STATISTICS_SCOPES: usize = 200;
/// The name under which statistics beyond [`STATISTICS_SCOPES`] are counted.
pub const OTHER: &str = "other";
/// How long ids of finished jobs are remembered at least, and how old a new id may be.
pub const ID_MEMORY: Duration = Duration::from_secs(3600);
/// How far a new id may lie ahead of the storage's clock.
pub const ID_AHEAD: Duration = Duration::from_secs(600);
/// How long after its last attach a batch that was never started is discarded.
pub const BATCH_FILLING: Duration = Duration::from_secs(3600);
/// Recorded occurrences kept of one recurring job.
pub const RECURRING_RUNS: usize = 100;
/// The smallest and largest lease or lock time.
pub const LEASE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 3600);

/// Whether a lease or lock that ends at `expires_at` is over. One that ends further ahead than any can last
/// was taken while the clock was ahead, so its end says nothing.
pub fn lease_has_expired(
    expires_at: crate::model::clock::Timestamp,
    now: crate::model::clock::Timestamp,
) -> bool {
    expires_at <= now || expires_at > now.plus(*LEASE.end())
}

/// How many lost servers a job survives, unless a server's options say otherwise: it is Failed when as many
/// servers have vanished while they ran it.
pub const CRASH_LIMIT: u32 = 3;
