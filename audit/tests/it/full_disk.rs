//! A disk that is really full: a file-size limit in a child process, and a small file system where one may be mounted.

use std::path::Path;
use std::process::{Command, Stdio};

use qihui_audit::{LogError, verify};

use crate::support::*;

const DIR: &str = "QIHUI_AUDIT_FULL_DISK_DIR";

/// What the child does: appends until there is no space, then checks that the log is still whole and says so.
fn fill(dir: &Path) {
    let log = open(dir, small_segments(1 << 30));
    let large = "x".repeat(3_000);
    let mut acknowledged = 0;
    let error = loop {
        match log.append(&entry("t", large.as_bytes(), &[])) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100_000, "the limit is not reached");
    };
    assert!(matches!(error, LogError::NoSpace), "{error}");
    assert_eq!(log.failure(), None);
    // A smaller entry may still fit; a large one still does not; nothing of either is half there.
    assert!(matches!(
        log.append(&entry("t", large.as_bytes(), &[])),
        Err(LogError::NoSpace)
    ));
    assert_eq!(log.size(), acknowledged);
    assert_eq!(
        log.scan(0..u64::MAX).filter(Result::is_ok).count() as u64,
        acknowledged
    );
    assert_eq!(log.verify(None).unwrap().unfinished_bytes, 0);
    std::fs::write(dir.with_extension("acknowledged"), acknowledged.to_string()).unwrap();
}

fn check(dir: &Path) {
    let told: u64 = std::fs::read_to_string(dir.with_extension("acknowledged"))
        .unwrap()
        .parse()
        .unwrap();
    assert!(told > 3);
    assert_eq!(verify(dir, &keys(), None).unwrap().entries, told);
    let log = open(dir, quiet());
    assert_eq!(log.size(), told);
    append_each(&log, told, told + 3);
    log.close().unwrap();
    assert_eq!(verify(dir, &keys(), None).unwrap().published, told + 3);
}

/// Started again with a folder in its environment, this test is the child.
#[test]
fn aud_5_a_file_size_limit_loses_nothing() {
    if let Some(dir) = std::env::var_os(DIR) {
        return fill(Path::new(&dir));
    }
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    create(&dir);
    // The signal is ignored, so that the write fails with EFBIG; 64 blocks are 32 or 64 KiB, by shell.
    let status = Command::new("sh")
        .args([
            "-c",
            r#"trap "" XFSZ; ulimit -f 64; exec "$0" --exact full_disk::aud_5_a_file_size_limit_loses_nothing --quiet"#,
        ])
        .arg(std::env::current_exe().unwrap())
        .env(DIR, &dir)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    check(&dir);
}

#[test]
fn aud_5_a_full_file_system_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let mount = scratch.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&mount)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        // Only root may mount; the file-size limit above tests the same path.
        return;
    }
    let dir = mount.join("log");
    let filled = std::panic::catch_unwind(|| {
        create(&dir);
        let log = open(&dir, quiet());
        let large = "x".repeat(3_000);
        let mut told = 0;
        while log
            .append(&entry("t", large.as_bytes(), &[]))
            .map_err(|e| assert_eq!(e.code(), "LogNoSpace"))
            .is_ok()
        {
            told += 1;
        }
        assert_eq!(log.publish().unwrap_err().code(), "LogNoSpace");
        // A crash now leaves this behind.
        (told, files(&dir))
    });
    let unmounted = Command::new("umount").arg(&mount).status().unwrap();
    let (told, left) = filled.unwrap();
    assert!(unmounted.success() && told > 10);
    let copy = scratch.path().join("copy");
    write_files(&copy, &left);
    assert_eq!(verify(&copy, &keys(), None).unwrap().entries, told);
    let log = open(&copy, quiet());
    append_each(&log, told, told + 2);
    log.close().unwrap();
    assert_eq!(verify(&copy, &keys(), None).unwrap().published, told + 2);
}
