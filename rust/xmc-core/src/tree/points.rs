//! Training points: unit rows, and the points of each label.

use rayon::prelude::*;

use crate::csr::{Csr, CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::{collected, reserve, with_room, zeroed};

/// Points with their rows scaled to unit length, and the labels that have points.
pub(super) struct Points<'a> {
    x: CsrView<'a>,
    /// What row i is multiplied by; 0 for a row of zeros.
    scales: Vec<f32>,
    /// Labels that have a point, ascending.
    labels: Vec<i32>,
    /// The points of `labels[j]`, ascending: `of_label[starts[j]..starts[j + 1]]`.
    starts: Vec<usize>,
    of_label: Vec<u32>,
}

impl<'a> Points<'a> {
    pub fn new(x: CsrView<'a>, y: CsrPattern<'_>) -> Result<Self> {
        if i32::try_from(x.n_rows()).is_err() {
            return Err(super::parameter("n_points", "must be below 2^31", x.n_rows()));
        }
        let scales = unit_scales(x)?;
        // The points of each label, by counting; a label that stands twice in a row counts once.
        let mut ends = zeroed::<usize>(y.n_cols() + 1)?;
        for row in 0..y.n_rows() {
            for &label in y.row(row) {
                ends[label as usize + 1] += 1;
            }
        }
        for label in 0..y.n_cols() {
            ends[label + 1] += ends[label];
        }
        let mut all = zeroed::<u32>(ends[y.n_cols()])?;
        let mut next = collected(ends.iter().copied())?;
        for row in 0..y.n_rows() {
            for &label in y.row(row) {
                let slot = &mut next[label as usize];
                all[*slot] = row as u32;
                *slot += 1;
            }
        }
        let (mut labels, mut starts, mut of_label) = (Vec::new(), vec![0], with_room(all.len())?);
        for label in 0..y.n_cols() {
            let found = &all[ends[label]..ends[label + 1]];
            if found.is_empty() {
                continue;
            }
            let distinct =
                found.iter().enumerate().filter(|&(i, row)| i == 0 || found[i - 1] != *row);
            of_label.extend(distinct.map(|(_, &row)| row));
            reserve(&mut labels, 1)?;
            reserve(&mut starts, 1)?;
            labels.push(label as i32);
            starts.push(of_label.len());
        }
        if labels.is_empty() {
            return Err(super::parameter("y", "must hold a label with a point", "none"));
        }
        Ok(Self { x, scales, labels, starts, of_label })
    }

    pub fn n_points(&self) -> usize {
        self.x.n_rows()
    }

    pub fn n_features(&self) -> usize {
        self.x.n_cols()
    }

    /// Labels that have a point, ascending. Elsewhere in this module they go by their place here.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// The points of the label at `place`, ascending.
    pub fn of(&self, place: u32) -> &[u32] {
        &self.of_label[self.starts[place as usize]..self.starts[place as usize + 1]]
    }

    /// The unit row of a point.
    pub fn row(&self, point: u32) -> impl Iterator<Item = (i32, f32)> + '_ {
        let (features, values) = self.x.row(point as usize);
        let scale = self.scales[point as usize];
        features.iter().zip(values).map(move |(&feature, &value)| (feature, value * scale))
    }

    /// Length of the row of a point.
    pub fn row_len(&self, point: u32) -> usize {
        self.x.row(point as usize).0.len()
    }

    /// The unit mean of the rows of each label's points, cut to its `max` largest weights.
    pub fn label_vectors(&self, max: usize) -> Result<Csr> {
        let vectors: Vec<Result<Vec<(i32, f32)>>> = (0..self.labels.len())
            .into_par_iter()
            .map(|place| self.label_vector(place as u32, max))
            .collect();
        let mut csr = Csr {
            n_cols: self.n_features(),
            indptr: with_room(vectors.len() + 1)?,
            indices: Vec::new(),
            data: Vec::new(),
        };
        csr.indptr.push(0);
        for vector in vectors {
            let vector = vector?;
            reserve(&mut csr.indices, vector.len())?;
            reserve(&mut csr.data, vector.len())?;
            csr.indices.extend(vector.iter().map(|&(feature, _)| feature));
            csr.data.extend(vector.iter().map(|&(_, weight)| weight));
            csr.indptr.push(csr.indices.len() as i64);
        }
        Ok(csr)
    }

    fn label_vector(&self, place: u32, max: usize) -> Result<Vec<(i32, f32)>> {
        let mut cells = with_room(self.of(place).iter().map(|&point| self.row_len(point)).sum())?;
        cells.extend(self.of(place).iter().flat_map(|&point| self.row(point)));
        // Stable: weights of a feature are added up in the order of the points.
        cells.sort_by_key(|&(feature, _)| feature);
        let mut sums: Vec<(i32, f64)> = Vec::new();
        for (feature, value) in cells {
            match sums.last_mut() {
                Some((last, sum)) if *last == feature => *sum += f64::from(value),
                _ => {
                    reserve(&mut sums, 1)?;
                    sums.push((feature, f64::from(value)));
                }
            }
        }
        if sums.len() > max {
            let by_weight = |&(a, x): &(i32, f64), &(b, y): &(i32, f64)| {
                y.abs().total_cmp(&x.abs()).then(a.cmp(&b))
            };
            sums.select_nth_unstable_by(max, by_weight);
            sums.truncate(max);
            sums.sort_unstable_by_key(|&(feature, _)| feature);
        }
        let norm = sums.iter().map(|&(_, sum)| sum * sum).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        Ok(sums.into_iter().map(|(feature, sum)| (feature, (sum * scale) as f32)).collect())
    }
}

/// What each row has to be multiplied by to have unit length; 0 for a row of zeros.
fn unit_scales(x: CsrView<'_>) -> Result<Vec<f32>> {
    let mut scales = with_room(x.n_rows())?;
    for row in 0..x.n_rows() {
        // A feature that stands twice would count twice in a product and once in a length.
        let (features, _) = x.row(row);
        if let Some(pair) = features.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::at_row(x.name(), row, Fault::NotAscending { column: pair[1] }));
        }
        scales.push(unit_scale(x, row)?);
    }
    Ok(scales)
}

/// What a row has to be multiplied by to have unit length; 0 for a row of zeros.
///
/// Rows whose length is beyond what `f32` can invert count as rows of zeros.
pub(super) fn unit_scale(x: CsrView<'_>, row: usize) -> Result<f32> {
    let (features, values) = x.row(row);
    let square: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    if !square.is_finite() {
        let odd = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
        let fault = Fault::FeatureNotFinite { feature: features[odd] };
        return Err(Error::at_row(x.name(), row, fault));
    }
    let scale = (1.0 / square.sqrt()) as f32;
    Ok(if scale.is_finite() { scale } else { 0.0 })
}
