//! The file: who may open it, and what several handles on it see.

use std::path::Path;
use std::time::{Duration, Instant};

use jobkit_core::limit::Limit;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::*;
use jobkit_core::{ErrorKind, JobId, Name};
use jobkit_sqlite::{SqliteDurability, SqliteOptions, SqliteStorage, print_migrations};

use crate::support::{claim, folder, job, opened, server, submit};

async fn refused(path: &Path) -> jobkit_core::Error {
    SqliteStorage::open(path).await.expect_err("is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_open_a_new_file_at_once_both_succeed() {
    for _ in 0..10 {
        let dir = folder();
        let path = dir.path().join("jobs.db");
        let (one, other) = tokio::join!(
            tokio::spawn(SqliteStorage::open(path.clone())),
            tokio::spawn(SqliteStorage::open(path.clone())),
        );
        let (one, other) =
            (one.expect("runs").expect("opens"), other.expect("runs").expect("opens"));
        submit(&one, job()).await;
        submit(&other, job()).await;
        let snapshot = one.snapshot(&Call::default()).await.expect("reads");
        assert_eq!(snapshot.by_state.iter().sum::<u64>(), 2);
        let migrated = other.migrate().await.expect("migrates");
        assert!(migrated.from > 0 && migrated.from == migrated.to, "nothing is left to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_not_migrate_opens_what_another_has_made_or_says_what_is_missing() {
    for _ in 0..20 {
        let dir = folder();
        let path = dir.path().join("jobs.db");
        let looks = SqliteOptions::new(&path).migrate_on_open(false);
        let (made, looked) = tokio::join!(
            tokio::spawn(SqliteStorage::open(path.clone())),
            tokio::spawn(looks.clone().open()),
        );
        let made = made.expect("runs").expect("opens");
        if let Err(error) = looked.expect("runs") {
            assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
        }
        submit(&made, job()).await;
        let looked = looks.open().await.expect("opens beside it");
        assert_eq!(looked.snapshot(&Call::default()).await.expect("reads").by_state[2], 1);
    }
}

#[tokio::test]
async fn a_schema_that_does_not_admit_this_release_is_refused() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    drop(SqliteStorage::open(&path).await.expect("opens"));
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute_batch("UPDATE jobkit_meta SET value = 8 WHERE key = 'version'").expect("writes");
    drop(SqliteStorage::open(&path).await.expect("a newer schema that admits it is used"));
    conn.execute_batch("UPDATE jobkit_meta SET value = 7 WHERE key = 'oldest_writer'")
        .expect("writes");
    let error = refused(&path).await;
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("schema 8"), "{error}");
}

#[tokio::test]
async fn what_is_migrated_by_a_newer_release_while_it_is_open_is_not_written() {
    let (_dir, path, storage) = opened().await;
    submit(&storage, job()).await;
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.busy_timeout(Duration::from_secs(5)).expect("is set");
    let admit = |conn: &rusqlite::Connection, oldest: i64| {
        conn.execute("UPDATE jobkit_meta SET value = ?1 WHERE key = 'oldest_writer'", [oldest])
            .expect("writes");
    };
    let jobs = |conn: &rusqlite::Connection| {
        conn.query_row("SELECT count(*) FROM jobkit_job", [], |row| row.get::<_, i64>(0))
            .expect("counts")
    };
    let before: i64 = conn
        .query_row("SELECT value FROM jobkit_meta WHERE key = 'oldest_writer'", [], |row| {
            row.get(0)
        })
        .expect("reads");
    admit(&conn, 99);
    for _ in 0..2 {
        let request = SubmitRequest { submissions: &[job()] };
        let error = storage.submit(&Call::default(), request).await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert_eq!(error.applied(), jobkit_core::Applied::NotApplied);
        assert!(error.to_string().contains("schema 99"), "{error}");
    }
    assert_eq!(jobs(&conn), 1);
    admit(&conn, before);
    submit(&storage, job()).await;
    assert_eq!(jobs(&conn), 2);
}

#[tokio::test]
async fn without_migrating_a_missing_schema_is_an_error_and_the_printed_one_fits() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let options = SqliteOptions::new(&path).migrate_on_open(false);
    let error = options.clone().open().await.expect_err("there is no schema");
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(!path.exists(), "a file was made");
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute_batch(&print_migrations("jobkit", 0)).expect("the printed migration runs");
    submit(&options.open().await.expect("opens"), job()).await;
}

/// The bytes of the file and of its log, where there is one.
fn bytes(path: &Path) -> (Vec<u8>, Option<Vec<u8>>) {
    let log = path.with_extension("db-wal");
    (std::fs::read(path).expect("reads"), std::fs::read(log).ok())
}

#[tokio::test]
async fn without_migrating_what_does_not_fit_stays_as_it_is() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("empty.db"), "").expect("writes");
    let foreign = "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1);";
    for (name, mode) in [("delete.db", "delete"), ("wal.db", "wal")] {
        let conn = rusqlite::Connection::open(at(name)).expect("opens");
        conn.execute_batch(&format!("PRAGMA journal_mode = {mode}; {foreign}")).expect("writes");
    }
    // A log that whoever wrote it has not copied back: as after a crash.
    let conn = rusqlite::Connection::open(at("open.db")).expect("opens");
    conn.execute_batch(&format!("PRAGMA journal_mode = wal; {foreign}")).expect("writes");
    std::fs::copy(at("open.db"), at("crashed.db")).expect("copies");
    std::fs::copy(at("open.db-wal"), at("crashed.db-wal")).expect("copies");
    drop(SqliteStorage::open(at("old.db")).await.expect("opens"));
    let old = rusqlite::Connection::open(at("old.db")).expect("opens");
    old.execute_batch("UPDATE jobkit_meta SET value = 4 WHERE key = 'version'").expect("writes");
    drop(old);

    for (name, words) in [
        ("empty.db", "no tables of namespace jobkit"),
        ("delete.db", "no tables of namespace jobkit"),
        ("wal.db", "no tables of namespace jobkit"),
        ("crashed.db", "no tables of namespace jobkit"),
        ("old.db", "schema 4"),
    ] {
        let before = bytes(&at(name));
        let options = SqliteOptions::new(at(name)).migrate_on_open(false);
        let error = options.open().await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::Schema, "{name}: {error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(before == bytes(&at(name)), "{name} was changed");
    }
}

#[tokio::test]
async fn what_is_no_database_is_named() {
    let dir = folder();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "this is a text, and no database at all ".repeat(100)).expect("writes");
    let error = refused(&path).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("no SQLite database"), "{error}");
    assert!(error.to_string().contains("notes.txt"), "{error}");

    let error = refused(&dir.path().join("missing/jobs.db")).await;
    assert!(error.to_string().contains("cannot be opened"), "{error}");
}

#[tokio::test]
async fn options_out_of_range_are_refused_by_name() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    for (options, field) in [
        (SqliteOptions::new(&path).namespace("a-b"), "namespace"),
        (SqliteOptions::new(&path).namespace("sqlite_x"), "namespace"),
        (SqliteOptions::new(&path).readers(0), "readers"),
        (SqliteOptions::new(":memory:"), "path"),
    ] {
        let error = options.open().await.expect_err(field);
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[tokio::test]
async fn namespaces_share_a_file_and_nothing_else() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let open = |namespace| SqliteOptions::new(&path).namespace(namespace).open();
    let one = open("one").await.expect("opens");
    let other = open("one_other").await.expect("opens");
    submit(&one, job()).await;
    assert_eq!(one.snapshot(&Call::default()).await.expect("reads").by_state[2], 1);
    assert_eq!(other.snapshot(&Call::default()).await.expect("reads").by_state[2], 0);
}

#[tokio::test]
async fn a_file_that_another_process_holds_for_long_is_unavailable_for_now() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let storage = SqliteOptions::new(&path)
        .busy_timeout(Duration::from_millis(50))
        .open()
        .await
        .expect("opens");
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute_batch("BEGIN IMMEDIATE").expect("holds the file");
    let job = [job()];
    let request = SubmitRequest { submissions: &job };
    let error = storage.submit(&Call::default(), request).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.applied(), jobkit_core::Applied::NotApplied);
    conn.execute_batch("COMMIT").expect("lets go");
    storage.submit(&Call::default(), request).await.expect("submits");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_handle_on_the_file_wakes_sleepers_promptly() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let here = SqliteStorage::open(&path).await.expect("opens");
    let there = SqliteStorage::open(&path).await.expect("opens");
    let filter = WakeUpFilter { queues: vec![Name::default_queue()], ..WakeUpFilter::default() };
    let mut wake_ups = here.wake_ups(filter).await.expect("subscribes").expect("pushes");
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let sleeper = tokio::spawn(async move {
            let push = wake_ups.next().await;
            (wake_ups, push, Instant::now())
        });
        // Mostly it sleeps by then; one that is about to is told as well.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let since = Instant::now();
        submit(&there, job()).await;
        let told = tokio::time::timeout(Duration::from_secs(10), sleeper).await;
        let (back, push, at) = told.expect("it is told").expect("runs");
        wake_ups = back;
        assert_eq!(push, Some(WakeUp::Work));
        quickest = quickest.min(at - since);
    }
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    // What makes nothing claimable wakes nobody.
    there.snapshot(&Call::default()).await.expect("reads");
    let quiet = tokio::time::timeout(Duration::from_millis(60), wake_ups.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    drop(here);
    assert_eq!(wake_ups.next().await, None, "the storage was closed");
}

#[tokio::test]
async fn check_names_what_is_weaker_and_verify_reads_everything() {
    let (_dir, path, storage) = opened().await;
    let findings = storage.check().await.expect("checks");
    // The lowest supported rusqlite brings an old library along.
    let news = |findings: Vec<Finding>| -> Vec<_> {
        findings.iter().map(|it| it.code).filter(|code| *code != "old-library").collect()
    };
    assert_eq!(news(findings), ["synchronous-normal"]);
    assert_eq!(storage.verify().await.expect("verifies"), Vec::<String>::new());
    drop(storage);
    let full = SqliteOptions::new(&path).durability(SqliteDurability::Full).open().await;
    assert_eq!(news(full.expect("opens").check().await.expect("checks")), [""; 0]);
}

#[tokio::test]
async fn places_are_never_given_twice() {
    let (_dir, path, storage) = opened().await;
    let one = job();
    let id = one.jobs[0].id;
    submit(&storage, one).await;
    let before = storage.jobs(&[id]).await.expect("reads")[0].clone().expect("is there").sequence;
    let delete = [Change {
        operation: jobkit_core::OperationId::new(),
        job: id,
        guard: Guard::None,
        action: Action::Delete { keep: None },
    }];
    let request = ChangeRequest { changes: &delete, actor: None };
    storage.change_state(&Call::default(), request).await.expect("deletes");
    let later = storage.now().await.expect("a clock").plus(Duration::from_secs(200_000));
    let step = StepRequest { max: 10 };
    assert_eq!(storage.purge_expired(&Call::at(later), step).await.expect("purges").done, 1);
    drop(storage);

    let storage = SqliteStorage::open(&path).await.expect("opens");
    let two = job();
    let id = two.jobs[0].id;
    submit(&storage, two).await;
    let after = storage.jobs(&[id]).await.expect("reads")[0].clone().expect("is there").sequence;
    assert!(after > before, "{after} after {before}");
}

/// A file as schema 1 left it: a running job under a limit, one that is parked there, one that holds a
/// unique key, and a server.
fn write_schema_1(path: &Path) -> [JobId; 3] {
    let conn = rusqlite::Connection::open(path).expect("opens");
    let schema = include_str!("../../migrations/001_initial.sql").replace("jk_", "jobkit_");
    conn.execute_batch(&schema).expect("the schema of that release");
    conn.execute_batch(
        "INSERT INTO jobkit_meta VALUES ('version', 1), ('oldest_writer', 1); \
         INSERT INTO jobkit_name VALUES (1, 'default'), (2, 'kind'), (3, 'server'); \
         INSERT INTO jobkit_limit (id, name, max, used, waiting) VALUES (1, 'l', 1, 1, 1);",
    )
    .expect("writes");
    let ids = [JobId::new(), JobId::new(), JobId::new()];
    let limits = r#"[{"name":"l","max":1}]"#;
    let unique = r#"{"key":"k","until":"finished","on_conflict":"reject"}"#;
    for (seq, id, state, parked, limits, unique) in [
        (1, ids[0], 3, None, Some(limits), None),
        (2, ids[1], 2, Some(1), Some(limits), None),
        (3, ids[2], 2, None, None, Some(unique)),
    ] {
        let running = (state == 3).then_some(7);
        conn.execute(
            "INSERT INTO jobkit_job (seq, id, state, reason, queue, kind, rank, fence, entered_at, \
             created_at, enqueued_at, claimed_at, server, incarnation, claim_seq, lease_until, parked, \
             digest, limits, uniq, args) \
             VALUES (?1, ?2, ?3, 0, 1, 2, 4, ?4, 5, 5, 5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            rusqlite::params![
                seq,
                &id.as_bytes()[..],
                state,
                i64::from(state == 3),
                running,
                running.map(|_| 3),
                running,
                running.map(|_| 1),
                running.map(|_| 1_000),
                parked,
                [0_u8; 16],
                limits,
                unique,
                b"{}",
            ],
        )
        .expect("writes");
    }
    let hash = jobkit_core::unique::KeyHash::of("k").0;
    conn.execute("INSERT INTO jobkit_ukey VALUES (?1, 3)", [&hash[..]]).expect("writes");
    ids
}

#[tokio::test]
async fn a_file_of_schema_1_is_upgraded_with_its_jobs() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let [running, parked, keyed] = write_schema_1(&path);
    let storage = SqliteStorage::open(&path).await.expect("opens");
    let mut other = job();
    other.jobs[0].unique = Some(jobkit_core::unique::Unique::new("k"));
    let request = SubmitRequest { submissions: &[other] };
    let answers = storage.submit(&Call::default(), request).await.expect("submits");
    assert_eq!(answers, [Submitted::Created(vec![JobSubmitted::Existing(keyed)])]);
    let usage = storage.limit(&Call::default(), "l").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit, usage.used, usage.waiting), (Limit::new("l", 1), 1, 1));
    let record = storage.jobs(&[parked]).await.expect("reads")[0].clone().expect("is there");
    assert_eq!(record.parked_at.as_deref(), Some("l"));
    // The rescue of what ran frees the slot, and the waiter is found.
    let rescue = |seen| RescueRequest { seen, crash_limit: 3, max: 10 };
    let seen =
        storage.rescue_expired(&Call::default(), &rescue(Vec::new())).await.expect("looks").expired;
    let rescued =
        storage.rescue_expired(&Call::default(), &rescue(seen)).await.expect("rescues").rescued;
    assert_eq!(rescued.iter().map(|it| it.0).collect::<Vec<_>>(), [running]);
    let record = storage.jobs(&[parked]).await.expect("reads")[0].clone().expect("is there");
    assert_eq!(record.parked_at, None);

    let conn = rusqlite::Connection::open(&path).expect("opens");
    let read = |key: &str| -> i64 {
        let text = "SELECT value FROM jobkit_meta WHERE key = ?1";
        conn.query_row(text, [key], |row| row.get(0)).expect("reads")
    };
    // What releases before it write would be wrong: they know no windows.
    assert!(read("version") >= 3 && read("oldest_writer") >= 3);
}

/// Whoever makes the file decides how its texts are stored, and that may be an application.
#[tokio::test]
async fn durations_are_told_in_a_file_of_utf_16_too() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute_batch("PRAGMA encoding = 'UTF-16le'; CREATE TABLE theirs (x)").expect("writes");
    let storage = SqliteStorage::open(&path).await.expect("opens");
    let server = server();
    storage.announce(&Call::default(), &server).await.expect("announces");
    for _ in 0..8 {
        submit(&storage, job()).await;
    }
    let held = claim(&storage, &server, 1).await;
    let settles = held.iter().zip(1..).map(|(job, length)| {
        let mut settle = Settle::new(job.lease, Ending::Succeeded);
        settle.duration = Some(Duration::from_micros(length));
        settle
    });
    let request = SettleRequest { server: server.name.clone(), settles: settles.collect() };
    storage.settle(&Call::default(), &request).await.expect("settles");
    let mut durations = conn.prepare("SELECT duration FROM jobkit_job ORDER BY seq").expect("sql");
    let durations = durations.query_map([], |row| row.get::<_, i64>(0)).expect("reads");
    assert_eq!(
        durations.map(|it| it.expect("is there")).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[cfg(unix)]
mod another_file {
    use std::fs;
    use std::os::unix::fs::symlink;

    use jobkit_core::Applied;

    use super::*;

    async fn add(storage: &SqliteStorage) -> jobkit_core::Result<Vec<Submitted>> {
        let submissions = [job()];
        storage.submit(&Call::default(), SubmitRequest { submissions: &submissions }).await
    }

    async fn codes(storage: &SqliteStorage) -> Vec<&'static str> {
        let findings = storage.check().await.expect("checks");
        findings.iter().filter(|it| it.severity == Severity::Error).map(|it| it.code).collect()
    }

    /// Every kind of call says that the file is not where it was.
    async fn all_refuse(storage: &SqliteStorage) {
        let beat = Heartbeat { incarnation: jobkit_core::Incarnation::new(), busy: 0 };
        for error in [
            storage.heartbeat(&Call::default(), &beat).await.map(drop).expect_err("heartbeat"),
            add(storage).await.map(drop).expect_err("submit"),
            storage.snapshot(&Call::default()).await.map(drop).expect_err("snapshot"),
            storage.job(JobId::new()).await.map(drop).expect_err("job"),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotWritable, "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_with_two_names_is_refused_by_both() {
        let dir = folder();
        let (path, other) = (dir.path().join("jobs.db"), dir.path().join("other.db"));
        drop(SqliteStorage::open(&path).await.expect("opens"));
        let before = fs::read(&path).expect("reads");
        fs::hard_link(&path, &other).expect("links");
        for path in [&path, &other] {
            for migrate in [true, false] {
                let options = SqliteOptions::new(path).migrate_on_open(migrate);
                let error = options.open().await.expect_err("is refused");
                assert_eq!(error.kind(), ErrorKind::Configuration);
                assert!(error.to_string().contains("has 2 names"), "{error}");
            }
        }
        assert_eq!(fs::read(&path).expect("reads"), before, "nothing was written");
        fs::remove_file(&other).expect("removes");
        let storage = SqliteStorage::open(&path).await.expect("one name is fine");
        assert!(codes(&storage).await.is_empty());
        // Linked while it is open: this process goes on, another one is refused, and check says so.
        fs::hard_link(&path, &other).expect("links");
        submit(&storage, job()).await;
        assert_eq!(codes(&storage).await, ["hard-linked"]);
        assert_eq!(refused(&other).await.kind(), ErrorKind::Configuration);
    }

    #[tokio::test]
    async fn a_file_that_is_removed_or_replaced_while_it_is_open_is_not_written() {
        for replaced in [false, true] {
            let (dir, path, storage) = opened().await;
            submit(&storage, job()).await;
            let away = dir.path().join("away.db");
            fs::rename(&path, &away).expect("moves");
            if replaced {
                fs::write(&path, "").expect("writes");
            }
            // The commit that did not know it yet is not answered with Ok.
            let error = add(&storage).await.expect_err("is not kept");
            assert_eq!(error.kind(), ErrorKind::NotWritable);
            all_refuse(&storage).await;
            let error = add(&storage).await.expect_err("is not kept");
            assert_eq!(error.applied(), Applied::NotApplied, "{error}");
            assert!(error.to_string().contains("jobs.db"), "{error}");
            assert_eq!(codes(&storage).await, ["file-gone"]);
            fs::rename(&away, &path).expect("moves back");
            submit(&storage, job()).await;
            assert!(codes(&storage).await.is_empty());
        }
    }

    #[tokio::test]
    async fn no_enqueue_is_answered_with_ok_once_the_file_is_gone() {
        let (dir, path, storage) = opened().await;
        let adding = tokio::spawn({
            let storage = storage.clone();
            async move {
                let mut stored = Vec::new();
                loop {
                    let submissions = [job()];
                    let id = submissions[0].jobs[0].id;
                    let request = SubmitRequest { submissions: &submissions };
                    match storage.submit(&Call::default(), request).await {
                        Ok(_) => stored.push(id),
                        Err(error) => break (stored, error),
                    }
                }
            }
        });
        while storage.snapshot(&Call::default()).await.expect("reads").by_state[2] < 100 {}
        // The names are gone in the order in which `rm jobs.db*` takes them; a link keeps what they named.
        for ending in ["", "-shm", "-wal"] {
            let name = format!("jobs.db{ending}");
            fs::rename(dir.path().join(&name), dir.path().join(format!("kept.db{ending}")))
                .expect("moves");
        }
        let (stored, error) = adding.await.expect("ends");
        assert_eq!(error.kind(), ErrorKind::NotWritable);
        drop(storage);
        assert!(!path.exists());
        let kept = SqliteStorage::open(dir.path().join("kept.db")).await.expect("opens");
        for id in stored.iter().rev().take(100) {
            assert!(kept.job(*id).await.expect("reads").is_some(), "{id} was answered with Ok");
        }
    }

    #[tokio::test]
    async fn a_log_that_is_removed_while_it_is_open_is_noticed() {
        for ending in ["-wal", "-shm"] {
            let (_dir, path, storage) = opened().await;
            submit(&storage, job()).await;
            fs::remove_file(format!("{}{ending}", path.display())).expect("removes");
            let deadline = Instant::now() + Duration::from_secs(5);
            while add(&storage).await.is_ok() {
                assert!(Instant::now() < deadline, "{ending} is missed");
            }
            assert_eq!(codes(&storage).await, ["file-gone"], "{ending}");
        }
    }

    #[tokio::test]
    async fn a_symbolic_link_leads_to_the_file_and_its_log() {
        let dir = folder();
        let real = dir.path().join("data");
        fs::create_dir(&real).expect("makes a folder");
        let (link, path) = (dir.path().join("link.db"), real.join("jobs.db"));
        symlink(&path, &link).expect("links");
        let by_link = SqliteStorage::open(&link).await.expect("opens what the link names");
        let by_name = SqliteStorage::open(&path).await.expect("opens");
        submit(&by_link, job()).await;
        submit(&by_name, job()).await;
        assert_eq!(by_link.snapshot(&Call::default()).await.expect("reads").by_state[2], 2);
        let log =
            fs::OpenOptions::new().write(true).open(real.join("jobs.db-wal")).expect("is there");
        log.set_len(300 << 20).expect("grows, without a byte on the disk");
        for storage in [&by_link, &by_name] {
            let findings = storage.check().await.expect("checks");
            assert!(findings.iter().any(|it| it.code == "log-too-large"), "{findings:?}");
        }
        // It leads elsewhere now: whoever opens it next does not see what is written here.
        let other = real.join("other.db");
        drop(SqliteStorage::open(&other).await.expect("opens"));
        fs::remove_file(&link).expect("removes");
        symlink(&other, &link).expect("links");
        assert_eq!(add(&by_link).await.expect_err("is refused").kind(), ErrorKind::NotWritable);
        submit(&by_name, job()).await;
    }
}
