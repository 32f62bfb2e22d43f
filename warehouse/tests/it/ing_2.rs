//! ING-2: whatever is landed, in whatever order and however often, the table is what a simple model says.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use qihui_catalog::Partition;
use qihui_warehouse::Outcome;
use ring::digest::{SHA256, digest};

use crate::support::{Record, Row, contract, incoming, land, open, read_table};

/// The content hash as the documentation of the encoding describes it, written a second time.
fn content(record: &Record) -> [u8; 16] {
    let mut bytes = vec![b'C'];
    let mut value = |position: u8, value: Option<Vec<u8>>| {
        if let Some(value) = value {
            bytes.push(position);
            bytes.extend(value);
        }
    };
    let text = |text: &str| {
        [
            &u32::try_from(text.len()).unwrap().to_le_bytes()[..],
            text.as_bytes(),
        ]
        .concat()
    };
    value(1, Some(text(&record.uscc())));
    value(2, Some(text(&record.key())));
    if !record.retract {
        value(3, record.paid_on.map(|days| days.to_le_bytes().to_vec()));
        value(4, record.amount.map(|amount| amount.to_le_bytes().to_vec()));
        value(5, record.open.map(|open| vec![u8::from(open)]));
        value(6, record.note.as_deref().map(text));
    }
    value(7, record.seen.map(|micros| micros.to_le_bytes().to_vec()));
    digest(&SHA256, &bytes).as_ref()[..16].try_into().unwrap()
}

type Version = (Option<i64>, bool, [u8; 16]);

fn version(record: &Record) -> Version {
    (record.seen, record.retract, content(record))
}

/// A table as a map from key to the greatest version of the enterprise that had the key first.
#[derive(Default)]
struct Model(BTreeMap<u16, Record>);

impl Model {
    fn land(&mut self, chunk: &[Record]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Superseded; chunk.len()];
        let mut groups: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (i, record) in chunk.iter().enumerate() {
            groups.entry(record.serial).or_default().push(i);
        }
        for (serial, group) in groups {
            let before = self.0.get(&serial).cloned();
            let oldest = group
                .iter()
                .map(|i| &chunk[*i])
                .min_by_key(|record| (version(record), record.no));
            let owner = before.as_ref().or(oldest).unwrap().no;
            let mut lands: Option<usize> = None;
            for i in group.iter().copied().filter(|i| chunk[*i].no == owner) {
                let standing = lands
                    .map(|i| version(&chunk[i]))
                    .or(before.as_ref().map(version));
                if standing.is_none_or(|standing| version(&chunk[i]) > standing) {
                    lands = Some(i);
                }
            }
            if let Some(i) = lands {
                self.0.insert(serial, chunk[i].clone());
            }
            let winner = version(&self.0[&serial]);
            for i in group {
                outcomes[i] = if chunk[i].no != owner {
                    Outcome::UsccChanged
                } else if Some(i) == lands {
                    match (
                        chunk[i].retract,
                        before.as_ref().map(|before| before.retract),
                    ) {
                        (true, _) => Outcome::Retracted,
                        (false, Some(false)) => Outcome::Replaced,
                        (false, _) => Outcome::Inserted,
                    }
                } else if version(&chunk[i]) == winner {
                    Outcome::Unchanged
                } else {
                    Outcome::Superseded
                };
            }
        }
        outcomes
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self.0.values().map(Record::row).collect();
        rows.sort();
        rows
    }
}

pub fn record(keys: u16, strays: bool) -> impl Strategy<Value = Record> {
    let stray = prop::bool::weighted(if strays { 0.05 } else { 0.0 });
    let date = prop::option::weighted(0.9, 19_990_i32..20_060);
    let note = prop::option::of("[a-c企\\x00]{0,3}");
    let amount = prop::option::of(-3_i128..3);
    let seen = prop::option::weighted(0.9, 0_i64..4);
    (
        0..keys,
        stray,
        date,
        amount,
        prop::option::of(any::<bool>()),
        note,
        seen,
        prop::bool::weighted(0.15),
    )
        .prop_map(
            |(serial, stray, paid_on, amount, open, note, seen, retract)| Record {
                serial,
                no: i32::from(serial % 40) + if stray { 2 } else { 1 },
                paid_on,
                amount,
                open,
                note,
                seen,
                retract,
            },
        )
}

pub fn chunks(keys: u16, strays: bool) -> impl Strategy<Value = Vec<Vec<Record>>> {
    prop::collection::vec(prop::collection::vec(record(keys, strays), 0..60), 1..7)
}

pub fn partition() -> impl Strategy<Value = Partition> {
    select(vec![Partition::None, Partition::Year, Partition::Month])
}

fn run<S: Strategy>(
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Default::default()
    };
    TestRunner::new(config).run(strategy, test).unwrap();
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}

#[test]
fn ing_2_the_table_is_what_the_model_says() {
    run(
        cases(24),
        &(chunks(150, true), partition()),
        |(chunks, partition)| {
            block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let contract = contract(partition);
                let mut table = open(folder.path()).table(&contract).await.unwrap();
                let mut model = Model::default();
                for chunk in &chunks {
                    prop_assert_eq!(
                        land(&table, &contract, chunk).await.outcomes,
                        model.land(chunk)
                    );
                    // The same again, after a restart: nothing lands.
                    table = open(folder.path()).table(&contract).await.unwrap();
                    let again = land(&table, &contract, chunk).await.outcomes;
                    prop_assert_eq!(&again, &model.land(chunk));
                    let landed = [Outcome::Inserted, Outcome::Replaced, Outcome::Retracted];
                    prop_assert!(!again.iter().any(|outcome| landed.contains(outcome)));
                    prop_assert_eq!(
                        read_table(&folder.path().join("levy"), None).await,
                        model.rows()
                    );
                }
                Ok(())
            })
        },
    );
}

#[test]
fn ing_2_order_and_repetition_change_nothing() {
    let orders = prop::collection::vec(any::<prop::sample::Index>(), 1..8);
    run(
        cases(16),
        &(chunks(60, false), partition(), orders, 1_usize..80),
        |(chunks, partition, order, size)| {
            block_on(async {
                let contract = contract(partition);
                let mut model = Model::default();
                chunks.iter().for_each(|chunk| drop(model.land(chunk)));
                // Other chunks, in another order, some of them more than once, and each at least once.
                let folder = tempfile::tempdir().unwrap();
                let table = open(folder.path()).table(&contract).await.unwrap();
                let all: Vec<_> = chunks.concat();
                let cut: Vec<_> = all.chunks(size.max(all.len() / 12 + 1)).collect();
                let repeated = order
                    .iter()
                    .filter(|_| !cut.is_empty())
                    .map(|index| *index.get(&cut));
                for chunk in repeated.chain(cut.iter().rev().copied()) {
                    land(&table, &contract, chunk).await;
                }
                prop_assert_eq!(
                    read_table(&folder.path().join("levy"), None).await,
                    model.rows()
                );
                Ok(())
            })
        },
    );
}

#[test]
fn ing_2_concurrent_feeds_end_as_if_one_after_the_other() {
    run(
        cases(8),
        &(chunks(60, false), chunks(60, false)),
        |(left, right)| {
            block_on(async {
                let contract = contract(Partition::Month);
                let folder = tempfile::tempdir().unwrap();
                let table = open(folder.path()).table(&contract).await.unwrap();
                let feed = |name: &'static str, chunks: Vec<Vec<Record>>| {
                    let (table, contract) = (table.clone(), contract.clone());
                    tokio::spawn(async move {
                        for chunk in &chunks {
                            table
                                .land_next(name, incoming(&contract, chunk))
                                .await
                                .unwrap();
                        }
                    })
                };
                let mut model = Model::default();
                left.iter()
                    .chain(&right)
                    .for_each(|chunk| drop(model.land(chunk)));
                let feeds = (feed("left/levy", left), feed("right/levy", right));
                feeds.0.await.unwrap();
                feeds.1.await.unwrap();
                prop_assert_eq!(
                    read_table(&folder.path().join("levy"), None).await,
                    model.rows()
                );
                Ok(())
            })
        },
    );
}
