//! The persisted formats: a change of them has to show.

use super::*;

/// Compares with `tests/golden/<name>`; with `QIHUI_GOLDEN=write` writes it anew.
pub(crate) fn compare(name: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("QIHUI_GOLDEN").is_some_and(|value| value == "write") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        content,
        expected,
        "the format differs from {}",
        path.display()
    );
}

#[test]
fn journal_and_quarantine_have_their_format() {
    let fixture = Fixture::csv().chunks_of(3);
    let records = [
        record(1, 1, 0, "1"),
        "broken".to_owned(),
        record(2, 2, 0, "x"),
        record(3, 3, 0, "3"),
    ];
    let path = fixture.write_csv("payments-2024.csv", &records);
    fixture.run(&path, &mut fixture.preview()).unwrap();
    compare(
        "journal.jsonl",
        &fs::read_to_string(fixture.state().join("runs/payments.jsonl")).unwrap(),
    );
    let dir = fs::read_dir(fixture.state().join("quarantine/payments"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut listing = String::new();
    for file in fs::read_dir(&dir).unwrap() {
        let file = file.unwrap().path();
        listing += &format!(
            "{}\n",
            file.strip_prefix(fixture.state()).unwrap().display()
        );
        listing += &fs::read_to_string(file).unwrap();
    }
    compare("quarantine.jsonl", &listing);
}

#[test]
fn the_state_is_for_the_hub_alone() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::csv();
    let path = fixture.write_csv("payments.csv", &["broken".to_owned()]);
    fixture.run(&path, &mut fixture.preview()).unwrap();
    let mut folders = vec![fixture.state()];
    while let Some(folder) = folders.pop() {
        assert_eq!(
            fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700,
            "{}",
            folder.display()
        );
        for entry in fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                assert_eq!(
                    fs::metadata(&entry).unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{}",
                    entry.display()
                );
            }
        }
    }
}
