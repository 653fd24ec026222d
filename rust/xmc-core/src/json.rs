//! Columns of JSON lines: an object a line, of which some keys are kept.

use std::collections::HashMap;
use std::fmt;

use serde_core::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::error::{Error, Result};
use crate::text::ParseOptions;

/// Lines between two looks at [`ParseOptions::keep_going`].
const BLOCK: usize = 4096;

/// Columns of JSON lines, each with a cell for every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonColumns {
    /// Line of each row, counted from 1; lines of white space are no rows.
    pub lines: Vec<i64>,
    /// In the order in which they were asked for.
    pub columns: Vec<JsonColumn>,
}

/// The cells of a column: all strings, or all lists of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonColumn {
    /// Strings.
    Strings(Strings),
    /// Lists of strings.
    Lists(StringLists),
}

/// Strings behind one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// The strings in their order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.text[start..end];
            start = end;
            string
        })
    }
}

/// Lists of strings, each different string once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringLists {
    /// List `i` has the codes from `offsets[i]` to `offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// Positions in `strings`.
    pub codes: Vec<i32>,
    /// In the order in which lists have them first.
    pub strings: Strings,
}

/// Reads the columns `names` of JSON lines if they are regular; None if not.
///
/// Regular is what needs no second look: UTF-8 without a byte order mark, an object on each line
/// that is not empty, with each of `names` once, a column of strings alone or of lists of strings
/// alone, no half of a surrogate pair alone. Other keys are only checked to hold JSON. A reader
/// that is slower and more patient then says what is wrong, or that nothing is.
///
/// # Errors
/// [`Error::Interrupted`] if [`ParseOptions::keep_going`] said so.
pub fn json_columns(
    content: &[u8],
    names: &[&str],
    options: ParseOptions<'_>,
) -> Result<Option<JsonColumns>> {
    let Ok(text) = std::str::from_utf8(content) else { return Ok(None) };
    let mut cells = vec![Cells::Unknown; names.len()];
    let mut lines = Vec::new();
    for (at, line) in text.split('\n').enumerate() {
        if at % BLOCK == 0 && !(options.keep_going)() {
            return Err(Error::Interrupted);
        }
        if line.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            continue;
        }
        let mut json = serde_json::Deserializer::from_str(line);
        let row = Row { names, cells: &mut cells, n_rows: lines.len() };
        if row.deserialize(&mut json).and_then(|()| json.end()).is_err() {
            return Ok(None);
        }
        lines.push(at as i64 + 1);
    }
    let columns = cells.into_iter().map(Cells::finished).collect::<Option<Vec<_>>>();
    Ok(columns.map(|columns| JsonColumns { lines, columns }))
}

/// A column while it grows.
#[derive(Clone)]
enum Cells {
    /// No row so far.
    Unknown,
    Strings(Strings),
    Lists(Lists),
}

#[derive(Clone)]
struct Lists {
    offsets: Vec<i64>,
    codes: Vec<i32>,
    code_of: HashMap<String, i32>,
    strings: Strings,
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Strings(strings) => strings.ends.len(),
            Self::Lists(lists) => lists.offsets.len() - 1,
        }
    }

    fn finished(self) -> Option<JsonColumn> {
        match self {
            Self::Unknown => None,
            Self::Strings(strings) => Some(JsonColumn::Strings(strings)),
            Self::Lists(Lists { offsets, codes, strings, .. }) => {
                Some(JsonColumn::Lists(StringLists { offsets, codes, strings }))
            }
        }
    }
}

/// Takes one object.
struct Row<'a> {
    names: &'a [&'a str],
    cells: &'a mut [Cells],
    n_rows: usize,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = object.next_key_seed(Key { names: self.names })? {
            let Some(column) = key else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let cells = &mut self.cells[column];
            if cells.len() > self.n_rows {
                return Err(A::Error::custom("a key twice"));
            }
            object.next_value_seed(Cell { cells })?;
        }
        if self.cells.iter().any(|cells| cells.len() != self.n_rows + 1) {
            return Err(A::Error::custom("a key is missing"));
        }
        Ok(())
    }
}

/// Takes a key: the number of its column, if that is wanted.
struct Key<'a> {
    names: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        json: D,
    ) -> std::result::Result<Option<usize>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> std::result::Result<Option<usize>, E> {
        Ok(self.names.iter().position(|&name| name == key))
    }
}

/// Takes a cell of a column: a string or a list, whichever the cells above are.
struct Cell<'a> {
    cells: &'a mut Cells,
}

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings, as above")
    }

    fn visit_str<E: serde_core::de::Error>(self, string: &str) -> std::result::Result<(), E> {
        if let Cells::Unknown = self.cells {
            *self.cells = Cells::Strings(Strings::default());
        }
        let Cells::Strings(strings) = self.cells else { return Err(E::custom("not a list")) };
        strings.push(string);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        if let Cells::Unknown = self.cells {
            *self.cells = Cells::Lists(Lists {
                offsets: vec![0],
                codes: Vec::new(),
                code_of: HashMap::new(),
                strings: Strings::default(),
            });
        }
        let Cells::Lists(lists) = self.cells else { return Err(A::Error::custom("not a string")) };
        while list.next_element_seed(Item { lists })?.is_some() {}
        lists.offsets.push(lists.codes.len() as i64);
        Ok(())
    }
}

/// Takes an element of a list.
struct Item<'a> {
    lists: &'a mut Lists,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde_core::de::Error>(self, string: &str) -> std::result::Result<(), E> {
        let Lists { codes, code_of, strings, .. } = self.lists;
        let code = if let Some(&code) = code_of.get(string) {
            code
        } else {
            let code = i32::try_from(code_of.len()).map_err(E::custom)?;
            code_of.insert(string.to_owned(), code);
            strings.push(string);
            code
        };
        codes.push(code);
        Ok(())
    }
}
