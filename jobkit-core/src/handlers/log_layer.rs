//! A `tracing` layer that copies what handlers log into their jobs' logs.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::handlers::context::JobContext;
use crate::model::bounds::LOG_LINE_BYTES;
use crate::storage::LogLevel;

/// The crates whose events are JobKit's own. By whole names: an application's may begin like ours.
const OWN: [&str; 8] = [
    "jobkit",
    "jobkit_core",
    "jobkit_dashboard",
    "jobkit_mongo",
    "jobkit_postgres",
    "jobkit_redis",
    "jobkit_sqlite",
    "jobkit_sqlserver",
];

/// Copies the events of handlers into the log of the job they run for, where the dashboard shows them.
///
/// An event belongs to a job when it is recorded by the task that runs it, or by its code on the
/// blocking pool; tasks that a handler spawns are outside. JobKit's own events are left out.
///
/// # Example: beside the usual output
/// ```
/// use jobkit::JobLogLayer;
/// use tracing_subscriber::layer::SubscriberExt;
///
/// let subscriber = tracing_subscriber::registry()
///     .with(JobLogLayer::new().max_level(tracing::Level::DEBUG));
/// # drop(subscriber);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct JobLogLayer {
    max_level: Level,
}

impl Default for JobLogLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl JobLogLayer {
    /// Errors, warnings and information.
    pub const fn new() -> Self {
        Self { max_level: Level::INFO }
    }

    /// The least grave level that is copied; [`Level::INFO`] by default.
    #[must_use]
    pub const fn max_level(mut self, level: Level) -> Self {
        self.max_level = level;
        self
    }
}

impl<S: Subscriber> Layer<S> for JobLogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let own = metadata.target().split("::").next().is_some_and(|krate| OWN.contains(&krate));
        if *metadata.level() > self.max_level || own {
            return;
        }
        let Some(context) = JobContext::current() else { return };
        let level = match *metadata.level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        let mut line = Line::default();
        event.record(&mut line);
        context.log(level, line.message + &line.fields);
    }
}

/// The message, and the other fields as `key=value`.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let text = if field.name() == "message" { &mut self.message } else { &mut self.fields };
        // What is longer is cut anyway.
        if text.len() > LOG_LINE_BYTES {
            return;
        }
        let written = match field.name() {
            "message" => text.write_fmt(value),
            name => write!(text, " {name}={value}"),
        };
        // Only a value whose own `Debug` fails ends here; the rest of the line stands.
        let _ = written;
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }
}
