//! Evaluators as bytes: every bit comes back, and nothing else is taken for one.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use xmc_core::{
    Csr, EmptyRows, Error, Evaluator, Grouping, Kind, Metric, Options, PsNdcg, RowValues, Ties,
};

const N_LABELS: usize = 9;

/// What makes an evaluator: rows of positives and rankings, and bits for the settings.
type Recipe = (Vec<(Vec<bool>, u64)>, u8, Vec<f64>);

fn recipes() -> impl Strategy<Value = Recipe> {
    let row = (prop::collection::vec(any::<bool>(), N_LABELS), any::<u64>());
    let weights = prop::collection::vec(1.0f64..50.0, N_LABELS);
    (prop::collection::vec(row, 0..12), any::<u8>(), weights)
}

fn metrics(setting: u8) -> Vec<Metric> {
    let ranked = Kind::ALL.into_iter().filter(|kind| !kind.needs_probabilities());
    let kinds = ranked.filter(|kind| setting & 1 == 0 || !kind.is_label_wise());
    kinds.flat_map(|kind| [1, 3].map(|k| Metric::new(kind, k).unwrap())).collect()
}

fn evaluator((rows, setting, weights): &Recipe) -> Evaluator {
    let setting = *setting;
    let halves = Grouping {
        name: "half é".to_owned(),
        n_groups: 2,
        of_label: (0..N_LABELS as i32).map(|label| label % 3 - 1).collect(),
    };
    let options = Options {
        inv_propensity: Some(weights.clone()),
        empty_rows: if setting & 2 == 0 { EmptyRows::Zero } else { EmptyRows::Skip },
        psndcg: if setting & 4 == 0 { PsNdcg::Xclib } else { PsNdcg::Matlab },
        ties: if setting & 8 == 0 { Ties::Smaller } else { Ties::Larger },
        groupings: if setting & 16 == 0 { vec![] } else { vec![halves] },
        keep_rows: setting & 32 == 0,
    };
    let mut evaluator = Evaluator::new(N_LABELS, &metrics(setting), options).unwrap();
    for (positives, seed) in rows {
        let label = |&label: &usize| positives[label];
        let indices: Vec<i32> = (0..N_LABELS).filter(label).map(|label| label as i32).collect();
        let (n, data) = (indices.len(), vec![1.0; indices.len()]);
        let truth = Csr { n_cols: N_LABELS, indptr: vec![0, n as i64], indices, data };
        let ids: Vec<i32> = (0..4).map(|i| ((seed + 2 * i) % N_LABELS as u64) as i32).collect();
        evaluator.update_ids(truth.view("y").unwrap(), &ids, 4, None).unwrap();
    }
    evaluator
}

/// Every number that can be asked for, as bits.
fn everything(evaluator: &Evaluator, setting: u8) -> Vec<u64> {
    let mut bits = vec![evaluator.n_rows() as u64, evaluator.n_empty() as u64];
    let value = |value: Result<f64, Error>| value.map_or(1, f64::to_bits);
    for metric in metrics(setting) {
        bits.push(value(evaluator.value(metric)));
        bits.extend((0..2).map(|group| value(evaluator.group_value(0, group, metric))));
        match evaluator.row_values(metric) {
            Ok(RowValues::Mean(values)) => bits.extend(values.iter().map(|x| x.to_bits())),
            Ok(RowValues::Ratio { numerators, denominators }) => {
                bits.extend(numerators.iter().chain(&denominators).map(|x| x.to_bits()));
            }
            Err(_) => {}
        }
    }
    bits
}

fn refused(bytes: &[u8]) -> bool {
    matches!(Evaluator::from_bytes(bytes), Err(Error::State { .. }))
}

proptest! {
    #[test]
    fn every_bit_comes_back_and_goes_on(a in recipes(), more in recipes()) {
        let one = evaluator(&a);
        let mut copy = Evaluator::from_bytes(&one.to_bytes()).unwrap();
        prop_assert_eq!(copy.to_bytes(), one.to_bytes());
        prop_assert_eq!(everything(&copy, a.1), everything(&one, a.1));

        let other = evaluator(&(more.0.clone(), a.1, a.2.clone()));
        copy.merge(&Evaluator::from_bytes(&other.to_bytes()).unwrap()).unwrap();
        let rows: Vec<_> = a.0.iter().chain(&more.0).cloned().collect();
        let whole = evaluator(&(rows, a.1, a.2.clone()));
        prop_assert_eq!(everything(&copy, a.1), everything(&whole, a.1));
        prop_assert_eq!(copy.to_bytes(), whole.to_bytes());
    }

    #[test]
    fn flipped_bits_and_cut_ends_are_refused(a in recipes(), at in any::<prop::sample::Index>()) {
        let bytes = evaluator(&a).to_bytes();
        let bit = at.index(8 * bytes.len());
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(refused(&flipped));
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(refused(cut));
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(refused(&longer));
    }

    #[test]
    fn foreign_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Evaluator::from_bytes(&bytes).is_err());
    }
}

#[test]
fn messages() {
    let bytes = Evaluator::new(3, &["P@1".parse().unwrap()], Options::default());
    let bytes = bytes.unwrap().to_bytes();
    let message = |bytes: &[u8]| Evaluator::from_bytes(bytes).unwrap_err().to_string();
    let start = "damaged or not the state of an evaluator";
    assert_eq!(message(b"PK"), format!("{start} (it starts differently)"));
    let mut later = bytes.clone();
    later[8] += 1;
    assert_eq!(message(&later), format!("{start} (unknown version)"));
    assert_eq!(message(&bytes[..14]), format!("{start} (its checksum differs)"));
}
