//! How many jobs this server has finished since it looked last at those that are beyond the storage's number.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The part of the number that is finished before the next look.
const PART: u64 = 20;
/// A look is not worth its while for fewer; and for more, what is beyond the number would go in a rush.
const ENOUGH: std::ops::RangeInclusive<usize> = 100..=10_000;

/// Tells when as many jobs were finished as make a look at those beyond the number worth its while.
#[derive(Debug)]
pub(crate) struct FinishedCount {
    /// How many those are; `None` where no number bounds them.
    enough: Option<usize>,
    count: AtomicUsize,
    reached: Notify,
}

impl FinishedCount {
    pub(crate) fn new(max_finished: Option<u64>) -> Self {
        let enough = max_finished.map(|max| {
            let part = usize::try_from(max / PART).unwrap_or(usize::MAX);
            part.clamp(*ENOUGH.start(), *ENOUGH.end())
        });
        Self { enough, count: AtomicUsize::new(0), reached: Notify::new() }
    }

    /// A job was finished.
    pub(crate) fn add_one(&self) {
        if let Some(enough) = self.enough
            && self.count.fetch_add(1, Ordering::Relaxed) + 1 == enough
        {
            self.reached.notify_one();
        }
    }

    /// Counts from here on; how many it has counted.
    pub(crate) fn begin_anew(&self) -> usize {
        self.count.swap(0, Ordering::Relaxed)
    }

    /// Waits until enough were finished; forever where no number bounds them.
    pub(crate) async fn enough(&self) {
        self.reached.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_enough(count: &FinishedCount) -> bool {
        count.enough().now_or_never().is_some()
    }

    #[test]
    fn a_twentieth_of_the_number_is_enough_within_bounds() {
        for (max, enough) in [(1, 100), (10_000, 500), (1_000_000_000, 10_000)] {
            let count = FinishedCount::new(Some(max));
            (1..enough).for_each(|_| count.add_one());
            assert!(!is_enough(&count), "{max}");
            count.add_one();
            assert!(is_enough(&count) && !is_enough(&count), "{max}");
            count.begin_anew();
            (0..enough).for_each(|_| count.add_one());
            assert!(is_enough(&count), "{max}");
        }
    }

    #[test]
    fn without_a_number_nothing_is_told() {
        let count = FinishedCount::new(None);
        (0..100_000).for_each(|_| count.add_one());
        assert!(!is_enough(&count));
    }
}
