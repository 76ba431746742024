//! The web process enqueues into a file, the worker process runs what it finds there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use jobkit::state::StateName;
use jobkit::{Client, JobId};

/// Killed when it is dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The web program, built beside this one; cargo builds only the own package's for a test.
fn web() -> PathBuf {
    let worker = Path::new(env!("CARGO_BIN_EXE_example-worker"));
    let folder = worker.parent().expect("programs stand in a folder");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "example-web", "--target-dir"]);
    build.arg(folder.parent().expect("the folder of the profile stands in another"));
    assert!(build.status().expect("cargo runs").success());
    folder.join("example-web").with_extension(std::env::consts::EXE_EXTENSION)
}

#[tokio::test]
async fn a_worker_runs_what_the_web_process_enqueued() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
    let web = Command::new(web()).args(["17", "holiday.png"]).env("JOBKIT_URL", &url).output();
    let web = web.expect("the web process runs");
    assert!(web.status.success(), "{}", String::from_utf8_lossy(&web.stderr));
    let id: JobId = String::from_utf8_lossy(&web.stdout).trim().parse().expect("an id");
    let client = Client::new(jobkit::connect(&url).await.expect("opens"));
    let job = client.job(id).await.expect("read").expect("there");
    assert_eq!(job.record.state(), StateName::Enqueued);
    let extras = job.record.extras.as_deref().expect("extras");
    assert_eq!(extras.display_name.as_deref(), Some("holiday.png at 320 px"));

    let worker = Command::new(env!("CARGO_BIN_EXE_example-worker")).env("JOBKIT_URL", &url).spawn();
    let _worker = Worker(worker.expect("the worker runs"));
    let deadline = Instant::now() + Duration::from_secs(30);
    let done = loop {
        let job = client.job(id).await.expect("read").expect("there");
        if job.record.state() == StateName::Succeeded {
            break job;
        }
        assert!(Instant::now() < deadline, "{job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let made = done.result.expect("a result");
    assert_eq!(made.as_bytes(), br#"{"path":"holiday-320.png"}"#);
}
