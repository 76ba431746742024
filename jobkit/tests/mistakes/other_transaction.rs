use jobkit::Client;

struct OtherTransaction;

fn enqueue(client: &Client, transaction: &OtherTransaction) {
    client.within(transaction);
}

fn main() {}
