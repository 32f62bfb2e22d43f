//! Reproducible synthetic feeds of the four departments, in their source formats.
//!
//! Promises:
//! - equal options give equal bytes, on every platform and at any time ([`generate`]);
//! - the records of an enterprise do not depend on how many others there are: N enterprises are the first N of more;
//! - every USCC is valid and lies in a range that is never issued; with a registry, nothing unfavourable is invented
//!   about its enterprises;
//! - the manifest ([`Manifest`]) says what a hub must count when it takes the feeds in;
//! - memory does not grow with the number of enterprises (but for eight bytes each when a registry is read): a workbook
//!   is held until it has 10,000 rows, then the month goes on in another.
//!
//! Limits: [`MAX_ENTERPRISES`], [`MAX_MONTHS`]. The span always ends with June 2026. Header names, encodings, formats
//! and file names are those of the catalogue's feeds.

mod calendar;
mod datasets;
mod draw;
mod emit;
mod error;
mod file;
mod manifest;
mod plan;
mod population;
mod row;
mod ugly;
mod workbook;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use qihui_catalog::Catalog;

use calendar::Span;
use datasets::{DATASETS, Dataset, Scribe};
use emit::{Emitter, Output};
use plan::Plan;
use population::Enterprise;
use population::registry::Registry;

pub use error::SynthError;
pub use manifest::{Expected, FeedManifest, FileManifest, MANIFEST_FILE, Manifest};

use error::Result;

/// The most enterprises of one generation.
pub const MAX_ENTERPRISES: u32 = 10_000_000;
/// The most months of one generation.
pub const MAX_MONTHS: u32 = 120;
/// Version of the output: raised whenever equal options give other bytes.
pub const OUTPUT_VERSION: u32 = 2;

/// Feeds written at the same time; each holds one open file per month.
const MAX_WORKERS: usize = 4;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthOptions {
    /// The folder for the files; made when it is not there.
    pub out: PathBuf,
    /// How many enterprises. With a registry: at most how many of its rows, 0 for all.
    pub enterprises: u32,
    /// How many months, ending with June 2026.
    pub months: u32,
    /// Seed of all draws.
    pub seed: u64,
    /// Share of records made ugly, 0 to 1.
    pub ugly: f64,
    /// A CSV file with columns uscc, ent_name, est_date (and more) whose enterprises are taken.
    pub registry: Option<PathBuf>,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthReport {
    /// Where the manifest was written.
    pub manifest_path: PathBuf,
    /// What it says.
    pub manifest: Manifest,
}

/// Who the feeds are about.
enum Population {
    Drawn(u64),
    Registry { registry: Registry, most: u64 },
}

/// Generates the feeds. The manifest is written last; after a failure no file of this generation stays.
///
/// # Errors
/// An option outside its range, a file that exists already, a registry without its columns, a failing disk.
pub fn generate(options: &SynthOptions) -> std::result::Result<SynthReport, SynthError> {
    let ugly_per_million = check(options)?;
    let catalog = Catalog::builtin().map_err(|errors| SynthError::Catalog {
        reason: errors.to_string(),
    })?;
    let population = Population::of(options)?;
    let span = Span::ending_last(options.months);
    let manifest_path = options.out.join(MANIFEST_FILE);
    if manifest_path.exists() {
        return Err(SynthError::Exists {
            path: manifest_path,
        });
    }
    let neutral = options.registry.is_some();
    let jobs: Vec<_> = DATASETS
        .iter()
        .filter(|dataset| dataset.neutral || !neutral)
        .collect();
    let plans = jobs
        .iter()
        .map(|dataset| Plan::new(&catalog, dataset.id, dataset.habits))
        .collect::<Result<Vec<_>>>()?;
    let output = Output::new(&options.out)?;
    let write = |dataset: &Dataset, plan: &Plan| {
        let out = Emitter::new(plan, span, &output, ugly_per_million);
        let mut scribe = Scribe::new(span, neutral, options.seed, out);
        population.each(options.seed, |enterprise| {
            dataset.write(enterprise, &mut scribe)
        })?;
        scribe.into_emitter().close()
    };
    let manifest = run(&jobs, &plans, write)
        .map(|feeds| describe(options, &population, span, ugly_per_million, feeds))
        .and_then(|manifest| write_manifest(&output, &manifest).map(|()| manifest))
        .inspect_err(|_| output.discard())?;
    Ok(SynthReport {
        manifest_path,
        manifest,
    })
}

/// Checks the options; gives the share of ugly records per million.
fn check(options: &SynthOptions) -> Result<u32> {
    let range = |option, fits: bool, range| {
        if fits {
            Ok(())
        } else {
            Err(SynthError::Option { option, range })
        }
    };
    let least = u32::from(options.registry.is_none());
    range(
        "--enterprises",
        (least..=MAX_ENTERPRISES).contains(&options.enterprises),
        "between 1 and 10000000",
    )?;
    range(
        "--months",
        (1..=MAX_MONTHS).contains(&options.months),
        "between 1 and 120",
    )?;
    range(
        "--ugly",
        (0.0..=1.0).contains(&options.ugly),
        "between 0 and 1",
    )?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie within 0 to 1"
    )]
    let per_million = (options.ugly * 1e6).round() as u32;
    Ok(per_million)
}

impl Population {
    fn of(options: &SynthOptions) -> Result<Self> {
        let wanted = u64::from(options.enterprises);
        let Some(path) = &options.registry else {
            return Ok(Self::Drawn(wanted));
        };
        let registry = Registry::open(path)?;
        let most = if wanted == 0 {
            registry.usable
        } else {
            wanted.min(registry.usable)
        };
        Ok(Self::Registry { registry, most })
    }

    fn count(&self) -> u64 {
        match self {
            Self::Drawn(count) => *count,
            Self::Registry { most, .. } => *most,
        }
    }

    fn each(&self, seed: u64, mut each: impl FnMut(&Enterprise) -> Result<()>) -> Result<()> {
        match self {
            Self::Drawn(count) => {
                (0..*count).try_for_each(|index| each(&Enterprise::draw(seed, index)?))
            }
            Self::Registry { registry, most } => registry.each(|index, registered| {
                if index >= *most {
                    return Ok(false);
                }
                each(&Enterprise::from_register(seed, index, registered))?;
                Ok(true)
            }),
        }
    }
}

/// Runs the jobs on a few threads; the results stand in the order of the jobs.
fn run(
    jobs: &[&Dataset],
    plans: &[Plan],
    work: impl Fn(&Dataset, &Plan) -> Result<FeedManifest> + Sync,
) -> Result<Vec<FeedManifest>> {
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_WORKERS);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(dataset), Some(plan)) = (jobs.get(index), plans.get(index)) else {
                        break;
                    };
                    let result = work(dataset, plan);
                    done.lock().insert(index, result);
                }
            });
        }
    });
    done.into_inner().into_values().collect()
}

fn describe(
    options: &SynthOptions,
    population: &Population,
    span: Span,
    ugly_per_million: u32,
    feeds: Vec<FeedManifest>,
) -> Manifest {
    let registry_skipped = match population {
        Population::Drawn(_) => None,
        Population::Registry { registry, .. } => Some(registry.skipped),
    };
    let mut notes = Vec::new();
    if registry_skipped.is_some() {
        notes.push(
            "the enterprises are those of a given registry: every figure about them is invented, and nothing unfavourable \
             is (no penalties, abnormal operation, arrears, low ratings or scores)"
                .to_owned(),
        );
    } else {
        notes.push("all enterprises are invented: their organisation codes begin with QH, which is never issued".to_owned());
    }
    notes.push("expected counts hold when the files of a feed are run in the order of their names into an empty table".to_owned());
    Manifest {
        version: OUTPUT_VERSION,
        enterprises: population.count(),
        months: options.months,
        from: span.start().to_string(),
        to: span.end().to_string(),
        seed: options.seed,
        ugly_per_million,
        neutral: registry_skipped.is_some(),
        notes,
        registry_skipped,
        feeds,
    }
}

fn write_manifest(output: &Output, manifest: &Manifest) -> Result<()> {
    let (path, mut file) = output.create(MANIFEST_FILE)?;
    let failed = |source| SynthError::Io {
        action: "write",
        path: path.clone(),
        source,
    };
    let mut text = serde_json::to_string_pretty(manifest).map_err(|error| failed(error.into()))?;
    text.push('\n');
    file.write_all(text.as_bytes()).map_err(failed)
}
