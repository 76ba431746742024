//! The reference backend of core, held to the suite.

use std::sync::Arc;

use conformance_tests::{Connections, Stranger, TestBackend};
use jobkit_core::storage::Storage;
use jobkit_core::testing::Held;
use jobkit_core::{JobId, MemoryStorage, TestClock};

struct Memory;

impl TestBackend for Memory {
    type Guard = MemoryStorage;

    async fn setup() -> (Arc<dyn Storage>, MemoryStorage) {
        let storage = MemoryStorage::new();
        (Arc::new(storage.clone()), storage)
    }

    async fn reopen(guard: &MemoryStorage) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(guard.clone()))
    }

    async fn setup_on(clock: TestClock) -> Option<(Connections, MemoryStorage)> {
        let storage = MemoryStorage::with_clock(Arc::new(clock));
        Some((vec![Arc::new(storage.clone()), Arc::new(storage.clone())], storage))
    }

    async fn hold(guard: &MemoryStorage, held: Held) -> Option<Stranger> {
        Some(Box::new(guard.hold(held)))
    }

    async fn setup_bounded(max_finished: u64) -> Option<(Arc<dyn Storage>, MemoryStorage)> {
        let storage = MemoryStorage::new().with_max_finished(max_finished);
        Some((Arc::new(storage.clone()), storage))
    }

    async fn make_unreadable(guard: &MemoryStorage, job: JobId) -> bool {
        guard.make_unreadable(job)
    }
}

// All but `durable`: it lives as long as the process.
conformance_tests::conformance_tests!(Memory, groups = [core, standard, full, push, search]);
