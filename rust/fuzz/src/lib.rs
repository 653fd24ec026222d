//! Slow, obvious twins of what the targets call, and how they call it.

use std::cmp::Ordering;
use std::sync::Once;

use arbitrary::Arbitrary;
use xmc_core::rayon::ThreadPoolBuilder;

/// Parallel parts run on the thread of the fuzzer: fast, and the same again for the same input.
pub fn on_this_thread() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        pool.build_global().expect("the first pool");
    });
}

/// As the core mixes, for checksums.
#[must_use]
pub fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The line of the first fault, counted from 1.
pub type Line = usize;
/// Sorted labels of a row, each with the bits of its value.
pub type Row = Vec<(u64, u32)>;

/// Label text, by its rules as `docs/formats.md` has them: rows and number of labels.
pub fn labels(text: &[u8], missing_value: Option<f32>) -> Result<(Vec<Row>, u64), Vec<Line>> {
    let lines = lines(text);
    let header = words(lines[0]);
    let [n_rows, n_labels] = header[..] else { return Err(vec![1]) };
    let n_rows = number(n_rows).ok_or([1])?;
    let n_labels = number(n_labels).filter(|&n| n <= i32::MAX as u64).ok_or([1])?;
    let row = |line: &[u8]| label_row(line, n_labels, missing_value);
    Ok((rows(&lines, n_rows, row)?, n_labels))
}

/// The rows below a header. A short file with a bad row has two faults: either may be named.
fn rows<T>(
    lines: &[&[u8]],
    n_rows: u64,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Vec<Line>> {
    let body = &lines[1..];
    let short = ((body.len() as u64) < n_rows).then_some(lines.len());
    let (body, rest) = body.split_at((n_rows as usize).min(body.len()));
    let mut rows = Vec::new();
    for (i, line) in body.iter().enumerate() {
        rows.push(parse(line).ok_or_else(|| [i + 2].into_iter().chain(short).collect::<Vec<_>>())?);
    }
    let more = rest.iter().position(|line| !words(line).is_empty());
    match short.or(more.map(|at| body.len() + at + 2)) {
        Some(line) => Err(vec![line]),
        None => Ok(rows),
    }
}

/// A finite number that float32 does not round to 0, unless it is 0.
fn float(text: &str) -> Option<f32> {
    let value: f32 = text.parse().ok()?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let lost = value == 0.0 && mantissa.contains(|digit| ('1'..='9').contains(&digit));
    (value.is_finite() && !lost).then_some(value)
}

fn label_row(line: &[u8], n_labels: u64, missing_value: Option<f32>) -> Option<Row> {
    let mut row = Row::new();
    for word in words(line) {
        let mut parts = word.splitn(2, |&byte| byte == b':');
        let label = number(parts.next()?).filter(|&label| label < n_labels)?;
        let value = match parts.next() {
            Some(text) => float(std::str::from_utf8(text).ok()?)?,
            None => missing_value?,
        };
        row.push((label, value.to_bits()));
    }
    row.sort_unstable();
    row.windows(2).all(|pair| pair[0].0 < pair[1].0).then_some(row)
}

/// Filter pairs: sorted, and the number of repetitions.
pub fn pairs(text: &[u8], n_rows: u64, n_labels: u64) -> Result<(Vec<(u64, u64)>, usize), Line> {
    let mut pairs = Vec::new();
    for (i, line) in lines(text).into_iter().enumerate() {
        let pair = match words(line)[..] {
            [] => continue,
            [row, label] => number(row).zip(number(label)),
            _ => None,
        };
        pairs.push(pair.filter(|pair| pair.0 < n_rows && pair.1 < n_labels).ok_or(i + 1)?);
    }
    let n_all = pairs.len();
    pairs.sort_unstable();
    pairs.dedup();
    let n_repeated = n_all - pairs.len();
    Ok((pairs, n_repeated))
}

/// Lines without their ends, and without a byte order mark in front; nothing follows the last line
/// feed.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    if lines.len() > 1 && lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect()
}

fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty()).collect()
}

/// Plain digits that fit.
fn number(word: &[u8]) -> Option<u64> {
    let plain = word.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(word).ok()?.parse().ok()).flatten()
}

/// Larger score first, then smaller label.
pub fn by_rank(a: &(i32, f32), b: &(i32, f32)) -> Ordering {
    // -0.0 and 0.0 are equal.
    b.1.partial_cmp(&a.1).expect("not NaN").then(a.0.cmp(&b.0))
}

/// Bag-of-words text: rows of features, rows of labels.
pub fn bow(text: &[u8]) -> Result<(Vec<Row>, Vec<Row>), Vec<Line>> {
    let lines = lines(text);
    let header = words(lines[0]);
    let [n_rows, n_features, n_labels] = header[..] else {
        return Err(vec![1]);
    };
    let n_rows = number(n_rows).ok_or([1])?;
    let side = |word| number(word).filter(|&n| n <= i32::MAX as u64).ok_or([1]);
    let (n_features, n_labels) = (side(n_features)?, side(n_labels)?);
    let row = |line: &[u8]| {
        let words = words(line);
        let first = words.first().filter(|first| line.starts_with(first) && !first.contains(&b':'));
        let labels = first.map_or(Some(Row::new()), |first| label_list(first, n_labels))?;
        let rest = &line[first.map_or(0, |first| first.len())..];
        Some((label_row(rest, n_features, None)?, labels))
    };
    Ok(rows(&lines, n_rows, row)?.into_iter().unzip())
}

fn label_list(word: &[u8], n_labels: u64) -> Option<Row> {
    let labels = word.split(|&byte| byte == b',');
    let row = labels.map(|label| Some((number(label).filter(|&l| l < n_labels)?, 1f32.to_bits())));
    let mut row: Row = row.collect::<Option<_>>()?;
    row.sort_unstable();
    row.windows(2).all(|pair| pair[0].0 < pair[1].0).then_some(row)
}

/// A sparse matrix of any content, right or wrong.
#[derive(Arbitrary, Debug, Clone)]
pub struct Sparse {
    /// Columns, in the order given, with their values.
    pub rows: Vec<Vec<(u8, f32)>>,
    /// Sort rows and merge equal columns, as most functions want it.
    pub tidy: bool,
    /// Where the arrays are made wrong, and how.
    pub faults: Vec<(u8, i64)>,
}

impl Sparse {
    /// Its arrays, with `n_rows` rows: `indptr`, `indices` and `data`.
    pub fn arrays(&self, n_rows: usize, n_cols: usize) -> (Vec<i64>, Vec<i32>, Vec<f32>) {
        let (mut indptr, mut indices, mut data) = (vec![0], vec![], vec![]);
        for row in 0..n_rows {
            let mut row = self.rows.get(row).cloned().unwrap_or_default();
            if self.tidy {
                row.retain(|&(column, value)| usize::from(column) < n_cols && value.is_finite());
                row.sort_by_key(|&(column, _)| column);
                row.dedup_by_key(|&mut (column, _)| column);
            }
            indices.extend(row.iter().map(|&(column, _)| i32::from(column)));
            data.extend(row.iter().map(|&(_, value)| value));
            indptr.push(indices.len() as i64);
        }
        for &(at, value) in self.faults.iter().filter(|_| !self.tidy) {
            let at = usize::from(at);
            match value & 1 {
                0 => *indptr.get_mut(at).unwrap_or(&mut 0) = value >> 1,
                _ => *indices.get_mut(at).unwrap_or(&mut 0) = (value >> 1) as i32,
            }
        }
        (indptr, indices, data)
    }
}
