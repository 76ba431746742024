struct Service;

impl Service {
    #[jobkit::job]
    async fn run(&self, n: u32) {}
}

fn main() {}
