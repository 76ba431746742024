use crate::programs::{Program, eventually, example, get, post_form};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn sign_up(address: &str, name: &str) -> String {
    let headers =
        [("X-Tenant", "acme"), ("Accept-Language", "de-AT,de;q=0.9"), ("traceparent", TRACE)];
    let answer = post_form(address, "/sign-up", &headers, &format!("name={name}"));
    assert_eq!(answer.status, 303, "{}", answer.body);
    answer.location.unwrap()
}

fn succeeded(address: &str, job: &str) -> String {
    eventually("the job succeeds", || {
        let answer = get(address, job);
        assert_eq!(answer.status, 200);
        answer.body.contains("succeeded").then_some(answer.body)
    })
}

#[test]
fn a_sign_up_is_answered_and_its_job_knows_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = Program::start(example("web-app").current_dir(folder.path()));
    let address = app.address();
    assert!(get(&address, "/").body.contains("<form"));
    assert_eq!(get(&address, "/healthz").body, "ok\n");
    assert!(get(&address, "/metrics").body.contains("jobkit_jobs{state=\"succeeded\"}"));
    let job = sign_up(&address, "Ann");
    let page = succeeded(&address, &job);
    assert!(page.contains("tenant: acme") && page.contains("locale: de"), "{page}");
    assert!(page.contains(&format!("traceparent: {TRACE}")), "{page}");
    assert!(page.contains("result: Hallo Ann, welcome at acme!"), "{page}");
    for nothing in ["/jobs/x", "/jobs/01a205a3-850a-75c3-bab3-1dc316909356"] {
        assert_eq!(get(&address, nothing).status, 404);
    }
    app.terminate();
    let told = app.ends();
    let place = |text: &str| told.find(text).unwrap_or_else(|| panic!("no {text:?} in {told}"));
    assert!(place("the last request is answered") < place("the last job has ended"), "{told}");
}

#[test]
fn a_stop_lets_the_running_job_end() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("mail.db").display());
    let mut app = Program::start(example("web-app").args(["--url", &url]));
    let address = app.address();
    let job = sign_up(&address, "Bob");
    eventually("it runs", || (!get(&address, &job).body.contains("enqueued")).then_some(()));
    app.terminate();
    app.ends();
    // Another process finds it done.
    let mut app = Program::start(example("web-app").args(["--url", &url, "--client-only"]));
    let address = app.address();
    let page = get(&address, &job).body;
    assert!(page.contains("succeeded"), "{page}");
    app.terminate();
    app.ends();
}

#[test]
fn a_web_process_without_a_server_leaves_jobs_to_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("mail.db").display());
    let mut web = Program::start(example("web-app").args(["--url", &url, "--client-only"]));
    let address = web.address();
    let job = sign_up(&address, "Cleo");
    assert!(get(&address, &job).body.contains("enqueued"), "nobody is there who runs it");
    let worker = Program::start(example("worker").env("JOBKIT_URL", &url));
    let page = succeeded(&address, &job);
    assert!(page.contains("Hallo Cleo, welcome at acme!"), "{page}");
    worker.terminate();
    web.terminate();
    worker.ends();
    let told = web.ends();
    assert!(!told.contains("the last job"), "{told}");
}
