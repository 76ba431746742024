//! Server processes on one file are killed, frozen and restarted, and the disk fills up, while jobs of
//! every kind are enqueued. Then everything is healed, and the books are checked.
//!
//! `JOBKIT_CHAOS_SECONDS` says for how long (45 by default), `JOBKIT_CHAOS_SEED` repeats what happens, though
//! not when to the microsecond. `cargo xtask chaos` sets both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jobkit::sqlite::SqliteStorage;
use jobkit::state::{Reason, StateName};
use jobkit::stats::Scope;
use jobkit::storage::{BatchStore, JobQuery, JobStore, Monitoring};
use jobkit::{Applied, Batch, BatchId, Client, ClientOptions, Enqueue, JobId, On};

use crate::ledger::{Ledger, Line, What, by_job};
use crate::worker::{LEASE, Process, doomed, eventually, parent_of, retried, snoozer, work};

/// Servers that run at a time.
const SERVERS: usize = 3;
/// Pause between two rounds of submits; about 20 jobs each.
const PACE: Duration = Duration::from_millis(100);

/// Seeded numbers, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// A small disk of its own, where that is allowed; else the folder it stands in.
struct Disk {
    path: PathBuf,
    mounted: bool,
}

impl Disk {
    fn new(folder: &Path, mebibytes: u64) -> Self {
        let path = folder.join("disk");
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("the disk is never full in this run: mounting one needs privileges");
        }
        Self { path, mounted }
    }

    /// Takes all the room there is, for so long.
    fn fill(&self, length: Duration) {
        if !self.mounted {
            return;
        }
        let filler = self.path.join("filler");
        let mut file = File::create(&filler).unwrap();
        let chunk = vec![1; 1 << 16];
        while file.write_all(&chunk).is_ok() {}
        // The last page too.
        while file.write_all(&[1]).is_ok() {}
        std::thread::sleep(length);
        std::fs::remove_file(filler).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a process that is about to end may still hold a file.
            let _ = Command::new("umount").arg("-l").arg(&self.path).output();
        }
    }
}

/// What was enqueued, as far as the client knows.
#[derive(Default)]
struct Books {
    accepted: BTreeSet<JobId>,
    /// The answer was lost, or none came in time.
    unknown: BTreeSet<JobId>,
    /// A child, and what must have ended before it.
    after: Vec<(JobId, JobId)>,
    batches: Vec<(BatchId, Vec<JobId>, JobId)>,
    doomed: BTreeSet<JobId>,
    /// Parents that enqueue a child by a key.
    parents: Vec<String>,
}

type Shared = Arc<Mutex<Books>>;

/// Enqueues, and writes down what is known of it then; whether it was accepted.
async fn put<E: Enqueue>(client: &Client, books: &Shared, ids: &[JobId], jobs: E) -> bool {
    let answer = client.enqueue(jobs).await;
    let mut books = books.lock().unwrap();
    match answer {
        Ok(_) => {
            books.accepted.extend(ids);
            true
        }
        Err(error) => {
            assert!(error.is_retryable(), "only what may pass is expected: {error}");
            if error.applied() == Applied::Unknown {
                books.unknown.extend(ids);
            }
            false
        }
    }
}

/// One round of every kind of job.
async fn submit(client: &Client, books: &Shared, round: u64) {
    let name = |what: &str, n: u64| format!("{what}-{round}-{n}");
    for n in 0..4 {
        let job = work(name("plain", n), n % 5).priority(u8::try_from(n % 10).unwrap());
        put(client, books, &[job.id()], job).await;
    }
    for job in [retried(name("retried", 0)), retried(name("retried", 1)).tag("twice")] {
        put(client, books, &[job.id()], job).await;
    }
    let job = snoozer(name("snoozer", 0));
    put(client, books, &[job.id()], job).await;
    let job = doomed(name("doomed", 0));
    books.lock().unwrap().doomed.insert(job.id());
    put(client, books, &[job.id()], job).await;
    let job = work(name("delayed", 0), 1).delay(Duration::from_millis(700));
    put(client, books, &[job.id()], job).await;
    let job = work(name("limited", 0), 10).limit("three", 3);
    put(client, books, &[job.id()], job).await;
    let job = parent_of(name("parent", 0));
    books.lock().unwrap().parents.push(name("parent", 0));
    put(client, books, &[job.id()], job).await;
    // Of two with one key one is stored, or both one after the other.
    for _ in 0..2 {
        let job = work(name("unique", 0), 1).unique(name("unique", 0)).priority(0);
        if let Ok(handle) = client.enqueue(job).await {
            books.lock().unwrap().accepted.insert(handle.id());
        }
    }
    let parent = work(name("first", 0), 2);
    let child = retried(name("second", 0)).after(&parent);
    let never = work(name("never", 0), 0).after(&parent).when(On::Failed);
    let ids = [parent.id(), child.id(), never.id()];
    if put(client, books, &ids, (parent, child, never)).await {
        books.lock().unwrap().after.push((ids[0], ids[1]));
    }
    if round.is_multiple_of(5) {
        let members: Vec<_> = (0..20).map(|n| work(name("member", n), n % 3)).collect();
        let then = work(name("then", 0), 0);
        let (then_id, ids): (_, Vec<_>) = (then.id(), members.iter().map(|it| it.id()).collect());
        let batch = Batch::new(name("batch", 0)).jobs(members).then(then);
        let (batch_id, mut all) = (batch.id(), ids.clone());
        all.push(then_id);
        if put(client, books, &all, batch).await {
            books.lock().unwrap().batches.push((batch_id, ids, then_id));
        }
    }
}

/// Which processes were disturbed, by the number of ledger lines then.
#[derive(Default)]
struct Disturbed {
    killed: BTreeMap<u32, usize>,
    frozen: BTreeSet<u32>,
    counts: BTreeMap<&'static str, u32>,
}

/// Kills, freezes, restarts and fills the disk until the time is up.
async fn disturb(
    mut random: Random,
    db: PathBuf,
    ledger: Ledger,
    disk: Arc<Disk>,
    until: Instant,
) -> (Vec<Process>, Disturbed) {
    let mut servers: Vec<_> =
        (0..SERVERS).map(|_| Process::start_with_ticks(&db, &ledger)).collect();
    let mut disturbed = Disturbed::default();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(300 + random.below(1_200))).await;
        let victim = usize::try_from(random.below(SERVERS as u64)).unwrap();
        let what = match random.below(10) {
            0..=4 => {
                let killed = std::mem::replace(
                    &mut servers[victim],
                    Process::start_with_ticks(&db, &ledger),
                );
                let pid = killed.pid();
                killed.kill();
                disturbed.killed.insert(pid, ledger.read().len());
                "killed"
            }
            5..=6 => {
                servers[victim].freeze();
                disturbed.frozen.insert(servers[victim].pid());
                // Often past the lease and the second look.
                let length = LEASE / 2 + Duration::from_millis(random.below(4_000));
                tokio::time::sleep(length).await;
                servers[victim].thaw();
                "frozen"
            }
            7..=8 => {
                let stopped = std::mem::replace(
                    &mut servers[victim],
                    Process::start_with_ticks(&db, &ledger),
                );
                let pid = stopped.pid();
                stopped.stop(Duration::from_secs(20)).await;
                disturbed.killed.insert(pid, ledger.read().len());
                "stopped"
            }
            _ => {
                let (disk, length) = (Arc::clone(&disk), 500 + random.below(2_500));
                let fill = move || disk.fill(Duration::from_millis(length));
                tokio::task::spawn_blocking(fill).await.unwrap();
                "disk full"
            }
        };
        *disturbed.counts.entry(what).or_default() += 1;
        for server in &mut servers {
            if server.has_ended() {
                // Its supervisor starts it again, as after any crash.
                disturbed.killed.insert(server.pid(), ledger.read().len());
                *server = Process::start_with_ticks(&db, &ledger);
                *disturbed.counts.entry("ended by itself").or_default() += 1;
            }
        }
    }
    (servers, disturbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_loses_nothing_and_finishes_everything_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number("JOBKIT_CHAOS_SECONDS").unwrap_or(45);
    let seed = number("JOBKIT_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("JOBKIT_CHAOS_SEED={seed} JOBKIT_CHAOS_SECONDS={seconds}");
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::new(folder.path(), 128 + seconds * 2));
    let db = disk.path.join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let options = ClientOptions::default().submit_timeout(Duration::from_secs(5));
    let client = Client::with_options(storage.clone(), options).erase();
    let books = Shared::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    let adversary =
        tokio::spawn(disturb(Random(seed), db.clone(), ledger.clone(), Arc::clone(&disk), until));
    let mut round = 0;
    let mut pace = tokio::time::interval(PACE);
    while Instant::now() < until {
        pace.tick().await;
        let (client, books) = (client.clone(), Arc::clone(&books));
        // In its own task: while the disk is full the others go on asking.
        tokio::spawn(async move { submit(&client, &books, round).await });
        round += 1;
    }
    let (servers, disturbed) = adversary.await.unwrap();
    // Submits that are still being repeated end within their time.
    tokio::time::sleep(Duration::from_secs(6)).await;
    eventually("everything finished", 120, || async {
        let snapshot = storage.snapshot(None).await.unwrap();
        let open = [StateName::Awaiting, StateName::Enqueued, StateName::Processing];
        // The schedule goes on, a job a second.
        snapshot.count(StateName::Scheduled) == 0
            && open.into_iter().map(|state| snapshot.count(state)).sum::<u64>() <= 1
    })
    .await;
    for server in servers {
        server.stop(Duration::from_secs(20)).await;
    }
    let books = std::mem::take(&mut *books.lock().unwrap());
    let lines = ledger.read();
    println!(
        "{} jobs accepted, {} unknown, {} runs; {:?}",
        books.accepted.len(),
        books.unknown.len(),
        lines.iter().filter(|line| line.what == What::Start).count(),
        disturbed.counts
    );
    assert!(books.accepted.len() as u64 >= seconds * 84, "at least 5,000 a minute");
    check(&storage, &books, &lines).await;
    check_limit(&lines, &disturbed);
}

async fn check(storage: &SqliteStorage, books: &Books, lines: &[Line]) {
    let told = by_job(lines);
    for id in books.accepted.iter().chain(&books.unknown) {
        let Some(details) = storage.job(*id).await.unwrap() else {
            assert!(books.unknown.contains(id), "{id} was accepted, and is lost");
            continue;
        };
        let (state, reason) = (details.record.state(), details.record.head.reason);
        let expected = match () {
            () if books.doomed.contains(id) => StateName::Failed,
            () if reason == Reason::Unmeetable => StateName::Deleted,
            () => StateName::Succeeded,
        };
        assert_eq!(state, expected, "{details:?}");
        let entries = &details.history.entries;
        let finishes = entries.iter().filter(|entry| entry.state.is_finished()).count();
        assert_eq!(finishes, 1, "finished once: {details:?}");
        let runs = told.get(&id.to_string()).map(Vec::as_slice).unwrap_or_default();
        let fences: Vec<_> =
            runs.iter().filter(|line| line.what == What::Start).map(|line| line.fence).collect();
        let unique: BTreeSet<_> = fences.iter().collect();
        assert_eq!(unique.len(), fences.len(), "no claim starts twice: {runs:?}");
        if state == StateName::Succeeded {
            let done = entries.iter().rfind(|entry| entry.reason == Reason::Done);
            let fence = done.and_then(|entry| entry.fence);
            let by_holder = |line: &&Line| line.what == What::End && Some(line.fence) == fence;
            assert!(runs.iter().any(|line| by_holder(&line)), "settled by who ran it: {runs:?}");
        }
        if state == StateName::Deleted {
            assert!(runs.is_empty(), "what cannot be met never runs: {runs:?}");
        }
    }
    check_order(books, &told, lines);
    for (batch, members, _) in &books.batches {
        let record = storage.batch(*batch).await.unwrap().expect("kept");
        let members = members.len() as u64;
        assert_eq!((record.counts.total, record.counts.succeeded), (members, members));
        assert!(record.completed_at.is_some() && record.succeeded_at.is_some());
    }
    let mut children: BTreeMap<&str, &str> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.name.starts_with("child of ")) {
        let job = children.entry(&line.name).or_insert(&line.job);
        assert_eq!(*job, line.job, "a key names one job: {line:?}");
    }
    let ended: BTreeSet<&str> =
        lines.iter().filter(|line| line.what == What::End).map(|line| line.name.as_str()).collect();
    for parent in books.parents.iter().filter(|parent| ended.contains(parent.as_str())) {
        let name = format!("child of {parent}");
        assert!(children.contains_key(name.as_str()), "{parent} left no child");
    }
    check_statistics(storage).await;
}

/// A child starts after its parent has ended, and what follows a batch after all members.
fn check_order(books: &Books, told: &BTreeMap<String, Vec<Line>>, lines: &[Line]) {
    let mut first: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        first.entry((line.job.as_str(), line.what == What::Start)).or_insert(place);
    }
    let place = |id: &JobId, what: What| {
        first.get(&(id.to_string().as_str(), what == What::Start)).copied()
    };
    for (parent, child) in &books.after {
        let (ended, started) = (place(parent, What::End), place(child, What::Start));
        assert!(ended.is_some() && ended < started, "{:?}", told.get(&child.to_string()));
    }
    for (batch, members, then) in &books.batches {
        let started = place(then, What::Start);
        let early = members.iter().find(|member| place(member, What::End) >= started);
        assert_eq!(early, None, "of {batch}");
    }
}

/// The statistics equal the jobs, and no occurrence was fired twice.
async fn check_statistics(storage: &SqliteStorage) {
    let snapshot = storage.snapshot(None).await.unwrap();
    let counters = storage.counters(&Scope::Total).await.unwrap();
    let mut occurrences = BTreeSet::new();
    for state in [StateName::Succeeded, StateName::Failed, StateName::Deleted] {
        let mut query = JobQuery { limit: 200, ..JobQuery::new(state) };
        let mut jobs = 0;
        loop {
            let page = storage.list(&query).await.unwrap();
            jobs += page.jobs.len() as u64;
            for job in &page.jobs {
                let fired = job.extras.as_deref().and_then(|extras| extras.occurrence.as_ref());
                if let Some(fired) = fired {
                    assert!(
                        occurrences.insert(fired.nominal_at),
                        "{} fired twice",
                        fired.nominal_at
                    );
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(snapshot.count(state), jobs, "{state}");
        // Each finished once, so the transitions are the jobs.
        assert_eq!(counters.transitions_to(state), jobs, "{state}");
    }
    assert!(occurrences.len() > 5, "the schedule was fired: {}", occurrences.len());
}

/// Never more than three run at once. What was killed ended with its process; what was frozen may go on
/// after it was rescued, and is told so by its token.
fn check_limit(lines: &[Line], disturbed: &Disturbed) {
    let mut running: BTreeMap<&str, u32> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        running.retain(|_, pid| disturbed.killed.get(pid).is_none_or(|at| *at > place));
        if !line.name.starts_with("limited-") || disturbed.frozen.contains(&line.pid) {
            continue;
        }
        match line.what {
            What::Start => running.insert(&line.job, line.pid),
            What::End => running.remove(line.job.as_str()),
        };
        assert!(running.len() <= 3, "{running:?}");
    }
}
