//! The suite as a command line, for any backend.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jobkit_core::storage::Capabilities;

use crate::backend::{self, Case, Group, TestBackend};
use crate::cases::CASES;

const HELP: &str = "\
Holds a storage of jobkit to its contract.

usage: [FILTER]... [OPTION]...

FILTER runs the cases whose group, domain or name contains it, such as `core`, `queue` or
`a_repeated_submit`; several are alternatives.

  --list        shows the cases and what they prove, and runs none
  --threads N   runs this many at once; one for each core by default
  --help        shows this

Ends with 0 when no case failed, 1 when one did, 2 when the command line is wrong.
";

/// Runs the suite for a backend as the command line says: a line for each case, then the guarantees
/// proven, the level reached, and `N passed, N failed, N skipped`.
///
/// Cases of groups that the backend's [`Capabilities`] do not call for are skipped, and counted.
///
/// # Example: `src/main.rs` of a backend's own checker
/// ```no_run
/// # use std::sync::Arc;
/// # use conformance_tests::TestBackend;
/// # use jobkit_core::{MemoryStorage, storage::Storage};
/// # struct MyBackend;
/// # impl TestBackend for MyBackend {
/// #     type Guard = ();
/// #     async fn setup() -> (Arc<dyn Storage>, ()) { (Arc::new(MemoryStorage::new()), ()) }
/// # }
/// fn main() -> std::process::ExitCode {
///     conformance_tests::cli(MyBackend)
/// }
/// ```
pub fn cli<B: TestBackend>(backend: B) -> ExitCode {
    cli_with(backend, std::env::args().skip(1))
}

/// As [`cli`], with arguments of the caller's, the program's name left out.
pub fn cli_with<B: TestBackend>(
    backend: B,
    arguments: impl IntoIterator<Item = String>,
) -> ExitCode {
    // Its type says all of it.
    let _ = backend;
    let options = match Options::parse(arguments.into_iter()) {
        Ok(options) => options,
        Err(mistake) => {
            say(&format!("{mistake}\n\n{HELP}"));
            return ExitCode::from(2);
        }
    };
    if options.help {
        say(HELP);
        return ExitCode::SUCCESS;
    }
    let cases: Vec<&'static Case> = CASES.iter().filter(|case| options.names(case)).collect();
    if options.list {
        for case in cases {
            say(&format!(
                "{}::{}::{}\n    {}\n",
                case.group,
                case.domain,
                case.name,
                case.proves()
            ));
        }
        return ExitCode::SUCCESS;
    }
    let summary = run::<B>(cases, options.threads);
    say(&summary.text());
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Options {
    filters: Vec<String>,
    list: bool,
    help: bool,
    threads: usize,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let mut options = Self { filters: Vec::new(), list: false, help: false, threads: cores };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => options.list = true,
                "--help" | "-h" => options.help = true,
                "--threads" => {
                    let number = arguments.next().and_then(|number| number.parse().ok());
                    options.threads = number
                        .filter(|number| (1..=64).contains(number))
                        .ok_or("--threads needs a number from 1 to 64")?;
                }
                other if other.starts_with('-') => {
                    return Err(format!("`{other}` is not an option"));
                }
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }

    fn names(&self, case: &Case) -> bool {
        let name = format!("{}::{}::{}", case.group, case.domain, case.name);
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Summary {
    capabilities: Capabilities,
    backend: &'static str,
    passed: Vec<&'static Case>,
    failed: Vec<&'static Case>,
    skipped: usize,
}

impl Summary {
    /// The guarantees that cases of the run prove, none of which failed.
    fn proven(&self) -> Vec<String> {
        let guarantees = |cases: &[&Case]| -> BTreeSet<u8> {
            let ids = cases.iter().flat_map(|case| case.contract());
            ids.filter_map(|id| id.strip_prefix('G')?.parse().ok()).collect()
        };
        let broken = guarantees(&self.failed);
        let proven = guarantees(&self.passed);
        proven.difference(&broken).map(|number| format!("G{number}")).collect()
    }

    fn text(&self) -> String {
        let mut text = format!("\n{}: ", self.backend);
        let proven = self.proven();
        if proven.is_empty() {
            text += "no guarantee is proven";
        } else {
            text += &format!("proven are {}", proven.join(" "));
        }
        let level = format!("{:?}", self.capabilities.level).to_lowercase();
        text += &format!("\nlevel: {level}");
        if !self.failed.is_empty() {
            text += " is claimed, and not reached";
        }
        let (passed, failed) = (self.passed.len(), self.failed.len());
        text + &format!("\n{passed} passed, {failed} failed, {} skipped\n", self.skipped)
    }
}

/// Runs cases on as many threads, and says how each ended as soon as it does.
pub(crate) fn run<B: TestBackend>(cases: Vec<&'static Case>, threads: usize) -> Summary {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(remember));
    let (backend, capabilities) = backend::describe::<B>();
    // Once in a process, for the threads of the cases.
    let groups: &'static [Group] = Box::leak(Group::of(&capabilities).into_boxed_slice());
    let (wanted, others): (Vec<&Case>, Vec<&Case>) =
        cases.into_iter().partition(|case| groups.contains(&case.group));
    for case in &others {
        say(&format!("skip  {}::{}  (needs {})\n", case.domain, case.name, case.group));
    }
    let queue = Mutex::new(VecDeque::from(wanted));
    let ended = Mutex::new((Vec::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = lock(&queue).pop_front() {
                    let begun = Instant::now();
                    let outcome = backend::attempt::<B>(groups, case);
                    report(case, &outcome, begun.elapsed());
                    let mut ended = lock(&ended);
                    let (passed, failed) = &mut *ended;
                    if outcome.is_ok() { passed.push(case) } else { failed.push(case) }
                }
            });
        }
    });
    std::panic::set_hook(before);
    let (passed, failed) = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    Summary { capabilities, backend, passed, failed, skipped: others.len() }
}

fn report(case: &Case, outcome: &Result<(), Box<dyn Any + Send>>, took: Duration) {
    let name = format!("{}::{}", case.domain, case.name);
    let Err(panic) = outcome else {
        say(&format!("ok    {name}  ({} ms)\n", took.as_millis()));
        return;
    };
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked");
    let place = lock(places()).remove(case.name).unwrap_or_default();
    let words = words.replace('\n', "\n      ");
    say(&format!("FAIL  {name}\n      {}\n      {place}: {words}\n", case.proves()));
}

/// Where cases panicked, by the name of their threads, which is that of the case.
fn places() -> &'static Mutex<BTreeMap<String, String>> {
    static PLACES: OnceLock<Mutex<BTreeMap<String, String>>> = OnceLock::new();
    PLACES.get_or_init(Mutex::default)
}

fn remember(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (Some(name), Some(place)) = (thread.name(), info.location()) else { return };
    lock(places()).entry(name.to_owned()).or_insert_with(|| place.to_string());
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever reads has gone away: there is nobody to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jobkit_core::MemoryStorage;
    use jobkit_core::storage::Storage;

    use super::*;

    struct Memory;

    impl TestBackend for Memory {
        type Guard = ();

        async fn setup() -> (Arc<dyn Storage>, ()) {
            (Arc::new(MemoryStorage::new()), ())
        }
    }

    fn fails(_: crate::Env) -> crate::CaseFuture {
        Box::pin(async { panic!("it is not so") })
    }

    /// A case that no storage passes.
    const IMPOSSIBLE: &Case = &Case::new("submit", "impossible", Group::Core, fails);

    #[test]
    fn what_passed_failed_and_was_skipped_is_told() {
        let named = |text: &str| {
            CASES.iter().filter(move |case| format!("{case:?}").contains(text)).collect::<Vec<_>>()
        };
        let mut cases = named("submit::a_flow_becomes_visible");
        let durable = named("durable::");
        let skipped = durable.len();
        assert!(cases.len() == 1 && skipped > 0);
        cases.extend(durable);
        let summary = run::<Memory>(cases.clone(), 2);
        assert!(summary.proven().contains(&"G3".to_owned()), "{:?}", summary.proven());
        let text = summary.text();
        assert!(text.ends_with(&format!("1 passed, 0 failed, {skipped} skipped\n")), "{text}");
        cases.push(IMPOSSIBLE);
        let text = run::<Memory>(cases, 1).text();
        assert!(text.contains("level: full is claimed, and not reached"), "{text}");
        assert!(text.ends_with(&format!("1 passed, 1 failed, {skipped} skipped\n")), "{text}");
    }

    #[test]
    fn a_wrong_command_line_is_told() {
        let parse = |text: &str| Options::parse(text.split_whitespace().map(str::to_owned));
        let options = parse("queue batches --threads 3").map_err(|_| ()).expect("is right");
        assert_eq!((options.filters.len(), options.threads), (2, 3));
        for wrong in ["--thread 3", "--threads", "--threads 0", "--threads many"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
