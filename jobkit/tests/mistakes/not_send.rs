use std::rc::Rc;

#[jobkit::job]
async fn counts() {
    let count = Rc::new(1);
    std::future::ready(()).await;
    drop(count);
}

fn main() {}
