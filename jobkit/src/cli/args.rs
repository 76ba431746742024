//! What can be typed.

use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use jobkit_core::{JobId, Timestamp};

use super::format::{parse_duration, parse_instant};
use super::{Done, Stop};

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 nothing found, some items refused, or doctor found an error; 2 wrong command line;
3 the storage could not be reached, or failed, or the output could not be written;
4 refused without confirmation.";
const FILTERS: &str = "Filters: state:failed queue:mail kind:Send* failed:<2h -tag:vip arg.user.id:42 error:\"timed out\"";

/// Shows and operates background jobs.
#[derive(Debug, Parser)]
#[command(name = "jobkit", version, subcommand_required = true)]
#[command(arg_required_else_help = true, infer_subcommands = false)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) globals: Globals,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Arguments {
    /// What is typed after `program`; `--url` is for a program that has no storage of its own.
    pub(super) fn definition(program: &str, has_storage: bool) -> clap::Command {
        let storage = if has_storage {
            "The storage is the one of this program."
        } else {
            "The storage is named by --url or JOBKIT_URL, such as sqlite:///var/lib/app/jobs.db."
        };
        let command = Self::command().bin_name(program);
        let command = command.after_help(format!("{EXIT_CODES}\n\n{storage}\n{FILTERS}"));
        if has_storage { command.mut_arg("url", |url| url.hide(true)) } else { command }
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct Globals {
    /// The storage; JOBKIT_URL otherwise
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// One JSON document on standard output; not for top, export and completion
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Exact instants instead of `5 min ago`
    #[arg(long, global = true)]
    pub(super) utc: bool,
    /// Who acts, for the audit; USER@host otherwise
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(super) actor: Option<String>,
    /// Why, for the audit
    #[arg(long, global = true, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Everything on one screen, problems first
    Status,
    /// The same, drawn again every second, with rates
    Top(Top),
    /// Lists jobs that match a filter
    Jobs(JobsArgs),
    /// Shows one job: facts, history, errors, relations, log
    Job(JobArgs),
    /// Tells why a job is not running, and what would change that
    Why(OneJob),
    /// Runs failed jobs again
    Retry(RunAgain),
    /// Runs finished jobs again, however they finished
    Requeue(RunAgain),
    /// Gives jobs up; running ones are asked to stop
    Delete(Change),
    /// Runs jobs now that wait for an instant or for parents
    RunNow(Change),
    /// Lists operations on many jobs, shows one, or stops one
    Bulk(BulkArgs),
    /// Enqueues a job by the name of its kind
    Enqueue(Enqueue),
    /// Lists queues with their depth and pauses
    Queues,
    /// Pauses a queue, a kind or a recurring job
    Pause(Pause),
    /// Resumes a queue, a kind or a recurring job
    Resume(Resume),
    /// Lists recurring jobs, runs, pauses or resumes one, or previews an expression
    Recurring(RecurringArgs),
    /// Lists batches, shows one, or cancels one
    Batches(BatchesArgs),
    /// Lists limits, sets one, or frees stuck slots
    Limits(LimitsArgs),
    /// Lists servers, or tells one to be quiet, to stop or to go on
    Servers(ServersArgs),
    /// Lists failures by their group, or mutes one
    Errors(ErrorsArgs),
    /// Who did what, newest first
    Audit(Page),
    /// Checks the storage, and tells what to do
    Doctor,
    /// Brings the storage's schema up to date, or prints how
    Migrate(Migrate),
    /// Writes all jobs that match, line by line
    Export(Export),
    /// Copies everything that is not running to another storage, or to a dump and back
    Move(Move),
    /// Prints figures for Prometheus
    Metrics,
    /// Prints a script that completes commands in a shell
    Completion(Completion),
}

impl Command {
    /// Why `--json` has no meaning for it, if it has none.
    pub(super) const fn no_document(&self) -> Option<&'static str> {
        match self {
            Self::Top(_) => {
                Some("top draws on a terminal; `status --json` and `metrics` are for programs")
            }
            Self::Export(_) => Some(
                "export writes a line for each job, and no document: leave --json out, its lines are JSON",
            ),
            Self::Completion(_) => Some("completion prints a script: leave --json out"),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Page {
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) limit: u32,
    /// After this place, which a page tells as `next`
    #[arg(long, value_name = "PLACE")]
    pub(super) after: Option<String>,
}

impl Page {
    pub(super) fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }
}

/// How much is shown of a list without places.
#[derive(Debug, Args)]
pub(super) struct First {
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

impl First {
    pub(super) fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }
}

#[derive(Debug, Args)]
pub(super) struct Top {
    /// How often it is drawn, at most ten times a second
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(super) interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    /// Which jobs; all without
    #[arg(value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// Tells how many match instead, up to 10,000
    #[arg(long)]
    pub(super) count: bool,
    #[command(flatten)]
    pub(super) page: Page,
}

#[derive(Debug, Args)]
pub(super) struct OneJob {
    /// The job
    #[arg(value_name = "ID")]
    pub(super) id: JobId,
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    #[command(flatten)]
    pub(super) job: OneJob,
    /// Shows all log lines, or so many of the last ones; 10 without
    #[arg(long, value_name = "LINES", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = 10, default_missing_value = "1000", hide_default_value = true)]
    pub(super) logs: usize,
    /// Shows backtraces
    #[arg(long)]
    pub(super) backtrace: bool,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The jobs
    #[arg(value_name = "ID", required_unless_present = "filter", conflicts_with = "filter")]
    pub(super) ids: Vec<JobId>,
    /// All jobs that match
    #[arg(long = "where", value_name = "FILTER")]
    pub(super) filter: Option<String>,
    /// Asks nobody
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunAgain {
    #[command(flatten)]
    pub(super) change: Change,
    /// Spreads the runs evenly over so long
    #[arg(long, value_name = "LENGTH", requires = "filter", value_parser = parse_duration)]
    pub(super) spread: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BulkArgs {
    /// Shows this one
    #[arg(value_name = "ID")]
    pub(super) id: Option<jobkit_core::OperationId>,
    #[command(flatten)]
    pub(super) first: First,
    #[command(subcommand)]
    pub(super) command: Option<BulkCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BulkCommand {
    /// Stops one after its present step
    Stop {
        /// The operation
        id: jobkit_core::OperationId,
    },
    /// Waits for one, and helps it on
    Drive {
        /// The operation
        id: jobkit_core::OperationId,
    },
}

#[derive(Debug, Args)]
pub(super) struct Enqueue {
    /// The name under which the kind is stored, such as send_mail or resize@2
    pub(super) kind: String,
    /// The arguments: a JSON object by parameter name, or - for standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(super) args: String,
    /// The queue
    #[arg(long)]
    pub(super) queue: Option<String>,
    /// 0 to 9; 9 goes first
    #[arg(long)]
    pub(super) priority: Option<u8>,
    /// Not before so long from now
    #[arg(long, value_name = "LENGTH", value_parser = parse_duration)]
    pub(super) delay: Option<Duration>,
    /// Not before this instant
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant, conflicts_with = "delay")]
    pub(super) at: Option<Timestamp>,
    /// A tag; may be given several times
    #[arg(long = "tag")]
    pub(super) tags: Vec<String>,
    /// The unique key
    #[arg(long, value_name = "KEY")]
    pub(super) unique: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum What {
    /// A queue
    Queue,
    /// A kind, in every queue
    Kind,
    /// A recurring job
    Recurring,
}

impl What {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Kind => "kind",
            Self::Recurring => "recurring job",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Until {
    /// For so long
    #[arg(long = "for", value_name = "LENGTH", value_parser = parse_duration)]
    pub(super) length: Option<Duration>,
    /// Until this instant
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant, conflicts_with = "length")]
    pub(super) until: Option<Timestamp>,
}

impl Until {
    /// The end, which is to come: what had ended already would be done and have no effect.
    pub(super) fn at(&self, now: Timestamp) -> Done<Option<Timestamp>> {
        let at = self.until.or_else(|| self.length.map(|length| now.plus(length)));
        match at {
            Some(at) if at <= now => Err(Stop::Usage(format!(
                "--until {at} has passed, it is {now}: give an instant to come, or --for 2h"
            ))),
            at => Ok(at),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Pause {
    /// What is paused
    pub(super) what: What,
    /// Its name
    pub(super) name: String,
    /// Also a queue or kind that no server and no job names yet
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) until: Until,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// What is resumed
    pub(super) what: What,
    /// Its name
    pub(super) name: String,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct RecurringArgs {
    #[command(flatten)]
    pub(super) page: Page,
    #[command(subcommand)]
    pub(super) command: Option<RecurringCommand>,
}

impl RecurringArgs {
    /// A preview of an expression, which needs no storage: it has several words, or begins with @.
    pub(super) fn is_preview(&self) -> bool {
        matches!(&self.command, Some(RecurringCommand::Preview { expression, .. })
            if expression.starts_with('@') || expression.contains(char::is_whitespace))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum RecurringCommand {
    /// Lists recurring jobs by id
    List(Page),
    /// Shows one with its latest occurrences
    Show {
        /// The recurring job
        id: String,
    },
    /// Runs one now, beside its schedule
    Run {
        /// The recurring job
        id: String,
    },
    /// Pauses one
    Pause {
        /// The recurring job
        id: String,
        #[command(flatten)]
        until: Until,
    },
    /// Resumes one
    Resume {
        /// The recurring job
        id: String,
    },
    /// Tells the next instants of a crontab or Quartz expression, which needs no storage, or of a recurring job
    Preview {
        /// The expression, in quotes; or the id of a recurring job, which is one word
        #[arg(value_name = "CRON|ID")]
        expression: String,
        /// The IANA time zone; that of the recurring job, or UTC
        #[arg(long)]
        zone: Option<String>,
        /// Reads it in the words of Quartz
        #[arg(long)]
        quartz: bool,
        /// After this instant instead of now
        #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
        from: Option<Timestamp>,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BatchesArgs {
    /// Shows this one
    #[arg(value_name = "ID")]
    pub(super) id: Option<jobkit_core::BatchId>,
    #[command(flatten)]
    pub(super) page: Page,
    #[command(subcommand)]
    pub(super) command: Option<BatchesCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BatchesCommand {
    /// Cancels one: waiting members are deleted, running ones asked to stop
    Cancel {
        /// The batch
        id: jobkit_core::BatchId,
        /// Asks nobody
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct LimitsArgs {
    #[command(flatten)]
    pub(super) page: Page,
    #[command(subcommand)]
    pub(super) command: Option<LimitsCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// Sets a limit's number, over what jobs name; its window stays
    Set {
        /// The limit
        name: String,
        /// How many at once, or starts in its window
        max: u32,
    },
    /// Frees slots that are held under expired leases
    Release {
        /// The limit
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct ServersArgs {
    #[command(subcommand)]
    pub(super) command: Option<ServersCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ServersCommand {
    /// Takes no more jobs; what it holds goes on
    Quiet {
        /// The server
        name: String,
        #[command(flatten)]
        until: Until,
    },
    /// Shuts down gracefully
    Stop {
        /// The server
        name: String,
        /// Asks nobody
        #[arg(long, short)]
        yes: bool,
    },
    /// Takes jobs again
    Resume {
        /// The server
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ErrorsArgs {
    /// Of jobs of this kind
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Seen within so long
    #[arg(long, value_name = "LENGTH", value_parser = parse_duration)]
    pub(super) since: Option<Duration>,
    #[command(flatten)]
    pub(super) first: First,
    #[command(subcommand)]
    pub(super) command: Option<ErrorsCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ErrorsCommand {
    /// Takes a group out of the problems; its failures are counted all the same
    Mute {
        /// The group: the beginning of its fingerprint, such as E-91c3
        group: String,
        #[command(flatten)]
        until: Until,
    },
    /// Takes a group back in
    Unmute {
        /// The group
        group: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Prints the statements, and changes nothing
    #[arg(long)]
    pub(super) print: bool,
    /// From this version of the schema; 0 is an empty database
    #[arg(long, value_name = "VERSION", default_value_t = 0, requires = "print")]
    pub(super) from: u32,
}

#[derive(Debug, Args)]
pub(super) struct Move {
    /// The storage it comes from, or dump:FILE
    #[arg(long, value_name = "URL")]
    pub(super) from: String,
    /// The storage it goes to, which is made if it is not there, or dump:FILE
    #[arg(long, value_name = "URL")]
    pub(super) to: String,
    /// Also while servers live on one of them: what they change meanwhile may be missing
    #[arg(long)]
    pub(super) force: bool,
    /// Puts the dump in the place of a file that is there
    #[arg(long)]
    pub(super) replace: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Form {
    /// A JSON object on each line
    Ndjson,
    /// Comma-separated values
    Csv,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Which jobs; all without
    #[arg(value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// The form
    #[arg(long, default_value = "ndjson")]
    pub(super) format: Form,
}

#[derive(Debug, Args)]
pub(super) struct Completion {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        super::Arguments::command().debug_assert();
        super::Arguments::definition("shop", true).debug_assert();
    }
}
