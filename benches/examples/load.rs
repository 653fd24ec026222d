//! What loading and saving one file costs: `cargo run --release -p xmc-benches --example load -- FILE
//! [THREADS [OUT]]`. A name with `bow` in it is bag-of-words text.
//!
//! Prints CPU seconds, wall seconds, megabytes of the file a CPU second, and the peak of memory that
//! is not the mapped file, beside the size of the result. Reads `/proc`, so Linux only.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{Csr, ParseOptions, load_bow, load_labels, save_bow, save_labels, save_npz};

/// A line of `/proc/self/status`, in kilobytes.
fn status(key: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU seconds of this process, user and system.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn timed<T>(what: &str, megabytes: impl Fn() -> f64, work: impl FnOnce() -> T) -> T {
    let (wall, start) = (Instant::now(), cpu());
    let result = work();
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu() - start);
    let speed = megabytes() / cpu.max(0.01);
    println!("{what}: {cpu:.2} CPU s, {wall:.3} s, {speed:.0} MB/s");
    result
}

fn size(csr: &Csr) -> f64 {
    (csr.indptr.len() * 8 + csr.indices.len() * 8) as f64 / 1e6
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(&args[0]);
    let threads = args.get(1).map_or(1, |n| n.parse().unwrap());
    let megabytes = |path: &Path| std::fs::metadata(path).unwrap().len() as f64 / 1e6;
    let is_bow = args[0].contains("bow");
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (before, peak) = (status("RssAnon"), status("RssAnon"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = peak;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(status("RssAnon"));
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let load = || {
            pool.install(|| {
                let options = ParseOptions::default();
                if is_bow {
                    let bow = load_bow(path, options).unwrap();
                    (bow.features, Some(bow.labels))
                } else {
                    (load_labels(path, options).unwrap(), None)
                }
            })
        };
        let (first, second) = timed("load", || megabytes(path), load);
        done.store(true, Ordering::Relaxed);
        let peak = (watch.join().unwrap() - before) / 1e3;
        let size = size(&first) + second.as_ref().map_or(0.0, size);
        println!("peak {peak:.0} MB beside the file, result {size:.0} MB");
        if let Some(out) = args.get(2).map(Path::new) {
            let first = first.view("y").unwrap();
            let save = || {
                pool.install(|| match (&second, out.extension().is_some_and(|s| s == "npz")) {
                    (Some(labels), _) => {
                        let labels = labels.view("labels").unwrap().pattern();
                        save_bow(out, first, labels).unwrap();
                    }
                    (None, false) => save_labels(out, first).unwrap(),
                    (None, true) => save_npz(out, first, args.len() > 3).unwrap(),
                });
            };
            timed("save", || megabytes(out), save);
        }
    });
}
