//! The command line `jobkit`, and the same inside an application.
//!
//! ```text
//! export JOBKIT_URL=sqlite:///var/lib/app/jobs.db
//! jobkit status
//! jobkit jobs 'state:failed queue:mail failed:<2h'
//! jobkit why 0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d
//! jobkit retry --where 'state:failed error:"timed out"'
//! ```
//!
//! `jobkit help` lists the commands, `jobkit help COMMAND` tells of one. What matches is said in the
//! [filter language](crate::ops::search).
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | nothing was found, some items were refused, or `doctor` found an error |
//! | 2 | the command line is wrong |
//! | 3 | the storage could not be reached, or failed; or the output could not be written |
//! | 4 | refused, since nobody confirmed it |
//!
//! With `--json` standard output is one JSON document, or empty where what was named is not there; `top`,
//! `export` and `completion` have no document, and refuse it. A list is an object with `items` and
//! `next`, the place for `--after`, or `null` on the last page; `errors` and `bulk` have no places, and
//! tell by `more` whether a higher `--limit` shows more. Names are those of this crate's types, instants
//! are RFC 3339 in UTC, lengths of time are milliseconds under names that end in `_ms`. Errors are told
//! on standard error, in words.
//!
//! Values whose names tell of a secret are hidden, and so are arguments marked `sensitive` and the URL's
//! password; characters that could move a cursor or turn a text round are shown as `‹U+202E›`.
//!
//! # Example: `admin` of an application, which knows its jobs
//! ```no_run
//! use jobkit::{Jobs, cli::CommandLine};
//!
//! fn jobs() -> Jobs {
//!     Jobs::new() // `jobs![send_mail, …]`
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     let line = CommandLine::new().program("shop admin").jobs(jobs()).url("sqlite://jobs.db");
//!     // Behind `shop admin`: looking makes no file, only `shop admin migrate` does.
//!     line.run(std::env::args_os().skip(2)).await
//! }
//! ```

mod args;
mod audit;
mod batches;
mod bulk;
mod change;
mod completion;
mod console;
mod doctor;
mod enqueue;
mod errors;
mod export;
mod format;
mod jobs;
mod limits;
mod list;
mod metrics;
mod migrate;
mod queues;
mod recurring;
mod servers;
mod source;
mod status;
mod top;
mod transfer;
mod view;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;
use jobkit_core::error::offered;
use jobkit_core::storage::{IntoStorage, Storage};
use jobkit_core::{Client, Error, ErrorKind, Jobs, Timestamp, redact};

use args::{Arguments, Command, Globals};
use change::Verb;
use console::Console;

/// Runs the command line of this process with an application's jobs and storage: arguments are checked
/// against the jobs, and `--url` is refused, since everything happens in that storage.
///
/// Open it so that looking makes no database, such as by `SqliteOptions::migrate_on_open(false)`, or give
/// the address alone: [`CommandLine::url`].
pub async fn run<S: IntoStorage>(jobs: Jobs, storage: S) -> ExitCode {
    CommandLine::new()
        .jobs(jobs)
        .client(Client::new(storage))
        .run(std::env::args_os().skip(1))
        .await
}

/// The command line, and what an application gives it.
///
/// # Example: with the client's codecs, and arguments of one's own
/// ```
/// use jobkit::cli::CommandLine;
/// use jobkit::{Client, MemoryStorage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let client = Client::new(MemoryStorage::new());
/// let (mut out, mut err) = (Vec::new(), Vec::new());
/// let line = CommandLine::new().client(client);
/// let code = line.run_to(["jobs", "--json"], &mut out, &mut err).await;
/// assert_eq!(code, 1, "nothing was found");
/// assert_eq!(String::from_utf8_lossy(&out), "{\n  \"items\": [],\n  \"next\": null\n}\n");
/// # }
/// ```
#[derive(Debug, Default)]
pub struct CommandLine {
    jobs: Option<Jobs>,
    client: Option<Client>,
    url: Option<String>,
    program: Option<String>,
}

impl CommandLine {
    /// One that finds its storage by `--url` or `JOBKIT_URL`.
    pub fn new() -> Self {
        Self::default()
    }

    /// The jobs of the application, which arguments are checked against.
    #[must_use]
    pub fn jobs(mut self, jobs: Jobs) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// The client in whose storage everything happens, whose codecs open what they sealed, and whose
    /// filters see what is enqueued. `--url` is refused then, and JOBKIT_URL is not asked.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// The address of the storage where `--url` names no other one; JOBKIT_URL is not asked then.
    ///
    /// Opened as the program `jobkit` does: looking makes no database, and only `migrate` makes or changes
    /// a schema.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// What people type before the arguments, such as `shop admin`, for the usage and for advice; by
    /// default this process's name.
    #[must_use]
    pub fn program(mut self, program: impl Into<String>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Runs it on the standard streams; the arguments come without the program's name.
    pub async fn run<A: Into<OsString>>(self, arguments: impl IntoIterator<Item = A>) -> ExitCode {
        let arguments = arguments.into_iter().map(Into::into).collect();
        ExitCode::from(self.perform(arguments, Console::standard()).await)
    }

    /// Runs it without a terminal, and answers the exit code.
    pub async fn run_to<A: Into<OsString>>(
        self,
        arguments: impl IntoIterator<Item = A>,
        out: &mut (dyn Write + Send),
        err: &mut (dyn Write + Send),
    ) -> u8 {
        let arguments = arguments.into_iter().map(Into::into).collect();
        self.perform(arguments, Console::plain(out, err)).await
    }

    async fn perform(self, arguments: Vec<OsString>, mut console: Console<'_>) -> u8 {
        let program = self.program.clone().unwrap_or_else(name_of_this_process);
        let definition = Arguments::definition(&program, self.client.is_some());
        let name = std::iter::once(OsString::from(&program));
        let parsed = definition
            .try_get_matches_from(name.chain(arguments))
            .and_then(|matches| Arguments::from_arg_matches(&matches));
        let exit = match parsed {
            Ok(arguments) => {
                let done = self.dispatch(arguments, program, &mut console).await;
                done.unwrap_or_else(|stop| stop.tell(&mut console))
            }
            Err(error) => {
                let text = redact::hide_in_text(&error.render().to_string());
                if error.use_stderr() {
                    let _ = console.tell_block(&text);
                    Exit::Usage
                } else {
                    let shown = console.block("", &text).map_err(Stop::Output);
                    shown.map_or_else(|stop| stop.tell(&mut console), |()| Exit::Done)
                }
            }
        };
        // What was answered counts only when it has arrived.
        let exit = match console.flush() {
            Err(error) if matches!(exit, Exit::Done | Exit::Nothing) => {
                Stop::Output(error).told_after(exit, &mut console)
            }
            _ => exit,
        };
        exit as u8
    }

    async fn dispatch(
        self,
        arguments: Arguments,
        program: String,
        console: &mut Console<'_>,
    ) -> Done {
        let Arguments { mut globals, command } = arguments;
        if let (Some(_), Some(client)) = (&globals.url, &self.client) {
            let storage = client.storage();
            let place = storage.location().map(|place| format!(" at {place}")).unwrap_or_default();
            return Err(Stop::Usage(format!(
                "--url: {program} acts in its own storage, {} ({}){place}; leave --url out, or use the \
                 program `jobkit` for another storage",
                storage.backend(),
                storage.namespace()
            )));
        }
        globals.url = globals.url.or(self.url);
        if globals.json
            && let Some(words) = command.no_document()
        {
            return Err(Stop::Usage(words.to_owned()));
        }
        // What needs no storage.
        match &command {
            Command::Completion(it) => return completion::run(it, &program, console),
            Command::Recurring(it) if it.is_preview() => {
                return recurring::preview(it, &globals, console);
            }
            Command::Migrate(it) if it.print => {
                return migrate::print(it, &globals, self.client.as_ref(), console);
            }
            Command::Move(it) => return transfer::run(it, globals.json, console).await,
            _ => {}
        }
        let client = match self.client {
            Some(client) => client,
            None => Client::new(source::open(&globals, &command).await?),
        };
        let now = client.storage().now().await?;
        let mut context = Context { client, jobs: self.jobs, program, globals, now, console };
        let context = &mut context;
        match command {
            Command::Status => status::run(context).await,
            Command::Top(it) => top::run(context, &it).await,
            Command::Jobs(it) => jobs::list(context, &it).await,
            Command::Job(it) => jobs::show(context, &it).await,
            Command::Why(it) => jobs::why(context, &it).await,
            Command::Retry(it) => change::run_again(context, Verb::Retry, &it).await,
            Command::Requeue(it) => change::run_again(context, Verb::Requeue, &it).await,
            Command::Delete(it) => change::run(context, Verb::Delete, &it).await,
            Command::RunNow(it) => change::run(context, Verb::RunNow, &it).await,
            Command::Bulk(it) => bulk::run(context, &it).await,
            Command::Enqueue(it) => enqueue::run(context, &it).await,
            Command::Queues => queues::list(context).await,
            Command::Pause(it) => {
                if !it.force {
                    queues::check_known(context, it.what, &it.name).await?;
                }
                queues::pause(context, it.what, &it.name, &it.until).await
            }
            Command::Resume(it) => queues::resume(context, it.what, &it.name).await,
            Command::Recurring(it) => recurring::run(context, &it).await,
            Command::Batches(it) => batches::run(context, &it).await,
            Command::Limits(it) => limits::run(context, &it).await,
            Command::Servers(it) => servers::run(context, &it).await,
            Command::Errors(it) => errors::run(context, &it).await,
            Command::Audit(it) => audit::run(context, &it).await,
            Command::Doctor => doctor::run(context).await,
            Command::Migrate(_) => migrate::run(context).await,
            Command::Export(it) => export::run(context, &it).await,
            Command::Metrics => metrics::run(context).await,
            Command::Completion(_) | Command::Move(_) => Ok(Exit::Done),
        }
    }
}

/// The file name of the program that runs, without its folder.
fn name_of_this_process() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = path.as_deref().and_then(std::path::Path::file_stem);
    name.map_or_else(|| "jobkit".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done.
    Done = 0,
    /// Nothing was found, or some of it was refused.
    Nothing = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The storage could not be reached, or failed, or the output could not be written.
    Storage = 3,
    /// Nobody confirmed it.
    Unconfirmed = 4,
}

/// Why a command ended early.
#[derive(Debug)]
enum Stop {
    /// The library's error.
    Library(Error),
    /// The command line is wrong.
    Usage(String),
    /// What was asked for does not exist.
    Nothing(String),
    /// Nobody confirmed it.
    Unconfirmed(String),
    /// The output went away, or could not be written.
    Output(std::io::Error),
}

type Done<T = Exit> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => {
                write!(f, "{error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
            Self::Usage(text) | Self::Nothing(text) | Self::Unconfirmed(text) => f.write_str(text),
            Self::Output(error) => write!(f, "the output cannot be written: {error}"),
        }
    }
}

impl Stop {
    fn exit(&self) -> Exit {
        match self {
            Self::Library(error) => match error.kind() {
                // What was typed is wrong; of options only those of the address come from there.
                ErrorKind::InvalidInput | ErrorKind::Configuration => Exit::Usage,
                ErrorKind::NotFound | ErrorKind::Conflict => Exit::Nothing,
                _ => Exit::Storage,
            },
            Self::Usage(_) => Exit::Usage,
            Self::Nothing(_) => Exit::Nothing,
            Self::Unconfirmed(_) => Exit::Unconfirmed,
            Self::Output(_) => Exit::Storage,
        }
    }

    fn tell(&self, console: &mut Console<'_>) -> Exit {
        self.told_after(Exit::Done, console)
    }

    /// The same at the end of a command that ended so.
    fn told_after(&self, exit: Exit, console: &mut Console<'_>) -> Exit {
        if let Self::Output(error) = self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            // Whoever read has seen enough.
            return exit;
        }
        let _ = console.tell_block(&format!("error: {}", redact::hide_in_text(&self.to_string())));
        self.exit()
    }
}

/// What a command works with.
struct Context<'a, 'b> {
    client: Client,
    jobs: Option<Jobs>,
    /// What people type before the arguments.
    program: String,
    globals: Globals,
    now: Timestamp,
    console: &'a mut Console<'b>,
}

impl Context<'_, '_> {
    fn storage(&self) -> Arc<dyn Storage> {
        self.client.shared_storage()
    }

    /// Who acts, for the audit.
    fn operator(&self) -> jobkit_core::operator::Operator {
        let actor = self.globals.actor.clone().unwrap_or_else(|| {
            let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let user = var("USER").or_else(|| var("USERNAME")).unwrap_or_else(|| "unknown".into());
            let host = jobkit_core::server::hostname().unwrap_or_else(|| "localhost".into());
            format!("{user}@{host}")
        });
        let operator = self.client.operator(actor).from_peer("jobkit");
        operator.because(self.globals.reason.clone().unwrap_or_default())
    }

    fn time(&self, at: Timestamp) -> String {
        format::time(at, self.now, self.globals.utc)
    }

    fn time_or(&self, at: Option<Timestamp>, none: &str) -> String {
        at.map_or_else(|| none.to_owned(), |at| self.time(at))
    }

    /// Says that something was done, as words or as JSON, with secrets hidden: both repeat what was typed.
    fn done(&mut self, words: &str, json: &serde_json::Value) -> Done {
        if self.globals.json {
            self.console.json(&view::redacted(json.clone()))?
        } else {
            self.console.say(&redact::hide_in_text(words))?
        }
        Ok(Exit::Done)
    }
}
