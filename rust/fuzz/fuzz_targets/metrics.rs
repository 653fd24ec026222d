//! Names of metrics: one spelling for each, and an error that repeats any other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmc_core::{Kind, MAX_K, Metric};

fuzz_target!(|name: &str| match name.parse::<Metric>() {
    Ok(metric) => {
        assert_eq!(metric.to_string(), name);
        assert!((1..=MAX_K).contains(&metric.k()));
        assert_eq!(Metric::new(metric.kind(), metric.k()).ok(), Some(metric));
    }
    Err(error) => {
        assert!(error.to_string().contains(&format!("'{name}'")));
        let (kind, k) = name.split_once('@').unwrap_or((name, ""));
        let known = Kind::ALL.iter().any(|known| known.name() == kind);
        assert!(
            !known
                || !k.parse().is_ok_and(
                    |k| (1..=MAX_K).contains(&k) && k.to_string() == name[kind.len() + 1..]
                )
        );
    }
});
