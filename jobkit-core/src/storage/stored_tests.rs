//! Whatever stands in a stored text, reading it answers a value or an error, and a value that was read can
//! be used.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop};
use proptest::strategy::Union;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::batch::BatchRecord;
use crate::model::edge::BatchCounts;
use crate::model::failure::ErrorDetail;
use crate::model::limit::{Limit, Window};
use crate::model::record::{Extras, History, HistoryEntry, NewRecord, Occurrence, Overrides};
use crate::model::recurring::{
    JobTemplate, Misfire, NextRun, Overlap, Pause, RecurringRun, RecurringSpec, RunOutcome,
};
use crate::model::state::{Keep, Reason, Retention, StateName};
use crate::model::stats::{Delta, Tally};
use crate::model::unique::{Unique, Until};
use crate::storage::{ServerCommand, ServerInfo};
use crate::{BatchId, Incarnation, JobId, Name, RetryPolicy, Schedule, TimeZone, Timestamp};

/// What is done to a stored text, one after the other.
#[derive(Clone, Debug)]
enum Harm {
    Truncate(usize),
    Byte(usize, u8),
    /// A number, wherever the text has its n-th one.
    Number(usize, &'static str),
    Replace(String),
}

fn harms() -> impl Strategy<Value = Vec<Harm>> {
    let numbers = vec![
        "0",
        "-1",
        "1e308",
        "1e999",
        "18446744073709551615",
        "9223372036854775807",
        "-9223372036854775808",
        "4294967295",
        "0.5",
        "null",
        "\"x\"",
        "[]",
    ];
    let harm = Union::new_weighted(vec![
        (1, any::<usize>().prop_map(Harm::Truncate).boxed()),
        (2, (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Harm::Byte(at, to)).boxed()),
        (
            4,
            (any::<usize>(), prop::sample::select(numbers))
                .prop_map(|(n, to)| Harm::Number(n, to))
                .boxed(),
        ),
        (
            1,
            vec(any::<char>(), 0..30)
                .prop_map(|it| Harm::Replace(it.into_iter().collect()))
                .boxed(),
        ),
        (1, Just(Harm::Replace("[".repeat(100_000))).boxed()),
    ]);
    vec(harm, 1..4)
}

fn harmed(text: &str, harms: &[Harm]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for harm in harms {
        match harm {
            Harm::Truncate(at) => bytes.truncate(at % (bytes.len() + 1)),
            Harm::Byte(at, to) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] = *to;
            }
            Harm::Byte(..) => {}
            Harm::Number(n, to) => {
                let is_start = |at: &usize| {
                    bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[at - 1].is_ascii_digit())
                };
                let starts: Vec<usize> = (0..bytes.len()).filter(is_start).collect();
                if let Some(start) = starts.get(n % starts.len().max(1)).copied() {
                    let digits = bytes[start..].iter().take_while(|it| it.is_ascii_digit()).count();
                    bytes.splice(start..start + digits, to.bytes());
                }
            }
            Harm::Replace(with) => bytes = with.clone().into_bytes(),
        }
    }
    bytes
}

/// Harms the text of a value a thousand times; `used` does with what is read what a storage, a server or
/// a page would.
fn survives<T>(value: &T, used: impl Fn(T))
where
    T: Serialize + DeserializeOwned,
{
    let text = serde_json::to_string(value).unwrap();
    serde_json::from_str::<T>(&text).expect("what was written is read");
    let config = Config { cases: 1000, failure_persistence: None, ..Config::default() };
    let tested = TestRunner::new(config).run(&harms(), |harms| {
        let harmed = harmed(&text, &harms);
        if let Ok(value) = serde_json::from_slice::<T>(&harmed) {
            let again = serde_json::to_string(&value).map_err(|error| {
                TestCaseError::fail(format!("it is read and cannot be written: {error}"))
            })?;
            let _ = serde_json::from_str::<T>(&again);
            used(value);
        }
        Ok(())
    });
    if let Err(failed) = tested {
        panic!("{failed}\nof {text}");
    }
}

fn name() -> Name {
    Name::from_stored("k")
}

const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

fn extras() -> Extras {
    Extras {
        display_name: Some("n".into()),
        metadata: [("a".into(), "b".into())].into(),
        overrides: Overrides {
            retry: Some(RetryPolicy::exponential(
                Duration::from_secs(1),
                2.0,
                Duration::from_secs(60),
            )),
            max_attempts: Some(3),
            timeout: Some(Duration::from_secs(5)),
            retention: Some(Retention::all(Keep::For(Duration::from_secs(7200)))),
        },
        occurrence: Some(Occurrence { recurring: "r".into(), nominal_at: NOW }),
        ..Extras::default()
    }
}

fn use_extras(extras: &Extras) {
    let overrides = &extras.overrides;
    if let Some(retry) = &overrides.retry {
        for failures in [0, 1, 7, u32::MAX] {
            let _ = retry.next(failures, 0.7);
        }
        let _ = retry.validate();
    }
    if let Some(retention) = overrides.retention {
        let _ = retention.succeeded.expires_at(NOW);
        let _ = retention.failed.expires_at(Timestamp::MAX);
    }
}

#[test]
fn extras_and_what_is_in_them() {
    survives(&extras(), |extras| use_extras(&extras));
    let listed = RetryPolicy::list([Duration::from_secs(1), Duration::from_secs(2)]);
    for policy in [RetryPolicy::polynomial(), listed, RetryPolicy::fixed(Duration::from_secs(3))] {
        survives(&policy, |policy| {
            let _ = (policy.next(1, 0.0), policy.next(999, 1.0), policy.validate());
        });
    }
}

#[test]
fn schedules_and_their_jobs() {
    let mut template = NewRecord::new(JobId::from_key("k", "t"), name(), *b"{\"a\":1}");
    template.extras = Some(Box::new(extras()));
    template.unique =
        Some(Unique { until: Until::Period(Duration::from_secs(9)), ..Unique::new("k") });
    template.limits = vec![Limit::rate("l", 2, Window::Sliding(Duration::from_secs(60)))];
    for schedule in [
        Schedule::every(Duration::from_secs(60)).unwrap(),
        Schedule::cron("*/5 9-17 * * MON-FRI").unwrap(),
        Schedule::quartz("0 0 9 ? * MON-FRI").unwrap(),
    ] {
        let spec = RecurringSpec {
            id: "r".into(),
            schedule,
            time_zone: TimeZone::UTC,
            misfire: Misfire::RunAll { cap: 5 },
            overlap: Overlap::Skip,
            jitter: Duration::from_secs(7),
            starts_at: Some(NOW),
            ends_at: Some(Timestamp::MAX),
            job: JobTemplate::from_record(&template).unwrap(),
        };
        survives(&spec, |spec| {
            let _ = spec.check();
            for after in [NOW, Timestamp::MIN, Timestamp::MAX] {
                let _ = spec.next_after(after);
            }
            let occurrence = Occurrence { recurring: spec.id.clone(), nominal_at: NOW };
            let job = spec.job.instantiate(JobId::from_key("k", "i"), occurrence);
            let _ = (job.check(), job.content_digest(), job.retention());
            use_extras(&spec.job.extras);
            for limit in &spec.job.limits {
                let _ = (limit.check(), limit.window.map(|window| window.counts_from(NOW)));
            }
            let _ =
                spec.job.unique.map(|unique| (unique.hash(), unique.held_until(Timestamp::MAX)));
        });
    }
    let outcome = RunOutcome::Refused { reason: "r".into() };
    let run = RecurringRun { nominal_at: NOW, through: NOW, count: 1, outcome, at: NOW };
    survives(&run, |run| drop(format!("{} {run:?}", run.at)));
    survives(&NextRun { nominal_at: NOW, due_at: NOW }, drop);
}

#[test]
fn histories_and_errors() {
    let entry = HistoryEntry {
        state: StateName::Processing,
        reason: Reason::Claimed,
        at: NOW,
        fence: Some(1),
        server: Some(name()),
        duration: Some(Duration::from_secs(1)),
        run_at: Some(NOW),
        actor: Some("a".into()),
    };
    let history = History { entries: vec![entry.clone(); 5], dropped: 3 };
    survives(&history, move |mut history| {
        let _ = history.applied();
        history.push(entry.clone());
    });
    survives(&ErrorDetail::new("k", "E", "message", [], None), |error| drop(format!("{error:?}")));
}

#[test]
fn pauses_servers_and_batches() {
    let pause = Pause { until: Some(NOW), ..Pause::new("me", "why") };
    survives(&pause, |pause| drop((pause.holds(NOW), pause.check())));
    let server = ServerInfo {
        name: name(),
        incarnation: Incarnation::from_i64(7),
        pid: 1,
        host: "h".into(),
        version: "0".into(),
        workers: 1,
        queues: vec![name()],
        kinds: vec![name()],
        started_at: NOW,
        draining: false,
    };
    survives(&server, |server| drop(format!("{server:?} {}", server.started_at)));
    survives(&ServerCommand::Quiet, |_| ());
    let batch = BatchRecord {
        id: BatchId::from_key("b"),
        name: "b".into(),
        parent: None,
        counts: BatchCounts { total: 3, succeeded: 1, failed: 1, deleted: 0, lost: false },
        created_at: NOW,
        attached_at: NOW,
        started_at: Some(NOW),
        completed_at: None,
        succeeded_at: None,
        cancelled_at: None,
    };
    survives(&batch, |mut batch| {
        let _ = (batch.state(), batch.as_member(), batch.counts.open());
        batch.advance(Timestamp::MAX);
    });
}

#[test]
fn statistics() {
    let mut delta = Delta::at(NOW);
    delta.count(&name(), &name(), None, StateName::Enqueued, Reason::Submitted);
    let (wait, run) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
    delta.count_end_of_claim(&name(), &name(), StateName::Succeeded, Reason::Done, wait, run);
    let used = |tally: &Tally| {
        let mut sum = tally.clone();
        sum.add(tally);
        let _ = (sum.is_empty(), sum.wait.count(), sum.run.quantile(0.99));
    };
    survives(&delta, move |delta| {
        for (_, tally) in delta.cells() {
            used(&tally);
        }
    });
    survives(&delta.lanes[0].2, move |tally| used(&tally));
}
