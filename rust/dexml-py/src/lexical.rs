//! Tokens, tf-idf rows and sparse search.

use std::sync::OnceLock;

use numpy::{PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyList, PyString};
use xmc_core::lexical::{
    self, Also, Cut, Documents, Grams, IndexBuilder, InvertedIndex, Tokenizer, TokenizerOptions,
    Vocabulary, Voted, Weights,
};
use xmc_core::{Ranked, Result};

use crate::arrays::{
    CsrArgs, CsrArrays, CsrSlices, PatternArgs, PatternArrays, Ranking, matrix, moved, moved_csr,
    moved_ranking, vector,
};
use crate::border::{count, detached, exception, in_pool, interruptible};

/// Strings of Python, kept alive without the interpreter.
enum Texts {
    Whole(Vec<PyBackedStr>),
    Words(Vec<Vec<PyBackedStr>>),
}

impl Texts {
    /// A list of strings, or of lists of strings.
    fn take(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("texts must be a list of str, not one str"));
        }
        let (mut whole, mut words) = (Vec::new(), Vec::new());
        for (at, item) in object.try_iter()?.enumerate() {
            let item = item?;
            if item.is_instance_of::<PyString>() && words.is_empty() {
                whole.push(item.extract()?);
            } else if !item.is_instance_of::<PyString>() && whole.is_empty() {
                let list = item.extract().map_err(|error| refused(at, &item, error))?;
                words.push(list);
            } else {
                let message = format!("texts[{at}]: either all texts are str, or all are lists");
                return Err(PyTypeError::new_err(message));
            }
        }
        Ok(if words.is_empty() { Self::Whole(whole) } else { Self::Words(words) })
    }

    fn documents(&self) -> Documents<'_, PyBackedStr> {
        match self {
            Self::Whole(texts) => Documents::Texts(texts),
            Self::Words(lists) => Documents::Words(lists),
        }
    }
}

/// What is wrong with an item that is neither a string nor a list of them.
fn refused(at: usize, item: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    // Lone surrogates: the message of Python says where.
    if error.is_instance_of::<PyValueError>(item.py()) {
        return error;
    }
    let found = item.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("texts[{at}] must be str or a list of str, not {found}"))
}

/// Cuts texts into n-grams.
#[pyclass(name = "Tokenizer", module = "dexml._rust", frozen)]
pub(crate) struct PyTokenizer {
    inner: Tokenizer,
}

impl PyTokenizer {
    pub(crate) const fn inner(&self) -> &Tokenizer {
        &self.inner
    }
}

#[pymethods]
impl PyTokenizer {
    #[new]
    #[pyo3(signature = (grams, sizes, *, edges=true, stemmer=None, stop_words=Vec::new(), max_chars=None))]
    fn new(
        grams: &str,
        sizes: (i64, i64),
        edges: bool,
        stemmer: Option<String>,
        stop_words: Vec<String>,
        max_chars: Option<i64>,
    ) -> PyResult<Self> {
        let grams = match grams {
            "words" => Grams::Words,
            "chars" => Grams::Chars,
            "features" => Grams::Features,
            other => {
                let message =
                    format!("grams must be 'words', 'chars' or 'features', not '{other}'");
                return Err(PyValueError::new_err(message));
            }
        };
        let sizes = (count("sizes", sizes.0)?, count("sizes", sizes.1)?);
        let max_chars = max_chars.map(|n| count("max_chars", n)).transpose()?;
        let options = TokenizerOptions { grams, sizes, edges, stemmer, stop_words, max_chars };
        Ok(Self { inner: Tokenizer::new(options).map_err(exception)? })
    }

    /// The words of a text.
    fn words(&self, text: &str) -> Vec<String> {
        self.inner.words(text)
    }

    /// The tokens of a text.
    fn grams(&self, text: &str) -> Vec<String> {
        self.inner.grams(text)
    }
}

/// Numbered tokens with their document frequencies.
#[pyclass(name = "Vocabulary", module = "dexml._rust", frozen)]
pub(crate) struct PyVocabulary {
    inner: Vocabulary,
    /// Computed with the first rows: for half a million tokens it takes longer than a row.
    smooth_idf: OnceLock<Vec<f32>>,
}

impl PyVocabulary {
    const fn new(inner: Vocabulary) -> Self {
        Self { inner, smooth_idf: OnceLock::new() }
    }

    pub(crate) const fn inner(&self) -> &Vocabulary {
        &self.inner
    }

    fn idf(&self) -> &[f32] {
        self.smooth_idf.get_or_init(|| self.inner.smooth_idf())
    }
}

#[pymethods]
impl PyVocabulary {
    /// Counts and cuts the tokens of texts.
    #[staticmethod]
    #[pyo3(signature = (tokenizer, texts, *, min_df=1, max_df=1.0, max_size=None, num_threads=None))]
    fn build(
        py: Python<'_>,
        tokenizer: &PyTokenizer,
        texts: Bound<'_, PyAny>,
        min_df: i64,
        max_df: f64,
        max_size: Option<i64>,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let max_size = max_size.map(|n| count("max_size", n)).transpose()?;
        let cut = Cut { min_df: count("min_df", min_df)?, max_df, max_size };
        let (texts, tokenizer) = (Texts::take(&texts)?, &tokenizer.inner);
        let inner = interruptible(py, num_threads, |keep_going| {
            Vocabulary::build(tokenizer, texts.documents(), &cut, keep_going)
        })?;
        Ok(Self::new(inner))
    }

    /// Reads what `to_text` wrote.
    #[staticmethod]
    fn parse(
        py: Python<'_>,
        file: &str,
        text: &[u8],
        df: Bound<'_, PyAny>,
        n_texts: i64,
    ) -> PyResult<Self> {
        let n_texts = count("n_texts", n_texts)?;
        let df = vector::<i64>("df", &df)?;
        let df = df.as_slice()?;
        let inner = detached(py, || Vocabulary::parse(file, text, df, n_texts))?;
        Ok(Self::new(inner))
    }

    /// The tokens, one a line, as UTF-8.
    fn to_text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let text = detached(py, || self.inner.to_text())?;
        Ok(PyBytes::new(py, text.as_bytes()))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// The id of a token.
    fn id(&self, token: &str) -> Option<i32> {
        self.inner.id(token)
    }

    /// The token with an id.
    fn token(&self, id: i64) -> PyResult<&str> {
        let token = usize::try_from(id).ok().and_then(|id| self.inner.token(id));
        token.ok_or_else(|| {
            let n = self.inner.len();
            PyValueError::new_err(format!("token {id} out of range (n_tokens = {n})"))
        })
    }

    /// The id that each token has in another vocabulary, -1 where it is unknown there.
    fn ids_in<'py>(&self, py: Python<'py>, other: &Self) -> PyResult<Bound<'py, PyAny>> {
        let ids = in_pool(py, None, || self.inner.ids_in(&other.inner))?;
        Ok(moved(py, ids).into_any())
    }

    /// Document frequencies.
    #[getter]
    fn df<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        moved(py, self.inner.df().to_vec()).into_any()
    }

    /// Number of texts that were counted.
    #[getter]
    fn n_texts(&self) -> usize {
        self.inner.n_texts()
    }

    /// Smooth inverse document frequencies.
    fn smooth_idf<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        moved(py, self.idf().to_vec()).into_any()
    }

    /// Weighted rows of texts.
    #[pyo3(signature = (tokenizer, texts, *, idf, sublinear, unit, num_threads=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn rows<'py>(
        &self,
        py: Python<'py>,
        tokenizer: &PyTokenizer,
        texts: Bound<'py, PyAny>,
        idf: bool,
        sublinear: bool,
        unit: bool,
        num_threads: Option<i64>,
    ) -> PyResult<CsrArgs<'py>> {
        let (texts, tokenizer) = (Texts::take(&texts)?, &tokenizer.inner);
        let csr = interruptible(py, num_threads, |keep_going| {
            let weights = Weights { sublinear, idf: idf.then(|| self.idf()), unit };
            self.inner.rows(tokenizer, texts.documents(), &weights, keep_going)
        })?;
        Ok(moved_csr(py, csr))
    }
}

/// A second ranking, as Python passes it: how many rows, and a mask.
pub(crate) type AlsoArgs<'py> = (i64, Bound<'py, PyAny>);

/// The same, borrowed.
pub(crate) struct AlsoArray<'py>(usize, PyReadonlyArray1<'py, bool>);

impl<'py> AlsoArray<'py> {
    pub(crate) fn borrow((k, only): AlsoArgs<'py>) -> PyResult<Self> {
        Ok(Self(count("k", k)?, vector("only", &only)?))
    }

    pub(crate) fn get(&self) -> PyResult<Also<'_>> {
        Ok(Also { k: self.0, only: self.1.as_slice()? })
    }
}

/// Sparse rows by column.
#[pyclass(name = "InvertedIndex", module = "dexml._rust", frozen)]
pub(crate) struct PyInvertedIndex {
    inner: InvertedIndex,
}

impl PyInvertedIndex {
    pub(crate) const fn inner(&self) -> &InvertedIndex {
        &self.inner
    }
}

#[pymethods]
impl PyInvertedIndex {
    #[new]
    #[pyo3(signature = (rows, n_features, *, num_threads=None))]
    fn new(
        py: Python<'_>,
        rows: CsrArgs<'_>,
        n_features: i64,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let n_features = count("n_features", n_features)?;
        let rows = CsrArrays::<f32>::borrow("rows", &rows)?;
        let rows = rows.slices()?;
        let inner = in_pool(py, num_threads, || {
            InvertedIndex::new(rows.check_features("rows", n_features)?)
        })?;
        Ok(Self { inner })
    }

    /// Indexes blocks of rows, which are taken out of the list one by one.
    #[staticmethod]
    #[pyo3(signature = (blocks, n_features, *, num_threads=None))]
    fn of_blocks(
        py: Python<'_>,
        blocks: &Bound<'_, PyList>,
        n_features: i64,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let n_features = count("n_features", n_features)?;
        let mut builder = detached(py, || IndexBuilder::new(n_features))?;
        for (at, block) in blocks.iter().enumerate() {
            let name = format!("blocks[{at}]");
            let rows = CsrArrays::<f32>::borrow(&name, &block.extract()?)?;
            let (rows, builder) = (rows.slices()?, &mut builder);
            in_pool(py, num_threads, || builder.count(rows.check_features(&name, n_features)?))?;
        }
        // Only the list knows the arrays of a block: it is freed when it has been added.
        while !blocks.is_empty() {
            let block = blocks.get_item(0)?.extract()?;
            blocks.del_item(0)?;
            let rows = CsrArrays::<f32>::borrow("block", &block)?;
            let (rows, builder) = (rows.slices()?, &mut builder);
            in_pool(py, num_threads, || builder.add(rows.check_features("block", n_features)?))?;
        }
        Ok(Self { inner: in_pool(py, num_threads, || builder.finish())? })
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.inner.n_rows(), self.inner.n_features())
    }

    #[getter]
    fn n_postings(&self) -> usize {
        self.inner.n_postings()
    }

    /// The rows of largest inner product, and behind them those of a second ranking.
    #[pyo3(signature = (
        queries, k, *, exclude=None, only=None, also=None, rows=None, num_threads=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: CsrArgs<'py>,
        k: i64,
        exclude: Option<PatternArgs<'py>>,
        only: Option<Bound<'py, PyAny>>,
        also: Option<AlsoArgs<'py>>,
        rows: Option<CsrArgs<'py>>,
        num_threads: Option<i64>,
    ) -> PyResult<Ranking<'py>> {
        let k = count("k", k)?;
        let queries = CsrArrays::<f32>::borrow("queries", &queries)?;
        let exclude = exclude.map(|pairs| PatternArrays::borrow("exclude", &pairs)).transpose()?;
        let only = only.map(|only| vector::<bool>("only", &only)).transpose()?;
        let also = also.map(AlsoArray::borrow).transpose()?;
        let rows = rows.map(|rows| CsrArrays::<f32>::borrow("rows", &rows)).transpose()?;
        let queries = queries.slices()?;
        let rows = rows.as_ref().map(CsrArrays::slices).transpose()?;
        let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
        let only = only.as_ref().map(|only| only.as_slice()).transpose()?;
        let also = also.as_ref().map(AlsoArray::get).transpose()?;
        let index = &self.inner;
        let (n_rows, top) = in_pool(py, num_threads, || {
            let queries = queries.check_features("queries", index.n_features())?;
            let n_rows = index.n_rows();
            let exclude = exclude.map(|exclude| exclude.check("exclude", n_rows)).transpose()?;
            let rows = rows.map(|rows| rows.lazy("rows", index.n_features())).transpose()?;
            Ok((queries.n_rows(), index.search(queries, k, exclude, only, also, rows)?))
        })?;
        moved_ranking(py, n_rows, top)
    }

    /// The rows of largest inner product with the rows of a product, which are not made.
    #[pyo3(signature = (left, n_left, right, k, *, only=None, num_threads=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn search_product<'py>(
        &self,
        py: Python<'py>,
        left: CsrArgs<'py>,
        n_left: i64,
        right: CsrArgs<'py>,
        k: i64,
        only: Option<Bound<'py, PyAny>>,
        num_threads: Option<i64>,
    ) -> PyResult<Ranking<'py>> {
        let (k, n_left) = (count("k", k)?, count("n_left", n_left)?);
        let left = CsrArrays::<f32>::borrow("left", &left)?;
        let right = CsrArrays::<f32>::borrow("right", &right)?;
        let only = only.map(|only| vector::<bool>("only", &only)).transpose()?;
        let (left, right) = (left.slices()?, right.slices()?);
        let only = only.as_ref().map(|only| only.as_slice()).transpose()?;
        let index = &self.inner;
        let (n_rows, top) = in_pool(py, num_threads, || {
            let left = left.check_features("left", n_left)?;
            let right = right.lazy("right", index.n_features())?;
            Ok((left.n_rows(), index.search_product(left, right, k, None, only, None)?))
        })?;
        moved_ranking(py, n_rows, top)
    }

    /// Two searches in one: of all columns, with votes that count, and of those below `n_columns`.
    #[pyo3(signature = (
        queries, k, n_columns, *, exclude=None, only=None, voted=None, num_threads=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn search_both<'py>(
        &self,
        py: Python<'py>,
        queries: CsrArgs<'py>,
        k: (i64, i64),
        n_columns: i64,
        exclude: Option<PatternArgs<'py>>,
        only: Option<Bound<'py, PyAny>>,
        voted: Option<(CsrArgs<'py>, f32)>,
        num_threads: Option<i64>,
    ) -> PyResult<Ranking<'py>> {
        let (k, n_columns) = ((count("k", k.0)?, count("k", k.1)?), count("n_columns", n_columns)?);
        let queries = CsrArrays::<f32>::borrow("queries", &queries)?;
        let exclude = exclude.map(|pairs| PatternArrays::borrow("exclude", &pairs)).transpose()?;
        let only = only.map(|only| vector::<bool>("only", &only)).transpose()?;
        let weight = voted.as_ref().map_or(0.0, |voted| voted.1);
        let cast = voted.map(|voted| CsrArrays::<f32>::borrow("votes", &voted.0)).transpose()?;
        let cast = cast.as_ref().map(CsrArrays::slices).transpose()?;
        let queries = queries.slices()?;
        let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
        let only = only.as_ref().map(|only| only.as_slice()).transpose()?;
        let index = &self.inner;
        let (n_rows, top) = in_pool(py, num_threads, || {
            let queries = queries.check_features("queries", index.n_features())?;
            let n_rows = index.n_rows();
            let exclude = exclude.map(|exclude| exclude.check("exclude", n_rows)).transpose()?;
            let cast = cast.map(|votes| votes.check_features("votes", n_rows)).transpose()?;
            let voted = cast.map(|votes| Voted { votes, weight });
            let top = index.search_both(queries, k, n_columns, exclude, only, voted)?;
            Ok((queries.n_rows(), top))
        })?;
        moved_ranking(py, n_rows, top)
    }
}

/// Matrices side by side.
#[pyfunction]
#[pyo3(signature = (parts, n_features, weights, *, unit, num_threads=None))]
pub(crate) fn join_rows<'py>(
    py: Python<'py>,
    parts: Vec<CsrArgs<'py>>,
    n_features: Vec<i64>,
    weights: Vec<f32>,
    unit: bool,
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    if parts.len() != weights.len() || parts.len() != n_features.len() {
        let (n, m) = (parts.len(), weights.len());
        return Err(PyValueError::new_err(format!(
            "{n} parts and {m} weights; give as many of both"
        )));
    }
    let names: Vec<String> = (0..parts.len()).map(|at| format!("parts[{at}]")).collect();
    let arrays: Vec<CsrArrays<'_, f32>> = names
        .iter()
        .zip(&parts)
        .map(|(name, part)| CsrArrays::borrow(name, part))
        .collect::<PyResult<_>>()?;
    let slices: Vec<CsrSlices<'_, f32>> =
        arrays.iter().map(CsrArrays::slices).collect::<PyResult<_>>()?;
    let widths: Vec<usize> =
        n_features.iter().map(|&n| count("n_features", n)).collect::<PyResult<_>>()?;
    let joined = in_pool(py, num_threads, || {
        let views = slices.iter().zip(&names).zip(&widths).zip(&weights);
        let views = views.map(|(((part, name), &width), &weight)| {
            Ok((part.check_features(name, width)?, weight))
        });
        lexical::join_rows(&views.collect::<Result<Vec<_>>>()?, unit)
    })?;
    Ok(moved_csr(py, joined))
}

/// Labels as the mean of their points.
#[pyfunction]
#[pyo3(signature = (rows, n_features, y, n_labels, max_terms, *, num_threads=None))]
pub(crate) fn label_centroids<'py>(
    py: Python<'py>,
    rows: CsrArgs<'py>,
    n_features: i64,
    y: CsrArgs<'py>,
    n_labels: i64,
    max_terms: i64,
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    let (n_features, n_labels) = (count("n_features", n_features)?, count("n_labels", n_labels)?);
    let max_terms = count("max_terms", max_terms)?;
    let rows = CsrArrays::<f32>::borrow("rows", &rows)?;
    let y = CsrArrays::<f32>::borrow("y", &y)?;
    let (rows, y) = (rows.slices()?, y.slices()?);
    let centroids = interruptible(py, num_threads, |keep_going| {
        let rows = rows.check_features("rows", n_features)?;
        lexical::label_centroids(rows, y.check("y", n_labels)?, max_terms, keep_going)
    })?;
    Ok(moved_csr(py, centroids))
}

/// Inner products of given pairs.
#[pyfunction]
#[pyo3(signature = (queries, rows, n_features, pairs, *, trusted=false, num_threads=None))]
pub(crate) fn pair_scores<'py>(
    py: Python<'py>,
    queries: CsrArgs<'py>,
    rows: CsrArgs<'py>,
    n_features: i64,
    pairs: PatternArgs<'py>,
    trusted: bool,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyAny>> {
    let n_features = count("n_features", n_features)?;
    let queries = CsrArrays::<f32>::borrow("queries", &queries)?;
    let rows = CsrArrays::<f32>::borrow("rows", &rows)?;
    let pairs = PatternArrays::borrow("pairs", &pairs)?;
    let (queries, rows, pairs) = (queries.slices()?, rows.slices()?, pairs.slices()?);
    let scores = in_pool(py, num_threads, || {
        let queries = queries.check_features("queries", n_features)?;
        let rows = rows.lazy("rows", n_features)?;
        let rows = if trusted { rows.trusted() } else { rows };
        lexical::pair_scores(queries, rows, pairs.check("pairs", rows.n_rows())?)
    })?;
    Ok(moved(py, scores).into_any())
}

/// Weighted sums of rows.
#[pyfunction]
#[pyo3(signature = (ids, weights, rows, n_features, *, num_threads=None))]
pub(crate) fn mix_rows<'py>(
    py: Python<'py>,
    ids: Bound<'py, PyAny>,
    weights: Bound<'py, PyAny>,
    rows: CsrArgs<'py>,
    n_features: i64,
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    let n_features = count("n_features", n_features)?;
    let (ids, weights) = (matrix::<i32>("ids", &ids)?, matrix::<f64>("weights", &weights)?);
    let rows = CsrArrays::<f32>::borrow("rows", &rows)?;
    let (n, width) = (ids.shape()[0], ids.shape()[1]);
    if ids.shape() != weights.shape() || (width == 0 && n > 0) {
        let (ids, weights) = (ids.shape(), weights.shape());
        return Err(PyValueError::new_err(format!(
            "ids {ids:?} and weights {weights:?}; expected equal shapes with a column"
        )));
    }
    let (ids, weights, rows) = (ids.as_slice()?, weights.as_slice()?, rows.slices()?);
    let mixed = in_pool(py, num_threads, || {
        lexical::mix_rows(ids, weights, width, rows.lazy("rows", n_features)?)
    })?;
    Ok(moved_csr(py, mixed))
}

/// Votes of the nearest points, summed by label.
#[pyfunction]
#[pyo3(signature = (neighbours, votes, y, n_labels, *, num_threads=None))]
pub(crate) fn vote_sums<'py>(
    py: Python<'py>,
    neighbours: Bound<'py, PyAny>,
    votes: Bound<'py, PyAny>,
    y: PatternArgs<'py>,
    n_labels: i64,
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    let n_labels = count("n_labels", n_labels)?;
    let (ids, weights) =
        (matrix::<i32>("neighbours", &neighbours)?, matrix::<f32>("votes", &votes)?);
    let (n_rows, width) = (ids.shape()[0], ids.shape()[1]);
    if ids.shape() != weights.shape() {
        let (ids, weights) = (ids.shape(), weights.shape());
        return Err(PyValueError::new_err(format!(
            "neighbours {ids:?} and votes {weights:?}; expected equal shapes"
        )));
    }
    let y = PatternArrays::borrow("y", &y)?;
    let (ids, weights, y) = (ids.as_slice()?, weights.as_slice()?, y.slices()?);
    let sums = in_pool(py, num_threads, || {
        let neighbours = Ranked::new(n_rows, width, ids, weights)?;
        xmc_core::vote_sums(neighbours, n_rows, y.check("y", n_labels)?)
    })?;
    Ok(moved_csr(py, sums))
}
