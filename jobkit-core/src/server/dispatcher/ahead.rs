//! How far ahead jobs are claimed, where not all that was claimed could be started in time.

/// A bound that is halved by what lay for too long, and grows again with what did not.
///
/// The durations of handlers say how long jobs run, but not how long a machine that has too much to do takes
/// to start them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// `None`: as far as the durations say.
    most: Option<usize>,
}

impl Ahead {
    pub(super) fn bounded(&self, jobs: usize) -> usize {
        self.most.map_or(jobs, |most| most.min(jobs))
    }

    /// Some of this many jobs lay for too long.
    pub(super) fn too_far(&mut self, jobs: usize) {
        self.most = Some((self.bounded(jobs) / 2).max(1));
    }

    /// A claim brought jobs, and those of the one before were started in time. `full` is as far as it may go.
    pub(super) fn in_time(&mut self, full: usize) {
        let grown = self.most.map(|most| most + most / 8 + 1);
        self.most = grown.filter(|most| *most < full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_halved_at_once_and_grows_slowly() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.bounded(580), 580);
        ahead.too_far(580);
        assert_eq!(ahead.bounded(580), 290);
        ahead.too_far(580);
        assert_eq!((ahead.bounded(580), ahead.bounded(20)), (145, 20));
        let mut claims = 0;
        while ahead.bounded(580) < 580 {
            ahead.in_time(580);
            claims += 1;
        }
        assert!((10..20).contains(&claims), "{claims}");
        for _ in 0..20 {
            ahead.too_far(580);
        }
        assert_eq!(ahead.bounded(580), 1, "it never ends claiming ahead");
    }
}
