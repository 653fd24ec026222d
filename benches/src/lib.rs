//! Synthetic data for the benches: labels with a Zipf tail, fixed seed, three sizes.

use std::io::Write;

/// Size of a data set.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Name in bench ids.
    pub name: &'static str,
    /// Points.
    pub n_points: usize,
    /// Labels.
    pub n_labels: usize,
    /// Mean positives a point.
    pub positives: usize,
}

/// A few thousand labels, as EURLex-4K.
pub const SMALL: Size = Size { name: "small", n_points: 5_000, n_labels: 4_000, positives: 5 };
/// As LF-AmazonTitles-131K.
pub const MEDIUM: Size =
    Size { name: "medium", n_points: 100_000, n_labels: 131_073, positives: 5 };
/// Close to LF-AmazonTitles-1.3M.
pub const LARGE: Size =
    Size { name: "large", n_points: 970_237, n_labels: 1_305_265, positives: 21 };

/// The sizes to run: small and medium, and large too where `XMC_BENCH_LARGE` is set.
#[must_use]
pub fn sizes() -> Vec<Size> {
    let mut sizes = vec![SMALL, MEDIUM];
    if std::env::var_os("XMC_BENCH_LARGE").is_some() {
        sizes.push(LARGE);
    }
    sizes
}

/// A small generator (`SplitMix64`): the same numbers on every machine, for every release.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with the given seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, uniform.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in `0..1`.
    pub fn uniform(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A label whose frequency falls as 1 / rank, ranks scattered over the ids.
    pub fn label(&mut self, n_labels: usize) -> i32 {
        let rank = ((n_labels as f64).powf(self.uniform()) as usize).min(n_labels) - 1;
        // An odd multiplier is coprime to powers of two only; collisions elsewhere do no harm.
        (rank.wrapping_mul(0x9e37_79b1) % n_labels) as i32
    }
}

/// Truth of a data set in CSR form, with ones as values.
#[derive(Debug)]
pub struct Truth {
    /// Row pointers.
    pub indptr: Vec<i64>,
    /// Labels, sorted and distinct in each row.
    pub indices: Vec<i32>,
    /// Values, all 1.
    pub data: Vec<f32>,
}

/// The truth of a size: 0 to twice its mean of positives a row.
#[must_use]
pub fn truth(size: Size) -> Truth {
    let mut random = Random::new(1);
    let (mut indptr, mut indices) = (vec![0], Vec::new());
    let mut row = Vec::new();
    for _ in 0..size.n_points {
        let n = random.number() as usize % (2 * size.positives + 1);
        row.clear();
        row.extend((0..n).map(|_| random.label(size.n_labels)));
        row.sort_unstable();
        row.dedup();
        indices.extend_from_slice(&row);
        indptr.push(indices.len() as i64);
    }
    let data = vec![1.0; indices.len()];
    Truth { indptr, indices, data }
}

/// Rankings of `k` distinct labels, row-major: some positives, the rest drawn like them.
#[must_use]
pub fn rankings(size: Size, truth: &Truth, k: usize) -> Vec<i32> {
    let mut random = Random::new(2);
    let mut ids = Vec::with_capacity(size.n_points * k);
    let mut seen = std::collections::HashSet::new();
    for span in truth.indptr.windows(2) {
        let positives = &truth.indices[span[0] as usize..span[1] as usize];
        seen.clear();
        while seen.len() < k {
            let hit = !positives.is_empty() && random.number() % 10 == 0;
            let label = if hit {
                positives[random.number() as usize % positives.len()]
            } else if random.number() % 2 == 0 {
                random.label(size.n_labels)
            } else {
                (random.number() % size.n_labels as u64) as i32
            };
            if seen.insert(label) {
                ids.push(label);
            }
        }
    }
    ids
}

/// The truth as label text.
///
/// # Errors
/// None in practice: it writes to memory.
pub fn label_text(size: Size, truth: &Truth) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    writeln!(text, "{} {}", size.n_points, size.n_labels)?;
    for span in truth.indptr.windows(2) {
        let row = &truth.indices[span[0] as usize..span[1] as usize];
        for (i, label) in row.iter().enumerate() {
            write!(text, "{}{label}:1.0", if i == 0 { "" } else { " " })?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

/// A bag of words over as many features as labels: the truth as label lists, and twelve times as many
/// features a point as positives, with six decimals.
///
/// # Errors
/// None in practice: it writes to memory.
pub fn bow_text(size: Size, truth: &Truth) -> std::io::Result<Vec<u8>> {
    let mut random = Random::new(4);
    let mut text = Vec::new();
    let n_features = size.n_labels;
    writeln!(text, "{} {n_features} {}", size.n_points, size.n_labels)?;
    let mut row = Vec::new();
    for span in truth.indptr.windows(2) {
        let labels = &truth.indices[span[0] as usize..span[1] as usize];
        for (i, label) in labels.iter().enumerate() {
            write!(text, "{}{label}", if i == 0 { "" } else { "," })?;
        }
        row.clear();
        row.extend((0..12 * size.positives).map(|_| random.number() as usize % n_features));
        row.sort_unstable();
        row.dedup();
        for feature in &row {
            write!(text, " {feature}:{:.6}", random.uniform())?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

/// Dense scores, row-major.
#[must_use]
pub fn scores(n_rows: usize, n_labels: usize) -> Vec<f32> {
    let mut random = Random::new(3);
    (0..n_rows * n_labels).map(|_| random.uniform() as f32).collect()
}
