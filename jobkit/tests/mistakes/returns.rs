#[jobkit::job]
async fn number() -> u32 {
    7
}

fn main() {}
