use crate::programs::{Program, eventually, example, finish, get};

#[test]
fn one_process_enqueues_and_another_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("mail.db").display());
    let mut worker = example("worker");
    worker.env("JOBKIT_URL", &url).env("JOBKIT_WORKERS", "3").env("NO_COLOR", "1");
    worker.env("JOBKIT_SERVER_NAME", "the-worker");
    let mut worker = Program::start(&mut worker);
    let started = worker.line_with("started");
    assert!(started.contains("workers=3") && started.contains("the-worker"), "{started}");
    let health = worker.address();
    assert_eq!((get(&health, "/healthz").status, &*get(&health, "/healthz").body), (200, "ok\n"));

    let mut client = example("worker");
    let text = finish(client.env("JOBKIT_URL", &url).args(["enqueue", "Ann", "Bob"]));
    for name in ["Ann", "Bob"] {
        assert!(text.contains(&format!("Hello {name}, welcome at our house!")), "{text}");
        // Logged by the handler in its process, read from the storage in this one.
        assert!(text.contains(&format!("it logged: writing to {name}")), "{text}");
    }
    worker.terminate();
    let told = worker.ends();
    assert!(told.contains("stopping") && told.contains("stopped"), "{told}");
}

#[test]
fn a_worker_that_is_not_there_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("mail.db").display());
    let mut client = example("worker");
    let mut client = Program::start(client.env("JOBKIT_URL", &url).args(["enqueue", "Ann"]));
    client.line_with("waiting for a worker");
    let worker = Program::start(example("worker").env("JOBKIT_URL", &url));
    let told = client.ends();
    assert!(told.contains("Hello Ann"), "{told}");
    worker.terminate();
    worker.ends();
}

#[test]
fn mistakes_in_the_environment_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = example("worker");
    worker.current_dir(folder.path()).env("JOBKIT_WORKERS", "many").env("JOBKIT_LEASE", "30");
    let output = worker.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("JOBKIT_WORKERS") && text.contains("JOBKIT_LEASE"), "{text}");
    assert!(folder.path().join("mail.db").exists(), "the default is a file in this folder");
}

#[test]
fn an_unserved_kind_is_seen_on_the_health_page() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("mail.db").display());
    let mut worker = example("worker");
    worker.env("JOBKIT_URL", &url);
    worker.env("JOBKIT_UNSERVED_AFTER", "100ms").env("JOBKIT_JANITOR_INTERVAL", "200ms");
    let mut worker = Program::start(&mut worker);
    let health = worker.address();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = jobkit::Client::new(jobkit::connect(&url).await.unwrap());
        let nobodys = jobkit::job_by_name("nobodys", &serde_json::Map::new()).unwrap();
        client.enqueue(nobodys).await.unwrap();
    });
    let problem = eventually("the page tells", || {
        let answer = get(&health, "/healthz");
        (answer.status == 503).then_some(answer.body)
    });
    assert!(problem.contains("`nobodys` in queue `default`"), "{problem}");
    worker.terminate();
    worker.ends();
}
