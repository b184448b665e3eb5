//! A stream of YAML documents that remembers how each was written, so that what nobody changes comes
//! out byte for byte.

use anyhow::{Result, anyhow};
use serde_json::Value;

/// One document and the separator before it.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    /// Lines of the file before it.
    line: usize,
}

/// A line that begins with three dashes separates wherever it stands: YAML allows it in no text.
pub fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut begins_at, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) && offset > start {
            documents.extend(text.get(start..offset).map(|text| Document { text, line: begins_at }));
            (start, begins_at) = (offset, number);
        }
        offset += line.len();
    }
    documents.extend(text.get(start..).map(|text| Document { text, line: begins_at }));
    documents
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Reads as Kubernetes does, for which `0644` is octal and `yes` is true. `line` is where it begins.
pub fn parse(text: &str, line: usize) -> Result<Value> {
    let read = |text: &str| {
        let options = serde_saphyr::options! { with_snippet: false, legacy_octal_numbers: true };
        serde_saphyr::from_str_with_options::<Option<Value>>(text, options)
    };
    match read(text) {
        Ok(value) => Ok(value.unwrap_or_default()),
        // Once more, as far down as it stands, for a message that counts lines from the file's first.
        Err(error) => match read(&format!("{}{text}", "\n".repeat(line))) {
            Ok(value) => Ok(value.unwrap_or_default()),
            Err(placed) if line > 0 => Err(anyhow!("{placed}")),
            Err(_) => Err(anyhow!("{error}")),
        },
    }
}

impl Document<'_> {
    pub fn value(&self) -> Result<Value> {
        parse(self.text, self.line)
    }

    pub fn write(&self, out: &mut String) {
        end_line(out);
        out.push_str(self.text);
    }

    /// The separator stays.
    pub fn write_changed(&self, value: &Value, out: &mut String) -> Result<()> {
        end_line(out);
        let first = self.text.split_inclusive('\n').next().unwrap_or_default();
        if is_separator(first) {
            out.push_str("---\n");
        }
        let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
        out.push_str(&serde_saphyr::to_string_with_options(value, options)?);
        end_line(out);
        Ok(())
    }
}

/// Another file may end without one.
fn end_line(out: &mut String) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}
