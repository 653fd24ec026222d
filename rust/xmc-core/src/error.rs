//! The one error type of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::metric::{Kind, MAX_K, Metric};

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

/// Where bad content stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a text file.
    Line {
        /// Name of the file as given.
        file: String,
        /// Line number, counted from 1, header included.
        line: usize,
    },
    /// A row of a matrix or array.
    Row {
        /// Name of the matrix or array.
        name: String,
        /// Row, counted from 0.
        row: usize,
    },
}

/// What is wrong with a line or a row.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The first line is not a header.
    Header,
    /// The first line of bag-of-words text is not a header.
    BowHeader,
    /// The header announces more features than ids can name.
    TooManyFeatures {
        /// The number in the header.
        n_features: u64,
    },
    /// The header announces more labels than ids can name.
    TooManyLabels {
        /// The number in the header.
        n_labels: u64,
    },
    /// The file ends before its last row.
    TooFewRows {
        /// Rows announced.
        expected: usize,
        /// Rows present.
        found: usize,
    },
    /// Text stands after the last row.
    TooManyRows {
        /// Rows announced.
        expected: usize,
    },
    /// A line of a pairs file has not exactly two fields.
    NotAPair,
    /// A token that is not `label:value`, or a number that is none.
    BadToken {
        /// The token, shortened and escaped.
        token: String,
        /// Byte column of its first byte, counted from 1.
        column: usize,
    },
    /// A number that cannot be a label id.
    BadLabel {
        /// The label, shortened and escaped.
        label: String,
        /// Byte column of its first byte, counted from 1.
        column: usize,
    },
    /// A label without a value.
    MissingValue {
        /// The label as written.
        label: String,
    },
    /// A label id outside `0..n_labels`.
    LabelOutOfRange {
        /// The label as written.
        label: String,
        /// Number of labels.
        n_labels: usize,
    },
    /// A number that cannot be a feature id.
    BadFeature {
        /// The feature, shortened and escaped.
        feature: String,
        /// Byte column of its first byte, counted from 1.
        column: usize,
    },
    /// A feature without a value.
    MissingFeatureValue {
        /// The feature as written.
        feature: String,
    },
    /// A feature id outside `0..n_features`.
    FeatureOutOfRange {
        /// The feature as written.
        feature: String,
        /// Number of features.
        n_features: usize,
    },
    /// A feature that stands twice in one row.
    DuplicateFeature {
        /// The feature.
        feature: i32,
    },
    /// A feature's value that is NaN, infinite or overflows `f32`.
    FeatureNotFinite {
        /// The feature.
        feature: i32,
    },
    /// A row number outside `0..n_rows`.
    RowOutOfRange {
        /// The row as written.
        row: String,
        /// Number of rows.
        n_rows: usize,
    },
    /// A label that stands twice in one row.
    DuplicateLabel {
        /// The label.
        label: i32,
    },
    /// A value that is NaN, infinite or overflows `f32`.
    NotFinite {
        /// Its label.
        label: i32,
    },
    /// A truth value that is negative or NaN.
    BadTruth {
        /// Its label.
        label: i32,
        /// The value.
        value: f32,
    },
    /// A score that is NaN.
    NanScore {
        /// Its label.
        label: i32,
    },
    /// An edge whose weight is negative or not finite.
    BadEdge {
        /// The label it leads to.
        label: i32,
        /// Its weight.
        weight: f32,
    },
    /// A ranking whose scores rise, or whose equal scores are not in the order of their labels.
    NotRanked {
        /// The label that comes too late.
        label: i32,
    },
    /// A label after padding in a ranking.
    AfterPadding {
        /// The label.
        label: i64,
    },
    /// A row pointer that decreases or leaves the stored entries.
    BadIndptr {
        /// Number of stored entries.
        n_entries: usize,
    },
    /// A row term of a metric that is infinite.
    BadTerm {
        /// The term.
        value: f64,
    },
    /// Two systems that differ in the denominator of a row.
    Denominators {
        /// That of the first system.
        a: f64,
        /// That of the second.
        b: f64,
    },
}

/// What keeps an archive from being a CSR matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// Another sparse format.
    Format {
        /// The format, "?" if none is given.
        found: String,
    },
    /// An array is missing.
    Missing {
        /// Name of the array.
        array: &'static str,
    },
    /// An array of a dtype that does not belong there.
    Dtype {
        /// Name of the array.
        array: &'static str,
        /// Its dtype, as numpy writes it.
        found: String,
    },
    /// An array that is not one-dimensional.
    Dimensions {
        /// Name of the array.
        array: &'static str,
    },
    /// The shape is not two numbers that are not negative.
    Shape,
    /// A matrix with more labels than ids can name.
    TooManyLabels {
        /// The number of labels.
        n_labels: u64,
    },
    /// Arrays whose lengths do not fit together.
    Lengths {
        /// Row pointers.
        indptr: usize,
        /// Label ids.
        indices: usize,
        /// Values.
        data: usize,
        /// Rows.
        n_rows: u64,
    },
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
                write!(f, "ids: {width} columns, fewer than the largest k = {k} (pad with -1)")
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
            Self::MissingInput { source, what } => write!(f, "source '{source}' needs {what}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl Fault {
    /// The same fault of a column that is a feature.
    pub(crate) fn of_feature(self) -> Self {
        match self {
            Self::BadLabel { label, column } => Self::BadFeature { feature: label, column },
            Self::MissingValue { label } => Self::MissingFeatureValue { feature: label },
            Self::LabelOutOfRange { label, n_labels } => {
                Self::FeatureOutOfRange { feature: label, n_features: n_labels }
            }
            Self::DuplicateLabel { label } => Self::DuplicateFeature { feature: label },
            Self::NotFinite { label } => Self::FeatureNotFinite { feature: label },
            other => other,
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Row { name, row } => write!(f, "{name}: row {row}"),
        }
    }
}

impl fmt::Display for ArchiveFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format { found } => {
                write!(f, "format is '{found}', expected 'csr'; save y.tocsr()")
            }
            Self::Missing { array } => {
                write!(f, "no array '{array}' in it; not a scipy CSR archive")
            }
            Self::Dtype { array, found } => write!(f, "{array} has dtype {found}"),
            Self::Dimensions { array } => write!(f, "{array} is not one-dimensional"),
            Self::Shape => f.write_str("bad shape; expected two numbers, not negative"),
            Self::TooManyLabels { n_labels } => {
                write!(f, "{n_labels} labels, more than {}", i32::MAX)
            }
            Self::Lengths { indptr, indices, data, n_rows } => write!(
                f,
                "{indptr} indptr, {indices} indices and {data} values do not make {n_rows} rows"
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("expected 'rows labels'"),
            Self::BowHeader => f.write_str("expected 'points features labels'"),
            Self::TooManyFeatures { n_features } => {
                write!(f, "header says {n_features} features, more than {}", i32::MAX)
            }
            Self::TooManyLabels { n_labels } => {
                write!(f, "header says {n_labels} labels, more than {}", i32::MAX)
            }
            Self::TooFewRows { expected, found } => {
                write!(f, "header says {expected} rows, found {found}")
            }
            Self::TooManyRows { expected } => write!(f, "more rows than the header's {expected}"),
            Self::NotAPair => f.write_str("expected 'row label'"),
            Self::BadToken { token, column } => write!(f, "bad token '{token}' (column {column})"),
            Self::BadLabel { label, column } => write!(f, "bad label '{label}' (column {column})"),
            Self::MissingValue { label } => write!(f, "missing ':value' after label {label}"),
            Self::LabelOutOfRange { label, n_labels } => {
                write!(f, "label {label} out of range (n_labels = {n_labels})")
            }
            Self::BadFeature { feature, column } => {
                write!(f, "bad feature '{feature}' (column {column})")
            }
            Self::MissingFeatureValue { feature } => {
                write!(f, "missing ':value' after feature {feature}")
            }
            Self::FeatureOutOfRange { feature, n_features } => {
                write!(f, "feature {feature} out of range (n_features = {n_features})")
            }
            Self::DuplicateFeature { feature } => write!(f, "duplicate feature {feature}"),
            Self::FeatureNotFinite { feature } => {
                write!(f, "value is not finite (feature {feature})")
            }
            Self::RowOutOfRange { row, n_rows } => {
                write!(f, "row {row} out of range (n_rows = {n_rows})")
            }
            Self::DuplicateLabel { label } => write!(f, "duplicate label {label}"),
            Self::NotFinite { label } => write!(f, "value is not finite (label {label})"),
            Self::BadTruth { label, value } => {
                write!(f, "truth value of label {label} must be >= 0, not {value}")
            }
            Self::NanScore { label } => write!(f, "score of label {label} is NaN"),
            Self::BadEdge { label, weight } => {
                write!(f, "weight of label {label} must be finite and >= 0, not {weight}")
            }
            Self::NotRanked { label } => {
                write!(f, "label {label} is not in order (best first, equal scores by label)")
            }
            Self::AfterPadding { label } => write!(f, "label {label} after padding"),
            Self::BadIndptr { n_entries } => {
                write!(f, "indptr decreases or leaves the {n_entries} stored entries")
            }
            Self::BadTerm { value } => write!(f, "term {value} is not finite"),
            Self::Denominators { a, b } => {
                write!(f, "denominators {a} and {b}: not the same truth")
            }
        }
    }
}
