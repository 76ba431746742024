//! Anything is written into any column of any row: reads and writes answer an error or pass over the row,
//! nothing panics or hangs, and who is not touched goes on.
//!
//! `JOBKIT_FUZZ_SEED` repeats what a failure names, `JOBKIT_FUZZ_CASES` asks for more,
//! `JOBKIT_FUZZ_SECONDS` for as many seeds as there is time for.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::failure::ErrorDetail;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::{Lease, NewRecord, Payload, Progress};
use jobkit_core::recurring::{JobTemplate, NextRun, Overlap, Pause};
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::stats::{Scope, Step as Span};
use jobkit_core::storage::*;
use jobkit_core::unique::Unique;
use jobkit_core::{BatchId, Clock, Incarnation, JobId, Name, OperationId, TestClock, Timestamp};
use jobkit_sqlite::{SqliteOptions, SqliteStorage};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::sample::select;
use proptest::strategy::Union;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::support::every_minute;

/// Where one cell is, by numbers that are taken modulo what there is, and what is written there.
#[derive(Clone, Debug)]
struct Corruption {
    table: usize,
    column: usize,
    row: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Cell(Value),
    /// What is there, but for its end.
    Truncated(usize),
    /// What is there, with another byte somewhere.
    Changed(usize, u8),
}

fn corruption() -> impl Strategy<Value = Corruption> {
    let extreme = vec![
        0,
        1,
        -1,
        2,
        7,
        99,
        i64::MIN,
        i64::MAX,
        i64::MIN + 1,
        i64::from(u32::MAX),
        -9_000_000_000_000_000,
    ];
    let texts =
        ["", "null", "[]", "{}", "0", "-1", "\"\"", "1e999", "\u{0}", "{\"a\":", "[[[[[[", "🦀"];
    let deep = "[".repeat(100_000);
    let what = Union::new_weighted(vec![
        (1, Just(What::Cell(Value::Null)).boxed()),
        (3, select(extreme).prop_map(|n| What::Cell(Value::Integer(n))).boxed()),
        (2, any::<i64>().prop_map(|n| What::Cell(Value::Integer(n))).boxed()),
        (1, any::<f64>().prop_map(|n| What::Cell(Value::Real(n))).boxed()),
        (2, select(texts.to_vec()).prop_map(|it| What::Cell(Value::Text(it.into()))).boxed()),
        (
            1,
            vec(any::<char>(), 0..20)
                .prop_map(|it| What::Cell(Value::Text(it.into_iter().collect())))
                .boxed(),
        ),
        (1, Just(What::Cell(Value::Text(deep))).boxed()),
        (2, vec(any::<u8>(), 0..24).prop_map(|it| What::Cell(Value::Blob(it))).boxed()),
        (4, (0..300_usize).prop_map(What::Truncated).boxed()),
        (4, (0..300_usize, any::<u8>()).prop_map(|(at, to)| What::Changed(at, to)).boxed()),
    ]);
    // Jobs are the most, and have the most columns.
    let table = Union::new_weighted(vec![(2, Just(0_usize).boxed()), (3, (0..40_usize).boxed())]);
    (table, 0..64_usize, 0..64_usize, what).prop_map(|(table, column, row, what)| Corruption {
        table,
        column,
        row,
        what,
    })
}

/// Tables whose rows belong to some jobs alone, so that others go on whatever is in them.
const PRIVATE: [&str; 13] = [
    "jobkit_job",
    "jobkit_payload",
    "jobkit_edge",
    "jobkit_error",
    "jobkit_log",
    "jobkit_log_tail",
    "jobkit_progress",
    "jobkit_memo",
    "jobkit_checkpoint",
    "jobkit_recurring",
    "jobkit_recurring_run",
    "jobkit_stat",
    "jobkit_delta",
];

/// Writes it down; the table, or nothing where the schema does not allow it.
fn apply(conn: &Connection, corruption: &Corruption) -> rusqlite::Result<Option<String>> {
    let texts = |sql: &str| -> rusqlite::Result<Vec<String>> {
        conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let mut tables = texts("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")?;
    let jobs = tables.iter().position(|it| it == "jobkit_job").unwrap_or(0);
    tables.swap(0, jobs);
    let table = &tables[corruption.table % tables.len()];
    let columns = texts(&format!("SELECT name FROM pragma_table_info('{table}')"))?;
    let column = &columns[corruption.column % columns.len()];
    let mut keys =
        texts(&format!("SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk"))?
            .join(", ");
    if keys.is_empty() {
        keys = "rowid".to_owned();
    }
    let spared = if table == "jobkit_job" {
        "WHERE kind NOT IN (SELECT id FROM jobkit_name WHERE text = 'bystander')"
    } else {
        ""
    };
    let count: i64 =
        conn.query_row(&format!("SELECT count(*) FROM {table} {spared}"), [], |row| row.get(0))?;
    if count == 0 {
        return Ok(None);
    }
    let row = i64::try_from(corruption.row).unwrap_or(0) % count;
    let chosen =
        format!("SELECT {keys} FROM {table} {spared} ORDER BY {keys} LIMIT 1 OFFSET {row}");
    let mut value = match &corruption.what {
        What::Cell(value) => value.clone(),
        What::Truncated(_) | What::Changed(..) => {
            let cell = format!("SELECT {column} FROM {table} WHERE ({keys}) IN ({chosen})");
            conn.query_row(&cell, [], |row| row.get(0))?
        }
    };
    let bytes = match &mut value {
        Value::Text(text) => Some(std::mem::take(text).into_bytes()),
        Value::Blob(bytes) => Some(std::mem::take(bytes)),
        _ => None,
    };
    if let Some(mut bytes) = bytes {
        let was_text = matches!(value, Value::Text(_));
        match &corruption.what {
            What::Truncated(at) => bytes.truncate(at % (bytes.len() + 1)),
            What::Changed(at, to) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] = *to;
            }
            _ => {}
        }
        value = match String::from_utf8(bytes) {
            Ok(text) if was_text => Value::Text(text),
            Ok(text) => Value::Blob(text.into_bytes()),
            Err(other) => Value::Blob(other.into_bytes()),
        };
    }
    let update = format!("UPDATE {table} SET {column} = ?1 WHERE ({keys}) IN ({chosen})");
    let written = match conn.execute(&update, [value]) {
        // What a constraint forbids is not there.
        Err(rusqlite::Error::SqliteFailure(error, _))
            if matches!(
                error.code,
                rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TypeMismatch
            ) =>
        {
            0
        }
        written => written?,
    };
    Ok((written > 0).then(|| table.clone()))
}

fn name(text: &str) -> Name {
    Name::from_stored(text)
}

fn job(kind: &str, n: u32) -> NewRecord {
    NewRecord::new(JobId::from_key(kind, &n.to_string()), name(kind), *b"{}")
}

const BYSTANDERS: u32 = 3;
const LIFE: Incarnation = Incarnation::from_i64(7);

fn claim(sequence: u64, kind: &str, max: usize) -> ClaimRequest {
    ClaimRequest {
        server: name("server"),
        incarnation: LIFE,
        sequence,
        queues: vec![QueueQuota { queue: Name::default_queue(), max }],
        kinds: vec![name(kind)].into(),
        max,
        started: max / 2,
        lease: Duration::from_secs(30),
        sleeps_below: 0,
        hint: None,
    }
}

/// A database with something of everything; leases that are still held.
async fn fill(path: &Path, clock: &TestClock) -> Vec<Lease> {
    let storage = SqliteOptions::new(path).clock(clock.clone()).open().await.unwrap();
    let server = ServerInfo {
        name: name("server"),
        incarnation: LIFE,
        pid: 1,
        host: "h".into(),
        version: "0".into(),
        workers: 1,
        queues: vec![Name::default_queue()],
        kinds: vec![name("k"), name("bystander")],
        started_at: Timestamp::MIN,
        draining: false,
    };
    storage.announce(&Call::default(), &server).await.unwrap();
    let mut submissions = Vec::new();
    for n in 0..12 {
        let mut one = job("k", n);
        one.args = vec![b' '; if n % 5 == 0 { 3000 } else { 10 }].into();
        one.tags = vec!["tag".into()];
        one.extras_mut().display_name = Some("Name".into());
        one.start_by = (n == 11).then(|| clock.now().plus(Duration::from_secs(60)));
        match n % 4 {
            0 => one.limits = vec![Limit::new("one", 1)],
            1 => one.unique = Some(Unique::new(format!("key{n}"))),
            2 => {
                let window = Window::Sliding(Duration::from_secs(60));
                one.limits = vec![Limit::rate("rate", 2, window)];
            }
            _ => {}
        }
        submissions.push(Submission::one(one));
    }
    let later = NewRecord { start: Start::After(Duration::from_secs(60)), ..job("k", 20) };
    let child = |n, of, on| {
        let edges = vec![Edge { parent: Parent::Job(job("k", of).id), on }];
        NewRecord { edges, ..job("k", n) }
    };
    submissions.push(Submission::flow(vec![later, child(21, 20, On::Success)]));
    submissions.push(Submission::flow(vec![child(22, 3, On::Any), child(23, 1, On::Failed)]));
    let batch = BatchId::from_key("b");
    let member = |n| NewRecord { batch: Some(batch), ..job("k", n) };
    let edges = vec![Edge { parent: Parent::Batch(batch), on: On::Success }];
    let then = NewRecord { edges, ..job("k", 32) };
    let new = NewBatch { starts: Starts::WhenStarted, ..NewBatch::new(batch, "b") };
    let jobs = vec![member(30), member(31), then];
    submissions.push(Submission { batch: Some(new), jobs });
    submissions.extend((0..BYSTANDERS).map(|n| Submission::one(job("bystander", n))));
    let request = SubmitRequest { submissions: &submissions };
    storage.submit(&Call::default(), request).await.unwrap();
    let held = storage.claim(&Call::default(), &claim(1, "k", 6)).await.unwrap().jobs;
    let endings = [
        Ending::Succeeded,
        Ending::Failed(Reason::Permanent),
        Ending::Retry { delay: Duration::from_secs(9) },
    ];
    let settles = held.iter().zip(endings).map(|(job, ending)| {
        let mut settle = Settle::new(job.lease, ending);
        settle.result = Some(Payload::from(b"1".to_vec()));
        settle.error = Some(ErrorDetail::new("k", "E", "message", [], None));
        let text = "line".to_owned();
        settle.log.push(LogLine { at: clock.now(), level: LogLevel::Warn, text });
        let (name, message) = ("bar".to_owned(), String::new());
        settle.progress.push(Progress { name, done: 1, total: 2, message });
        settle
    });
    let request = SettleRequest { server: name("server"), settles: settles.collect() };
    storage.settle(&Call::default(), &request).await.unwrap();
    let leases: Vec<Lease> = held[3..].iter().map(|job| job.lease).collect();
    let value = Payload::from(b"1".to_vec());
    storage.put_memo(&Call::default(), leases[0], "m", &value).await.unwrap();
    storage.put_checkpoint(&Call::default(), leases[0], &value).await.unwrap();
    let template = JobTemplate::from_record(&job("k", 99)).unwrap();
    let next = Some(NextRun { nominal_at: clock.now(), due_at: clock.now() });
    for id in ["a", "b"] {
        let spec = every_minute(id, template.clone());
        let save = SaveRecurring { spec, next, if_etag: None };
        storage.save_recurring(&Call::default(), &[save]).await.unwrap();
        fire(&storage, id, clock.now(), if id == "a" { 40 } else { 41 }).await.unwrap();
    }
    let pause = Pause::new("me", "why");
    storage.pause(&Call::default(), &PauseTarget::Queue(name("elsewhere")), &pause).await.unwrap();
    storage.pause_recurring(&Call::default(), "b", PauseChange::Pause(pause)).await.unwrap();
    let lock = LockRequest { name: "lock".into(), owner: LIFE, ttl: Duration::from_secs(60) };
    storage.try_acquire(&Call::default(), &lock).await.unwrap();
    leases
}

async fn fire(
    storage: &SqliteStorage,
    id: &str,
    at: Timestamp,
    n: u32,
) -> jobkit_core::Result<Vec<FireOutcome>> {
    let later = at.plus(Duration::from_secs(60));
    let etag = storage.recurring(id).await?.map_or(0, |record| record.etag);
    let fire = Fire {
        id: id.into(),
        expected: at,
        etag,
        skipped: Vec::new(),
        job: Some(FireJob { nominal_at: at, job: job("k", n), overlap: Overlap::Skip }),
        next: Some(NextRun { nominal_at: later, due_at: later }),
    };
    storage.fire_recurring(&Call::default(), &[fire]).await
}

/// Calls everything that reads; answers do not matter.
async fn read(storage: &SqliteStorage) {
    let ids: Vec<JobId> = (0..50).map(|n| job("k", n).id).collect();
    for id in &ids {
        let _ = storage.job(*id).await;
        let _ = storage.relations(*id, None, 5).await;
        let _ = storage.read_log(*id, None, 0, 9).await;
        let _ = storage.memo(*id, "m").await;
        let _ = storage.checkpoint(*id).await;
    }
    let _ = storage.jobs(&ids).await;
    let _ = storage.batch(BatchId::from_key("b")).await;
    let _ = storage.batches(None, None, 9).await;
    let _ = storage.limits(&Call::default(), None, 9).await;
    for limit in ["one", "rate"] {
        let _ = storage.limit(&Call::default(), limit).await;
        let _ = storage.limit_holders(limit, 9).await;
    }
    let _ = storage.list_recurring(None, 9).await;
    let _ = storage.due_recurring(&Call::default(), 9).await;
    for id in ["a", "b"] {
        let _ = storage.recurring(id).await;
        let _ = storage.recurring_runs(id, 9).await;
    }
    let _ = storage.servers().await;
    let _ = storage.pauses(&Call::default()).await;
    let _ = storage.snapshot(&Call::default()).await;
    let _ = storage.lanes(9).await;
    let _ = storage.counters(&Scope::Total).await;
    let (from, to) = (Timestamp::MIN, Timestamp::MAX);
    let _ = storage.series(&SeriesQuery { scope: Scope::Total, step: Span::Hour, from, to }).await;
    for measure in [Measure::Wait, Measure::Run] {
        let query = HistogramQuery { scope: Scope::Total, measure, from, to };
        let _ = storage.histogram(&query).await;
    }
    for state in StateName::ALL {
        let mut query = JobQuery::new(state);
        query.limit = 3;
        for _ in 0..40 {
            match storage.list(&query).await {
                Ok(page) if page.next.is_some() => query.after = page.next,
                _ => break,
            }
        }
        let text = Some("Nam".to_owned());
        let _ = storage.list(&JobQuery { text, ..JobQuery::new(state) }).await;
    }
    let _ = storage.check().await;
}

/// Calls everything that changes jobs.
async fn write(storage: &SqliteStorage, leases: &[Lease], clock: &TestClock) {
    let step = StepRequest { max: 100 };
    let sequence = 2;
    let _ = storage.claim(&Call::default(), &claim(sequence, "k", 5)).await;
    let held = leases.iter().map(|lease| Renewal { lease: *lease, started: true }).collect();
    let lease = Duration::from_secs(30);
    let sequences = 1..=1;
    let renew = RenewRequest { incarnation: LIFE, sequences, held, lease };
    let _ = storage.renew(&Call::default(), &renew).await;
    for (lease, ending) in leases.iter().zip([Ending::Succeeded, Ending::GivenBack]) {
        let settles = vec![Settle::new(*lease, ending)];
        let request = SettleRequest { server: name("server"), settles };
        let _ = storage.settle(&Call::default(), &request).await;
    }
    let _ = storage.start_batch(&Call::default(), BatchId::from_key("b")).await;
    for (n, action) in [
        (6, Action::Delete { keep: None }),
        (0, Action::Requeue { run_at: None }),
        (7, Action::Move { queue: None, priority: Some(9) }),
        (20, Action::RunNow),
        (8, Action::Reschedule { run_at: clock.now() }),
        (5, Action::Delete { keep: None }),
    ] {
        let (operation, guard) = (OperationId::new(), Guard::None);
        let changes = [Change { operation, job: job("k", n).id, guard, action }];
        let request = ChangeRequest { changes: &changes, actor: None };
        let _ = storage.change_state(&Call::default(), request).await;
    }
    let _ = fire(storage, "a", clock.now(), 42).await;
    let _ = storage.trigger_recurring(&Call::default(), "b", &job("k", 43)).await;
    let submissions = [Submission::one(job("k", 44))];
    let _ = storage.submit(&Call::default(), SubmitRequest { submissions: &submissions }).await;
    for seconds in [100, 100_000] {
        clock.advance(Duration::from_secs(seconds));
        let _ = storage.promote_due(&Call::default(), step).await;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let request = RescueRequest { seen, crash_limit: 3, max: 100 };
            seen = storage
                .rescue_expired(&Call::default(), &request)
                .await
                .map_or_else(|_| Vec::new(), |it| it.expired);
        }
        // A step may leave a row as it is, but must not be wanted again without end.
        for _ in 0..50 {
            if !storage.sweep(&Call::default(), step).await.is_ok_and(|step| step.more) {
                break;
            }
        }
        for _ in 0..50 {
            if !storage.purge_expired(&Call::default(), step).await.is_ok_and(|step| step.more) {
                break;
            }
        }
    }
    let _ = storage.cancel_batch(&Call::default(), BatchId::from_key("b")).await;
    let _ = storage.remove_dead(&Call::default(), Duration::from_secs(1_000_000)).await;
}

/// Those that were not touched are claimed and done.
async fn bystanders_go_on(storage: &SqliteStorage) -> Result<(), String> {
    let mut done = BTreeSet::new();
    for sequence in 3..10 {
        let claimed = storage.claim(&Call::default(), &claim(sequence, "bystander", 5)).await;
        let jobs = claimed.map_err(|error| format!("a claim fails: {error}"))?.jobs;
        let settles = jobs.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
        let request = SettleRequest { server: name("server"), settles };
        let answers = storage.settle(&Call::default(), &request).await;
        answers.map_err(|error| format!("a settle fails: {error}"))?;
        done.extend(jobs.iter().map(|job| job.lease.job));
    }
    let missing = (0..BYSTANDERS).map(|n| job("bystander", n).id).find(|id| !done.contains(id));
    missing.map_or(Ok(()), |missing| Err(format!("{missing} is not claimed")))
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Panics on the storage's threads are caught there, and told as errors: here they count.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("jobkit-sqlite-")) {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
            before(info);
        }));
    });
}

async fn survive(
    template: &Path,
    corruptions: &[Corruption],
    leases: &[Lease],
    now: Timestamp,
) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    std::fs::copy(template, &path).unwrap();
    let conn = Connection::open(&path).unwrap();
    let tables: Vec<String> = corruptions
        .iter()
        .filter_map(|corruption| apply(&conn, corruption).expect("the schema is known"))
        .collect();
    drop(conn);
    let clock = TestClock::at(now);
    // It may say that it cannot be opened: then that is all.
    if let Ok(storage) = SqliteOptions::new(&path).clock(clock.clone()).open().await {
        read(&storage).await;
        write(&storage, leases, &clock).await;
        read(&storage).await;
        if tables.iter().all(|table| PRIVATE.contains(&table.as_str())) {
            bystanders_go_on(&storage).await?;
        }
    }
    match PANICS.lock().unwrap_or_else(PoisonError::into_inner).drain(..).next() {
        Some(panic) => Err(panic),
        None => Ok(()),
    }
}

/// Always the same, so that the test judges the change at hand; each that fails is added.
const SEEDS: &[u64] = &[20_787, 4];

#[test]
fn whatever_is_written_into_a_row_nothing_panics_and_others_go_on() {
    watch_for_panics();
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("JOBKIT_FUZZ_CASES").unwrap_or(60);
    let (first, seconds) = (number("JOBKIT_FUZZ_SEED"), number("JOBKIT_FUZZ_SECONDS"));
    let seeds: Box<dyn Iterator<Item = u64>> = match (first, seconds) {
        (first, Some(_)) => Box::new(first.unwrap_or(SEEDS[0])..),
        (Some(seed), None) => Box::new(std::iter::once(seed)),
        (None, None) => Box::new(SEEDS.iter().copied()),
    };
    let at_most = seconds.map_or(Duration::MAX, Duration::from_secs);
    let began = std::time::Instant::now();
    for seed in seeds.take_while(|_| began.elapsed() < at_most) {
        survive_all(seed, cases);
    }
}

fn survive_all(seed: u64, cases: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let template = dir.path().join("template.db");
    let clock = TestClock::default();
    let leases = runtime.block_on(fill(&template, &clock));
    // Everything in one file.
    let conn = Connection::open(&template).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let tested =
        TestRunner::new_with_rng(config, random).run(&vec(corruption(), 1..4), |corruptions| {
            let survived = survive(&template, &corruptions, &leases, clock.now());
            let hangs = Duration::from_secs(30);
            let survived = runtime.block_on(async { tokio::time::timeout(hangs, survived).await });
            survived.unwrap_or_else(|_| Err("something hangs".into())).map_err(TestCaseError::fail)
        });
    if let Err(failed) = tested {
        panic!(
            "{failed}\nagain: JOBKIT_FUZZ_SEED={seed} JOBKIT_FUZZ_CASES={cases} \
             cargo nextest run -p jobkit-sqlite -E 'test(whatever_is_written)'"
        );
    }
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let clock = TestClock::default();
    fill(&path, &clock).await;
    let resume = PauseChange::Resume {
        next: Some(NextRun { nominal_at: clock.now(), due_at: clock.now() }),
    };
    let storage = SqliteOptions::new(&path).clock(clock.clone()).open().await.unwrap();
    storage.pause_recurring(&Call::default(), "b", resume).await.unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.execute("UPDATE jobkit_recurring SET spec = '{not json' WHERE id = 'a'", []).unwrap();
    clock.advance(Duration::from_secs(600));
    let ids = |records: &[jobkit_core::recurring::RecurringRecord]| {
        records.iter().map(|record| record.spec.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&storage.due_recurring(&Call::default(), 9).await.unwrap().due), ["b"]);
    assert_eq!(ids(&storage.list_recurring(None, 9).await.unwrap()), ["b"]);
    assert!(storage.recurring("a").await.is_err(), "who asks for it is told");
}
