//! The tokens that count: numbered, with the number of texts that hold each.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::DefaultHashBuilder;
use rayon::prelude::*;

use super::interner::Interner;
use super::tokens::{Buffer, Documents, Tokenizer};
use crate::error::{Error, Fault, Place, Result};
use crate::memory::{collected, filled, reserve};
use crate::token::quote;

/// Texts handed to a thread at a time.
const BLOCK_TEXTS: usize = 256;
/// Tokens are counted in so many tables, by hash, which are then merged in parallel.
const N_SHARDS: usize = 32;

/// Which tokens to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Tokens in fewer texts are dropped.
    pub min_df: usize,
    /// Tokens in more than this share of the texts are dropped.
    pub max_df: f64,
    /// At most so many tokens, those in the most texts; of equals those whose bytes come first.
    pub max_size: Option<usize>,
}

impl Default for Cut {
    /// Keeps everything.
    fn default() -> Self {
        Self { min_df: 1, max_df: 1.0, max_size: None }
    }
}

impl Cut {
    fn check(&self) -> Result<()> {
        if self.min_df == 0 {
            let (name, rule) = ("min_df", "must be at least 1");
            return Err(Error::Parameter { name, rule, value: 0.to_string() });
        }
        if !(self.max_df > 0.0 && self.max_df <= 1.0) {
            let (name, rule) = ("max_df", "must be a share above 0, at most 1");
            return Err(Error::Parameter { name, rule, value: self.max_df.to_string() });
        }
        Ok(())
    }
}

/// Tokens with ids from 0, and the number of texts that hold each (`df`).
///
/// Ids are in the order of falling `df`, equal ones in the order of their bytes: the same for any
/// number of threads. A vocabulary may be empty; every token is unknown to it, and rows have no
/// columns.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    pub(super) tokens: Interner,
    df: Vec<i64>,
    n_texts: usize,
}

/// Tokens of one shard, each with the number of texts it was seen in and the last one of them.
struct Tally {
    tokens: Interner,
    counts: Vec<(u32, u32)>,
}

impl Tally {
    fn add(&mut self, token: &str, hash: u64, df: u32, text: u32) -> Result<()> {
        let id = self.tokens.insert(token, hash)? as usize;
        if id == self.counts.len() {
            self.counts.push((0, u32::MAX));
        }
        let (count, last) = &mut self.counts[id];
        if *last != text || text == u32::MAX {
            *count += df;
            *last = text;
        }
        Ok(())
    }
}

impl Vocabulary {
    /// Counts the tokens of texts and keeps those that `cut` lets pass.
    ///
    /// Deterministic for any number of threads. `keep_going` is called before each block of texts.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a bad `cut`, and for 2^32 - 1 texts or more; [`Error::Interrupted`];
    /// [`Error::OutOfMemory`].
    pub fn build<S: AsRef<str> + Sync>(
        tokenizer: &Tokenizer,
        texts: Documents<'_, S>,
        cut: &Cut,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self> {
        cut.check()?;
        if texts.len() >= u32::MAX as usize {
            let (name, rule) = ("texts", "must be fewer than 2^32 - 1");
            return Err(Error::Parameter { name, rule, value: texts.len().to_string() });
        }
        let shards = merged(count(tokenizer, texts, keep_going)?)?;

        let most = cut.max_df * texts.len() as f64;
        let passes = |df: u32| df as usize >= cut.min_df && f64::from(df) <= most;
        let mut kept: Vec<(u32, u32, u32)> = Vec::new();
        for (shard, tally) in shards.iter().enumerate() {
            for (id, &(df, _)) in tally.counts.iter().enumerate().filter(|(_, c)| passes(c.0)) {
                reserve(&mut kept, 1)?;
                kept.push((df, shard as u32, id as u32));
            }
        }
        let text = |&(_, shard, id): &(u32, u32, u32)| shards[shard as usize].tokens.text(id);
        kept.par_sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| text(a).cmp(text(b))));
        kept.truncate(cut.max_size.unwrap_or(usize::MAX).min(i32::MAX as usize));

        let mut tokens = Interner::default();
        for entry in &kept {
            let token = text(entry);
            tokens.insert(token, tokens.hash(token))?;
        }
        let df = collected(kept.iter().map(|&(df, ..)| i64::from(df)))?;
        Ok(Self { tokens, df, n_texts: texts.len() })
    }

    /// A vocabulary from the text that [`to_text`](Self::to_text) wrote and the `df` of each line;
    /// `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::Content`] with the line of a token that is empty, repeated, not UTF-8 or badly
    /// escaped, or of a `df` outside `0..=n_texts`; [`Error::Length`] if there are not as many lines
    /// as numbers; [`Error::Parameter`] for 2^31 tokens or more.
    pub fn parse(file: &str, text: &[u8], df: &[i64], n_texts: usize) -> Result<Self> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        // A table that grows hashes all of its tokens again. Each has a byte, and a line feed.
        let mut tokens = Interner::with_room(df.len().min(text.len().div_ceil(2)), text.len())?;
        let lines =
            text.split(|&byte| byte == b'\n').take(if text.is_empty() { 0 } else { usize::MAX });
        for (at, line) in lines.enumerate() {
            let fault = |fault| {
                Err(Error::Content {
                    place: Place::Line { file: file.to_owned(), line: at + 1 },
                    fault,
                })
            };
            let Some(token) = unescaped(line) else {
                return fault(Fault::BadToken { token: quote(line), column: 1 });
            };
            let id = tokens.insert(&token, tokens.hash(&token))?;
            if (id as usize) < at {
                return fault(Fault::DuplicateToken { token: quote(line) });
            }
            if df.get(at).is_some_and(|&df| usize::try_from(df).map_or(true, |df| df > n_texts)) {
                return fault(Fault::BadFrequency { df: df[at], n_texts });
            }
        }
        if tokens.len() > i32::MAX as usize {
            let (name, rule) = ("tokens", "must be fewer than 2^31");
            return Err(Error::Parameter { name, rule, value: tokens.len().to_string() });
        }
        if df.len() != tokens.len() {
            let (name, what) = ("df".to_owned(), "numbers");
            return Err(Error::Length { name, what, expected: tokens.len(), found: df.len() });
        }
        Ok(Self { tokens, df: collected(df.iter().copied())?, n_texts })
    }

    /// The tokens, one a line, each with a line feed. In a token, a line feed is written `\n` and a
    /// backslash `\\`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn to_text(&self) -> Result<String> {
        let mut text = String::new();
        for id in 0..self.len() {
            let token = self.tokens.text(id as u32);
            let bytes = 2 * token.len() + 1;
            text.try_reserve(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
            for c in token.chars() {
                match c {
                    '\n' => text.push_str("\\n"),
                    '\\' => text.push_str("\\\\"),
                    c => text.push(c),
                }
            }
            text.push('\n');
        }
        Ok(text)
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of a token, if it is known.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<i32> {
        self.tokens.get(token).map(|id| id as i32)
    }

    /// The id that each token has in another vocabulary, -1 where it is unknown there.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn ids_in(&self, other: &Self) -> Result<Vec<i32>> {
        let mut ids = filled(self.len(), -1)?;
        ids.par_iter_mut().enumerate().for_each(|(of, id)| {
            *id = self.token(of).and_then(|token| other.id(token)).unwrap_or(-1);
        });
        Ok(ids)
    }

    /// The token with an id, if there is one.
    #[must_use]
    pub fn token(&self, id: usize) -> Option<&str> {
        (id < self.len()).then(|| self.tokens.text(id as u32))
    }

    /// For each token, the number of texts that hold it.
    #[must_use]
    pub fn df(&self) -> &[i64] {
        &self.df
    }

    /// Number of texts that were counted.
    #[must_use]
    pub const fn n_texts(&self) -> usize {
        self.n_texts
    }
}

/// Counts tokens: for each task, a tally of each shard. Tasks take blocks as they come, which does
/// not show in the sums.
fn count<S: AsRef<str> + Sync>(
    tokenizer: &Tokenizer,
    texts: Documents<'_, S>,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Vec<Tally>>> {
    let hasher = DefaultHashBuilder::default();
    let n_blocks = texts.len().div_ceil(BLOCK_TEXTS);
    let next = AtomicUsize::new(0);
    let n_tasks = rayon::current_num_threads().clamp(1, n_blocks.max(1));
    let task = |_| {
        let tally = |_| Tally { tokens: Interner::with_hasher(hasher.clone()), counts: Vec::new() };
        let mut tallies: Vec<Tally> = (0..N_SHARDS).map(tally).collect();
        let mut buffer = Buffer::default();
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= n_blocks {
                return Ok(tallies);
            }
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let first = block * BLOCK_TEXTS;
            for at in first..(first + BLOCK_TEXTS).min(texts.len()) {
                tokenizer.for_each(texts, at, &mut buffer, |token| {
                    let hash = tallies[0].tokens.hash(token);
                    tallies[shard_of(hash)].add(token, hash, 1, at as u32)
                })?;
            }
        }
    };
    (0..n_tasks).into_par_iter().with_max_len(1).map(task).collect()
}

/// Bits that the hash table does not look at in tables of any size in use.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % N_SHARDS
}

/// Adds up the tallies of all tasks, shard by shard.
fn merged(tasks: Vec<Vec<Tally>>) -> Result<Vec<Tally>> {
    let mut by_shard: Vec<Vec<Tally>> = (0..N_SHARDS).map(|_| Vec::new()).collect();
    for tallies in tasks {
        for (shard, tally) in by_shard.iter_mut().zip(tallies) {
            shard.push(tally);
        }
    }
    by_shard
        .into_par_iter()
        .map(|mut tallies| {
            let largest = (0..tallies.len()).max_by_key(|&at| tallies[at].counts.len());
            let mut sum = tallies.swap_remove(largest.unwrap_or(0));
            for tally in tallies {
                for (id, &(df, _)) in tally.counts.iter().enumerate() {
                    let token = tally.tokens.text(id as u32);
                    sum.add(token, sum.tokens.hash(token), df, u32::MAX)?;
                }
            }
            Ok(sum)
        })
        .collect()
}

/// A token from its line; `None` for an empty one, a stray backslash, or bytes that are not UTF-8.
fn unescaped(line: &[u8]) -> Option<Cow<'_, str>> {
    let line = std::str::from_utf8(line).ok().filter(|line| !line.is_empty())?;
    if !line.contains('\\') {
        return Some(Cow::Borrowed(line));
    }
    let mut token = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        token.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(Cow::Owned(token))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lexical::{Grams, TokenizerOptions};

    fn build(texts: &[&str], cut: &Cut) -> Result<Vocabulary> {
        Vocabulary::build(&Tokenizer::default(), Documents::Texts(texts), cut, &|| true)
    }

    const TEXTS: [&str; 4] = ["b a a", "b c", "b é", ""];

    #[test]
    fn order_and_cuts() {
        let tokens = |cut: &Cut| build(&TEXTS, cut).unwrap().to_text().unwrap();
        let all = build(&TEXTS, &Cut::default()).unwrap();
        assert_eq!(all.to_text().unwrap(), "b\na\nc\né\n");
        assert_eq!((all.df(), all.n_texts(), all.len()), (&[3i64, 1, 1, 1][..], 4, 4));
        assert_eq!(
            (all.id("c"), all.id("C"), all.token(3), all.token(4)),
            (Some(2), None, Some("é"), None)
        );
        assert_eq!(tokens(&Cut { min_df: 2, ..Cut::default() }), "b\n");
        assert_eq!(tokens(&Cut { max_df: 0.75, ..Cut::default() }), "b\na\nc\né\n");
        assert_eq!(tokens(&Cut { max_df: 0.74, ..Cut::default() }), "a\nc\né\n");
        assert_eq!(tokens(&Cut { max_size: Some(2), ..Cut::default() }), "b\na\n");
        for cut in
            [Cut { min_df: 9, ..Cut::default() }, Cut { max_size: Some(0), ..Cut::default() }]
        {
            let empty = build(&TEXTS, &cut).unwrap();
            assert!(
                empty.is_empty() && empty.df().is_empty() && empty.to_text().unwrap().is_empty()
            );
        }
        assert!(build(&[], &Cut::default()).unwrap().is_empty());
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let texts: Vec<String> =
            (0..3 * BLOCK_TEXTS + 5).map(|i| format!("w{} w{} common", i % 77, i % 500)).collect();
        let options = TokenizerOptions { grams: Grams::Chars, sizes: (1, 4), ..Default::default() };
        let tokenizer = Tokenizer::new(options).unwrap();
        let build = || {
            let texts = Documents::Texts(&texts);
            Vocabulary::build(&tokenizer, texts, &Cut::default(), &|| true).unwrap()
        };
        let expected = build();
        for threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let same = pool.install(build);
            assert_eq!(same.to_text().unwrap(), expected.to_text().unwrap());
            assert_eq!(same.df(), expected.df());
        }
        let stopped =
            Vocabulary::build(&tokenizer, Documents::Texts(&texts), &Cut::default(), &|| false);
        assert_eq!(stopped.unwrap_err().to_string(), "interrupted");
    }

    #[test]
    fn texts_come_back() {
        let lists = [vec!["a\nb", "\\n", "x"], vec!["x", "\r", " "]];
        let texts = Documents::Words(&lists);
        let vocabulary =
            Vocabulary::build(&Tokenizer::default(), texts, &Cut::default(), &|| true).unwrap();
        let text = vocabulary.to_text().unwrap();
        assert_eq!(text, "x\n\r\n \n\\\\n\na\\nb\n");
        let again = Vocabulary::parse("t", text.as_bytes(), vocabulary.df(), 2).unwrap();
        assert_eq!(again.to_text().unwrap(), text);
        assert_eq!((again.id("a\nb"), again.df()), (vocabulary.id("a\nb"), vocabulary.df()));
        assert!(Vocabulary::parse("t", b"", &[], 0).unwrap().is_empty());
    }

    #[test]
    fn errors() {
        let message = |text: &[u8], df: &[i64]| {
            Vocabulary::parse("t.txt", text, df, 2).unwrap_err().to_string()
        };
        assert_eq!(message(b"a\n\nb\n", &[1; 3]), "t.txt:2: bad token '' (column 1)");
        assert_eq!(message(b"\n", &[1]), "df: 1 numbers, expected 0");
        assert_eq!(message(b"a\nb\na\n", &[1; 3]), "t.txt:3: duplicate token 'a'");
        assert!(message(b"a\n\xff\n", &[1; 2]).starts_with("t.txt:2: bad token"));
        assert!(message(b"a\\x\n", &[1]).starts_with("t.txt:1: bad token"));
        assert!(message(b"a\\", &[1]).starts_with("t.txt:1: bad token"));
        assert_eq!(message(b"a\nb", &[1]), "df: 1 numbers, expected 2");
        let df = "t.txt:2: document frequency must be in 0..=2, not";
        assert_eq!(message(b"a\nb", &[1, 3]), format!("{df} 3"));
        assert_eq!(message(b"a\nb", &[1, -1]), format!("{df} -1"));
        let cut = |cut: Cut| build(&TEXTS, &cut).unwrap_err().to_string();
        let rule = "max_df must be a share above 0, at most 1, not";
        assert_eq!(cut(Cut { max_df: f64::NAN, ..Cut::default() }), format!("{rule} NaN"));
        assert_eq!(cut(Cut { max_df: 2.0, ..Cut::default() }), format!("{rule} 2"));
        assert_eq!(cut(Cut { min_df: 0, ..Cut::default() }), "min_df must be at least 1, not 0");
    }
}
