struct Service;

impl Service {
    fn next(n: u32) -> u32 {
        n + 1
    }

    #[jobkit::job]
    async fn run(n: u32) -> Result<u32, std::fmt::Error> {
        Ok(Self::next(n))
    }
}

fn main() {}
