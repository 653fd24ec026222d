//! Lists of function words, from the crate `stop-words`: those of Snowball and NLTK.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Codes of the languages that have a list.
#[pyfunction]
pub(crate) fn stop_word_languages() -> Vec<&'static str> {
    stop_words::available_languages().to_vec()
}

/// The list of a language.
#[pyfunction]
pub(crate) fn stop_words_of(language: &str) -> PyResult<Vec<&'static str>> {
    let found = stop_words::lookup(language).map(<[_]>::to_vec);
    found.ok_or_else(|| {
        let known = stop_words::available_languages().join(", ");
        PyValueError::new_err(format!("no stop words for language '{language}'; known: {known}"))
    })
}
