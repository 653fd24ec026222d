//! What is wrong with content, and where.

use thiserror::Error;

/// The largest label or feature id.
const MAX_ID: i32 = i32::MAX;

/// Where bad content was found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Place {
    /// A line of a text file.
    #[error("{file}:{line}")]
    Line {
        /// Name of the file as given.
        file: String,
        /// Line number, counted from 1, header included.
        line: usize,
    },
    /// A row of a matrix or array.
    #[error("{name}: row {row}")]
    Row {
        /// Name of the matrix or array.
        name: String,
        /// Row, counted from 0.
        row: usize,
    },
}

/// What is wrong with a line or a row.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first line is not a header.
    #[error("expected 'rows labels'")]
    Header,
    /// The first line of bag-of-words text is not a header.
    #[error("expected 'points features labels'")]
    BowHeader,
    /// The header declares more features than an `i32` id can number.
    #[error("header says {n_features} features, more than {MAX_ID}")]
    TooManyFeatures {
        /// The number in the header.
        n_features: u64,
    },
    /// The header declares more labels than an `i32` id can number.
    #[error("header says {n_labels} labels, more than {MAX_ID}")]
    TooManyLabels {
        /// The number in the header.
        n_labels: u64,
    },
    /// The file ends before its last row.
    #[error("header says {expected} rows, found {found}")]
    TooFewRows {
        /// Rows declared in the header.
        expected: usize,
        /// Rows in the file.
        found: usize,
    },
    /// There is text after the last row.
    #[error("more rows than the header's {expected}")]
    TooManyRows {
        /// Rows declared in the header.
        expected: usize,
    },
    /// A line of a pairs file does not have exactly two fields.
    #[error("expected 'row label'")]
    NotAPair,
    /// A token that is not `label:value`, or whose number does not parse.
    #[error("bad token '{token}' (column {column})")]
    BadToken {
        /// The token, shortened and escaped.
        token: String,
        /// Byte column of its first byte, counted from 1.
        column: usize,
    },
    /// A number that cannot be a label id.
    #[error("bad label '{label}' (column {column})")]
    BadLabel {
        /// The label, shortened and escaped.
        label: String,
        /// Byte column of its first byte, counted from 1.
        column: usize,
    },
    /// A label without a value.
    #[error("missing ':value' after label {label}")]
    MissingValue {
        /// The label as written.
        label: String,
    },
    /// A label id outside `0..n_labels`.
    #[error("label {label} out of range (n_labels = {n_labels})")]
    LabelOutOfRange {
        /// The label as written.
        label: String,
        /// Number of labels.
        n_labels: usize,
    },
    /// A number that cannot be a feature id.
    #[error("bad feature '{feature}' (column {column})")]
    BadFeature {
        /// The feature, shortened and escaped.
        feature: String,
        /// Byte column of its first byte, counted from 1.
        column: usize,
    },
    /// A feature without a value.
    #[error("missing ':value' after feature {feature}")]
    MissingFeatureValue {
        /// The feature as written.
        feature: String,
    },
    /// A feature id outside `0..n_features`.
    #[error("feature {feature} out of range (n_features = {n_features})")]
    FeatureOutOfRange {
        /// The feature as written.
        feature: String,
        /// Number of features.
        n_features: usize,
    },
    /// A feature that occurs twice in one row.
    #[error("duplicate feature {feature}")]
    DuplicateFeature {
        /// The feature.
        feature: i32,
    },
    /// A feature's value that is NaN, infinite or overflows `f32`.
    #[error("value is not finite (feature {feature})")]
    FeatureNotFinite {
        /// The feature.
        feature: i32,
    },
    /// A column that is not larger than the one before it, in a row that must be sorted.
    #[error("column {column} is not in ascending order")]
    NotAscending {
        /// The column.
        column: i32,
    },
    /// A token that occurs twice in a vocabulary.
    #[error("duplicate token '{token}'")]
    DuplicateToken {
        /// The token, shortened and escaped.
        token: String,
    },
    /// A document frequency that the number of texts does not allow.
    #[error("document frequency must be in 0..={n_texts}, not {df}")]
    BadFrequency {
        /// The frequency.
        df: i64,
        /// Number of texts.
        n_texts: usize,
    },
    /// A row number outside `0..n_rows`.
    #[error("row {row} out of range (n_rows = {n_rows})")]
    RowOutOfRange {
        /// The row as written.
        row: String,
        /// Number of rows.
        n_rows: usize,
    },
    /// A label that occurs twice in one row.
    #[error("duplicate label {label}")]
    DuplicateLabel {
        /// The label.
        label: i32,
    },
    /// A value that is NaN, infinite or overflows `f32`.
    #[error("value is not finite (label {label})")]
    NotFinite {
        /// Its label.
        label: i32,
    },
    /// A value other than 0 that `f32` rounds to 0.
    #[error("value {value} is too small for float32 (label {label})")]
    TooSmall {
        /// Its label.
        label: i32,
        /// The value as written, shortened and escaped.
        value: String,
    },
    /// A feature's value other than 0 that `f32` rounds to 0.
    #[error("value {value} is too small for float32 (feature {feature})")]
    FeatureTooSmall {
        /// The feature.
        feature: i32,
        /// The value as written, shortened and escaped.
        value: String,
    },
    /// A truth value that is negative or NaN.
    #[error("truth value of label {label} must be >= 0, not {value}")]
    BadTruth {
        /// Its label.
        label: i32,
        /// The value.
        value: f32,
    },
    /// A score that is no probability, for a metric that needs them.
    #[error("score {value} of label {label} is no probability between 0 and 1")]
    NoProbability {
        /// The label.
        label: i32,
        /// The score.
        value: f64,
    },
    /// A score that is NaN.
    #[error("score of label {label} is NaN")]
    NanScore {
        /// Its label.
        label: i32,
    },
    /// An edge whose weight is negative or not finite.
    #[error("weight of label {label} must be finite and >= 0, not {weight}")]
    BadEdge {
        /// The label it leads to.
        label: i32,
        /// Its weight.
        weight: f32,
    },
    /// A point whose vote is negative or not finite.
    #[error("vote of point {point} must be finite and >= 0, not {value}")]
    BadVote {
        /// The point.
        point: i32,
        /// Its vote.
        value: f32,
    },
    /// A ranking whose scores rise, or whose equal scores are not in the order of their labels.
    #[error("label {label} is not in order (best first, equal scores by label)")]
    NotRanked {
        /// The label that should have come earlier.
        label: i32,
    },
    /// A label after padding in a ranking.
    #[error("label {label} after padding")]
    AfterPadding {
        /// The label.
        label: i64,
    },
    /// A row pointer that decreases or points outside the stored entries.
    #[error("indptr decreases or points outside the {n_entries} stored entries")]
    BadIndptr {
        /// Number of stored entries.
        n_entries: usize,
    },
    /// A row term of a metric that is infinite.
    #[error("term {value} is not finite")]
    BadTerm {
        /// The term.
        value: f64,
    },
    /// Two systems that differ in the denominator of a row.
    #[error("denominators {a} and {b} differ: not scored against the same truth")]
    Denominators {
        /// The denominator in the first system.
        a: f64,
        /// The denominator in the second system.
        b: f64,
    },
}

/// Why an archive is not a CSR matrix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// Another sparse format.
    #[error("format is '{found}', expected 'csr'; save y.tocsr()")]
    Format {
        /// The format, "?" if none is given.
        found: String,
    },
    /// An array is missing.
    #[error("array '{array}' is missing; not a scipy CSR archive")]
    Missing {
        /// Name of the array.
        array: &'static str,
    },
    /// An array has the wrong dtype.
    #[error("{array} has dtype {found}")]
    Dtype {
        /// Name of the array.
        array: &'static str,
        /// Its dtype, as numpy writes it.
        found: String,
    },
    /// An array that is not one-dimensional.
    #[error("{array} is not one-dimensional")]
    Dimensions {
        /// Name of the array.
        array: &'static str,
    },
    /// The shape is not a pair of non-negative numbers.
    #[error("bad shape; expected two numbers, neither negative")]
    Shape,
    /// A matrix with more labels than an `i32` id can number.
    #[error("{n_labels} labels, more than {MAX_ID}")]
    TooManyLabels {
        /// The number of labels.
        n_labels: u64,
    },
    /// Arrays whose lengths are inconsistent.
    #[error("{indptr} indptr, {indices} indices and {data} values do not make {n_rows} rows")]
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

impl Fault {
    /// The same fault, worded for a feature column.
    pub(crate) fn of_feature(self) -> Self {
        match self {
            Self::BadLabel { label, column } => Self::BadFeature { feature: label, column },
            Self::MissingValue { label } => Self::MissingFeatureValue { feature: label },
            Self::LabelOutOfRange { label, n_labels } => {
                Self::FeatureOutOfRange { feature: label, n_features: n_labels }
            }
            Self::DuplicateLabel { label } => Self::DuplicateFeature { feature: label },
            Self::NotFinite { label } => Self::FeatureNotFinite { feature: label },
            Self::TooSmall { label, value } => Self::FeatureTooSmall { feature: label, value },
            other => other,
        }
    }
}
