use jobkit::sqlite::SqliteStorage;
use jobkit::{Client, MemoryStorage};

struct OtherTransaction;

fn typed(client: &Client<SqliteStorage>, transaction: &OtherTransaction) {
    client.within(transaction);
}

fn erased(client: &Client, transaction: &OtherTransaction) {
    client.within(transaction);
}

fn memory(client: &Client<MemoryStorage>, transaction: &OtherTransaction) {
    client.within(transaction);
}

fn main() {}
