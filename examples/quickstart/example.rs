// `main.rs` again: see there.

include!("main.rs");
