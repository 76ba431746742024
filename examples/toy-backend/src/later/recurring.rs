//! Before step 8: no schedules.

use jobkit_core::storage::RecurringStore;

use crate::ToyStorage;

// All of it answers `Unsupported`.
impl RecurringStore for ToyStorage {}
