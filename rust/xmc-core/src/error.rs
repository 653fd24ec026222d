//! The one error type of the crate.

mod fault;

use std::io;
use std::path::{Path, PathBuf};

use crate::metric::{Kind, MAX_K, Metric};
pub use fault::{ArchiveFault, Fault, Place};

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can be wrong with files, arrays and requests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file in question.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Bad content at a known place.
    #[error("{place}: {fault}")]
    Content {
        /// Where it is.
        place: Place,
        /// What is wrong there.
        fault: Fault,
    },
    /// A compressed file or archive that is truncated, corrupt or of another format.
    #[error("{file}: damaged or not a {} ({what}); write it again", kind_of(format))]
    Damaged {
        /// Name of the file as given.
        file: String,
        /// What it should be: "gzip", "zstd" or "scipy .npz".
        format: &'static str,
        /// The message of the decoder.
        what: String,
    },
    /// A zstd file whose window is larger than the decoder allows; it is not damaged.
    #[error(
        "{file}: zstd with a window of more than 128 MB (zstd --long); unpack it with: \
         zstd -d --long=31"
    )]
    Window {
        /// Name of the file as given.
        file: String,
    },
    /// An intact archive that does not hold a CSR matrix.
    #[error("{file}: {fault}")]
    Archive {
        /// Name of the file as given.
        file: String,
        /// What is wrong with it.
        fault: ArchiveFault,
    },
    /// An allocation failed: the content does not fit in memory.
    #[error("out of memory: {bytes} more bytes are needed")]
    OutOfMemory {
        /// Size of the allocation that failed.
        bytes: usize,
    },
    /// `indptr` is empty; even a matrix without rows has one row pointer.
    #[error("{name}: indptr is empty")]
    EmptyIndptr {
        /// Name of the matrix.
        name: String,
    },
    /// An array has the wrong length or a matrix the wrong shape.
    #[error("{name}: {found} {what}, expected {expected}")]
    Length {
        /// Name of the array or matrix.
        name: String,
        /// What is counted, as a plural noun.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A ranking is narrower than the largest k.
    #[error("y_pred: {width} columns, fewer than the largest k = {k} (pad with -1)")]
    Narrow {
        /// Columns of the array.
        width: usize,
        /// Largest k asked for.
        k: usize,
    },
    /// A parameter is outside its range.
    #[error("{name} {rule}, not {value}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// The rule it breaks, such as "must be at least 1".
        rule: &'static str,
        /// The value given.
        value: String,
    },
    /// A label weight is not finite or not positive.
    #[error("inv_propensity of label {label} must be finite and > 0, not {value}")]
    BadWeight {
        /// Label of the weight.
        label: usize,
        /// The weight.
        value: f64,
    },
    /// A metric name that does not parse.
    #[error("unknown metric '{name}'{} (known: {})", near_metric(name), known_metrics())]
    UnknownMetric {
        /// The name as given.
        name: String,
    },
    /// A metric of probabilities, and rankings without scores.
    #[error("{metric} needs probabilities: give scores between 0 and 1, not ranked labels")]
    NoProbabilities {
        /// The metric.
        metric: Metric,
    },
    /// A metric with k = 0 or beyond [`MAX_K`].
    #[error("k must be in 1..={MAX_K} in metric '{name}'")]
    BadK {
        /// The metric as given.
        name: String,
    },
    /// A propensity-scored metric without inverse propensities.
    #[error("{metric} needs inv_propensity")]
    MissingWeights {
        /// The metric asked for.
        metric: Metric,
    },
    /// A metric whose k exceeds the largest k of the evaluator.
    #[error("{metric} is beyond the largest k = {max_k} of this evaluator")]
    BeyondK {
        /// The metric asked for.
        metric: Metric,
        /// Largest k of the evaluator.
        max_k: usize,
    },
    /// Row values were requested of a metric for which they were not kept.
    #[error("row values of {metric} were not kept")]
    NotKept {
        /// The metric asked for.
        metric: Metric,
    },
    /// A metric that this evaluator does not compute.
    #[error("{metric} is not summed by this evaluator: name it in its metrics")]
    NotSummed {
        /// The metric asked for.
        metric: Metric,
    },
    /// Row values were requested of a metric that is a mean over labels.
    #[error("{metric} is {} and has no row values", if metric.kind().is_binned() { "an error of bins" } else { "a mean over labels" })]
    LabelWise {
        /// The metric asked for.
        metric: Metric,
    },
    /// A label in a group that does not exist.
    #[error(
        "label_groups '{grouping}': group {group} of label {label} out of range \
         (n_groups = {n_groups}, -1 for none)"
    )]
    BadGroup {
        /// Name of the grouping.
        grouping: String,
        /// The label.
        label: usize,
        /// Its group.
        group: i32,
        /// Number of groups.
        n_groups: usize,
    },
    /// No row is left to average over.
    #[error("no rows left to average")]
    NoRows,
    /// The denominator of a propensity-scored metric is zero.
    #[error("the denominator of {metric} is 0: no row has a positive")]
    ZeroDenominator {
        /// The metric asked for.
        metric: Metric,
    },
    /// Two evaluators whose settings differ cannot be merged.
    #[error("cannot merge evaluators that differ in {what}")]
    Incompatible {
        /// The setting that differs.
        what: &'static str,
    },
    /// Bytes that are not the state of an evaluator, or only part of one.
    #[error("damaged or not the state of an evaluator ({what})")]
    State {
        /// What is wrong with them.
        what: &'static str,
    },
    /// A source of negatives lacks its input.
    #[error("source '{name}' needs {what}")]
    MissingInput {
        /// Name of the source.
        name: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// The caller's `keep_going` returned false.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn at_row(name: &str, row: usize, fault: Fault) -> Self {
        Self::Content { place: Place::Row { name: name.to_owned(), row }, fault }
    }

    /// Adds `base` to the row in the message, for a caller that passed a window of a longer stream.
    #[must_use]
    pub fn shift_rows(mut self, base: usize) -> Self {
        if let Self::Content { place: Place::Row { row, .. }, .. } = &mut self {
            *row += base;
        }
        self
    }
}

/// What a damaged file should have been.
fn kind_of(format: &str) -> String {
    let kind = if format == "scipy .npz" { "archive" } else { "stream" };
    format!("{format} {kind}")
}

/// `; did you mean 'P@5'?` for `p5`, if a name is near.
fn near_metric(name: &str) -> String {
    let digits = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let k = &name[digits.len()..];
    let k = k.parse().ok().filter(|k: &usize| (1..=MAX_K).contains(k)).unwrap_or(5);
    let family = digits.trim_end_matches(['@', '+', ' ', '-']);
    let near = if family.is_empty() { None } else { Kind::nearest(family) };
    near.map(|kind| format!("; did you mean '{kind}@{k}'?")).unwrap_or_default()
}

/// The known metrics, separated by commas.
fn known_metrics() -> String {
    let names: Vec<_> = Kind::ALL.iter().map(|kind| format!("{kind}@k")).collect();
    names.join(", ")
}
