#[jobkit::job]
async fn greet(name: &str) {}

#[jobkit::job]
async fn pattern((a, b): (u8, u8)) {}

fn main() {}
