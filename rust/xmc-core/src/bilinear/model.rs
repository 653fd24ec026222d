//! A model that answers.

use rayon::prelude::*;

use super::local::{Given, scores_of};
use super::{Loss, check_direct, length, parameter};
use crate::csr::{Csr, CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::lexical::{Also, InvertedIndex, LazyRows, check_columns, check_rows};
use crate::memory::{collected, filled, with_room, zeroed};
use crate::rank::{Score, keep_best};
use crate::topk::TopK;

/// Rows whose products are held at a time.
const ROWS: usize = 512;

/// Labels by their features, ready to be searched.
#[derive(Debug)]
pub struct Labels {
    rows: Csr,
    index: InvertedIndex,
}

impl Labels {
    /// Takes the features of labels (labels x label features); unit rows are expected, not enforced.
    ///
    /// # Errors
    /// [`Error::Content`] for a row that is not ascending or a value that is not finite.
    pub fn new(rows: Csr) -> Result<Self> {
        let index = InvertedIndex::new(rows.view("labels")?)?;
        Ok(Self { rows, index })
    }

    /// The features.
    #[must_use]
    pub const fn rows(&self) -> &Csr {
        &self.rows
    }
}

/// A fitted model: weights of pairs of a point feature and a label feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Bilinear {
    parts: BilinearParts,
    /// 1 for each pair of features with the same name.
    names: Csr,
}

/// What a model is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct BilinearParts {
    /// First weights, by which labels are found (point features x label features).
    pub support: Csr,
    /// Fitted weights, an entry each, by which they are scored.
    pub refined: Vec<f32>,
    /// Added to each score.
    pub bias: f32,
    /// For each label feature the point feature of the same name, or -1.
    pub direct: Vec<i32>,
    /// The loss of the fit.
    pub loss: Loss,
    /// Share of the fitted score; the lexical term has the rest.
    pub score_alpha: f32,
    /// Labels that are found for a text, and scored.
    pub shortlist: usize,
}

impl BilinearParts {
    fn check(&self) -> Result<()> {
        let support = self.support.view("support")?;
        check_rows(support)?;
        length("refined", "values", self.support.data.len(), self.refined.len())?;
        if let Some(at) = self.refined.iter().position(|value| !value.is_finite()) {
            let fault = Fault::FeatureNotFinite { feature: self.support.indices[at] };
            return Err(Error::at_row("refined", at, fault));
        }
        length("direct", "values", self.support.n_cols, self.direct.len())?;
        check_direct(&self.direct, support.n_rows())?;
        if !self.bias.is_finite() {
            return Err(parameter("bias", "must be finite", self.bias));
        }
        if !(0.0..=1.0).contains(&self.score_alpha) {
            return Err(parameter("score_alpha", "must be in 0..=1", self.score_alpha));
        }
        if self.shortlist == 0 {
            return Err(parameter("shortlist", "must be at least 1", 0));
        }
        Ok(())
    }

    /// The pairs of features with the same name, as a matrix of ones.
    fn names(&self) -> Result<Csr> {
        let n_c = self.support.n_rows();
        let mut indptr: Vec<i64> = zeroed(n_c + 1)?;
        let named = || self.direct.iter().enumerate().filter(|(_, c)| **c != -1);
        named().for_each(|(_, &c)| indptr[c as usize + 1] += 1);
        for c in 0..n_c {
            indptr[c + 1] += indptr[c];
        }
        let mut next = collected(indptr.iter().copied())?;
        let n = indptr[n_c] as usize;
        let mut indices: Vec<i32> = zeroed(n)?;
        for (d, &c) in named() {
            indices[next[c as usize] as usize] = d as i32;
            next[c as usize] += 1;
        }
        Ok(Csr { n_cols: self.direct.len(), indptr, indices, data: filled(n, 1.0)? })
    }
}

impl Bilinear {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Content`] and [`Error::Parameter`] say which part is wrong;
    /// [`Error::OutOfMemory`].
    pub fn new(parts: BilinearParts) -> Result<Self> {
        parts.check()?;
        let names = parts.names()?;
        Ok(Self { parts, names })
    }

    /// What it is made of.
    #[must_use]
    pub const fn parts(&self) -> &BilinearParts {
        &self.parts
    }

    /// The fitted weights of some point features, a row each.
    ///
    /// # Errors
    /// [`Error::Content`] for a feature out of range.
    pub fn refined_rows(&self, features: &[i32]) -> Result<Csr> {
        let Csr { n_cols, indptr, indices, .. } = &self.parts.support;
        let mut rows =
            Csr { n_cols: *n_cols, indptr: vec![0], indices: Vec::new(), data: Vec::new() };
        for (at, &feature) in features.iter().enumerate() {
            let row = feature as u32 as usize;
            if row >= self.n_features() {
                let (label, n_labels) = (feature.to_string(), self.n_features());
                let fault = Fault::LabelOutOfRange { label, n_labels }.of_feature();
                return Err(Error::at_row("features", at, fault));
            }
            let span = indptr[row] as usize..indptr[row + 1] as usize;
            rows.indices.extend_from_slice(&indices[span.clone()]);
            rows.data.extend_from_slice(&self.parts.refined[span]);
            rows.indptr.push(rows.indices.len() as i64);
        }
        Ok(rows)
    }

    /// Number of point features.
    #[must_use]
    pub fn n_features(&self) -> usize {
        self.parts.support.n_rows()
    }

    /// Number of label features.
    #[must_use]
    pub const fn n_label_features(&self) -> usize {
        self.parts.support.n_cols
    }

    fn support(&self) -> Result<LazyRows<'_>> {
        trusted(&self.parts.support)
    }

    /// Finds the k labels of largest inner product by the first weights for each point (points x point features).
    /// Labels without a common feature are not found, and neither are those of a pair in `exclude` (points x
    /// labels), or whose entry in `only` is false. `index` is over the labels' features; `also`: as for
    /// [`InvertedIndex::search`].
    ///
    /// # Errors
    /// As [`InvertedIndex::search_product`].
    pub fn find(
        &self,
        x: CsrView<'_>,
        index: &InvertedIndex,
        k: usize,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
        also: Option<Also<'_>>,
    ) -> Result<TopK> {
        index.search_product(x, self.support()?, k, exclude, only, also)
    }

    /// The terms of the scores of pairs, one for each stored entry of `pairs` (points x labels): by the fitted
    /// weights (without bias), and by features of the same name. `z` holds the labels' features, which are not
    /// checked but for their row pointers.
    ///
    /// # Errors
    /// [`Error::Length`] if shapes disagree; [`Error::Content`] for a point that is not ascending or not finite.
    pub fn terms(
        &self,
        x: CsrView<'_>,
        z: LazyRows<'_>,
        pairs: CsrPattern<'_>,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let support = self.support()?;
        check_columns(x, support.n_rows())?;
        check_rows(x)?;
        z.check_shape(z.n_rows(), support.n_cols())?;
        pairs.check_shape(x.n_rows(), z.n_rows())?;
        let fitted = scores_of(&Given { x, z, support }, &self.parts.refined, pairs)?;
        let names = trusted(&self.names)?;
        let shared = scores_of(&Given { x, z, support: names }, &self.names.data, pairs)?;
        let rounded = |scores: Vec<f64>| collected(scores.into_iter().map(|s| s as f32));
        Ok((rounded(fitted)?, rounded(shared)?))
    }

    /// The score of a pair from its fitted product (without bias) and its lexical term.
    #[must_use]
    pub fn combine(&self, fitted: f32, lexical: f32) -> f32 {
        let belief = self.parts.loss.belief(f64::from(fitted) + f64::from(self.parts.bias));
        let alpha = f64::from(self.parts.score_alpha);
        (alpha * belief + (1.0 - alpha) * f64::from(lexical)) as f32
    }

    /// The scores of pairs: one for each stored entry of `pairs` (points x labels), in their order. A label
    /// without features gets -inf.
    ///
    /// # Errors
    /// [`Error::Length`] if shapes disagree; [`Error::Content`] for a point that is not ascending or not finite.
    pub fn score(
        &self,
        x: CsrView<'_>,
        labels: &Labels,
        pairs: CsrPattern<'_>,
    ) -> Result<Vec<f32>> {
        let rows = trusted(&labels.rows)?;
        let (fitted, lexical) = self.terms(x, rows, pairs)?;
        let mut scores = with_room(fitted.len())?;
        let ids = (0..pairs.n_rows()).flat_map(|row| pairs.row(row));
        for ((&id, &fitted), &lexical) in ids.zip(&fitted).zip(&lexical) {
            let known = !rows.get(id as usize)?.0.is_empty();
            scores.push(if known { self.combine(fitted, lexical) } else { f32::NEG_INFINITY });
        }
        Ok(scores)
    }

    /// The k best labels of each point among those of its shortlist: larger scores first, equal ones by the
    /// smaller label. Labels without a common feature are not found, and neither are those of a pair in `exclude`
    /// (points x labels), or whose entry in `only` is false.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `k = 0`; [`Error::Length`] if shapes disagree; [`Error::Content`] for a point that is
    /// not ascending or not finite.
    pub fn search(
        &self,
        x: CsrView<'_>,
        labels: &Labels,
        k: usize,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
    ) -> Result<TopK> {
        if k == 0 {
            return Err(parameter("k", "must be at least 1", 0));
        }
        if let Some(exclude) = exclude {
            exclude.check_shape(x.n_rows(), labels.rows.n_rows())?;
        }
        let mut best = TopK { k, ids: Vec::new(), scores: Vec::new() };
        // A shortlist from a file may be of any length.
        let width = self.parts.shortlist.max(k).min(labels.rows.n_rows().max(1));
        for first in (0..x.n_rows()).step_by(ROWS) {
            let block = first..(first + ROWS).min(x.n_rows());
            let rows = x.rows(block.clone());
            let out = exclude.map(|pairs| pairs.rows(block));
            let found = self.find(rows, &labels.index, width, out, only, None)?;
            let top = self.rerank(rows, labels, &found, k)?;
            best.ids.extend(top.ids);
            best.scores.extend(top.scores);
        }
        Ok(best)
    }

    fn rerank(&self, x: CsrView<'_>, labels: &Labels, found: &TopK, k: usize) -> Result<TopK> {
        let n_rows = x.n_rows();
        let mut indptr = with_room(n_rows + 1)?;
        indptr.push(0i64);
        let mut ids = with_room(found.ids.len())?;
        for row in found.ids.chunks(found.k) {
            ids.extend(row.iter().copied().filter(|&id| id != -1));
            indptr.push(ids.len() as i64);
        }
        let pairs = CsrPattern::new("shortlist", labels.rows.n_rows(), &indptr, &ids)?;
        let (fitted, lexical) = self.terms(x, trusted(&labels.rows)?, pairs)?;
        let scores: Vec<f32> = fitted
            .par_iter()
            .zip(&lexical)
            .map(|(&fitted, &lexical)| self.combine(fitted, lexical))
            .collect();
        TopK::fill::<f32, (), _>(n_rows, k, |row, keys, ()| {
            let span = pairs.span(row);
            for (&id, &score) in ids[span.clone()].iter().zip(&scores[span]) {
                keys.push(score.key(id));
            }
            keep_best(keys, k);
            keys.sort_unstable();
            Ok(())
        })
    }
}

/// The rows of a matrix that was checked.
fn trusted(matrix: &Csr) -> Result<LazyRows<'_>> {
    let Csr { n_cols, indptr, indices, data } = matrix;
    Ok(LazyRows::new("matrix", *n_cols, indptr, indices, data)?.trusted())
}
