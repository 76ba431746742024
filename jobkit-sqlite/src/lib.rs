//! SQLite storage for JobKit.
