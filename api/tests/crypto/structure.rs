//! As much of structural schemas as the definitions use: types, enumerations, bounds, patterns, unknown
//! fields.

use regex_lite::Regex;
use serde_json::Value;

pub fn check(schema: &Value, object: &Value) -> Vec<String> {
    let mut said = Vec::new();
    for field in ["apiVersion", "kind", "metadata"] {
        assert!(schema["properties"][field].is_null(), "the API server has its own {field}");
    }
    let mut object = object.clone();
    object.as_object_mut().unwrap().retain(|field, _| field == "spec" || field == "status");
    walk(schema, &object, "", &mut said);
    said
}

fn walk(schema: &Value, value: &Value, path: &str, said: &mut Vec<String>) {
    let mut object = |problem: String| said.push(format!("{path}: {problem}"));
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        other => panic!("{path}: type {other:?}"),
    };
    if !right {
        return object(format!("{value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        object(format!("{value} is unsupported"));
    }
    if let Some(text) = value.as_str() {
        let length = u64::try_from(text.chars().count()).unwrap();
        if schema["minLength"].as_u64().is_some_and(|least| length < least)
            || schema["maxLength"].as_u64().is_some_and(|most| length > most)
        {
            object(format!("has {length} characters"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && !Regex::new(pattern).unwrap().is_match(text)
        {
            object(format!("{text:?} does not match {pattern}"));
        }
    }
    if let Some(number) = value.as_f64()
        && (schema["minimum"].as_f64().is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most))
    {
        object(format!("{number} is out of bounds"));
    }
    if let Some(items) = value.as_array() {
        let length = u64::try_from(items.len()).unwrap();
        if schema["maxItems"].as_u64().is_some_and(|most| length > most) {
            object(format!("has {length} items"));
        }
        for (at, item) in items.iter().enumerate() {
            walk(&schema["items"], item, &format!("{path}[{at}]"), said);
        }
    }
    if let Some(fields) = value.as_object() {
        for required in schema["required"].as_array().into_iter().flatten() {
            if !fields.contains_key(required.as_str().unwrap()) {
                said.push(format!("{path}.{}: is required", required.as_str().unwrap()));
            }
        }
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match &schema["properties"][name] {
                Value::Null => said.push(format!("{path}: is unknown")),
                schema => walk(schema, value, &path, said),
            }
        }
    }
}

/// That every part of it says its type, and bounds what rules or users could make long.
pub fn check_schema(schema: &Value, path: &str) {
    let spec = path.contains(".spec");
    for keyword in schema.as_object().unwrap().keys() {
        let known = [
            "type",
            "description",
            "default",
            "enum",
            "properties",
            "required",
            "items",
            "pattern",
            "format",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "x-kubernetes-validations",
        ];
        assert!(known.contains(&keyword.as_str()), "{path}: {keyword}");
    }
    match schema["type"].as_str() {
        Some("object") => {
            for (name, schema) in schema["properties"].as_object().unwrap() {
                check_schema(schema, &format!("{path}.{name}"));
            }
        }
        Some("array") => {
            assert!(!spec || schema["maxItems"].is_u64(), "{path} has no bound");
            check_schema(&schema["items"], &format!("{path}[]"));
        }
        Some("string") => {
            let bounded =
                ["maxLength", "enum", "pattern", "format"].iter().any(|bound| !schema[*bound].is_null());
            assert!(!spec || bounded, "{path} has no bound");
        }
        Some("integer") => assert!(!spec || schema["maximum"].is_number(), "{path} has no bound"),
        Some("boolean") => {}
        other => panic!("{path}: type {other:?}"),
    }
}

pub fn rules(schema: &Value) -> Vec<String> {
    let own = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let own = own.map(|rule| rule["rule"].as_str().unwrap().to_owned());
    let below = schema["properties"].as_object().into_iter().flatten().flat_map(|(_, schema)| rules(schema));
    own.chain(below).collect()
}
