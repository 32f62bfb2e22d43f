//! What the benches share.
#![allow(dead_code, reason = "no bench needs all of it")]

use std::{
    collections::HashMap,
    fs,
    sync::{Mutex, PoisonError},
};

use qihui_catalog::{EnterpriseNo, EnterpriseNumbers, NumberRequest, NumbersError, Uscc};

pub type Error = Box<dyn std::error::Error>;

/// Runs `measure` with as many rows as `QIHUI_BENCH_ROWS` says, else `full`, or `brief` without `--bench`, as in a run of
/// all tests.
pub fn with_rows<M>(full: u32, brief: u32, measure: impl FnOnce(u32) -> M) -> Result<(), Error>
where
    M: Future<Output = Result<(), Error>>,
{
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let rows = match std::env::var("QIHUI_BENCH_ROWS") {
        Ok(rows) => rows.parse()?,
        Err(_) if is_bench => full,
        Err(_) => brief,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(rows))
}

/// Numbers in the order of asking.
#[derive(Default)]
pub struct Numbers(Mutex<HashMap<Uscc, EnterpriseNo>>);

impl EnterpriseNumbers for Numbers {
    fn assign(&self, wanted: &[NumberRequest]) -> Result<Vec<EnterpriseNo>, NumbersError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = |request: &NumberRequest| {
            let next = u32::try_from(known.len() + 1).map_err(|_| NumbersError::Exhausted)?;
            Ok(*known.entry(request.uscc).or_insert(EnterpriseNo(next)))
        };
        wanted.iter().map(&mut number).collect()
    }

    fn lookup(&self, usccs: &[Uscc]) -> Result<Vec<Option<EnterpriseNo>>, NumbersError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(usccs.iter().map(|uscc| known.get(uscc).copied()).collect())
    }

    fn uscc_of(&self, numbers: &[EnterpriseNo]) -> Result<Vec<Option<Uscc>>, NumbersError> {
        Ok(vec![None; numbers.len()])
    }
}

/// The greatest amount of memory this process ever held, in MiB.
pub fn peak_mib() -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse()?;
    Ok(kib / 1024)
}
