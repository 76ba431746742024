//! Plays one sequence after the other, and makes one that shows a difference short.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jobkit_core::TestClock;
use jobkit_core::storage::{Level, Storage};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::generator::sequences;
use super::operation::Step;
use super::player::{Subject, play};

/// How long the search for a shorter sequence may take.
const SHRINKING: Duration = Duration::from_secs(40);

/// An empty storage to play a sequence on.
pub struct Fresh {
    /// Connections to it, one at least; they take turns.
    pub clients: Vec<Arc<dyn Storage>>,
    /// The clock that it follows, where it follows the one that was offered.
    pub clock: Option<TestClock>,
    /// What keeps it.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// Which sequences are played.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Search {
    /// What they may ask for.
    pub level: Level,
    /// The first seed; each sequence has the next one.
    pub seed: u64,
    /// How many.
    pub sequences: u64,
    /// How long each is.
    pub steps: usize,
    /// No new one is begun after so long.
    pub at_most: Duration,
}

/// A sequence that shows a difference.
#[derive(Debug)]
#[non_exhaustive]
pub struct Difference {
    /// Its seed.
    pub seed: u64,
    /// How long it was.
    pub steps_before: usize,
    /// What is left of it.
    pub steps: Vec<Step>,
    /// What differs.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} steps, of seed {}:", self.steps.len(), self.steps_before, self.seed)?;
        for (place, step) in self.steps.iter().enumerate() {
            writeln!(f, "{place:>4} {step:?}")?;
        }
        write!(f, "{}", self.what)?;
        Ok(())
    }
}

impl Search {
    /// Some sequences of this many steps.
    pub const fn new(level: Level, seed: u64, sequences: u64, steps: usize) -> Self {
        Self { level, seed, sequences, steps, at_most: Duration::MAX }
    }

    /// What the environment asks for, if it asks for anything.
    pub(super) fn of_environment(level: Level) -> Option<Self> {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seed = number("JOBKIT_MODEL_SEED");
        let (sequences, seconds) =
            (number("JOBKIT_MODEL_SEQUENCES"), number("JOBKIT_MODEL_SECONDS"));
        seed.or(sequences).or(seconds)?;
        let most = if seconds.is_some() { u64::MAX } else { super::SEQUENCES };
        let sequences = sequences.unwrap_or(most);
        let at_most = seconds.map_or(Duration::MAX, Duration::from_secs);
        let search = Self::new(level, seed.unwrap_or(super::FIRST), sequences, super::STEPS);
        Some(Self { at_most, ..search })
    }

    /// Plays them, each on a storage of its own, until one shows a difference. Not on a thread that
    /// drives tasks.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub fn run<F>(&self, fresh: impl Fn(TestClock) -> F) -> Option<Difference>
    where
        F: Future<Output = Fresh>,
    {
        let runtime = Handle::current();
        let attempt = |steps: &[Step]| {
            runtime.block_on(async {
                let Fresh { clients, clock, guard } = fresh(TestClock::default()).await;
                let played = play(&Subject { clients, clock }, self.level, steps).await;
                drop(guard);
                played
            })
        };
        let began = Instant::now();
        (self.seed..self.seed.saturating_add(self.sequences))
            .take_while(|_| began.elapsed() < self.at_most)
            .find_map(|seed| self.one(seed, &attempt))
    }

    fn one(
        &self,
        seed: u64,
        attempt: &impl Fn(&[Step]) -> Result<(), String>,
    ) -> Option<Difference> {
        let config = Config {
            failure_persistence: None,
            max_shrink_time: u32::try_from(SHRINKING.as_millis()).unwrap_or(u32::MAX),
            max_shrink_iters: 1_000,
            ..Config::default()
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, random);
        let tree =
            sequences(self.level, self.steps).new_tree(&mut runner).expect("none is rejected");
        let test = |steps: Vec<Step>| attempt(&steps).map_err(TestCaseError::fail);
        let (reason, steps) = match runner.run_one(tree, test) {
            Ok(_) => return None,
            Err(TestError::Fail(reason, steps)) => (reason, steps),
            Err(TestError::Abort(reason)) => (reason, Vec::new()),
        };
        let mut what = reason.to_string();
        let steps = shorter(steps, attempt, &mut what);
        Some(Difference { seed, steps_before: self.steps, steps, what })
    }
}

/// Leaves out one step after the other as long as a difference is left: the first pass, over the
/// elements from the front, cannot leave out what later ones needed that are gone now.
fn shorter(
    mut steps: Vec<Step>,
    attempt: &impl Fn(&[Step]) -> Result<(), String>,
    what: &mut String,
) -> Vec<Step> {
    let deadline = Instant::now() + SHRINKING / 2;
    loop {
        let before = steps.len();
        for place in (0..before).rev() {
            if Instant::now() > deadline {
                return steps;
            }
            let mut fewer = steps.clone();
            fewer.remove(place);
            if let Err(still) = attempt(&fewer) {
                (steps, *what) = (fewer, still);
            }
        }
        if steps.len() == before {
            return steps;
        }
    }
}
