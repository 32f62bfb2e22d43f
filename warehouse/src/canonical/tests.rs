//! The encodings are fixed, and the order of bytes is the order of values.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

type Sequence = (
    Option<String>,
    Option<i32>,
    Option<i64>,
    Option<i128>,
    Option<bool>,
);

fn encode(rows: &[Sequence]) -> Sequences {
    let arrays: [ArrayRef; 5] = [
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.0.as_deref()),
        )),
        Arc::new(Int32Array::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(
            TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.2)).with_timezone("UTC"),
        ),
        Arc::new(Decimal128Array::from_iter(rows.iter().map(|row| row.3))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.4))),
    ];
    let values: Vec<_> = arrays
        .iter()
        .map(|array| Values::of(array).unwrap())
        .collect();
    sequences(&values.iter().collect::<Vec<_>>(), rows.len())
}

fn sequence() -> impl Strategy<Value = Sequence> {
    (
        prop::option::of("[\\x00ab\u{ff}企]{0,5}"),
        prop::option::of(prop::sample::select(vec![i32::MIN, -1, 0, 1, i32::MAX])),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<i128>()),
        prop::option::of(any::<bool>()),
    )
}

proptest! {
    #[test]
    fn the_order_of_bytes_is_the_order_of_versions(rows in prop::collection::vec(sequence(), 2..20)) {
        // Encoded together, and each alone: padding changes no order.
        let (together, alone): (_, Vec<_>) = (encode(&rows), rows.iter().map(|row| encode(std::slice::from_ref(row))).collect());
        for a in 0..rows.len() {
            for b in 0..rows.len() {
                let wanted = rows[a].cmp(&rows[b]);
                prop_assert_eq!(compare_sequences(together.get(a), together.get(b)), wanted);
                prop_assert_eq!(compare_sequences(alone[a].get(0), together.get(b)), wanted);
                prop_assert_eq!(compare_sequences(alone[a].get(0), alone[b].get(0)), wanted);
            }
        }
    }
}

#[test]
fn texts_that_differ_beyond_the_limit_tie() {
    let long = |end: &str| (Some("x".repeat(TEXT_LIMIT) + end), None, None, None, None);
    let sequences = encode(&[
        long("a"),
        long("b"),
        (
            Some("x".repeat(TEXT_LIMIT - 1) + "y"),
            None,
            None,
            None,
            None,
        ),
    ]);
    assert_eq!(
        compare_sequences(sequences.get(0), sequences.get(1)),
        Ordering::Equal
    );
    assert_eq!(
        compare_sequences(sequences.get(0), sequences.get(2)),
        Ordering::Less
    );
}

#[test]
fn retraction_beats_an_equal_sequence_and_content_breaks_ties() {
    let version = |sequence: &'static [u8], retracted, content| Version {
        sequence,
        retracted,
        content,
    };
    let order = [
        version(&[0], false, 9),
        version(&[1, 1], false, 1),
        version(&[1, 1, 0], false, 2),
        version(&[1, 1], true, 0),
        version(&[1, 2], false, 0),
    ];
    for (i, a) in order.iter().enumerate() {
        for (j, b) in order.iter().enumerate() {
            assert_eq!(a.compare(b), i.cmp(&j), "{i} {j}");
        }
    }
}
