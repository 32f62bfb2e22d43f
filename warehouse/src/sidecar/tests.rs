//! The format is fixed by a golden file; damage is always noticed.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

fn build(rows: &[(Hash, Hash, &[u8], i32)], data_bytes: u64) -> Vec<u8> {
    let mut builder = SidecarBuilder::default();
    for part in rows.chunks(2) {
        let width = part.iter().map(|row| row.2.len()).max().unwrap_or(0);
        let mut sequences = Vec::new();
        for row in part {
            sequences.extend_from_slice(row.2);
            sequences.resize(sequences.len() + width - row.2.len(), 0);
        }
        let fingerprints = Fingerprints {
            keys: part.iter().map(|row| row.0).collect(),
            contents: part.iter().map(|row| row.1).collect(),
            sequences: Sequences::new(width, sequences),
        };
        builder.push(
            &fingerprints,
            &part.iter().map(|row| row.3).collect::<Vec<_>>(),
        );
    }
    builder.finish(data_bytes)
}

fn sections(header: &Header, file: &[u8]) -> (Keys, Records) {
    let cut = |section| {
        let range = header.range(section);
        Bytes::copy_from_slice(&file[at(range.start)..at(range.end)])
    };
    let keys = header.keys(cut(Section::Keys)).unwrap();
    let rest = [
        Section::Contents,
        Section::Sequences,
        Section::Numbers,
        Section::Rows,
    ]
    .map(cut);
    (keys, header.records(rest).unwrap())
}

#[test]
fn the_format_is_the_golden_file() {
    let rows: [(Hash, Hash, &[u8], i32); 5] = [
        (3 << 120, 30, &[1, 9], 4_096),
        (1 << 120, 10, &[0], 4_096),
        (2 << 120, 20, &[1, 2, 3], 4_097),
        (5 << 120, 50, &[], 70_000),
        (4 << 120, 40, &[1, 1], i32::MAX),
    ];
    let file = build(&rows, 123_456);
    let mut text = String::new();
    for (line, bytes) in file.chunks(16).enumerate() {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{:06x}  {}", line * 16, hex.join(" "));
    }
    insta::with_settings!({
        snapshot_path => "../../tests/golden", prepend_module_to_snapshot => false, omit_expression => true,
    }, { insta::assert_snapshot!("sidecar_v1", text) });

    let header = Header::parse(&file[..HEADER_BYTES], 123_456, 5).unwrap();
    let range = header.range(Section::Presence);
    let presence = header
        .presence(&file[at(range.start)..at(range.end)])
        .unwrap();
    assert_eq!(
        presence.iter().collect::<Vec<_>>(),
        [4_096, 4_097, 70_000, i32::MAX as u32]
    );
    let (keys, records) = sections(&header, &file);
    assert_eq!(
        (0..5).map(|i| keys.get(i) >> 120).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert_eq!(
        (0..5).map(|i| records.row(i)).collect::<Vec<_>>(),
        [1, 2, 0, 4, 3]
    );
    assert_eq!(
        (0..5).map(|i| records.content(i)).collect::<Vec<_>>(),
        [10, 20, 30, 40, 50]
    );
    assert_eq!(records.sequence(1), [1, 2, 3]);
    assert_eq!(records.sequence(2), [1, 9, 0]);
    assert_eq!(records.no(3), i32::MAX as u32);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let file = build(&[(1, 2, &[3], 4), (5, 6, &[7], 8)], 99);
    let whole = |file: &[u8]| -> Result<(), NotASidecar> {
        let header = Header::parse(&file[..HEADER_BYTES], 99, 2)?;
        let sections = [
            Section::Presence,
            Section::Keys,
            Section::Contents,
            Section::Sequences,
            Section::Numbers,
            Section::Rows,
        ];
        for section in sections {
            let range = header.range(section);
            header.check(section, &file[at(range.start)..at(range.end)])?;
        }
        Ok(())
    };
    whole(&file).unwrap();
    let header = Header::parse(&file[..HEADER_BYTES], 99, 2).unwrap();
    for at in 0..file.len() {
        // Bytes between sections mean nothing.
        let all = [
            Section::Presence,
            Section::Keys,
            Section::Contents,
            Section::Sequences,
            Section::Numbers,
            Section::Rows,
        ];
        let means = at < HEADER_BYTES
            || all
                .iter()
                .any(|section| header.range(*section).contains(&(at as u64)));
        for bit in 0..8 {
            let mut bytes = file.clone();
            bytes[at] ^= 1 << bit;
            assert_eq!(whole(&bytes).is_err(), means, "byte {at}, bit {bit}");
        }
    }
    assert!(Header::parse(&file[..HEADER_BYTES], 98, 2).is_err());
    assert!(Header::parse(&file[..HEADER_BYTES], 99, 3).is_err());
}

proptest! {
    #[test]
    fn keys_are_found_as_in_a_set(
        mut here in prop::collection::btree_set(0_u128..400, 0..200),
        wanted in prop::collection::btree_set(0_u128..400, 0..200),
        spread in 0_u32..120,
    ) {
        here = here.into_iter().map(|key| key << spread).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|key| key << spread).collect();
        let rows: Vec<(Hash, Hash, &[u8], i32)> = here.iter().map(|key| (*key, *key, &[][..], 1)).collect();
        let file = build(&rows, 1);
        let header = Header::parse(&file[..HEADER_BYTES], 1, rows.len() as u64).unwrap();
        let (keys, _) = sections(&header, &file);
        let mut found = Vec::new();
        keys.intersect(&wanted, |position, entry| found.push((wanted[position], keys.get(entry))));
        let expected: Vec<_> = wanted.iter().filter(|key| here.contains(key)).map(|key| (*key, *key)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Header::parse(&bytes, 0, 0).is_err());
    }
}
