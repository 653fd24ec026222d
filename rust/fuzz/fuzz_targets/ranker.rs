//! A ranker from arrays of any content: an error, or scores that do not depend on the pairs around.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use xmc_core::{RankerView, score_ranker};

#[derive(Arbitrary, Debug)]
struct Input {
    n_members: u8,
    hidden: u8,
    n_features: u8,
    /// Make lengths fit.
    fitting: bool,
    arrays: [Vec<f32>; 6],
    features: Vec<f32>,
}

fuzz_target!(|input: Input| {
    let mut input = input;
    twins::on_this_thread();
    let members = usize::from(input.n_members % 5);
    let hidden = usize::from(input.hidden % 40);
    let n = usize::from(input.n_features % 20);
    if input.fitting {
        let lengths = [n, n, members * n, members * hidden, members * hidden * n, members * hidden];
        for (array, length) in input.arrays.iter_mut().zip(lengths) {
            array.retain(|x| x.is_finite() && x.abs() < 1e30);
            array.resize(length, 0.25);
        }
        input.arrays[1].iter_mut().for_each(|x| *x = x.abs().max(1e-20));
    }
    let [mean, deviation, linear, output, weights, bias] = &input.arrays;
    let ranker =
        RankerView::new(members, hidden, [mean, deviation], [linear, output, weights, bias]);
    let Ok(ranker) = ranker else {
        assert!(!input.fitting || members == 0 || n == 0);
        return;
    };
    let n = ranker.n_features();
    let Ok(scores) = score_ranker(&ranker, &input.features) else {
        assert!(
            !input.features.len().is_multiple_of(n)
                || input.features.iter().any(|x| !x.is_finite())
        );
        return;
    };
    for (pair, features) in input.features.chunks(n).enumerate() {
        let alone = score_ranker(&ranker, features).expect("valid");
        assert_eq!(alone[0].to_bits(), scores[pair].to_bits());
    }
});
