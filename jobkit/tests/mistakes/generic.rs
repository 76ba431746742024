#[jobkit::job]
async fn store<T: serde::Serialize>(value: T) {}

#[jobkit::job]
async fn show(value: impl std::fmt::Display) {}

fn main() {}
