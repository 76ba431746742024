//! What is the same for all processes, in the text format of Prometheus
//! ([0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/)): a pure function of what
//! [`Monitoring`](crate::storage::Monitoring) tells. Serve it from one process, or scrape any.
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `jobkit_jobs` | gauge | `state` | jobs in each state |
//! | `jobkit_jobs_parked` | gauge | | jobs parked at a limit; they are among the enqueued |
//! | `jobkit_transitions_total` | counter | `state` | transitions to each state since the beginning |
//! | `jobkit_queue_jobs` | gauge | `queue`, `state` | enqueued, processing and scheduled jobs of a queue |
//! | `jobkit_queue_oldest_seconds` | gauge | `queue` | how long the first in line has been claimable |
//! | `jobkit_queue_paused` | gauge | `queue` | 1 while it is paused |
//! | `jobkit_server_up` | gauge | `server` | 1 for a server heard within a minute |
//! | `jobkit_server_heartbeat_seconds` | gauge | `server` | how long ago it was heard |
//! | `jobkit_server_workers`, `jobkit_server_busy` | gauge | `server` | how many may run, how many did |
//! | `jobkit_limit_max`, `jobkit_limit_used`, `jobkit_limit_waiting` | gauge | `limit` | limits, the first 200 by name |
//! | `jobkit_recurring` | gauge | | schedules that are not paused |
//!
//! What one process measures itself is in the module `metrics` (feature `metrics`).
//!
//! # Example: what a scrape answers
//! ```
//! use jobkit::MemoryStorage;
//! use jobkit::ops::prometheus::Figures;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), jobkit::Error> {
//! # let storage = MemoryStorage::new();
//! let text = Figures::read(&storage).await?.to_string();
//! assert!(text.contains("jobkit_jobs{state=\"enqueued\"} 0\n"));
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::fmt;

use crate::model::bounds::PAGE;
use crate::model::clock::Timestamp;
use crate::model::error::{Result, offered};
use crate::model::redact::hide_in_text;
use crate::model::state::StateName;
use crate::model::stats::{Scope, Tally};
use crate::storage::{Call, LimitUsage, ServerStatus, Snapshot, Storage};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything the text is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// What there is now.
    pub snapshot: Snapshot,
    /// All transitions since the beginning.
    pub counters: Tally,
    /// The servers.
    pub servers: Vec<ServerStatus>,
    /// The limits.
    pub limits: Vec<LimitUsage>,
}

impl Figures {
    /// Reads them: four calls, none of which counts the jobs.
    ///
    /// # Errors
    /// The storage's; a storage without limits has none.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn read<S: Storage + ?Sized>(storage: &S) -> Result<Self> {
        let limits =
            offered(storage.limits(&Call::default(), None, PAGE).await)?.unwrap_or_default();
        Ok(Self {
            snapshot: storage.snapshot(&Call::default()).await?,
            counters: storage.counters(&Scope::Total).await?,
            servers: storage.servers().await?,
            limits,
        })
    }
}

/// A label's value: backslash, quote and line feed are escaped.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => write!(f, "{c}"),
        })
    }
}

fn head(f: &mut fmt::Formatter<'_>, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// A family with one label.
fn family(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    help: &str,
    label: &str,
    samples: impl Iterator<Item = (String, String)>,
) -> fmt::Result {
    let mut samples = samples.peekable();
    if samples.peek().is_some() {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        head(f, name, kind, help)?;
    }
    samples.try_for_each(|(at, value)| writeln!(f, "{name}{{{label}=\"{}\"}} {value}", Label(&at)))
}

fn seconds(now: Timestamp, since: Timestamp) -> String {
    now.since(since).as_secs_f64().to_string()
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        let now = snapshot.now;
        let by_state = |count: &dyn Fn(StateName) -> u64| -> Vec<(String, String)> {
            let sample = |state: StateName| (state.to_string(), count(state).to_string());
            StateName::ALL.into_iter().map(sample).collect()
        };
        let jobs = by_state(&|state| snapshot.count(state)).into_iter();
        family(f, "jobkit_jobs", "Jobs in each state.", "state", jobs)?;
        head(f, "jobkit_jobs_parked", "gauge", "Enqueued jobs that are parked at a limit.")?;
        writeln!(f, "jobkit_jobs_parked {}", snapshot.parked)?;
        let to = by_state(&|state| self.counters.transitions_to(state)).into_iter();
        let help = "Transitions to each state since the beginning.";
        family(f, "jobkit_transitions_total", help, "state", to)?;

        if !snapshot.queues.is_empty() {
            head(f, "jobkit_queue_jobs", "gauge", "Jobs of a queue in each live state.")?;
        }
        for queue in &snapshot.queues {
            let counts = [
                ("enqueued", queue.enqueued),
                ("processing", queue.processing),
                ("scheduled", queue.scheduled),
            ];
            let name = Label(&queue.name);
            for (state, count) in counts {
                writeln!(f, "jobkit_queue_jobs{{queue=\"{name}\",state=\"{state}\"}} {count}")?;
            }
        }
        let queues = || snapshot.queues.iter();
        let ages = queues().map(|queue| {
            let age = queue.oldest_at.map_or_else(|| "0".into(), |since| seconds(now, since));
            (queue.name.to_string(), age)
        });
        let help = "How long the first in line has been claimable.";
        family(f, "jobkit_queue_oldest_seconds", help, "queue", ages)?;
        let paused = queues().map(|queue| {
            let holds = queue.pause.as_ref().is_some_and(|pause| pause.holds(now));
            (queue.name.to_string(), u8::from(holds).to_string())
        });
        family(f, "jobkit_queue_paused", "1 while the queue is paused.", "queue", paused)?;

        let servers = |value: &dyn Fn(&ServerStatus) -> String| -> Vec<(String, String)> {
            let sample = |server: &ServerStatus| (server.info.name.to_string(), value(server));
            self.servers.iter().map(sample).collect()
        };
        let up = servers(&|it| u8::from(!it.is_silent(now)).to_string());
        let help = "1 for a server heard within a minute.";
        family(f, "jobkit_server_up", help, "server", up.into_iter())?;
        let heard = servers(&|it| seconds(now, it.heartbeat_at));
        let help = "How long ago the server was heard.";
        family(f, "jobkit_server_heartbeat_seconds", help, "server", heard.into_iter())?;
        let workers = servers(&|it| it.info.workers.to_string());
        let help = "How many jobs the server runs at once.";
        family(f, "jobkit_server_workers", help, "server", workers.into_iter())?;
        let busy = servers(&|it| it.busy.to_string());
        let help = "How many jobs ran at its last heartbeat.";
        family(f, "jobkit_server_busy", help, "server", busy.into_iter())?;

        let limits = |value: &dyn Fn(&LimitUsage) -> u64| -> Vec<(String, String)> {
            // Names are any text. Two that differ in what is hidden would be one series twice.
            let mut seen = HashSet::new();
            let named = self.limits.iter().map(|it| (hide_in_text(&it.limit.name), it));
            let fresh = named.filter(|(name, _)| seen.insert(name.clone()));
            fresh.map(|(name, it)| (name, value(it).to_string())).collect()
        };
        let max = limits(&|it| it.limit.max.into());
        family(f, "jobkit_limit_max", "The limit's number.", "limit", max.into_iter())?;
        let used = limits(&|it| it.used.into());
        let help = "Slots taken, or starts that count now.";
        family(f, "jobkit_limit_used", help, "limit", used.into_iter())?;
        let waiting = limits(&|it| it.waiting);
        family(f, "jobkit_limit_waiting", "Jobs parked at it.", "limit", waiting.into_iter())?;

        head(f, "jobkit_recurring", "gauge", "Schedules that are not paused.")?;
        writeln!(f, "jobkit_recurring {}", snapshot.recurring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Incarnation;
    use crate::model::limit::Limit;
    use crate::model::name::Name;
    use crate::model::recurring::Pause;
    use crate::storage::{QueueSnapshot, ServerInfo};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_text_is_the_golden_one() {
        let name = Name::from_stored;
        let server = |server: &'static str, heard: i64| ServerStatus {
            info: ServerInfo {
                name: name(server),
                incarnation: Incarnation::from_i64(1),
                pid: 1,
                host: "h".into(),
                version: "0".into(),
                workers: 20,
                queues: vec![],
                kinds: vec![],
                started_at: at(0),
                draining: false,
            },
            heartbeat_at: at(heard),
            busy: 3,
            order: None,
        };
        let queue = |queue: &'static str, oldest, pause| QueueSnapshot {
            name: name(queue),
            enqueued: 5,
            processing: 3,
            scheduled: 1,
            oldest_at: oldest,
            pause,
        };
        let mut counters = Tally::default();
        counters.to[StateName::Succeeded.index()] = 123_456;
        let figures = Figures {
            snapshot: Snapshot {
                now: at(1000),
                by_state: [1, 2, 5, 3, 400, 7, 0],
                queues: vec![
                    queue("default", Some(at(990)), None),
                    queue("mail", None, Some(Pause::new("ann", ""))),
                ],
                servers: 2,
                recurring: 4,
                parked: 2,
            },
            counters,
            servers: vec![server("web-1", 999), server("web-2", 900)],
            limits: vec![LimitUsage {
                limit: Limit::new("a \"b\"\\\nc", 5),
                used: 5,
                room_at: None,
                waiting: 2,
                defined_by_operator: false,
            }],
        };
        let golden = include_str!("prometheus_golden.txt");
        assert_eq!(figures.to_string(), golden);
    }

    #[test]
    fn what_there_is_none_of_has_no_head() {
        let text = Figures::default().to_string();
        for family in ["jobkit_server", "jobkit_limit", "jobkit_queue"] {
            assert!(!text.contains(family), "{text}");
        }
        assert!(text.ends_with("jobkit_recurring 0\n"));
    }
}
