//! Scores a prediction file against a truth file, both label text.
//!
//! ```sh
//! cargo run --release --example score -- PRED TRUTH [--train Y] [--filter PAIRS] [--threads N]
//! ```
//!
//! Prints a table in percent: P, nDCG, and PSP with a training matrix (a = 0.55, b = 1.5), at 1, 3 and 5.
//! One line on stderr and exit code 1 for bad data, 2 for wrong usage.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{
    CsrPattern, Evaluator, Kind, Metric, Options, ParseOptions, inv_propensity, label_counts,
    load_labels, load_pairs,
};

const USAGE: &str = "usage: score PRED TRUTH [--train Y] [--filter PAIRS] [--threads N]";
const KS: [usize; 3] = [1, 3, 5];

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect();
    let code = run(arguments, &mut io::stdout().lock(), &mut io::stderr().lock());
    // A closed pipe is no news to anyone.
    ExitCode::from(code.unwrap_or(1))
}

/// The whole program, with its exit code.
///
/// # Errors
/// Those of `out` and `messages`; all others are messages.
pub fn run(
    arguments: Vec<String>,
    out: &mut impl Write,
    messages: &mut impl Write,
) -> io::Result<u8> {
    let Some(job) = Job::new(arguments) else {
        writeln!(messages, "{USAGE}")?;
        return Ok(2);
    };
    // The core runs in the pool of whoever calls it and starts none itself.
    let pool = match ThreadPoolBuilder::new().num_threads(job.num_threads).build() {
        Ok(pool) => pool,
        Err(error) => {
            writeln!(messages, "score: {error}")?;
            return Ok(1);
        }
    };
    match pool.install(|| job.score()) {
        Ok(evaluator) => table(&evaluator, out, messages),
        Err(error) => {
            writeln!(messages, "score: {error}")?;
            Ok(1)
        }
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Job {
    pred: PathBuf,
    truth: PathBuf,
    train: Option<PathBuf>,
    filter: Option<PathBuf>,
    /// 0: one for each core.
    num_threads: usize,
}

impl Job {
    /// Nothing if the arguments make no sense.
    fn new(arguments: Vec<String>) -> Option<Self> {
        let (mut job, mut files) = (Self::default(), Vec::new());
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--train" => job.train = Some(arguments.next()?.into()),
                "--filter" => job.filter = Some(arguments.next()?.into()),
                "--threads" => job.num_threads = arguments.next()?.parse().ok()?,
                option if option.starts_with('-') => return None,
                file => files.push(PathBuf::from(file)),
            }
        }
        [job.pred, job.truth] = files.try_into().ok()?;
        Some(job)
    }

    fn score(&self) -> xmc_core::Result<Evaluator> {
        let options = ParseOptions::default();
        let truth = load_labels(&self.truth, options)?;
        let y_true = truth.view("truth")?;
        let (mut kinds, mut settings) = (vec![Kind::P, Kind::Ndcg], Options::default());
        if let Some(path) = &self.train {
            let train = load_labels(path, options)?;
            let counts = label_counts(train.n_cols, &train.indices, &train.data)?;
            settings.inv_propensity = Some(inv_propensity(&counts, train.n_rows(), 0.55, 1.5)?);
            kinds.push(Kind::Psp);
        }
        let metrics = kinds.into_iter().flat_map(|kind| KS.map(|k| Metric::new(kind, k)));
        let metrics = metrics.collect::<xmc_core::Result<Vec<_>>>()?;
        let mut evaluator = Evaluator::new(truth.n_cols, &metrics, settings)?;

        let pred = load_labels(&self.pred, options)?;
        let y_pred = pred.view("predictions")?;
        let pairs = self.filter.as_ref();
        let pairs = pairs.map(|path| load_pairs(path, truth.n_rows(), truth.n_cols)).transpose()?;
        let exclude = pairs.as_ref();
        let exclude = exclude
            .map(|pairs| CsrPattern::new("filter", truth.n_cols, &pairs.indptr, &pairs.indices));
        evaluator.update_scores(y_true, y_pred, exclude.transpose()?)?;
        Ok(evaluator)
    }
}

/// A line for each kind of metric, a column for each k.
fn table(evaluator: &Evaluator, out: &mut impl Write, messages: &mut impl Write) -> io::Result<u8> {
    write!(out, "{:8}", "percent")?;
    for k in KS {
        write!(out, "{:>10}", format!("@{k}"))?;
    }
    for row in evaluator.metrics().chunks(KS.len()) {
        write!(out, "\n{:8}", row[0].kind().name())?;
        for &metric in row {
            match evaluator.value(metric) {
                Ok(value) => write!(out, "{:10.4}", 100.0 * value)?,
                Err(error) => {
                    writeln!(out)?;
                    writeln!(messages, "score: {error}")?;
                    return Ok(1);
                }
            }
        }
    }
    writeln!(out)?;
    let (n_rows, n_empty) = (evaluator.n_rows(), evaluator.n_empty());
    let (n_excluded, n_lost) = (evaluator.n_excluded(), evaluator.n_excluded_positives());
    write!(out, "{n_rows} points, {n_empty} without positives; ")?;
    writeln!(out, "{n_excluded} predictions excluded, {n_lost} positives with them")?;
    Ok(0)
}
