//! An evaluator as bytes, to carry it from one process to another.
//!
//! Magic, version, settings, counts and sums, all little-endian, then a checksum. Of what is read,
//! every length is held against the bytes that are there before memory is taken for it.

use super::labelwise::LabelCounts;
use super::options::{EmptyRows, Grouping, Options, PsNdcg, Ties};
use super::{Counts, Evaluator};
use crate::error::{Error, Result};
use crate::memory::with_room;
use crate::metric::{Kind, Metric};
use crate::rng::mix;

const MAGIC: [u8; 8] = *b"xmc-eval";
/// Grows when older versions of the crate cannot read the bytes any more.
const VERSION: u32 = 2;
/// Bytes of the checksum at the end.
const SUM: usize = 8;
/// Larger counts and sums cannot come from rows, and could overflow.
const LARGEST: u64 = 1 << 62;

impl Evaluator {
    /// The evaluator as bytes: settings, weights, groups and everything counted so far.
    ///
    /// The format is this crate's own, with a version and a checksum against accidents; equal
    /// evaluators have equal bytes on every machine. Meant for evaluators on their way from one
    /// process to another, which then [`merge`](Self::merge).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Options { inv_propensity, empty_rows, psndcg, ties, groupings, keep_rows } =
            &self.plan.options;
        let mut out = Writer(MAGIC.to_vec());
        out.0.extend(VERSION.to_le_bytes());
        out.number(self.plan.n_labels);
        out.number(self.plan.metrics.len());
        for metric in &self.plan.metrics {
            let kind = Kind::ALL.iter().position(|&kind| kind == metric.kind());
            out.number(kind.unwrap_or(Kind::ALL.len()));
            out.number(metric.k());
        }
        out.flag(*empty_rows == EmptyRows::Skip);
        out.flag(*psndcg == PsNdcg::Matlab);
        out.flag(*ties == Ties::Larger);
        out.flag(*keep_rows);
        out.flag(inv_propensity.is_some());
        out.vector(inv_propensity.as_deref().unwrap_or_default(), |x| x.to_le_bytes());
        out.number(groupings.len());
        for Grouping { name, n_groups, of_label } in groupings {
            out.vector(name.as_bytes(), |&byte| [byte]);
            out.number(*n_groups);
            out.vector(of_label, |group| group.to_le_bytes());
        }

        let Counts { rows, empty, excluded, excluded_positives } = self.counts;
        for count in [rows, empty, excluded, excluded_positives] {
            out.number(count);
        }
        out.vector(&self.sums.total, |sum| sum.to_le_bytes());
        out.vector(&self.cuts.total, |sum| sum.to_le_bytes());
        out.number(self.groups.len());
        for group in &self.groups {
            out.number(group.n_rows);
            out.number(group.n_positives);
            out.vector(&group.sums.total, |sum| sum.to_le_bytes());
            out.vector(&group.cuts.total, |sum| sum.to_le_bytes());
        }
        out.vector(&self.labels.cells, |count| count.to_le_bytes());
        out.vector(&self.kept, |x| x.to_le_bytes());
        let sum = checksum(&out.0);
        out.0.extend(sum.to_le_bytes());
        out.0
    }

    /// The evaluator that [`to_bytes`](Self::to_bytes) wrote, equal in every bit.
    ///
    /// # Errors
    /// [`Error::State`] for bytes that are damaged, cut, foreign or of a later version; the errors of
    /// [`new`](Self::new) for settings that it refuses.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return wrong("it starts differently");
        };
        match rest.first_chunk() {
            Some(version) if u32::from_le_bytes(*version) == VERSION => {}
            _ => return wrong("unknown version"),
        }
        let Some((body, sum)) = bytes.split_last_chunk::<SUM>() else {
            return wrong("cut short");
        };
        if checksum(body) != u64::from_le_bytes(*sum) {
            return wrong("its checksum differs");
        }
        let Some(body) = body.get(MAGIC.len() + size_of_val(&VERSION)..) else {
            return wrong("cut short");
        };
        let mut reader = Reader(body);
        let evaluator = reader.evaluator()?;
        if reader.0.is_empty() { Ok(evaluator) } else { wrong("too long") }
    }
}

fn wrong<T>(what: &'static str) -> Result<T> {
    Err(Error::State { what })
}

/// A chain of bijections: one changed word always changes the end.
fn checksum(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    bytes.chunks(8).fold(mix(bytes.len() as u64), |sum, bytes| mix(sum ^ word(bytes)))
}

struct Writer(Vec<u8>);

impl Writer {
    fn flag(&mut self, flag: bool) {
        self.0.push(flag.into());
    }

    fn number(&mut self, number: usize) {
        self.0.extend((number as u64).to_le_bytes());
    }

    fn vector<T, const N: usize>(&mut self, items: &[T], bytes: impl Fn(&T) -> [u8; N]) {
        self.number(items.len());
        self.0.reserve(items.len() * N);
        for item in items {
            self.0.extend(bytes(item));
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((bytes, rest)) = self.0.split_first_chunk() else {
            return wrong("cut short");
        };
        self.0 = rest;
        Ok(*bytes)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.bytes()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => wrong("a flag is neither 0 nor 1"),
        }
    }

    fn number(&mut self) -> Result<usize> {
        let number = u64::from_le_bytes(self.bytes()?);
        match usize::try_from(number) {
            Ok(small) if number <= LARGEST => Ok(small),
            _ => wrong("a number is too large"),
        }
    }

    /// A number of items that are at least `size` bytes each.
    fn length(&mut self, size: usize) -> Result<usize> {
        let n = self.number()?;
        if n <= self.0.len() / size { Ok(n) } else { wrong("a length is too large") }
    }

    fn vector<T, const N: usize>(&mut self, item: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let n = self.length(N)?;
        let mut items = with_room(n)?;
        for _ in 0..n {
            items.push(item(self.bytes()?));
        }
        Ok(items)
    }

    fn sums(&mut self) -> Result<Vec<i128>> {
        let sums = self.vector(i128::from_le_bytes)?;
        let possible = |sum: &i128| sum.unsigned_abs() < 1 << 124;
        if sums.iter().all(possible) { Ok(sums) } else { wrong("a sum is too large") }
    }

    fn metrics(&mut self) -> Result<Vec<Metric>> {
        let n = self.length(16)?;
        let mut metrics = with_room(n)?;
        for _ in 0..n {
            let Some(&kind) = Kind::ALL.get(self.number()?) else {
                return wrong("an unknown metric");
            };
            metrics.push(Metric::new(kind, self.number()?)?);
        }
        Ok(metrics)
    }

    fn options(&mut self) -> Result<Options> {
        let empty_rows = if self.flag()? { EmptyRows::Skip } else { EmptyRows::Zero };
        let psndcg = if self.flag()? { PsNdcg::Matlab } else { PsNdcg::Xclib };
        let ties = if self.flag()? { Ties::Larger } else { Ties::Smaller };
        let (keep_rows, weighted) = (self.flag()?, self.flag()?);
        let inv_propensity = self.vector(f64::from_le_bytes)?;
        if !weighted && !inv_propensity.is_empty() {
            return wrong("weights, though it has none");
        }
        let inv_propensity = weighted.then_some(inv_propensity);
        let n = self.length(24)?;
        let mut groupings = with_room(n)?;
        for _ in 0..n {
            let Ok(name) = String::from_utf8(self.vector(|[byte]| byte)?) else {
                return wrong("a name is not text");
            };
            let n_groups = self.number()?;
            let of_label = self.vector(i32::from_le_bytes)?;
            groupings.push(Grouping { name, n_groups, of_label });
        }
        Ok(Options { inv_propensity, empty_rows, psndcg, ties, groupings, keep_rows })
    }

    fn evaluator(&mut self) -> Result<Evaluator> {
        let n_labels = self.number()?;
        let metrics = self.metrics()?;
        let options = self.options()?;
        let counts = Counts {
            rows: self.number()?,
            empty: self.number()?,
            excluded: self.number()?,
            excluded_positives: self.number()?,
        };
        let (total, cuts) = (self.sums()?, self.sums()?);
        let n_groups = self.length(32)?;
        let mut groups = with_room(n_groups)?;
        for _ in 0..n_groups {
            groups.push((self.number()?, self.number()?, self.sums()?, self.sums()?));
        }
        let cells = self.vector(u32::from_le_bytes)?;
        let kept = self.vector(f64::from_le_bytes)?;

        // Before the evaluator is made: it takes memory for all of these.
        let named = options.groupings.iter().map(|grouping| grouping.n_groups);
        if named.fold(0, usize::saturating_add) != groups.len()
            || groups
                .iter()
                .any(|group| group.2.len() != total.len() || group.3.len() != cuts.len())
            || LabelCounts::n_cells(n_labels, &metrics) != Some(cells.len())
        {
            return wrong("its lengths do not fit together");
        }
        let mut evaluator = Evaluator::new(n_labels, &metrics, options)?;
        let n_kept = counts.rows.checked_mul(evaluator.plan.row_width());
        if total.len() != evaluator.sums.total.len()
            || cuts.len() != evaluator.cuts.total.len()
            || n_kept != Some(kept.len())
        {
            return wrong("its lengths do not fit together");
        }
        if counts.empty > counts.rows
            || groups.iter().any(|group| group.0 > counts.rows)
            || cells.iter().any(|&cell| cell as usize > counts.rows)
        {
            return wrong("a count exceeds the number of rows");
        }
        evaluator.counts = counts;
        (evaluator.sums.total, evaluator.cuts.total) = (total, cuts);
        for (group, (n_rows, n_positives, total, cuts)) in evaluator.groups.iter_mut().zip(groups) {
            (group.n_rows, group.n_positives, group.sums.total) = (n_rows, n_positives, total);
            group.cuts.total = cuts;
        }
        evaluator.labels.cells = cells;
        evaluator.kept = kept;
        Ok(evaluator)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// With the right checksum, as only somebody who means it can write.
    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let sum = checksum(&body);
        body.extend(sum.to_le_bytes());
        body
    }

    #[test]
    fn forged_bytes_neither_panic_nor_take_memory() {
        let metrics = ["P@2", "PSP@1", "macroP@1"].map(|name| name.parse().unwrap());
        let of_label = vec![0, 1, -1, 0];
        let grouping = Grouping { name: "g".to_owned(), n_groups: 2, of_label };
        let options = Options {
            inv_propensity: Some(vec![1.0, 2.0, 3.0, 4.0]),
            groupings: vec![grouping],
            keep_rows: true,
            ..Options::default()
        };
        let bytes = Evaluator::new(4, &metrics, options).unwrap().to_bytes();
        let body = &bytes[..bytes.len() - SUM];
        assert!(Evaluator::from_bytes(&sealed(body.to_vec())).is_ok());
        for at in MAGIC.len()..body.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut forged = body.to_vec();
                forged[at] = byte;
                // Some are evaluators, of other weights or counts: they can be merged.
                if let Ok(mut evaluator) = Evaluator::from_bytes(&sealed(forged.clone())) {
                    assert_eq!(evaluator.to_bytes(), sealed(forged), "what is read is all there");
                    evaluator.merge(&evaluator.clone()).unwrap();
                }
            }
            assert!(Evaluator::from_bytes(&sealed(body[..at].to_vec())).is_err());
        }
        let longer = Evaluator::from_bytes(&sealed([body, &[0]].concat())).unwrap_err();
        assert_eq!(longer.to_string(), "damaged or not the state of an evaluator (too long)");
    }
}
