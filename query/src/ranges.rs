//! Which rows of a file a scan reads, and how: *outside* (never read), *inside* (passed without looking at the
//! enterprise number) and *edge* (read and checked row by row).
//!
//! The ranges follow from the page index of the `_no` column, which the warehouse writes sorted. Where a file
//! has no page index, or is not sorted, whole row groups are edges: correct, only slower.

use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use roaring::RoaringBitmap;

use crate::dense::{ScanScope, Standing};
use crate::mutations::{Mutation, mutated};

/// A run of rows scanned as *inside* is at least this long; shorter ones are checked with their neighbours,
/// which costs less than switching between two readers.
pub const MIN_INSIDE_ROWS: usize = 65_536;

/// The part of one file that a scan reads.
#[derive(Debug, Default)]
pub struct FileRanges {
    /// Row groups and rows passed unchecked, if any.
    pub inside: Option<ParquetAccessPlan>,
    /// Row groups and rows to check, if any.
    pub edge: Option<ParquetAccessPlan>,
    /// Rows in `inside` and in `edge`, to balance partitions.
    pub inside_rows: u64,
    /// See `inside_rows`.
    pub edge_rows: u64,
    /// Enterprises with a row in `inside`.
    pub inside_enterprises: RoaringBitmap,
}

impl FileRanges {
    /// Whether every row of the file is *inside*.
    pub fn is_inside(&self) -> bool {
        let scans = |plan: &ParquetAccessPlan| {
            let mut groups = plan.inner().iter();
            groups.all(|access| *access == RowGroupAccess::Scan)
        };
        self.edge.is_none() && self.inside.as_ref().is_some_and(scans)
    }
}

/// The rows that two plans for one file have in common.
pub fn common_rows(a: &ParquetAccessPlan, b: &ParquetAccessPlan) -> ParquetAccessPlan {
    let groups = a.inner().iter().zip(b.inner());
    let common = groups.map(|groups| match groups {
        (RowGroupAccess::Skip, _) | (_, RowGroupAccess::Skip) => RowGroupAccess::Skip,
        (RowGroupAccess::Scan, other) | (other, RowGroupAccess::Scan) => other.clone(),
        (RowGroupAccess::Selection(a), RowGroupAccess::Selection(b)) => {
            let both = a.intersection(b);
            if both.selects_any() {
                RowGroupAccess::Selection(both)
            } else {
                RowGroupAccess::Skip
            }
        }
    });
    ParquetAccessPlan::new(common.collect())
}

/// A run of rows of one row group with one standing.
#[derive(Debug, Clone, Copy)]
struct Run {
    rows: usize,
    standing: Standing,
    min: u32,
    max: u32,
}

/// Splits a file into ranges.
///
/// `present` are the enterprise numbers in the file, `number_leaf` is the index of the `_no` column among the
/// file's leaf columns, `min_inside` is the least length of an inside run; none when the scan
/// has to look at every row.
pub fn split_file(
    metadata: &ParquetMetaData,
    number_leaf: usize,
    present: &RoaringBitmap,
    scope: &ScanScope,
    min_inside: Option<usize>,
) -> FileRanges {
    let hits = scope.hits(present);
    if hits.is_empty() {
        return FileRanges::default();
    }
    let min_inside = min_inside.filter(|_| groups_in_order(metadata, number_leaf));
    let holes = if min_inside.is_some() {
        scope.holes(present)
    } else {
        present.clone()
    };
    // Finding one is quicker than counting them, and is done for every page.
    let none_of = |set: &RoaringBitmap, min, max| set.range(min..=max).next().is_none();
    let standing = |min: u32, max: u32| {
        if none_of(&hits, min, max) {
            Standing::Outside
        } else if none_of(&holes, min, max)
            || (mutated(Mutation::EdgeTakenForInside) && min_inside.is_some())
        {
            Standing::Inside
        } else {
            Standing::Edge
        }
    };
    let mut ranges = FileRanges::default();
    let groups = metadata.num_row_groups();
    let mut inside = vec![RowGroupAccess::Skip; groups];
    let mut edge = vec![RowGroupAccess::Skip; groups];
    for group in 0..groups {
        let runs = fold_short_runs(runs_of(metadata, group, number_leaf, &standing), min_inside);
        for run in runs.iter().filter(|run| run.standing == Standing::Inside) {
            ranges.inside_rows += run.rows as u64;
            let mut within = hits.clone();
            if !mutated(Mutation::TouchedByPresence) {
                within.remove_range(..run.min);
                if let Some(after) = run.max.checked_add(1) {
                    within.remove_range(after..);
                }
            }
            ranges.inside_enterprises |= within;
        }
        ranges.edge_rows += runs
            .iter()
            .filter(|run| run.standing == Standing::Edge)
            .map(|run| run.rows as u64)
            .sum::<u64>();
        for (access, wanted) in [(&mut inside, Standing::Inside), (&mut edge, Standing::Edge)] {
            if let Some(slot) = access.get_mut(group) {
                *slot = select(&runs, wanted);
            }
        }
    }
    if ranges.inside_rows > 0 {
        ranges.inside = Some(ParquetAccessPlan::new(inside));
    }
    if ranges.edge_rows > 0 {
        ranges.edge = Some(ParquetAccessPlan::new(edge));
    }
    ranges
}

/// Least and greatest number of a row group by its statistics.
fn group_bounds(metadata: &ParquetMetaData, group: usize, leaf: usize) -> Option<(u32, u32)> {
    match metadata.row_group(group).column(leaf).statistics() {
        Some(Statistics::Int32(stats)) => {
            let (min, max) = stats.min_opt().zip(stats.max_opt())?;
            Some((u32::try_from(*min).ok()?, u32::try_from(*max).ok()?))
        }
        _ => None,
    }
}

/// Whether each row group begins no lower than the one before ends.
fn groups_in_order(metadata: &ParquetMetaData, leaf: usize) -> bool {
    let mut previous = 0;
    (0..metadata.num_row_groups()).all(|group| match group_bounds(metadata, group, leaf) {
        Some((min, max)) if min >= previous => {
            previous = max;
            true
        }
        _ => false,
    })
}

/// The runs of a row group, page by page, neighbours of one standing joined.
fn runs_of(
    metadata: &ParquetMetaData,
    group: usize,
    number_leaf: usize,
    standing: &dyn Fn(u32, u32) -> Standing,
) -> Vec<Run> {
    let row_group = metadata.row_group(group);
    let rows = usize::try_from(row_group.num_rows()).unwrap_or(0);
    let whole = |min, max, standing| {
        vec![Run {
            rows,
            standing,
            min,
            max,
        }]
    };
    let Some((min, max)) = group_bounds(metadata, group, number_leaf) else {
        return whole(0, u32::MAX, Standing::Edge);
    };
    match standing(min, max) {
        Standing::Edge => {}
        known => return whole(min, max, known),
    }
    let Some(pages) = sorted_pages(metadata, group, number_leaf, rows) else {
        return whole(min, max, Standing::Edge);
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut before = None;
    for (rows, min, max) in pages {
        let standing = match before.replace((min, max)) {
            Some((min, max)) if mutated(Mutation::PagesOffByOne) => standing(min, max),
            _ => standing(min, max),
        };
        match runs.last_mut() {
            Some(last) if last.standing == standing => {
                last.rows += rows;
                last.max = max;
            }
            _ => runs.push(Run {
                rows,
                standing,
                min,
                max,
            }),
        }
    }
    runs
}

/// Rows, least and greatest number of each page; `None` without a page index or when pages are out of order.
fn sorted_pages(
    metadata: &ParquetMetaData,
    group: usize,
    leaf: usize,
    rows: usize,
) -> Option<Vec<(usize, u32, u32)>> {
    let index = match metadata.column_index()?.get(group)?.get(leaf)? {
        ColumnIndexMetaData::INT32(index) => index,
        _ => return None,
    };
    let locations = metadata
        .offset_index()?
        .get(group)?
        .get(leaf)?
        .page_locations();
    let mins = index.min_values();
    let maxs = index.max_values();
    let mut pages = Vec::with_capacity(locations.len());
    let mut previous = 0;
    for (i, location) in locations.iter().enumerate() {
        let first = usize::try_from(location.first_row_index).ok()?;
        let end = match locations.get(i + 1) {
            Some(next) => usize::try_from(next.first_row_index).ok()?,
            None => rows,
        };
        let (min, max) = (
            u32::try_from(*mins.get(i)?).ok()?,
            u32::try_from(*maxs.get(i)?).ok()?,
        );
        if index.is_null_page(i) || min < previous || max < min || end < first {
            return None;
        }
        previous = max;
        pages.push((end - first, min, max));
    }
    Some(pages)
}

/// Turns inside runs that are too short into edges, and joins what then belongs together.
fn fold_short_runs(runs: Vec<Run>, min_inside: Option<usize>) -> Vec<Run> {
    let least = min_inside.unwrap_or(usize::MAX);
    let mut folded: Vec<Run> = Vec::with_capacity(runs.len());
    for mut run in runs {
        if run.standing == Standing::Inside && run.rows < least {
            run.standing = Standing::Edge;
        }
        match folded.last_mut() {
            Some(last) if last.standing == run.standing => {
                last.rows += run.rows;
                last.max = run.max;
            }
            _ => folded.push(run),
        }
    }
    folded
}

/// The access to one row group that reads the runs of one standing.
fn select(runs: &[Run], wanted: Standing) -> RowGroupAccess {
    if runs.iter().all(|run| run.standing == wanted) {
        return RowGroupAccess::Scan;
    }
    if runs.iter().all(|run| run.standing != wanted) {
        return RowGroupAccess::Skip;
    }
    let selectors: Vec<RowSelector> = runs
        .iter()
        .map(|run| RowSelector {
            row_count: run.rows,
            skip: run.standing != wanted,
        })
        .collect();
    RowGroupAccess::Selection(RowSelection::from(selectors))
}
