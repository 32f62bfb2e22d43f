//! Enterprise numbers.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, test_runner::Config};
use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, NumberRequest, Uscc};
use qihui_consent::Ledger;

use crate::fixture::{Hub, uscc};

const COUNTIES: [&[u8; 6]; 3] = [b"330106", b"330203", b"330302"];

fn wish(n: u32, county: usize, section: usize) -> NumberRequest {
    let section = ['C', 'F'].get(section % 3).copied();
    NumberRequest {
        uscc: uscc(n),
        county: COUNTIES.get(county % 4).map(|county| **county),
        section,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn numbers_are_dense_stable_and_of_their_block() {
    let hub = block_on(Hub::empty());
    let wishes: Vec<_> = (0..10_000).map(|n| wish(n, 0, 0)).collect();
    let numbers = hub.ledger.assign(&wishes).unwrap();
    let distinct: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), 10_000);
    assert_eq!(
        distinct.first(),
        Some(&EnterpriseNo(1)),
        "0 is no enterprise"
    );
    assert_eq!(
        distinct.last(),
        Some(&EnterpriseNo(10_000)),
        "no other block was opened: full blocks chain"
    );
    let other = hub
        .ledger
        .assign(&[wish(20_000, 1, 0), wish(20_001, 1, 1), wish(20_002, 1, 0)])
        .unwrap();
    assert_eq!(
        other,
        [
            EnterpriseNo(3 * 4096),
            EnterpriseNo(4 * 4096),
            EnterpriseNo(3 * 4096 + 1)
        ]
    );
    assert_eq!(hub.ledger.assign(&wishes).unwrap(), numbers, "asked again");
    let usccs: Vec<Uscc> = wishes.iter().map(|wish| wish.uscc).collect();
    assert_eq!(
        hub.ledger.uscc_of(&numbers).unwrap(),
        usccs.iter().copied().map(Some).collect::<Vec<_>>()
    );
    assert_eq!(
        hub.ledger
            .uscc_of(&[EnterpriseNo(0), EnterpriseNo(3_000_000)])
            .unwrap(),
        [None, None]
    );
    assert_eq!(hub.ledger.lookup(&[uscc(999_999)]).unwrap(), [None]);
    // Another handle, whose memory is empty: the numbers come from the store.
    let again = block_on(Ledger::open(
        &hub.dir.path().join("ledger.sqlite"),
        hub.clock.clone(),
    ))
    .unwrap();
    let found = again.lookup(&usccs).unwrap();
    assert_eq!(found, numbers.iter().copied().map(Some).collect::<Vec<_>>());
    assert_eq!(again.assign(&wishes[..3]).unwrap(), numbers[..3]);
}

#[test]
fn two_handles_never_give_one_number_twice() {
    let hub = block_on(Hub::empty());
    let path = hub.dir.path().join("ledger.sqlite");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let ledger = block_on(Ledger::open(&path, hub.clock.clone())).unwrap();
            std::thread::spawn(move || {
                let rounds = (0..10).map(|round| {
                    let wishes: Vec<_> = (0..300).map(|n| wish(round * 100 + n, 0, 0)).collect();
                    ledger.assign(&wishes).unwrap()
                });
                rounds.collect::<Vec<_>>()
            })
        })
        .collect();
    let found: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert!(
        found.windows(2).all(|pair| pair[0] == pair[1]),
        "everybody was told the same"
    );
    let distinct: BTreeSet<_> = found[0].iter().flatten().collect();
    assert_eq!(distinct.len(), 1200);
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    /// Against a model: a number is given once, for ever, and lies in a block of the county and section asked for first.
    #[test]
    fn numbers_follow_the_model(calls in vec(vec((0_u32..400, 0_usize..4, 0_usize..3), 0..120), 1..6)) {
        let hub = block_on(Hub::empty());
        let mut known: std::collections::HashMap<u32, EnterpriseNo> = std::collections::HashMap::new();
        let mut homes: std::collections::HashMap<u32, (Vec<u8>, Option<char>)> = std::collections::HashMap::new();
        for call in calls {
            let wishes: Vec<_> = call.iter().map(|(n, county, section)| wish(*n, *county, *section)).collect();
            let numbers = hub.ledger.assign(&wishes).unwrap();
            prop_assert_eq!(numbers.len(), call.len());
            for (((n, ..), wish), number) in call.iter().zip(&wishes).zip(numbers) {
                prop_assert!(number.is_valid());
                prop_assert_eq!(*known.entry(*n).or_insert(number), number);
                let county = wish.county.map_or_else(|| b"330106".to_vec(), |county| county.to_vec());
                homes.entry(number.block()).or_insert_with(|| (county, None));
            }
        }
        let distinct: BTreeSet<_> = known.values().collect();
        prop_assert_eq!(distinct.len(), known.len());
    }
}
