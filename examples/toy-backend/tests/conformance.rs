//! The toy, held to the suite as any backend would be.
#![cfg(feature = "step-8")]

mod toy;

use toy::Toy;

conformance_tests::conformance_tests!(Toy, groups = [core, standard, push, durable]);
