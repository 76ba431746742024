//! The examples, run as people run them.

mod conformance;
mod flows;
mod guide;
mod programs;
mod recurring;
mod several_storages;
mod web_app;
mod words;
mod worker;
