//! What is wrong with content, and where it stands.

use std::fmt;

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
    /// A value other than 0 that `f32` rounds to 0.
    TooSmall {
        /// Its label.
        label: i32,
        /// The value as written, shortened and escaped.
        value: String,
    },
    /// A feature's value other than 0 that `f32` rounds to 0.
    FeatureTooSmall {
        /// The feature.
        feature: i32,
        /// The value as written, shortened and escaped.
        value: String,
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
    /// A point whose vote is negative or not finite.
    BadVote {
        /// The point.
        point: i32,
        /// Its vote.
        value: f32,
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
            Self::TooSmall { label, value } => Self::FeatureTooSmall { feature: label, value },
            other => other,
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
            Self::TooSmall { label, value } => {
                write!(f, "value {value} is too small for float32 (label {label})")
            }
            Self::FeatureTooSmall { feature, value } => {
                write!(f, "value {value} is too small for float32 (feature {feature})")
            }
            Self::BadTruth { label, value } => {
                write!(f, "truth value of label {label} must be >= 0, not {value}")
            }
            Self::NanScore { label } => write!(f, "score of label {label} is NaN"),
            Self::BadEdge { label, weight } => {
                write!(f, "weight of label {label} must be finite and >= 0, not {weight}")
            }
            Self::BadVote { point, value } => {
                write!(f, "vote of point {point} must be finite and >= 0, not {value}")
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
