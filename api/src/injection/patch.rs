//! The difference of two pods as a JSON Patch that touches nothing else. Pods come from API servers
//! that know fields which this code does not; a patch that put whole containers in the place of others
//! would lose them.

use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// Applied to what `before` was read from, the patch makes of it what `after` says.
pub fn patch<T: Serialize>(before: &T, after: &T) -> Result<Patch, serde_json::Error> {
    let (before, after) = (serde_json::to_value(before)?, serde_json::to_value(after)?);
    let mut operations = Vec::new();
    value(&before, &after, PointerBuf::new(), &mut operations);
    Ok(Patch(operations))
}

fn value(before: &Value, after: &Value, at: PointerBuf, out: &mut Vec<PatchOperation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(before), Value::Object(after)) => object(before, after, &at, out),
        (Value::Array(before), Value::Array(after)) => array(before, after, at, out),
        _ => out.push(replace(at, after)),
    }
}

fn object(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    at: &PointerBuf,
    out: &mut Vec<PatchOperation>,
) {
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        out.push(PatchOperation::Remove(RemoveOperation { path: below(at, name) }));
    }
    for (name, new) in after {
        match before.get(name) {
            Some(old) => value(old, new, below(at, name), out),
            None => out.push(add(below(at, name), new)),
        }
    }
}

/// Knows two ways in which a list changes: elements come in between, where those of the same name are the
/// same, or some of them change.
fn array(before: &[Value], after: &[Value], at: PointerBuf, out: &mut Vec<PatchOperation>) {
    let mut old = before.iter().peekable();
    let mut changes = Vec::new();
    for (index, new) in after.iter().enumerate() {
        let at = below(&at, &index.to_string());
        match old.next_if(|old| *old == new || is_namesake(old, new)) {
            Some(old) => value(old, new, at, &mut changes),
            None => changes.push(add(at, new)),
        }
    }
    if old.peek().is_none() {
        out.append(&mut changes);
    } else if before.len() == after.len() {
        for (index, (old, new)) in before.iter().zip(after).enumerate() {
            value(old, new, below(&at, &index.to_string()), out);
        }
    } else {
        out.push(replace(at, &Value::Array(after.to_vec())));
    }
}

fn is_namesake(one: &Value, other: &Value) -> bool {
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    name(one).is_some_and(|own| name(other) == Some(own))
}

fn below(at: &PointerBuf, name: &str) -> PointerBuf {
    let mut path = at.clone();
    path.push_back(name);
    path
}

fn add(path: PointerBuf, value: &Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path, value: value.clone() })
}

fn replace(path: PointerBuf, value: &Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation { path, value: value.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operations(before: &Value, after: &Value) -> Value {
        let patch = patch(before, after).unwrap();
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(&patched, after);
        serde_json::to_value(patch).unwrap()
    }

    #[test]
    fn elements_that_come_in_between_leave_the_others_alone() {
        assert_eq!(
            operations(
                &json!({"c": [{"n": "a"}, {"n": "b"}]}),
                &json!({"c": [0, {"n": "a"}, 1, {"n": "b"}, 2]})
            ),
            json!([
                {"op": "add", "path": "/c/0", "value": 0},
                {"op": "add", "path": "/c/2", "value": 1},
                {"op": "add", "path": "/c/4", "value": 2},
            ])
        );
    }

    #[test]
    fn what_changes_behind_what_comes_in_is_changed_in_place() {
        assert_eq!(
            operations(
                &json!({"c": [{"name": "a", "unknown": 1}, {"name": "b"}]}),
                &json!({"c": [{"name": "new"}, {"name": "a", "unknown": 1, "e": [1]}, {"name": "b", "e": []}]})
            ),
            json!([
                {"op": "add", "path": "/c/0", "value": {"name": "new"}},
                {"op": "add", "path": "/c/1/e", "value": [1]},
                {"op": "add", "path": "/c/2/e", "value": []},
            ])
        );
    }

    #[test]
    fn a_change_deep_down_is_made_there() {
        assert_eq!(
            operations(
                &json!({"c": [{"n": "a", "e": [1, 2]}, {"n": "b"}]}),
                &json!({"c": [{"n": "a", "e": [1, 3]}, {"n": "b"}]})
            ),
            json!([{"op": "replace", "path": "/c/0/e/1", "value": 3}])
        );
    }

    #[test]
    fn names_are_escaped_and_what_is_gone_is_removed() {
        assert_eq!(
            operations(&json!({"a": {"x/y": 1}}), &json!({"a": {"trellis.dev/z~": 2}})),
            json!([
                {"op": "remove", "path": "/a/x~1y"},
                {"op": "add", "path": "/a/trellis.dev~1z~0", "value": 2},
            ])
        );
    }

    #[test]
    fn any_other_change_of_a_list_replaces_it() {
        assert_eq!(
            operations(&json!([1, 2, 3]), &json!([3, 1])),
            json!([{"op": "replace", "path": "", "value": [3, 1]}])
        );
        assert_eq!(operations(&json!([1]), &json!([1])), json!([]));
    }
}
