//! How the suite gets a toy.

use std::sync::Arc;

use conformance_tests::TestBackend;
use jobkit_core::JobId;
use jobkit_core::storage::Storage;
use tempfile::TempDir;
use toy_backend::ToyStorage;

// [guide: test-backend]
pub(crate) struct Toy;

impl TestBackend for Toy {
    /// Removed with the file in it when the case has ended.
    type Guard = TempDir;

    async fn setup() -> (Arc<dyn Storage>, TempDir) {
        let folder = tempfile::tempdir().expect("a folder can be made");
        (open(&folder), folder)
    }

    /// Another handle, as a second client in the process has it; after a restart, the file again.
    async fn reopen(folder: &TempDir) -> Option<Arc<dyn Storage>> {
        Some(open(folder))
    }

    async fn make_unreadable(folder: &TempDir, job: JobId) -> bool {
        let storage = ToyStorage::open(folder.path().join("toy")).expect("opens");
        storage.make_unreadable(job).expect("writes")
    }
}

fn open(folder: &TempDir) -> Arc<dyn Storage> {
    Arc::new(ToyStorage::open(folder.path().join("toy")).expect("opens"))
}
// [end]
