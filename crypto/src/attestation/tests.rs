use serde_json::json;

use super::*;
use crate::algorithm::{SignatureAlgorithm, SlhDsa};
use crate::signature::PrivateKey;

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn image(digest: &str) -> ImageReference {
    format!("registry.example:5000/team/app:v1@sha256:{digest}").parse().unwrap()
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(SignatureAlgorithm::MlDsa65, &[1; 32]).unwrap()
}

#[test]
fn what_is_signed_is_dsse_of_an_in_toto_statement() {
    let statement = Statement::of_image(&image(DIGEST));
    let payload = format!(
        "{{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicate\":{{}},\
         \"predicateType\":\"https://sigstore.dev/cosign/sign/v1\",\"subject\":[{{\"digest\":{{\"sha256\":\
         \"{DIGEST}\"}},\"name\":\"registry.example:5000/team/app\"}}]}}"
    );
    assert_eq!(String::from_utf8(statement.encode()).unwrap(), payload);
    let message = format!("DSSEv1 28 application/vnd.in-toto+json {} {payload}", payload.len());
    assert_eq!(String::from_utf8(statement.message()).unwrap(), message);
    // The example of the DSSE specification.
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
}

#[test]
fn an_image_counts_by_its_digest_and_a_changed_one_is_refused() {
    for algorithm in [SignatureAlgorithm::MlDsa65, SignatureAlgorithm::SlhDsa(SlhDsa::Sha2_128f)] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let document = Envelope::sign(&Statement::of_image(&image(DIGEST)), &key).unwrap().encode();
        let envelope = Envelope::decode(document.as_bytes()).unwrap();
        let statement = envelope.verify(key.public_key()).unwrap();
        assert_eq!(statement.covers(&Statement::of_image(&image(DIGEST))), Ok(()));
        // A copy of it in another place is the same image.
        let mirrored = format!("mirror.example/app@sha256:{DIGEST}").parse().unwrap();
        assert_eq!(statement.covers(&Statement::of_image(&mirrored)), Ok(()));
        let other = image(&DIGEST.replace("9f86", "9f87"));
        let error = statement.covers(&Statement::of_image(&other)).unwrap_err().to_string();
        assert!(error.contains(DIGEST) && error.contains("9f87"), "{error}");
    }
}

#[test]
fn whatever_is_changed_in_a_document_is_found() {
    let key = key();
    let good = Envelope::sign(&Statement::of_image(&image(DIGEST)), &key).unwrap();
    let refused = |envelope: &Envelope| {
        matches!(envelope.verify(key.public_key()), Err(AttestationError::Signature(_)))
    };
    for at in 0..good.payload.len() {
        let mut changed = good.clone();
        changed.payload[at] ^= 1;
        assert!(refused(&changed), "byte {at} of the payload");
    }
    let mut changed = good.clone();
    changed.signatures[0].1[7] ^= 1;
    assert!(refused(&changed));
    changed.signatures.clear();
    assert!(refused(&changed));
    let other = PrivateKey::generate(SignatureAlgorithm::MlDsa65).unwrap();
    assert!(good.verify(other.public_key()).unwrap_err().to_string().contains("none of the signatures"));
    // A second signature does no harm, nor does a wrong name of the key.
    let mut more = good.clone();
    more.signatures.insert(0, ("x".to_owned(), vec![1, 2, 3]));
    assert!(more.verify(key.public_key()).is_ok());
    let mut typed = good.clone();
    typed.payload_type = "text/plain".to_owned();
    assert_eq!(typed.verify(key.public_key()), Err(AttestationError::PayloadType("text/plain".to_owned())));
}

#[test]
fn one_kind_of_signature_does_not_pass_for_another() {
    let file = Statement::of_file("app.tar", &sha512(&mut &b"content"[..]).unwrap());
    let resource =
        Statement::of_resource(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}))
            .unwrap();
    let image = Statement::of_image(&image(DIGEST));
    let error = file.covers(&image).unwrap_err().to_string();
    assert_eq!(error, "the signature is for a file, and one for an image is wanted here");
    assert!(
        resource.covers(&image).is_err() && image.covers(&resource).is_err() && image.covers(&file).is_err()
    );
    assert_eq!(
        (file.purpose(), image.purpose(), resource.purpose()),
        (Some(Purpose::File), Some(Purpose::Image), Some(Purpose::Resource))
    );
    // One that names nothing covers nothing, nor is it covered.
    let empty = Statement { subjects: vec![], ..image.clone() };
    assert!(empty.covers(&image).is_err() && image.covers(&empty).is_err() && empty.covers(&empty).is_err());
    let bare =
        Statement { subjects: vec![Subject { name: None, digests: Default::default() }], ..image.clone() };
    assert!(image.covers(&bare).is_err());
}

#[test]
fn a_signature_that_was_made_elsewhere_makes_the_same_document() {
    let key = key();
    let statement = Statement::of_image(&image(DIGEST));
    let signature = key.sign(&statement.message(), b"").unwrap();
    let envelope = Envelope::assemble(&statement, key.public_key(), signature);
    assert_eq!(envelope.verify(key.public_key()), Ok(statement));
}

#[test]
fn a_resource_counts_until_it_is_edited_and_a_secret_is_none() {
    let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "shop", "namespace": "prod"}, "spec": {"replicas": 2}});
    let statement = Statement::of_resource(&manifest).unwrap();
    assert_eq!(statement.subjects[0].name.as_deref(), Some("apps/v1/Deployment/prod/shop"));
    let mut live = manifest.clone();
    live["metadata"]["uid"] = json!("x");
    live["status"] = json!({"replicas": 2});
    assert_eq!(statement.covers(&Statement::of_resource(&live).unwrap()), Ok(()));
    live["spec"]["replicas"] = json!(3);
    assert!(statement.covers(&Statement::of_resource(&live).unwrap()).is_err());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert!(Statement::of_resource(&secret).unwrap_err().to_string().contains("by trying"));
    for (missing, path) in [("apiVersion", "apiVersion"), ("kind", "kind"), ("metadata", "metadata.name")] {
        let mut cut = manifest.clone();
        cut.as_object_mut().unwrap().remove(missing);
        assert!(Statement::of_resource(&cut).unwrap_err().to_string().contains(path));
    }
}

#[test]
fn images_are_named_by_digests_alone() {
    for (text, name) in [
        ("app@sha256:", "app"),
        ("app:v1@sha256:", "app"),
        ("localhost:5000/app@sha256:", "localhost:5000/app"),
        ("localhost:5000/a/b:tag@sha256:", "localhost:5000/a/b"),
    ] {
        let image: ImageReference = format!("{text}{DIGEST}").parse().unwrap();
        assert_eq!((image.name(), image.digest()), (name, DIGEST));
        assert_eq!(image.to_string(), format!("{name}@sha256:{DIGEST}"));
    }
    for (text, problem) in [
        ("app:v1".to_owned(), "no digest"),
        (format!("app@sha512:{DIGEST}"), "not one of SHA-256"),
        (format!("app@sha256:{}", &DIGEST[1..]), "64 lower case"),
        (format!("app@sha256:{}", DIGEST.to_uppercase()), "64 lower case"),
        (format!("@sha256:{DIGEST}"), "not one of a repository"),
        (format!("a b@sha256:{DIGEST}"), "not one of a repository"),
        (format!("a/:v1@sha256:{DIGEST}"), "not one of a repository"),
        (format!("{}@sha256:{DIGEST}", "a".repeat(256)), "not one of a repository"),
    ] {
        let error = text.parse::<ImageReference>().unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn what_is_no_document_is_said_to_be_none() {
    for (document, problem) in [
        ("", "not JSON"),
        ("{}", "payloadType"),
        ("{\"payloadType\":\"x\",\"payload\":\"?\"}", "payload is not base64"),
        ("{\"payloadType\":\"x\",\"payload\":\"\"}", "no signatures"),
        ("{\"payloadType\":\"x\",\"payload\":\"\",\"signatures\":[]}", "no signature"),
        ("{\"payloadType\":\"x\",\"payload\":\"\",\"signatures\":[{\"sig\":1}]}", "base64"),
    ] {
        let error = Envelope::decode(document.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert!(Envelope::decode(&vec![b' '; MAX_ENVELOPE + 1]).unwrap_err().to_string().contains("larger"));
    // Either alphabet of base64.
    let dashes = "{\"payloadType\":\"x\",\"payload\":\"-_8=\",\"signatures\":[{\"sig\":\"+/8=\"}]}";
    let read = Envelope::decode(dashes.as_bytes()).unwrap();
    assert_eq!(
        (read.payload.as_slice(), read.signatures[0].1.as_slice()),
        (&[0xfb, 0xff][..], &[0xfb, 0xff][..])
    );
    for (payload, problem) in [
        ("x", "not JSON"),
        ("{}", "_type"),
        ("{\"_type\":\"https://in-toto.io/Statement/v1\"}", "predicateType"),
    ] {
        assert!(Statement::decode(payload.as_bytes()).unwrap_err().to_string().contains(problem));
    }
}
