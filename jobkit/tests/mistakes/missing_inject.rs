use jobkit::{FromParent, FromParents};

#[jobkit::job]
async fn receipt(cents: FromParent<u64>) {
    let _ = cents;
}

#[jobkit::job]
async fn sum(order: u64, all: FromParents<u64>) {
    let _ = (order, all);
}

fn main() {}
