//! Outside implementations follow the chain from the outside root by the issuing certificate to a leaf:
//! OpenSSL and pyca/cryptography, and Go where it knows the algorithm.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use trellis_pki::policy::{Ladder, Policy};

use super::{
    needed,
    openbao::{Bao, issuing},
    settled_on,
    support::{Asker, Ca, World},
    tokens::{Kind, SoftToken},
    until, wish,
};

/// Every signature of the chain, by pyca/cryptography.
const PYCA: &str = "
import sys
from cryptography import x509
leaf, issuing, root = (x509.load_pem_x509_certificate(open(path, 'rb').read()) for path in sys.argv[1:])
leaf.verify_directly_issued_by(issuing)
issuing.verify_directly_issued_by(root)
root.verify_directly_issued_by(root)
print(issuing.signature_algorithm_oid.dotted_string, leaf.signature_algorithm_oid.dotted_string)
";

/// Splits what the CA shows into the files that judges read.
fn write(world: &World, chain: &str, leaf: &[u8]) {
    let end = "-----END CERTIFICATE-----\n";
    let at = chain.find(end).unwrap() + end.len();
    let (issuing, root) = chain.split_at(at);
    let leaf = trellis_pki::upstream::chain_pem([leaf]);
    for (name, text) in [("leaf.pem", leaf.as_str()), ("issuing.pem", issuing), ("outside.pem", root)] {
        fs::write(world.path(name), text).unwrap();
    }
}

fn judge(program: &str, args: &[&str], folder: &Path) -> String {
    let said = Command::new(program).args(args).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{program}: {text}");
    text
}

fn openssl(folder: &Path) {
    let program = needed("TRELLIS_TEST_OPENSSL");
    let args = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        "outside.pem",
        "-untrusted",
        "issuing.pem",
        "leaf.pem",
    ];
    assert!(judge(&program, &args, folder).contains("leaf.pem: OK"));
    // The judge can say no: without the issuing certificate there is no way to the root.
    let args = ["verify", "-CAfile", "outside.pem", "leaf.pem"];
    let alone = Command::new(&program).args(args).current_dir(folder).output().unwrap();
    assert!(!alone.status.success());
}

#[tokio::test]
async fn openssl_and_pyca_verify_an_ml_dsa_chain_whose_key_is_in_a_token() {
    let world = World::new();
    let (bao, token) = (Bao::start(&world).await, SoftToken::new(&world, Kind::Kryoptic));
    bao.root(&["key_type=mldsa", "key_bits=87"]);
    let mut args = bao.args_with_token(&world);
    args.extend(token.args("token"));
    let ca = Ca::with_env(&args, &[token.env()]).await;
    world.trust_domain(wish(issuing("ml-dsa-65", 2), json!({})));
    let status = until(&ca, "settled", settled_on(2)).await;
    assert!(status["anchors"][0]["key"].as_str().unwrap().starts_with("pkcs11:token=mesh;id="));
    let leaf = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap().leaf;
    write(&world, status["anchors"][0]["chain"].as_str().unwrap(), &leaf);
    let folder = world.path("");
    openssl(&folder);
    let python = needed("TRELLIS_TEST_PYTHON");
    let said = judge(&python, &["-c", PYCA, "leaf.pem", "issuing.pem", "outside.pem"], &folder);
    assert_eq!(said.trim(), "2.16.840.1.101.3.4.3.19 2.16.840.1.101.3.4.3.18");
}

#[tokio::test]
async fn go_verifies_an_ecdsa_chain_too() {
    let world = World::new();
    let bao = Bao::start(&world).await;
    bao.root(&["key_type=ec", "key_bits=256"]);
    let mut args = bao.args_with_token(&world);
    let flags =
        ["--root-algorithm=ecdsa-p256", "--signatures=prefer", "--leaf-algorithms=ml-dsa-65,ecdsa-p256"];
    args.extend(flags.map(str::to_owned));
    let ca = Ca::with(&args).await;
    world.trust_domain(wish(issuing("ecdsa-p256", 2), json!({})));
    let status = until(&ca, "settled", settled_on(2)).await;
    // Go cannot read a key of ML-DSA, so the workload asks with another one.
    let key = trellis_pki::key::PrivateKey::generate(trellis_pki::algorithm::Algorithm::EcdsaP256).unwrap();
    let csr = trellis_pki::csr::make(&key).unwrap();
    let policy = Policy { signatures: Ladder::Prefer, ..Policy::default() };
    let asker = Asker::with(&world, &ca, policy);
    let bearer = format!("Bearer {}", world.token());
    let leaf = asker.ask(&[&bearer], super::support::request(csr)).await.unwrap().leaf;
    write(&world, status["anchors"][0]["chain"].as_str().unwrap(), &leaf);
    let folder = world.path("");
    openssl(&folder);
    let python = needed("TRELLIS_TEST_PYTHON");
    judge(&python, &["-c", PYCA, "leaf.pem", "issuing.pem", "outside.pem"], &folder);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/judge.go");
    let said = judge("go", &["run", program, "leaf.pem", "issuing.pem", "outside.pem"], &folder);
    assert_eq!(said.trim(), "verified: 3 certificates");
}
