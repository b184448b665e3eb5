//! Objects by path, and by their labels, so that who asks for few among many does not wait for all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use serde_json::Value;

use crate::selector::Selector;

#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<String, Value>,
    /// Paths, by the name and the value of a label.
    labelled: HashMap<(String, String), BTreeSet<String>>,
}

impl Store {
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.objects.get(path)
    }

    pub fn insert(&mut self, path: &str, object: Value) -> Option<Value> {
        let before = self.remove(path);
        for label in labels(&object) {
            self.labelled.entry(label).or_default().insert(path.to_owned());
        }
        self.objects.insert(path.to_owned(), object);
        before
    }

    pub fn remove(&mut self, path: &str) -> Option<Value> {
        let object = self.objects.remove(path)?;
        for label in labels(&object) {
            let Some(paths) = self.labelled.get_mut(&label) else { continue };
            paths.remove(path);
            if paths.is_empty() {
                self.labelled.remove(&label);
            }
        }
        Some(object)
    }

    /// All below a folder, in order.
    pub fn under<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let from = self.objects.range::<str, _>((Bound::Included(folder), Bound::Unbounded));
        let all = from.map(|(path, object)| (path.as_str(), object));
        all.take_while(move |(path, _)| path.starts_with(folder))
    }

    /// Those below a folder, in order, that come after a path and are selected.
    pub fn selected<'a>(
        &'a self,
        folder: &'a str,
        after: &'a str,
        selector: &'a Selector,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let paths: Box<dyn Iterator<Item = &'a str>> = match selector.label() {
            Some(label) => {
                let labelled = self.labelled.get(&label).into_iter();
                Box::new(labelled.flat_map(move |paths| paths.range::<str, _>(from)).map(String::as_str))
            }
            None => Box::new(self.objects.range::<str, _>(from).map(|(path, _)| path.as_str())),
        };
        paths
            .take_while(move |path| path.starts_with(folder))
            .filter_map(|path| Some((path, self.objects.get(path)?)))
            .filter(|(_, object)| selector.selects(object))
    }
}

fn labels(object: &Value) -> impl Iterator<Item = (String, String)> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
}
