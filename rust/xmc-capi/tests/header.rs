//! `include/xmc.h` is what cbindgen makes of the sources.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use cbindgen::{Builder, Config};

/// In the order in which a reader meets them.
const SOURCES: [&str; 7] = ["status", "pool", "arrays", "matrix", "evaluator", "topk", "bilinear"];

#[test]
fn the_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::from_file(root.join("cbindgen.toml")).unwrap();
    let builder = SOURCES.iter().fold(Builder::new().with_config(config), |builder, source| {
        builder.with_src(root.join("src").join(source).with_extension("rs"))
    });
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    let header = String::from_utf8(header).unwrap();

    let path = root.join("include/xmc.h");
    if std::env::var_os("XMC_WRITE_HEADER").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == header,
        "include/xmc.h is stale: run XMC_WRITE_HEADER=1 cargo test -p xmc-capi --test header"
    );
}
