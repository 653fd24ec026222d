//! Names of metrics.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Largest k of a metric. Memory for sums grows with k, so a typo must not allocate gigabytes.
pub const MAX_K: usize = 1 << 16;

/// A family of metrics; the crate documentation gives the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Precision.
    P,
    /// Normalised discounted cumulative gain.
    Ndcg,
    /// Recall.
    R,
    /// Mean reciprocal rank of the first hit.
    Mrr,
    /// Propensity-scored precision.
    Psp,
    /// Propensity-scored nDCG.
    PsNdcg,
    /// Propensity-scored recall.
    Psr,
    /// Share of rows with a hit.
    Success,
    /// Share of all labels that are a hit in some row.
    Coverage,
    /// Precision of each label, averaged over all labels.
    MacroP,
    /// Recall of each label, averaged over all labels.
    MacroR,
    /// Harmonic mean of both of each label, averaged over all labels.
    MacroF,
    /// Average precision: precision at each hit, over the hits that are possible.
    Ap,
    /// R-precision: hits over the hits that are possible.
    Rp,
    /// Precision of all predicted labels of all rows.
    MicroP,
    /// Recall of all positives of all rows.
    MicroR,
    /// Harmonic mean of both.
    MicroF,
    /// Precision of the predicted labels of each row, however many there are.
    SampleP,
    /// Recall of the predicted labels of each row.
    SampleR,
    /// Harmonic mean of both of each row.
    SampleF,
    /// Share of all labels that are predicted wrongly or missed; smaller is better.
    Hamming,
    /// Share of rows whose predicted labels are the positives.
    Exact,
    /// Squared error of the probabilities of predicted labels; smaller is better, as in what follows.
    Brier,
    /// Negative log-likelihood of the probabilities of predicted labels.
    Nll,
    /// Expected calibration error: ten bins of equal width.
    Ece,
    /// The part of it where probabilities are too high.
    EceOver,
    /// The part of it where they are too low.
    EceUnder,
    /// Calibration error over ten bins of equal numbers of labels.
    Ace,
}

impl Kind {
    /// Every kind, in the order in which messages list them.
    pub const ALL: [Self; 28] = [
        Self::P,
        Self::Ndcg,
        Self::R,
        Self::Mrr,
        Self::Psp,
        Self::PsNdcg,
        Self::Psr,
        Self::Success,
        Self::Coverage,
        Self::MacroP,
        Self::MacroR,
        Self::MacroF,
        Self::Ap,
        Self::Rp,
        Self::MicroP,
        Self::MicroR,
        Self::MicroF,
        Self::SampleP,
        Self::SampleR,
        Self::SampleF,
        Self::Hamming,
        Self::Exact,
        Self::Brier,
        Self::Nll,
        Self::Ece,
        Self::EceOver,
        Self::EceUnder,
        Self::Ace,
    ];

    /// The name before the `@`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P => "P",
            Self::Ndcg => "nDCG",
            Self::R => "R",
            Self::Mrr => "MRR",
            Self::Psp => "PSP",
            Self::PsNdcg => "PSnDCG",
            Self::Psr => "PSR",
            Self::Success => "Success",
            Self::Coverage => "Coverage",
            Self::MacroP => "macroP",
            Self::MacroR => "macroR",
            Self::MacroF => "macroF",
            Self::Ap => "AP",
            Self::Rp => "RP",
            Self::MicroP => "microP",
            Self::MicroR => "microR",
            Self::MicroF => "microF",
            Self::SampleP => "sampleP",
            Self::SampleR => "sampleR",
            Self::SampleF => "sampleF",
            Self::Hamming => "Hamming",
            Self::Exact => "Exact",
            Self::Brier => "Brier",
            Self::Nll => "NLL",
            Self::Ece => "ECE",
            Self::EceOver => "ECEover",
            Self::EceUnder => "ECEunder",
            Self::Ace => "ACE",
        }
    }

    /// Whether the metric is a ratio of sums weighted by inverse propensities.
    #[must_use]
    pub const fn is_weighted(self) -> bool {
        matches!(self, Self::Psp | Self::PsNdcg | Self::Psr)
    }

    /// Whether the metric looks at scores as probabilities.
    #[must_use]
    pub const fn needs_probabilities(self) -> bool {
        matches!(self, Self::Brier | Self::Nll) || self.is_binned()
    }

    /// Whether labels are put into bins by their probability: the metric has no value for a row.
    #[must_use]
    pub const fn is_binned(self) -> bool {
        matches!(self, Self::Ece | Self::EceOver | Self::EceUnder | Self::Ace)
    }

    /// Whether the metric is summed at its own k only.
    #[must_use]
    pub const fn is_at_its_k(self) -> bool {
        self.is_set() || self.needs_probabilities() || matches!(self, Self::Ap | Self::Rp)
    }

    /// Whether the first k labels count as a set: their number matters, not their order.
    pub(crate) const fn is_set(self) -> bool {
        matches!(
            self,
            Self::MicroP
                | Self::MicroR
                | Self::MicroF
                | Self::SampleP
                | Self::SampleR
                | Self::SampleF
                | Self::Hamming
                | Self::Exact
        )
    }

    /// Whether the metric is a ratio of sums over rows, and not a mean of row values.
    #[must_use]
    pub const fn is_ratio(self) -> bool {
        self.is_weighted()
            || matches!(self, Self::MicroP | Self::MicroR | Self::MicroF | Self::Brier | Self::Nll)
    }

    /// Whether the metric has a value for each row.
    #[must_use]
    pub const fn has_row_values(self) -> bool {
        !self.is_label_wise() && !self.is_binned()
    }

    /// The kind of a family name: any case, without `-`, `_` and blanks, and other common names.
    fn of_name(name: &str) -> Option<Self> {
        let plain = plain(name);
        let known = Self::ALL.into_iter().find(|kind| plain == kind.name().to_lowercase());
        let other = || OTHER_NAMES.into_iter().find(|(other, _)| *other == plain);
        known.or_else(|| other().map(|(_, kind)| kind))
    }

    /// The kind whose name is most like this one, if one is alike.
    pub(crate) fn nearest(name: &str) -> Option<Self> {
        let plain = plain(name);
        let own = Self::ALL.into_iter().map(|kind| (kind.name().to_lowercase(), kind));
        let others = OTHER_NAMES.into_iter().map(|(name, kind)| (name.to_owned(), kind));
        let (edits, kind) = own
            .chain(others)
            .map(|(known, kind)| (edits(&plain, &known), kind))
            .min_by_key(|(edits, _)| *edits)?;
        (edits * 3 <= plain.chars().count().max(3)).then_some(kind)
    }

    /// Whether the metric is a mean over labels: it has no value for a row.
    #[must_use]
    pub const fn is_label_wise(self) -> bool {
        matches!(self, Self::Coverage | Self::MacroP | Self::MacroR | Self::MacroF)
    }
}

/// Names in other tools and papers, in small letters, without `-` and `_`.
const OTHER_NAMES: [(&str, Kind); 50] = [
    ("precision", Kind::P),
    ("prec", Kind::P),
    ("recall", Kind::R),
    ("hit", Kind::Success),
    ("hits", Kind::Success),
    ("hitrate", Kind::Success),
    ("hr", Kind::Success),
    ("rr", Kind::Mrr),
    ("reciprocalrank", Kind::Mrr),
    ("psprecision", Kind::Psp),
    ("psrecall", Kind::Psr),
    ("map", Kind::Ap),
    ("averageprecision", Kind::Ap),
    ("meanaverageprecision", Kind::Ap),
    ("rprecision", Kind::Rp),
    ("rprec", Kind::Rp),
    ("macroprecision", Kind::MacroP),
    ("macrorecall", Kind::MacroR),
    ("macrof1", Kind::MacroF),
    ("f1macro", Kind::MacroF),
    ("microprecision", Kind::MicroP),
    ("microrecall", Kind::MicroR),
    ("microf1", Kind::MicroF),
    ("f1micro", Kind::MicroF),
    ("sampleprecision", Kind::SampleP),
    ("samplerecall", Kind::SampleR),
    ("samplef1", Kind::SampleF),
    ("samplesp", Kind::SampleP),
    ("samplesr", Kind::SampleR),
    ("samplesf", Kind::SampleF),
    ("samplesprecision", Kind::SampleP),
    ("samplesrecall", Kind::SampleR),
    ("samplesf1", Kind::SampleF),
    ("f1samples", Kind::SampleF),
    ("pointp", Kind::SampleP),
    ("pointr", Kind::SampleR),
    ("pointf", Kind::SampleF),
    ("pointf1", Kind::SampleF),
    ("examplef1", Kind::SampleF),
    ("examplebasedf1", Kind::SampleF),
    ("hammingloss", Kind::Hamming),
    ("exactmatch", Kind::Exact),
    ("subsetaccuracy", Kind::Exact),
    ("brierscore", Kind::Brier),
    ("logloss", Kind::Nll),
    ("crossentropy", Kind::Nll),
    ("expectedcalibrationerror", Kind::Ece),
    ("overconfidence", Kind::EceOver),
    ("underconfidence", Kind::EceUnder),
    ("adaptivecalibrationerror", Kind::Ace),
];

/// A name in small letters, without `-`, `_` and blanks.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|letter| !matches!(letter, '-' | '_' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

/// Letters to insert, remove, replace or swap until two short words are equal.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(40).collect(), b.chars().collect());
    let mut older: Vec<usize> = Vec::new();
    let mut before: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut least = (before[j] + usize::from(x != y)).min(before[j + 1] + 1);
            least = least.min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                least = least.min(older[j - 1] + 1);
            }
            row.push(least);
        }
        older = std::mem::replace(&mut before, row);
    }
    before.last().copied().unwrap_or(0)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metric at a cut, written `nDCG@5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Metric {
    kind: Kind,
    k: usize,
}

impl Metric {
    /// The metric `kind@k`.
    ///
    /// # Errors
    /// [`Error::BadK`] if `k` is 0 or larger than [`MAX_K`].
    pub fn new(kind: Kind, k: usize) -> Result<Self> {
        if (1..=MAX_K).contains(&k) {
            Ok(Self { kind, k })
        } else {
            Err(Error::BadK { name: format!("{kind}@{k}") })
        }
    }

    /// The family.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The cut, at least 1.
    #[must_use]
    pub const fn k(self) -> usize {
        self.k
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind, self.k)
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::UnknownMetric { name: name.to_owned() };
        let (family, k) = name.split_once('@').ok_or_else(unknown)?;
        let kind = Kind::of_name(family).ok_or_else(unknown)?;
        // One spelling for each metric: no sign, no leading zero.
        let plain = k.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || k.is_empty() || (k.len() > 1 && k.starts_with('0')) {
            return Err(unknown());
        }
        let bad_k = || Error::BadK { name: name.to_owned() };
        Self::new(kind, k.parse().map_err(|_| bad_k())?).map_err(|_| bad_k())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in Kind::ALL {
            let metric = Metric::new(kind, 10).unwrap();
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
    }

    #[test]
    fn other_spellings_are_understood() {
        for (name, meant) in [
            ("ndcg@5", "nDCG@5"),
            ("NDCG@5", "nDCG@5"),
            ("p@1", "P@1"),
            ("precision@1", "P@1"),
            ("hit@1", "Success@1"),
            ("Hits@10", "Success@10"),
            ("recall@5", "R@5"),
            ("MAP@100", "AP@100"),
            ("R-Precision@5", "RP@5"),
            ("micro-F1@100", "microF@100"),
            ("f1_macro@3", "macroF@3"),
            ("samples_f1@7", "sampleF@7"),
            ("ECE-over@5", "ECEover@5"),
            ("log_loss@5", "NLL@5"),
        ] {
            assert_eq!(name.parse::<Metric>().unwrap().to_string(), meant);
        }
        for (at, (name, _)) in OTHER_NAMES.iter().enumerate() {
            assert_eq!(plain(name), *name);
            assert!(OTHER_NAMES[..at].iter().all(|(other, _)| other != name), "{name} twice");
            let own = Kind::ALL.iter().any(|kind| kind.name().to_lowercase() == *name);
            assert!(!own, "{name} is a name itself");
        }
    }

    #[test]
    fn bad_names_are_told_apart() {
        for name in ["", "P", "P@", "P@+5", "P@05", "P@5 ", "@5", "AUC@5"] {
            let message = name.parse::<Metric>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("unknown metric '{name}'")), "{message}");
            let known = "(known: P@k, nDCG@k, R@k, MRR@k, PSP@k, PSnDCG@k, PSR@k, Success@k, \
                         Coverage@k, macroP@k, macroR@k, macroF@k, AP@k, RP@k, microP@k, microR@k, \
                         microF@k, sampleP@k, sampleR@k, sampleF@k, Hamming@k, Exact@k, Brier@k, \
                         NLL@k, ECE@k, ECEover@k, ECEunder@k, ACE@k)";
            assert!(message.ends_with(known), "{message}");
        }
        for (name, near) in
            [("nDGC@5", "nDCG@5"), ("presicion@1", "P@1"), ("P5", "P@5"), ("EEC@3", "ECE@3")]
        {
            let message = name.parse::<Metric>().unwrap_err().to_string();
            assert!(message.contains(&format!("; did you mean '{near}'?")), "{message}");
        }
        let far = "accuracy@5".parse::<Metric>().unwrap_err().to_string();
        assert!(!far.contains("did you mean"), "{far}");
        for name in ["P@0", "P@65537", "P@123456789012345678901"] {
            let message = name.parse::<Metric>().unwrap_err().to_string();
            assert_eq!(message, format!("k must be in 1..=65536 in metric '{name}'"));
        }
    }
}
