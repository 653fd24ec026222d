//! The bilinear model: its file, and answers that depend on neither threads nor the labels around.
#![allow(clippy::unwrap_used)]

use std::fs;

use xmc_core::bilinear::{
    Bilinear, BilinearParts, Labels, Loss, RefineOptions, SupportOptions, TextModel, refine,
    select_support,
};
use xmc_core::lexical::{Cut, Documents, Tokenizer, TokenizerOptions, Vocabulary, Weights};
use xmc_core::{Csr, CsrPattern, rayon};

const TEXTS: [&str; 4] = ["red fox runs", "red box", "two boats", "boats and boxes"];
const LABELS: [&str; 4] = ["fox", "box", "boats", "runs fast"];

#[test]
fn the_weights_of_some_features_can_be_read() {
    let matrix =
        Csr { n_cols: 2, indptr: vec![0, 2, 2, 3], indices: vec![0, 1, 1], data: vec![1.0; 3] };
    let model = Bilinear::new(BilinearParts {
        support: matrix,
        refined: vec![0.5, -1.0, 2.0],
        bias: 0.0,
        direct: vec![-1, 0],
        loss: Loss::Logistic,
        score_alpha: 0.5,
        shortlist: 3,
    })
    .unwrap();
    let rows = model.refined_rows(&[2, 1, 0, 2]).unwrap();
    assert_eq!((rows.n_cols, rows.indptr), (2, vec![0, 1, 1, 3, 4]));
    assert_eq!((rows.indices, rows.data), (vec![1, 0, 1, 1], vec![2.0, 0.5, -1.0, 2.0]));
    for feature in [-1, 3] {
        let message = model.refined_rows(&[0, feature]).unwrap_err().to_string();
        let expected = format!("features: row 1: feature {feature} out of range (n_features = 3)");
        assert_eq!(message, expected);
    }
}

/// A model of four texts, whose last label has no point.
fn model() -> TextModel {
    let options = TokenizerOptions { stemmer: Some("english".into()), ..Default::default() };
    let tokenizer = Tokenizer::new(options).unwrap();
    let everything: Vec<&str> = TEXTS.iter().chain(&LABELS).copied().collect();
    let texts = Documents::Texts(&everything);
    let vocabulary = Vocabulary::build(&tokenizer, texts, &Cut::default(), &|| true).unwrap();
    let idf = vocabulary.smooth_idf();
    let rows = |texts: &[&str]| -> Csr {
        let weights = Weights { sublinear: false, idf: Some(&idf), unit: true };
        vocabulary.rows(&tokenizer, Documents::Texts(texts), &weights, &|| true).unwrap()
    };
    let (x, z) = (rows(&TEXTS), rows(&LABELS));
    let (x_view, z_view) = (x.view("x").unwrap(), z.view("z").unwrap());
    let y = CsrPattern::new("y", 4, &[0, 1, 2, 3, 5], &[0, 1, 2, 1, 2]).unwrap();
    let direct: Vec<i32> = (0..vocabulary.len() as i32).collect();
    let options = SupportOptions::default();
    let support = select_support(x_view, z_view, y, &direct, &options, &|| true).unwrap();
    let all: Vec<i32> = (0..4).flat_map(|_| 0..3).collect();
    let pairs = CsrPattern::new("pairs", 4, &[0, 3, 6, 9, 12], &all).unwrap();
    let view = support.view("support").unwrap();
    let options = RefineOptions::default();
    let refined = refine(x_view, z_view, y, view, pairs, &options, &|| true).unwrap();
    let model = Bilinear::new(BilinearParts {
        support,
        refined: refined.weights,
        bias: refined.bias,
        direct,
        loss: Loss::SquaredHinge,
        score_alpha: 0.9,
        shortlist: 10,
    });
    let labels = Labels::new(z).unwrap();
    TextModel::new(tokenizer, vocabulary, false, model.unwrap(), labels).unwrap()
}

#[test]
fn a_file_answers_as_the_model_did() {
    let (folder, model) = (tempfile::tempdir().unwrap(), model());
    let path = folder.path().join("model.xmc");
    model.save(&path).unwrap();
    let opened = TextModel::open(&path).unwrap();
    let asked = ["a red fox", "BOXES", "runs", "", "nothing"];
    let best = model.search(&asked, 3).unwrap();
    assert_eq!(opened.search(&asked, 3).unwrap(), best);
    assert_eq!((best.ids[0], best.ids[3], best.ids[9]), (0, 1, -1));
    assert!(best.ids[6..9].contains(&3), "an unseen label is found by its words");
    let pairs = CsrPattern::new("pairs", 4, &[0, 1, 1, 1, 1, 1], &best.ids[..1]).unwrap();
    assert_eq!(opened.score(&asked, pairs).unwrap(), best.scores[..1]);
    assert_eq!(opened.n_labels(), 4);
}

#[test]
fn a_changed_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.xmc");
    model().save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(&path, &bytes).unwrap();
        let message = TextModel::open(&path).unwrap_err().to_string();
        assert!(message.contains("model.xmc"), "{message}");
    }
    for length in [0, 3, 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(TextModel::open(&path).is_err());
    }
}

#[test]
fn threads_do_not_show() {
    let expected = model().search(&TEXTS, 4).unwrap();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| model().search(&TEXTS, 4).unwrap()), expected);
    }
}
