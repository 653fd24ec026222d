//! What is drawn: rows or clusters of rows, and the columns of their terms.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Which rows are drawn together.
pub(super) struct Units<'a> {
    n_rows: usize,
    len: usize,
    clusters: Option<&'a [u32]>,
}

impl<'a> Units<'a> {
    pub(super) fn new(n_rows: usize, clusters: Option<&'a [u32]>) -> Result<Self> {
        let Some(of_row) = clusters else {
            if u32::try_from(n_rows).is_err() {
                let (name, rule) = ("n_rows", "must be below 2^32");
                return Err(Error::Parameter { name, rule, value: n_rows.to_string() });
            }
            return Ok(Self { n_rows, len: n_rows, clusters });
        };
        if of_row.len() != n_rows {
            let (name, what) = ("clusters".to_owned(), "clusters");
            return Err(Error::Length { name, what, expected: n_rows, found: of_row.len() });
        }
        let gap = |value: usize| {
            let (name, rule) = ("clusters", "must be numbered from 0 without gaps");
            Err(Error::Parameter { name, rule, value: value.to_string() })
        };
        let mut met = vec![false; n_rows];
        for &cluster in of_row {
            match met.get_mut(cluster as usize) {
                Some(met) => *met = true,
                None => return gap(cluster as usize),
            }
        }
        let len = met.iter().take_while(|met| **met).count();
        if met[len..].contains(&true) {
            return gap(len + 1);
        }
        Ok(Self { n_rows, len, clusters })
    }

    pub(super) fn n_units(&self) -> usize {
        self.len
    }

    /// A number for each unit: the sum over its rows, in row order.
    pub(super) fn sums(&self, term: impl Fn(usize) -> f64 + Send + Sync) -> Vec<f64> {
        let Some(clusters) = self.clusters else {
            return (0..self.n_rows).into_par_iter().map(term).collect();
        };
        let mut sums = vec![0.0; self.len];
        for (row, &cluster) in clusters.iter().enumerate() {
            sums[cluster as usize] += term(row);
        }
        sums
    }
}

/// Columns to be drawn, each kept once: metrics share denominators, and systems numerators.
pub(super) struct Columns {
    n_units: usize,
    columns: Vec<Vec<f64>>,
}

impl Columns {
    pub(super) fn new(n_units: usize) -> Self {
        Self { n_units, columns: Vec::new() }
    }

    pub(super) fn all(&self) -> &[Vec<f64>] {
        &self.columns
    }

    /// Where the sums of a column will be found.
    #[expect(clippy::float_cmp, reason = "what is kept once is equal to the last bit")]
    pub(super) fn add(&mut self, column: Vec<f64>) -> Sum {
        if column.iter().all(|&term| term == column[0]) {
            return Sum::Same(column[0] * self.n_units as f64);
        }
        let known = self.columns.iter().position(|other| *other == column);
        Sum::Drawn(known.unwrap_or_else(|| {
            self.columns.push(column);
            self.columns.len() - 1
        }))
    }
}

/// A sum over drawn units.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sum {
    /// Every unit has the same term, so that all resamples have the same sum.
    Same(f64),
    /// Column of the matrix.
    Drawn(usize),
}

impl Sum {
    pub(super) fn of(self, sums: &[f64]) -> f64 {
        match self {
            Self::Same(sum) => sum,
            Self::Drawn(column) => sums[column],
        }
    }
}
