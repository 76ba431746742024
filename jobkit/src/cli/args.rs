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

/// Inspect and operate background jobs.
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
            "Set the storage with --url or JOBKIT_URL, such as sqlite:///var/lib/app/jobs.db."
        };
        let command = Self::command().bin_name(program);
        let command = command.after_help(format!("{EXIT_CODES}\n\n{storage}\n{FILTERS}"));
        if has_storage { command.mut_arg("url", |url| url.hide(true)) } else { command }
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct Globals {
    /// URL of the storage [default: $JOBKIT_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Print one JSON document; not for top, export and completion
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print exact times instead of `5 min ago`
    #[arg(long, global = true)]
    pub(super) utc: bool,
    /// Name for the audit [default: USER@host]
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(super) actor: Option<String>,
    /// Reason for the audit
    #[arg(long, global = true, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show everything on one screen, problems first
    Status,
    /// Show the status with rates, refreshed every second
    Top(Top),
    /// List jobs that match a filter
    Jobs(JobsArgs),
    /// Show one job: facts, history, errors, relations, log
    Job(JobArgs),
    /// Explain why a job is not running, and what would change that
    Why(OneJob),
    /// Run failed jobs again
    Retry(RunAgain),
    /// Run finished jobs again, in whatever state they finished
    Requeue(RunAgain),
    /// Delete jobs; running ones are asked to stop
    Delete(Change),
    /// Run scheduled or awaiting jobs now
    RunNow(Change),
    /// List bulk operations, show one, or stop one
    Bulk(BulkArgs),
    /// Enqueue a job by the name of its kind
    Enqueue(Enqueue),
    /// List queues with their depth and pauses
    Queues,
    /// Pause a queue, a kind or a recurring job
    Pause(Pause),
    /// Resume a queue, a kind or a recurring job
    Resume(Resume),
    /// List recurring jobs; run, pause or resume one; preview an expression
    Recurring(RecurringArgs),
    /// List batches, show one, or cancel one
    Batches(BatchesArgs),
    /// List limits, set one, or free stuck slots
    Limits(LimitsArgs),
    /// List servers, or tell one to be quiet, stop or resume
    Servers(ServersArgs),
    /// List failures in groups, or mute a group
    Errors(ErrorsArgs),
    /// Show who did what, newest first
    Audit(Page),
    /// Check the storage and say what to do
    Doctor,
    /// Migrate the storage's schema, or print the statements
    Migrate(Migrate),
    /// Write all matching jobs, one per line
    Export(Export),
    /// Copy everything that is not running to another storage, or to a dump and back
    Move(Move),
    /// Print metrics in Prometheus' text format
    Metrics,
    /// Print a shell completion script
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
    /// Maximum number of items
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) limit: u32,
    /// Continue after this place: `next` of the previous page
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
    /// Maximum number of items
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
    /// Refresh interval, at least 100ms
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(super) interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    /// Filter [default: all jobs]
    #[arg(value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// Print only the number of matches, up to 10,000
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
    /// Show all log lines, or the last N [default: 10]
    #[arg(long, value_name = "LINES", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = 10, default_missing_value = "1000", hide_default_value = true)]
    pub(super) logs: usize,
    /// Show backtraces
    #[arg(long)]
    pub(super) backtrace: bool,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The jobs
    #[arg(value_name = "ID", required_unless_present = "filter", conflicts_with = "filter")]
    pub(super) ids: Vec<JobId>,
    /// All jobs that match this filter
    #[arg(long = "where", value_name = "FILTER")]
    pub(super) filter: Option<String>,
    /// Skip the confirmation prompt
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunAgain {
    #[command(flatten)]
    pub(super) change: Change,
    /// Spread the runs evenly over this duration
    #[arg(long, value_name = "LENGTH", requires = "filter", value_parser = parse_duration)]
    pub(super) spread: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BulkArgs {
    /// Show this one
    #[arg(value_name = "ID")]
    pub(super) id: Option<jobkit_core::OperationId>,
    #[command(flatten)]
    pub(super) first: First,
    #[command(subcommand)]
    pub(super) command: Option<BulkCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BulkCommand {
    /// Stop an operation after its current step
    Stop {
        /// The operation
        id: jobkit_core::OperationId,
    },
    /// Wait for an operation, and help to complete it
    Drive {
        /// The operation
        id: jobkit_core::OperationId,
    },
}

#[derive(Debug, Args)]
pub(super) struct Enqueue {
    /// Stored name of the kind, such as send_mail or resize@2
    pub(super) kind: String,
    /// Arguments as a JSON object by parameter name, or - for standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(super) args: String,
    /// The queue
    #[arg(long)]
    pub(super) queue: Option<String>,
    /// Priority from 0 to 9; 9 runs first
    #[arg(long)]
    pub(super) priority: Option<u8>,
    /// Delay before the job may run, such as 10m
    #[arg(long, value_name = "LENGTH", value_parser = parse_duration)]
    pub(super) delay: Option<Duration>,
    /// Time before which the job must not run
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant, conflicts_with = "delay")]
    pub(super) at: Option<Timestamp>,
    /// Tag; may be repeated
    #[arg(long = "tag")]
    pub(super) tags: Vec<String>,
    /// Unique key
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
    /// Duration, such as 2h
    #[arg(long = "for", value_name = "LENGTH", value_parser = parse_duration)]
    pub(super) length: Option<Duration>,
    /// End time
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant, conflicts_with = "length")]
    pub(super) until: Option<Timestamp>,
}

impl Until {
    /// The end, which must be in the future; otherwise the action would have no effect.
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
    /// What to pause
    pub(super) what: What,
    /// Its name
    pub(super) name: String,
    /// Accept a queue or kind that no server and no job names yet
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) until: Until,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// What to resume
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
    /// List recurring jobs by id
    List(Page),
    /// Show one with its latest occurrences
    Show {
        /// The recurring job
        id: String,
    },
    /// Run one now, in addition to its schedule
    Run {
        /// The recurring job
        id: String,
    },
    /// Pause one
    Pause {
        /// The recurring job
        id: String,
        #[command(flatten)]
        until: Until,
    },
    /// Resume one
    Resume {
        /// The recurring job
        id: String,
    },
    /// Preview the next times of a recurring job, or of a crontab or Quartz expression (needs no storage)
    Preview {
        /// Expression in quotes, or the id of a recurring job
        #[arg(value_name = "CRON|ID")]
        expression: String,
        /// IANA time zone [default: the recurring job's, or UTC]
        #[arg(long)]
        zone: Option<String>,
        /// Read the expression as Quartz
        #[arg(long)]
        quartz: bool,
        /// Start after this time instead of now
        #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
        from: Option<Timestamp>,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BatchesArgs {
    /// Show this one
    #[arg(value_name = "ID")]
    pub(super) id: Option<jobkit_core::BatchId>,
    #[command(flatten)]
    pub(super) page: Page,
    #[command(subcommand)]
    pub(super) command: Option<BatchesCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BatchesCommand {
    /// Cancel one: waiting members are deleted, running ones are asked to stop
    Cancel {
        /// The batch
        id: jobkit_core::BatchId,
        /// Skip the confirmation prompt
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
    /// Set a limit's maximum, overriding what jobs say; its window stays
    Set {
        /// The limit
        name: String,
        /// Jobs at the same time, or starts per window
        max: u32,
    },
    /// Free slots that are held under expired leases
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
    /// Claim no more jobs, and finish those that run
    Quiet {
        /// The server
        name: String,
        #[command(flatten)]
        until: Until,
    },
    /// Shut down gracefully
    Stop {
        /// The server
        name: String,
        /// Skip the confirmation prompt
        #[arg(long, short)]
        yes: bool,
    },
    /// Claim jobs again
    Resume {
        /// The server
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ErrorsArgs {
    /// Only failures of this kind
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Only failures within this duration
    #[arg(long, value_name = "LENGTH", value_parser = parse_duration)]
    pub(super) since: Option<Duration>,
    #[command(flatten)]
    pub(super) first: First,
    #[command(subcommand)]
    pub(super) command: Option<ErrorsCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ErrorsCommand {
    /// Hide a group from the problems; its failures are still counted
    Mute {
        /// Group: the beginning of its fingerprint, such as E-91c3
        group: String,
        #[command(flatten)]
        until: Until,
    },
    /// Show a muted group again
    Unmute {
        /// The group
        group: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Print the statements and change nothing
    #[arg(long)]
    pub(super) print: bool,
    /// Schema version to start from; 0 is an empty database
    #[arg(long, value_name = "VERSION", default_value_t = 0, requires = "print")]
    pub(super) from: u32,
}

#[derive(Debug, Args)]
pub(super) struct Move {
    /// Source storage, or dump:FILE
    #[arg(long, value_name = "URL")]
    pub(super) from: String,
    /// Target storage, created if missing, or dump:FILE
    #[arg(long, value_name = "URL")]
    pub(super) to: String,
    /// Copy even while servers are running; their changes may be missing
    #[arg(long)]
    pub(super) force: bool,
    /// Overwrite an existing dump file
    #[arg(long)]
    pub(super) replace: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Form {
    /// One JSON object per line
    Ndjson,
    /// Comma-separated values
    Csv,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Filter [default: all jobs]
    #[arg(value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// Output format
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
