//! The command line as a program: every command, in words and as JSON, on a file with jobs in every state.

mod canary;
mod commands;
mod durations;
mod embedded;
mod golden;
mod moves;
mod problems;
mod quoted;
#[cfg(target_os = "linux")]
mod terminal;
mod world;
mod writes;
