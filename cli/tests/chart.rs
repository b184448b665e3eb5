//! What the chart renders, as the services that read it understand it. The golden files are what Helm
//! made of the chart; `charts/test` holds them to that.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use serde_json::Value;
use trellis_api::injection::{Amounts, LogFormat, Resources, Settings};

fn settings(golden: &str) -> Settings {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/golden").join(golden);
    let text = fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let map = documents
        .iter()
        .find(|one| one["kind"] == "ConfigMap" && one["metadata"]["name"] == "trellis-injector")
        .unwrap();
    let settings: Settings = serde_json::from_str(map["data"]["settings.json"].as_str().unwrap()).unwrap();
    settings.validate().unwrap();
    settings
}

#[test]
fn the_charts_defaults_are_the_injectors() {
    let expected = Settings { log_format: LogFormat::Json, ..Settings::default() };
    assert_eq!(settings("default.yaml"), expected);
}

#[test]
fn every_setting_can_be_made_by_a_value() {
    let (full, default) = (settings("full.yaml"), settings("default.yaml"));
    let object = |settings: &Settings| serde_json::to_value(settings).unwrap().as_object().unwrap().clone();
    let default = object(&default);
    for (field, value) in object(&full) {
        // The version is the chart's; the namespace and addresses are the release's.
        if !["version", "namespace", "caAddress", "discoveryAddress", "logFormat"].contains(&field.as_str()) {
            assert_ne!(Some(&value), default.get(&field), "{field} is the same with all values changed");
        }
    }
    assert_eq!(full.log_format, LogFormat::Text);
    // A number in the values is a quantity here.
    let amounts = |cpu: &str, memory: &str| Amounts { cpu: cpu.parse().ok(), memory: memory.parse().ok() };
    assert_eq!(full.proxy, Resources { requests: amounts("1", "64Mi"), limits: amounts("1500m", "512Mi") });
}
