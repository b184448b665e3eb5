//! Which objects a list or a watch is about.

use serde_json::Value;

/// Terms that all have to hold.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
}

impl Selector {
    /// From the query of a request.
    pub fn of(query: &str) -> Self {
        let value = |name: &str| terms(&parameter(query, name).unwrap_or_default());
        Self { labels: value("labelSelector"), fields: value("fieldSelector") }
    }

    /// A label that every object has which is selected.
    pub fn label(&self) -> Option<(String, String)> {
        self.labels.iter().find_map(|term| match term {
            Term::Is(name, value) => Some((name.clone(), value.clone())),
            Term::IsNot(..) | Term::Has(_) => None,
        })
    }

    pub fn selects(&self, object: &Value) -> bool {
        let label = |name: &str| object["metadata"]["labels"][name].as_str().map(str::to_owned);
        let field = |path: &str| {
            let found = path.split('.').fold(object, |object, name| &object[name]);
            Some(found.as_str().map(str::to_owned).unwrap_or_default())
        };
        self.labels.iter().all(|term| term.holds(label)) && self.fields.iter().all(|term| term.holds(field))
    }
}

impl Term {
    fn holds(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Is(name, wanted) => value(name).as_ref() == Some(wanted),
            Self::IsNot(name, wanted) => value(name).as_ref() != Some(wanted),
            Self::Has(name) => value(name).is_some(),
        }
    }
}

fn terms(text: &str) -> Vec<Term> {
    text.split(',')
        .filter(|term| !term.is_empty())
        .map(|term| match (term.split_once("!="), term.split_once('=')) {
            (Some((name, value)), _) => Term::IsNot(name.to_owned(), value.to_owned()),
            (None, Some((name, value))) => {
                Term::Is(name.trim_end_matches('=').to_owned(), value.trim_start_matches('=').to_owned())
            }
            (None, None) => Term::Has(term.to_owned()),
        })
        .collect()
}

/// A parameter of a query.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(decode)
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                decoded.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            b'+' => decoded.push(b' '),
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_and_fields_select() {
        let object = json!({ "metadata": { "name": "a", "labels": { "app": "x", "trellis.dev/kind": "" } } });
        for (query, selected) in [
            ("", true),
            ("labelSelector=app%3Dx", true),
            ("labelSelector=app%3Dx%2Ctrellis.dev%2Fkind", true),
            ("labelSelector=app%3D%3Dx&watch=true", true),
            ("labelSelector=app%21%3Dx", false),
            ("labelSelector=other", false),
            ("fieldSelector=metadata.name%3Da", true),
            ("fieldSelector=metadata.name%3Db", false),
        ] {
            assert_eq!(Selector::of(query).selects(&object), selected, "{query}");
        }
    }
}
