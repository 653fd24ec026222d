//! The one error type of the crate.

mod fault;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::metric::{Kind, MAX_K, Metric};
pub use fault::{ArchiveFault, Fault, Place};

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can be wrong with files, arrays and requests.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    Io {
        /// The file in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bad content at a known place.
    Content {
        /// Where it stands.
        place: Place,
        /// What is wrong there.
        fault: Fault,
    },
    /// A compressed file or an archive that is cut short, corrupt or something else altogether.
    Damaged {
        /// Name of the file as given.
        file: String,
        /// What it should be: "gzip", "zstd" or "scipy .npz".
        format: &'static str,
        /// What the decoder said.
        what: String,
    },
    /// An archive that is whole but holds no CSR matrix.
    Archive {
        /// Name of the file as given.
        file: String,
        /// What is wrong with it.
        fault: ArchiveFault,
    },
    /// The system has no more memory; the content is larger than it can hold.
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// A matrix needs at least one row pointer, also when it has no rows.
    EmptyIndptr {
        /// Name of the matrix.
        name: String,
    },
    /// An array has the wrong length or a matrix the wrong side.
    Length {
        /// Name of the array or matrix.
        name: String,
        /// What was counted, in the plural.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A ranking is narrower than the largest k.
    Narrow {
        /// Columns of the array.
        width: usize,
        /// Largest k asked for.
        k: usize,
    },
    /// A parameter is outside its range.
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// The rule it breaks, such as "must be at least 1".
        rule: &'static str,
        /// The value given.
        value: String,
    },
    /// A label weight is not finite or not positive.
    BadWeight {
        /// Label of the weight.
        label: usize,
        /// The weight.
        value: f64,
    },
    /// A metric name that does not parse.
    UnknownMetric {
        /// The name as given.
        name: String,
    },
    /// A metric with k = 0 or beyond [`MAX_K`].
    BadK {
        /// The metric as given.
        name: String,
    },
    /// A propensity-scored metric without inverse propensities.
    MissingWeights {
        /// The metric asked for.
        metric: Metric,
    },
    /// A metric beyond the largest k of the evaluator.
    BeyondK {
        /// The metric asked for.
        metric: Metric,
        /// Largest k of the evaluator.
        max_k: usize,
    },
    /// Row values of a metric that was not kept.
    NotKept {
        /// The metric asked for.
        metric: Metric,
    },
    /// A metric whose sums the evaluator does not make.
    NotSummed {
        /// The metric asked for.
        metric: Metric,
    },
    /// Row values of a mean over labels.
    LabelWise {
        /// The metric asked for.
        metric: Metric,
    },
    /// A label in a group that does not exist.
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
    NoRows,
    /// The denominator of a propensity-scored metric is zero.
    ZeroDenominator {
        /// The metric asked for.
        metric: Metric,
    },
    /// Two evaluators that differ in more than their rows.
    Incompatible {
        /// The setting that differs.
        what: &'static str,
    },
    /// Bytes that are no evaluator, or not whole.
    State {
        /// What is wrong with them.
        what: &'static str,
    },
    /// A source of negatives without what it draws from.
    MissingInput {
        /// The source asked for.
        source: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// The caller's keep-going function said no.
    Interrupted,
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn at_row(name: &str, row: usize, fault: Fault) -> Self {
        Self::Content { place: Place::Row { name: name.to_owned(), row }, fault }
    }

    /// The same error with `base` added to its row, for a caller who gave a window of a longer stream.
    #[must_use]
    pub fn shift_rows(mut self, base: usize) -> Self {
        if let Self::Content { place: Place::Row { row, .. }, .. } = &mut self {
            *row += base;
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Content { place, fault } => write!(f, "{place}: {fault}"),
            Self::Damaged { file, format, what } => {
                let article = if *format == "scipy .npz" { "archive" } else { "stream" };
                write!(f, "{file}: damaged or not a {format} {article} ({what}); write it again")
            }
            Self::Archive { file, fault } => write!(f, "{file}: {fault}"),
            Self::OutOfMemory { bytes } => {
                write!(f, "out of memory: {bytes} more bytes are needed")
            }
            Self::EmptyIndptr { name } => write!(f, "{name}: indptr is empty"),
            Self::Length { name, what, expected, found } => {
                write!(f, "{name}: {found} {what}, expected {expected}")
            }
            Self::Narrow { width, k } => {
                write!(f, "y_pred: {width} columns, fewer than the largest k = {k} (pad with -1)")
            }
            Self::Parameter { name, rule, value } => write!(f, "{name} {rule}, not {value}"),
            Self::BadWeight { label, value } => {
                write!(f, "inv_propensity of label {label} must be finite and > 0, not {value}")
            }
            Self::UnknownMetric { name } => {
                write!(f, "unknown metric '{name}' (known: ")?;
                for (i, kind) in Kind::ALL.iter().enumerate() {
                    write!(f, "{}{kind}@k", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Self::BadK { name } => write!(f, "k must be in 1..={MAX_K} in metric '{name}'"),
            Self::MissingWeights { metric } => write!(f, "{metric} needs inv_propensity"),
            Self::BeyondK { metric, max_k } => {
                write!(f, "{metric} is beyond the largest k = {max_k} of this evaluator")
            }
            Self::NotKept { metric } => write!(f, "row values of {metric} were not kept"),
            Self::NotSummed { metric } => {
                write!(f, "{metric} is not summed by this evaluator: name it in its metrics")
            }
            Self::LabelWise { metric } => {
                write!(f, "{metric} is a mean over labels and has no row values")
            }
            Self::BadGroup { grouping, label, group, n_groups } => write!(
                f,
                "label_groups '{grouping}': group {group} of label {label} out of range \
                 (n_groups = {n_groups}, -1 for none)"
            ),
            Self::NoRows => f.write_str("no rows left to average"),
            Self::ZeroDenominator { metric } => {
                write!(f, "the denominator of {metric} is 0: no row has a positive")
            }
            Self::Incompatible { what } => {
                write!(f, "cannot merge evaluators that differ in {what}")
            }
            Self::State { what } => {
                write!(f, "damaged or not the state of an evaluator ({what})")
            }
            Self::MissingInput { source, what } => write!(f, "source '{source}' needs {what}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
