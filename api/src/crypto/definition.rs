//! The definitions of the nine kinds, as the API server is told them.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{Kind, VERSION};

/// The CustomResourceDefinition of a kind in a group. It is kept when the chart is uninstalled: with it all
/// objects would go, and all keys with them.
pub fn definition(kind: Kind, group: &str) -> Value {
    let settings = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(schemars::transform::AddNullable::default())
        .with_transform(kube::core::schema::StructuralSchemaRewriter)
        .with_transform(kube::core::schema::OptionalEnum)
        .with_transform(kube::core::schema::OptionalIntOrString);
    let (spec, status) = kind.schemas(&settings.into_generator());
    let (mut spec, mut status) = (plain(spec.into()), plain(status.into()));
    status["properties"]["status"]["enum"] = kind.words().iter().map(|word| word.as_str()).collect();
    let mut required = Vec::new();
    if kind.needs_spec() {
        required.push("spec");
    } else {
        // So that defaults within hold for who leaves all of it out.
        spec["default"] = json!({});
    }
    let columns: Vec<Value> = kind
        .columns()
        .into_iter()
        .map(|column| {
            let mut shown = json!({ "name": column.name, "type": column.type_, "jsonPath": column.path });
            if column.wide {
                shown["priority"] = json!(1);
            }
            shown
        })
        .collect();
    let description = spec["description"].clone();
    let mut schema = json!({
        "type": "object",
        "description": description,
        "properties": { "spec": spec, "status": status },
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{group}", kind.plural()),
            "labels": { "app.kubernetes.io/part-of": "trellis" },
            "annotations": { "helm.sh/resource-policy": "keep" },
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": kind.as_str(),
                "plural": kind.plural(),
                "singular": kind.singular(),
                "shortNames": kind.short_names(),
                "categories": ["quantum"],
            },
            "conversion": { "strategy": "None" },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": columns,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}

/// Without what is no part of a structural schema: titles, and formats of numbers that Kubernetes does not
/// know. That a field may be null says nothing here: to leave it out is the same.
fn plain(mut schema: Value) -> Value {
    strip(&mut schema);
    schema
}

fn strip(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for field in ["title", "nullable", "$schema"] {
        fields.remove(field);
    }
    if fields.get("format").is_some_and(|format| format != "date-time") {
        fields.remove("format");
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(strip);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(field) {
            strip(inner);
        }
    }
}
