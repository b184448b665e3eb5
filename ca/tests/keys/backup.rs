//! A trust domain whose issuing key is in a token, lost and brought back: by `trellis trust`, as an operator
//! does. The backup names the key; whoever restores it brings the token.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use trellis_pki::{algorithm::Algorithm, leaf::Leaf};

use super::{
    support::{Asker, Ca, World, run_to_its_end, run_with},
    token::{args, kept},
    tokens::{Kind, SoftToken},
};

/// The command line, which is built into the same folder as the CA.
fn trellis(words: &[&OsStr]) -> (Output, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_trellis-ca")).with_file_name("trellis");
    assert!(program.is_file(), "{} is not there; run ci/test keys", program.display());
    let output = Command::new(program).arg("trust").args(words).env_clear().output().unwrap();
    let said =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    (output, said)
}

fn succeeds(words: &[&OsStr]) -> String {
    let (output, said) = trellis(words);
    assert!(output.status.success(), "{said}");
    said
}

/// What lies in the folder of a CA.
fn stored(world: &World) -> Value {
    serde_json::from_str(&fs::read_to_string(world.path("root/trust-domain.json")).unwrap()).unwrap()
}

/// The part of it that names anchors.
fn anchors(world: &World) -> Value {
    let state: Value = serde_json::from_str(stored(world)["trust.json"].as_str().unwrap()).unwrap();
    state["anchors"].clone()
}

#[tokio::test]
async fn a_domain_whose_key_is_in_a_token_comes_back_with_the_token_and_not_without_it() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::Kryoptic);
    let args = args(&world, &token, "token", &[]);
    let ca = Ca::with_env(&args, &[token.env()]).await;
    let issued = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap();
    let (audit_key, serial) = (ca.audit_key().await, Leaf::parse(&issued.leaf).unwrap().serial);
    let (bundle, keys) = (world.bundle(), token.keys());
    let anchor = bundle.anchors()[0].fingerprint().to_string();
    assert_eq!((kept(&world), keys.len()), (0, 1));

    let at = |name: &str| -> PathBuf { world.path(name) };
    let (key, public, backup, root) = (at("backup.key"), at("backup.key.pub"), at("backup"), at("root"));
    succeeds(&["backup-key".as_ref(), "--out".as_ref(), key.as_ref()]);
    let said = succeeds(&[
        "backup".as_ref(),
        "--to".as_ref(),
        public.as_ref(),
        "--out".as_ref(),
        backup.as_ref(),
        "--root-folder".as_ref(),
        root.as_ref(),
    ]);
    let where_it_is = format!("its key is not in the backup, but in the token \"mesh\" (id {})", keys[0].id);
    assert!(said.contains(&anchor) && said.contains(&where_it_is), "{said}");
    let before = anchors(&world);
    assert!(ca.stop().await.success());
    fs::remove_dir_all(&root).unwrap();

    let restore = |pins: &[&str]| {
        let mut words: Vec<&OsStr> =
            vec!["restore".as_ref(), backup.as_ref(), "--key".as_ref(), key.as_ref()];
        words.extend(["--root-folder".as_ref(), root.as_os_str()]);
        words.extend(pins.iter().map(|pin| OsStr::new(*pin)));
        trellis(&words)
    };
    let (refused, said) = restore(&[]);
    assert!(!refused.status.success() && said.contains(&where_it_is) && !root.exists(), "{said}");
    let (restored, said) = restore(&["--anchor", &anchor]);
    assert!(restored.status.success() && said.contains(&where_it_is), "{said}");
    assert_eq!((kept(&world), anchors(&world)), (0, before), "the key is named, and not there");

    // No token, one of another name, and an empty one of the same name: nothing is issued, nothing is made
    // in the place of what is missing, and it is said what is.
    let reference = format!("pkcs11:token=mesh;id={}", keys[0].id);
    let (status, log) = run_to_its_end(&world.args()).await;
    assert!(!status.success());
    assert!(log.contains(&reference) && log.contains("give --token-module"), "{log}");
    let elsewhere = World::new();
    let empty = SoftToken::new(&elsewhere, Kind::Kryoptic);
    let mut without = world.args();
    without.extend(empty.args("token"));
    let (status, log) = run_with(&without, &[empty.env()]).await;
    assert!(!status.success());
    let lacking = format!("the token holds no key with the ID {}: put in the token that has it", keys[0].id);
    assert!(log.contains(&lacking), "{log}");
    assert!(empty.keys().is_empty(), "nothing was made there");

    // With it, everything is as before: the anchor, what it signs, and the trail's own key.
    let ca = Ca::with_env(&args, &[token.env()]).await;
    assert_eq!(world.bundle().fingerprint(), bundle.fingerprint());
    assert_eq!(token.keys().iter().map(|key| &key.id).collect::<Vec<_>>(), [&keys[0].id]);
    let issued = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap();
    let leaf = Leaf::parse(&issued.leaf).unwrap();
    assert_eq!(leaf.issuer_algorithm, Algorithm::MlDsa65);
    assert_ne!(leaf.serial, serial);
    assert_eq!(ca.audit_key().await, audit_key);
    assert!(ca.stop().await.success());
}
