//! What one seed decides: chance, the clock, ids.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jobkit_core::ids::IdSource;
use jobkit_core::{Clock, Timestamp};
use tokio::time::Instant;

/// The one generator (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>): all who draw from it run on
/// one thread, so that the order of draws is the seed's too.
#[derive(Debug)]
pub(super) struct Chance(AtomicU64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(step, Ordering::SeqCst).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn in_range(&self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    pub(super) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.in_range(range))
    }

    /// Whether it happens, this many times in a thousand.
    pub(super) fn once_in_thousand(&self, times: u64) -> bool {
        self.below(1000) < times
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        let place = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from.get(place)
    }
}

/// Follows virtual time, and jumps when the adversary wants it to.
pub(super) struct JumpingClock {
    began: Instant,
    jumped_micros: AtomicI64,
}

impl JumpingClock {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), jumped_micros: AtomicI64::new(0) }
    }

    pub(super) fn jump(&self, seconds: i64) {
        self.jumped_micros.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl fmt::Debug for JumpingClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JumpingClock")
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        // 2026-01-01, the time at which test clocks begin.
        let jumped = self.jumped_micros.load(Ordering::SeqCst);
        let start = Timestamp::from_micros(1_767_225_600_000_000 + jumped);
        start.plus(self.began.elapsed())
    }
}

/// Ids from the seed.
#[derive(Debug)]
pub(super) struct SeededIds {
    pub(super) chance: std::sync::Arc<Chance>,
    pub(super) clock: std::sync::Arc<JumpingClock>,
}

impl IdSource for SeededIds {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn random(&self) -> u128 {
        (u128::from(self.chance.next()) << 64) | u128::from(self.chance.next())
    }
}
