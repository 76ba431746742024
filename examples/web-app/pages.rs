//! What the web shows: a form, the outcome of a job, and how the process is.

use axum::Router;
use axum::extract::{Form, Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use jobkit::ops::prometheus::{self, Figures};
use jobkit::{JobId, capture};
use jobkit_examples::mail;
use serde::Deserialize;

use crate::App;

pub fn router(app: App) -> Router {
    Router::new()
        .route("/", get(form))
        .route("/sign-up", post(sign_up))
        .route("/jobs/{id}", get(job))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .layer(from_fn(captured))
        .with_state(app)
}

/// Every request is a scope: what it enqueues carries its tenant, its language and its trace.
async fn captured(request: Request, next: Next) -> Response {
    let values = captured_values(request.headers());
    capture::with(values, next.run(request)).await
}

fn captured_values(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mut values = Vec::new();
    if let Some(tenant) = header("x-tenant") {
        values.push(("tenant", tenant.to_owned()));
    }
    if let Some(languages) = header("accept-language") {
        values.push(("locale", languages.chars().take(2).collect()));
    }
    if let Some(trace) = header("traceparent") {
        values.push((capture::TRACEPARENT, trace.to_owned()));
    }
    values
}

/// What Prometheus scrapes; any process may answer, since it is the storage's.
async fn metrics(State(app): State<App>) -> Answer<impl IntoResponse> {
    let figures = Figures::read(app.client.storage()).await?;
    Ok(([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], figures.to_string()))
}

async fn form() -> Html<&'static str> {
    Html(
        "<form method=post action=sign-up>\
         Your name: <input name=name autofocus> <button>Sign up</button></form>",
    )
}

#[derive(Deserialize)]
struct SignUp {
    name: String,
}

/// Stores the job, and answers; nobody waits for a mail server.
async fn sign_up(State(app): State<App>, Form(SignUp { name }): Form<SignUp>) -> Answer<Redirect> {
    let job = app.client.enqueue(mail::send_welcome(name)).await?;
    Ok(Redirect::to(&format!("/jobs/{}", job.id())))
}

/// The outcome of a job: as text, so that nothing in it is read as HTML.
async fn job(State(app): State<App>, Path(id): Path<String>) -> Answer<String> {
    let id: JobId = id.parse().map_err(|_| Problem::NoSuchJob)?;
    let job = app.client.job(id).await?.ok_or(Problem::NoSuchJob)?;
    let mut text = format!("{} is {}\n", job.record.kind, job.record.state());
    for (key, value) in job.record.extras.iter().flat_map(|extras| &extras.context) {
        text += &format!("  {key}: {value}\n");
    }
    if let Some(result) = job.result {
        text += &format!("  result: {}\n", serde_json::from_slice::<String>(&result)?);
    }
    Ok(text)
}

async fn healthz(State(app): State<App>) -> (StatusCode, String) {
    // Without a server of its own the process is well when it answers.
    let problems = app.server.map(|server| server.health().problems).unwrap_or_default();
    match problems.first() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(first) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}: {}\n", first.part, first.message))
        }
    }
}

type Answer<T> = Result<T, Problem>;

enum Problem {
    NoSuchJob,
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::NoSuchJob => (StatusCode::NOT_FOUND, "there is no such job\n").into_response(),
            Self::Other(error) => {
                eprintln!("{error:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "that did not work\n").into_response()
            }
        }
    }
}
