use super::*;

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn image() -> String {
    format!("registry.example/shop/cart@sha256:{DIGEST}")
}

#[test]
fn an_image_is_valid_by_its_digest_and_a_tampered_one_is_refused() {
    let desk = Desk::with_keys(&["ML-DSA-65", "ML-DSA-44"]);
    let image = image();
    desk.run(&format!("sign {image} --key ML-DSA-65 --out signature"));
    let said = desk.run(&format!("verify {image} --key ML-DSA-65.pub --signature signature"));
    assert!(said.starts_with("valid: registry.example/shop/cart is as "), "{said}");
    let tampered = image.replace("9f86", "9f87");
    let error = desk.refused(&format!("verify {tampered} --key ML-DSA-65.pub --signature signature"));
    assert!(error.contains(DIGEST) && error.contains("9f87"), "{error}");
    let error = desk.refused(&format!("verify {image} --key ML-DSA-44.pub --signature signature"));
    assert!(error.contains("none of the signatures"), "{error}");
    let document = desk.text("signature");
    let changed = document.replacen("\"payload\":\"ey", "\"payload\":\"fy", 1);
    assert_ne!(changed, document);
    desk.put("changed", changed);
    desk.refused(&format!("verify {image} --key ML-DSA-65.pub --signature changed"));
    let error = desk.refused("sign registry.example/shop/cart:v1 --key ML-DSA-65");
    assert!(error.contains("no digest"), "{error}");
    // A signature for a file is none for an image.
    desk.put("file", b"x");
    desk.run("crypto sign file --key ML-DSA-65");
    let error = desk.refused(&format!("verify {image} --key ML-DSA-65.pub --signature file.sig"));
    assert!(error.contains("for a file, and one for an image"), "{error}");
}

#[test]
fn what_is_signed_elsewhere_over_the_message_counts_as_well() {
    let desk = Desk::with_keys(&["ML-DSA-65"]);
    let image = image();
    // As a QuantumSignMessage does it: bytes in, bytes out.
    desk.run(&format!("sign {image} --message --out message"));
    assert!(desk.text("message").starts_with("DSSEv1 28 application/vnd.in-toto+json "));
    desk.run("crypto sign message --key ML-DSA-65 --raw --out signature");
    desk.run(&format!("verify {image} --key ML-DSA-65.pub --signature signature"));
    let tampered = image.replace("9f86", "9f87");
    let error = desk.refused(&format!("verify {tampered} --key ML-DSA-65.pub --signature signature"));
    assert!(error.contains("was not made by this key over this message"), "{error}");
}

const MANIFEST: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: cart
  namespace: shop
spec:
  replicas: 2
";

#[test]
fn a_resource_carries_its_signature_until_it_is_edited() {
    let desk = Desk::with_keys(&["ML-DSA-44"]);
    desk.put("cart.yaml", MANIFEST);
    desk.run("sign --file cart.yaml --key ML-DSA-44 --annotate --out signed.json");
    let signed: serde_json::Value = serde_json::from_str(&desk.text("signed.json")).unwrap();
    assert_eq!(signed["spec"]["replicas"], 2);
    let said = desk.run("verify --file signed.json --key ML-DSA-44.pub");
    assert!(said.starts_with("valid: apps/v1/Deployment/shop/cart is as "), "{said}");
    desk.put("edited.json", desk.text("signed.json").replace("\"replicas\": 2", "\"replicas\": 3"));
    let error = desk.refused("verify --file edited.json --key ML-DSA-44.pub");
    assert!(error.contains("crypto.trellis.dev/attestation"), "{error}");
    // Beside it, the signature is as good.
    desk.run("sign --file cart.yaml --key ML-DSA-44 --out signature");
    desk.run("verify --file cart.yaml --key ML-DSA-44.pub --signature signature");
    let error = desk.refused("verify --file cart.yaml --key ML-DSA-44.pub");
    assert!(error.contains("has no annotation"), "{error}");
    desk.put("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n");
    let error = desk.refused("sign --file secret.yaml --key ML-DSA-44");
    assert!(error.contains("by trying"), "{error}");
}
