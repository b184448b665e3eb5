//! The text of a manifest file: its documents, the objects in them, and where in the text a field is.
//! JSON is read as the YAML that it also is.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter, Options, Spanned};

/// Line and column, from 1.
pub(super) type Position = (u64, u64);

/// One step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// What is wrong somewhere in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) position: Option<Position>,
    pub(super) field: Option<String>,
    pub(super) message: String,
}

/// A part of a file between `---` lines.
pub(super) struct Document<'a> {
    text: &'a str,
    /// Lines of the file before this text.
    offset: u64,
}

/// An object, and how to get to it from the top of its document.
pub(super) struct Object {
    pub(super) path: Vec<Step>,
    pub(super) value: Value,
}

/// The documents of a file. A line that begins with `---` ends a document whatever came before it: YAML
/// allows it inside of nothing.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first_line) = (0, 0);
    let mut position = 0;
    for (number, line) in (0u64..).zip(text.split_inclusive('\n')) {
        if position > start && is_separator(line) {
            documents.extend(Document::new(text, start, position, first_line));
            (start, first_line) = (position, number);
        }
        position += line.len();
    }
    documents.extend(Document::new(text, start, position, first_line));
    documents
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl<'a> Document<'a> {
    /// None where there is nothing but comments and directives.
    fn new(text: &'a str, start: usize, end: usize, offset: u64) -> Option<Self> {
        let text = text.get(start..end)?;
        let is_empty = text.lines().all(|line| {
            let line = line.strip_prefix("---").unwrap_or(line).trim_start_matches('\u{feff}').trim();
            line.is_empty() || line.starts_with(['#', '%']) || line == "..."
        });
        (!is_empty).then_some(Self { text, offset })
    }

    /// The objects of this document: itself, or the items of a `List`.
    pub(super) fn objects(&self) -> Result<Vec<Object>, Wrong> {
        let value: Value = serde_saphyr::from_str_with_options(self.text, options()).map_err(|error| {
            let position = error.location().map(|at| (self.offset + at.line(), at.column()));
            Wrong { position, field: None, message: format!("this is not YAML: {}", message(&error)) }
        })?;
        if value.is_null() {
            return Ok(Vec::new());
        }
        if !is_list(&value) {
            return Ok(vec![Object { path: Vec::new(), value }]);
        }
        let Value::Object(mut list) = value else { return Ok(Vec::new()) };
        match list.remove("items") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items
                .into_iter()
                .enumerate()
                .map(|(index, value)| Object {
                    path: vec![Step::Key("items".to_owned()), Step::Index(index)],
                    value,
                })
                .collect()),
            Some(_) => Err(self.wrong(&[Step::Key("items".to_owned())], "must be a list of objects")),
        }
    }

    /// An error at a field; where the field itself is not there, at what it would be in.
    pub(super) fn wrong(&self, path: &[Step], message: impl Into<String>) -> Wrong {
        Wrong { position: self.locate(path), field: field(path), message: message.into() }
    }

    /// The line of the file that this document begins on.
    pub(super) fn first_line(&self) -> u64 {
        self.offset + 1
    }

    fn locate(&self, path: &[Step]) -> Option<Position> {
        (0..=path.len()).rev().find_map(|length| {
            let found = Cell::new(None);
            let seek = Seek { path: path.get(..length)?, found: &found };
            // What stops the search after the field was found is of no interest.
            let _ = serde_saphyr::with_deserializer_from_str_with_options(self.text, options(), |text| {
                seek.deserialize(text)
            });
            found.get().map(|(line, column)| (self.offset + line, column))
        })
    }
}

/// The API server reads manifests with YAML 1.1's octal numbers, as in `defaultMode: 0644`.
fn options() -> Options {
    serde_saphyr::options! { with_snippet: false, legacy_octal_numbers: true }
}

fn message(error: &serde_saphyr::Error) -> String {
    DefaultMessageFormatter.format_message(error.without_snippet()).into_owned()
}

fn is_list(value: &Value) -> bool {
    let has = |key: &str, wanted: &str| value.get(key).and_then(Value::as_str) == Some(wanted);
    has("apiVersion", "v1") && has("kind", "List")
}

/// `spec.ports[0].port`; none for the object itself.
pub(super) fn field(path: &[Step]) -> Option<String> {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Walks along a path and notes the position of what is at its end.
struct Seek<'a> {
    path: &'a [Step],
    found: &'a Cell<Option<Position>>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !self.path.is_empty() {
            return deserializer.deserialize_any(self);
        }
        let here = Spanned::<IgnoredAny>::deserialize(deserializer)?.referenced;
        if here.line() > 0 {
            self.found.set(Some((here.line(), here.column())));
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a sequence")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.path.split_first() {
                Some((Step::Key(wanted), path)) if *wanted == key => {
                    map.next_value_seed(Seek { path, found: self.found })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        for index in 0.. {
            let more = match self.path.split_first() {
                Some((Step::Index(wanted), path)) if *wanted == index => {
                    sequence.next_element_seed(Seek { path, found: self.found })?.is_some()
                }
                _ => sequence.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }
}
