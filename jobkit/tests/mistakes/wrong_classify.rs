use jobkit::retry::Retry;

fn classify(_: &std::num::ParseIntError) -> Retry {
    Retry::Permanent
}

fn says_nothing(_: &std::io::Error) {}

#[jobkit::job(classify = classify)]
async fn other_error() -> Result<(), std::io::Error> {
    Ok(())
}

#[jobkit::job(classify = says_nothing)]
async fn other_answer() -> Result<(), std::io::Error> {
    Ok(())
}

fn main() {}
