//! A database that this process may not write.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use jobkit_core::record::NewRecord;
use jobkit_core::storage::{Call, JobStore, Submission, SubmitRequest};
use jobkit_core::{Applied, ErrorKind, JobId, Name};
use jobkit_sqlite::{SqliteOptions, SqliteStorage};

const DB: &str = "JOBKIT_READ_ONLY_DB";
/// Nobody, on every system that has such a user: permissions do not hold root back.
const NOBODY: u32 = 65_534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

async fn submit(storage: &SqliteStorage) -> jobkit_core::Result<JobId> {
    let id = JobId::new();
    let job = NewRecord::new(id, Name::from_stored("kind"), b"{}".to_vec());
    let request = SubmitRequest { submissions: &[Submission::one(job)] };
    storage.submit(&Call::default(), request).await.map(|_| id)
}

/// Not a test by itself: what a process without the right to write sees.
#[tokio::test]
async fn read_only_process() {
    let Ok(path) = std::env::var(DB) else { return };
    for migrate in [true, false] {
        let error = match SqliteOptions::new(&path).migrate_on_open(migrate).open().await {
            Err(error) => error,
            Ok(storage) => submit(&storage).await.unwrap_err(),
        };
        println!("{error}");
        assert_eq!((error.kind(), error.applied()), (ErrorKind::NotWritable, Applied::NotApplied));
        assert!(error.to_string().contains("read-only"), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_may_not_be_written_is_told_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let storage = SqliteStorage::open(&path).await.unwrap();
    let id = submit(&storage).await.unwrap();
    drop(storage);
    // Where the other user can reach it.
    let program = folder.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap().path();
        if entry != program {
            set_mode(&entry, 0o444);
        }
    }
    set_mode(folder.path(), 0o555);
    let mut probe = Command::new(&program);
    probe.args(["read_only::read_only_process", "--exact", "--nocapture"]).env(DB, &path);
    probe.current_dir("/");
    // Only root may become somebody else; anyone else is held back already.
    let is_root = fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
    if is_root {
        probe.uid(NOBODY).gid(NOBODY);
    }
    let output = probe.output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    set_mode(folder.path(), 0o755);
    set_mode(&path, 0o644);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    let storage = SqliteStorage::open(&path).await.unwrap();
    assert!(storage.job(id).await.unwrap().is_some());
    submit(&storage).await.unwrap();
}
