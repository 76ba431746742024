#[jobkit::job]
fn not_async() {}

#[jobkit::job(blocking)]
async fn blocking_and_async() {}

fn main() {}
