//! Each wrong value of each field: refused by the definition, and by who reads the spec without it, with the
//! field's path.

use serde_json::{Value, json};
use trellis_api::crypto::Kind;

use crate::objections;

/// A spec of each kind that is right.
fn right(kind: Kind) -> Value {
    match kind {
        Kind::EncapsulateSecret => json!({ "publicKeyRef": { "name": "k" } }),
        Kind::DecapsulateSecret => {
            json!({ "privateKeyRef": { "name": "k" }, "ciphertextRef": { "name": "e" } })
        }
        Kind::DerivedKey => json!({ "sharedSecretRef": { "name": "e" }, "keyType": "AES-256" }),
        Kind::SignMessage => json!({ "privateKeyRef": { "name": "k" }, "messageRef": { "name": "m" } }),
        Kind::VerifySignature => json!({
            "publicKeyRef": { "name": "k" }, "messageRef": { "name": "m" }, "signatureRef": { "name": "s" },
        }),
        Kind::Certificate => json!({ "domain": "example.com" }),
        _ => json!({}),
    }
}

fn with(kind: Kind, changes: &Value) -> Value {
    let mut spec = right(kind);
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(spec.as_object_mut().unwrap().remove(field)),
            value => spec[field] = value.clone(),
        }
    }
    spec
}

/// The field that both name, and what the definition says of it.
fn refused(kind: Kind, changes: &Value, field: &str) {
    let spec = with(kind, changes);
    let said = objections(kind, &json!({ "spec": spec }));
    let named = said.iter().any(|said| said.trim_start_matches('.').contains(field));
    assert!(named, "{kind:?} {changes} of which the definition says {said:?}");
    let problems = kind.check(spec);
    let named = problems.iter().any(|problem| {
        // What is not even readable has no path but the spec's, and names the field in its words.
        problem.field == "spec" || problem.field.starts_with(field)
    });
    assert!(named, "{kind:?} {changes} of which the check says {problems:?}");
}

#[test]
fn what_is_right_is_refused_by_nobody() {
    for kind in Kind::ALL {
        let spec = right(kind);
        assert_eq!(objections(kind, &json!({ "spec": spec })), Vec::<String>::new(), "{kind:?}");
        assert_eq!(kind.check(spec), [], "{kind:?}");
    }
}

#[test]
fn sizes_of_random_numbers() {
    let kind = Kind::RandomNumber;
    for bytes in [json!(0), json!(-1), json!(65_537), json!(i64::MIN), json!("32"), json!(true)] {
        refused(kind, &json!({ "bytes": bytes }), "spec.bytes");
        refused(kind, &json!({ "numBytes": bytes }), "spec.numBytes");
    }
    refused(kind, &json!({ "bytes": 16, "numBytes": 32 }), "spec.numBytes");
    refused(kind, &json!({ "seed": "x".repeat(47) }), "spec.seed");
    refused(kind, &json!({ "provider": "openssl" }), "spec");
    for fine in [json!({ "bytes": 65_536 }), json!({ "bytes": 16, "numBytes": 16 }), json!({ "seed": "" })] {
        assert_eq!(objections(kind, &json!({ "spec": with(kind, &fine) })), Vec::<String>::new());
        assert_eq!(kind.check(with(kind, &fine)), []);
    }
}

#[test]
fn algorithms() {
    for (kind, wrong) in [
        (Kind::KemKeyPair, "ML-DSA-65"),
        (Kind::KemKeyPair, "ml-kem-768"),
        (Kind::KemKeyPair, ""),
        (Kind::EncapsulateSecret, "Kyber90s"),
        (Kind::DecapsulateSecret, "RSA"),
        (Kind::SignatureKeyPair, "ML-KEM-768"),
        (Kind::SignatureKeyPair, "Falcon512"),
        (Kind::SignMessage, "Falcon1024"),
        (Kind::VerifySignature, "Falcon1024"),
        (Kind::Certificate, "rsa:16384"),
        (Kind::Certificate, "param:/etc/passwd"),
    ] {
        refused(kind, &json!({ "algorithm": wrong }), "spec.algorithm");
    }
    let falcon = objections(Kind::SignatureKeyPair, &json!({ "spec": { "algorithm": "Falcon512" } }));
    assert!(falcon.iter().any(|said| said.contains("use ML-DSA-65")), "{falcon:?}");
}

#[test]
fn names_of_secrets_and_what_becomes_of_them() {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::VerifySignature);
    for kind in kinds {
        for name in ["Secret", "-a", "a-", "a_b", &"a".repeat(241)] {
            refused(kind, &json!({ "secretName": name }), "spec.secretName");
            refused(kind, &json!({ "outputSecretName": name }), "spec.outputSecretName");
        }
        refused(kind, &json!({ "secretName": "a", "outputSecretName": "b" }), "spec.outputSecretName");
        if kind == Kind::SignMessage {
            continue;
        }
        for version in [json!(0), json!(-1), json!(2_000_000_001_u64), json!("1")] {
            refused(kind, &json!({ "version": version }), "spec.version");
        }
        for grace in ["", "1", "01h", "1.5h", "1h30m", "-1h", "forever"] {
            refused(kind, &json!({ "rotation": { "grace": grace } }), "spec.rotation.grace");
        }
    }
    let kinds = [Kind::RandomNumber, Kind::KemKeyPair, Kind::EncapsulateSecret, Kind::SignatureKeyPair];
    for kind in kinds {
        for every in ["0s", "", "soon", "00d"] {
            refused(kind, &json!({ "rotation": { "every": every, "grace": "1h" } }), "spec.rotation.every");
        }
        refused(kind, &json!({ "rotation": { "every": "1h" } }), "spec.rotation");
        refused(kind, &json!({ "recreatePolicy": "Always" }), "spec");
    }
    refused(Kind::KemKeyPair, &json!({ "keyFormat": "pem" }), "spec");
}

#[test]
fn references() {
    for (kind, field) in [
        (Kind::EncapsulateSecret, "publicKeyRef"),
        (Kind::DecapsulateSecret, "privateKeyRef"),
        (Kind::DecapsulateSecret, "ciphertextRef"),
        (Kind::DerivedKey, "sharedSecretRef"),
        (Kind::SignMessage, "privateKeyRef"),
        (Kind::SignMessage, "messageRef"),
        (Kind::VerifySignature, "publicKeyRef"),
        (Kind::VerifySignature, "messageRef"),
        (Kind::VerifySignature, "signatureRef"),
    ] {
        refused(kind, &json!({ field: null }), "spec");
        refused(kind, &json!({ field: {} }), "spec");
        refused(kind, &json!({ field: { "name": "" } }), &format!("spec.{field}.name"));
        refused(kind, &json!({ field: { "name": "a".repeat(254) } }), &format!("spec.{field}.name"));
        let namespace = json!({ field: { "name": "a", "namespace": "b".repeat(64) } });
        refused(kind, &namespace, &format!("spec.{field}.namespace"));
        let fine = with(kind, &json!({ field: { "name": "a", "namespace": "" } }));
        assert_eq!(objections(kind, &json!({ "spec": fine })), Vec::<String>::new());
        assert_eq!(kind.check(fine), []);
    }
    refused(Kind::DerivedKey, &json!({ "sharedSecretRef": { "name": "a", "kind": "Secret" } }), "spec");
    refused(Kind::SignMessage, &json!({ "messageRef": { "name": "a", "kind": "Pod" } }), "spec");
}

#[test]
fn what_is_derived_signed_and_verified() {
    for hex in ["0", "zz", "0x00", "é"] {
        refused(Kind::DerivedKey, &json!({ "salt": hex }), "spec.salt");
        refused(Kind::DerivedKey, &json!({ "info": hex }), "spec.info");
        refused(Kind::DecapsulateSecret, &json!({ "ciphertext": hex }), "spec.ciphertext");
    }
    refused(Kind::DerivedKey, &json!({ "salt": "00".repeat(2049) }), "spec.salt");
    for (field, value) in [("keyType", "DES"), ("kdf", "PBKDF2"), ("kdfProfile", "plain"), ("keyType", "")] {
        refused(Kind::DerivedKey, &json!({ field: value }), "spec");
    }
    for length in [31, 65, 0, -1] {
        refused(
            Kind::DerivedKey,
            &json!({ "keyType": "HMAC-SHA256", "keyLength": length }),
            "spec.keyLength",
        );
    }
    refused(Kind::DerivedKey, &json!({ "keyLength": 64 }), "spec.keyLength");
    refused(Kind::DerivedKey, &json!({ "keyType": "HMAC-SHA512" }), "spec");
    let empty = json!({ "ciphertext": "", "ciphertextRef": null });
    refused(Kind::DecapsulateSecret, &empty, "spec.ciphertextRef");
    for kind in [Kind::SignMessage, Kind::VerifySignature] {
        for item in ["", "a/b", "a b", &"a".repeat(254)] {
            refused(kind, &json!({ "messageKey": item }), "spec.messageKey");
            refused(kind, &json!({ "signatureKey": item }), "spec.signatureKey");
        }
        refused(kind, &json!({ "context": "c".repeat(256) }), "spec.context");
    }
    refused(Kind::VerifySignature, &json!({ "publicKey": "PEM" }), "spec.publicKeyRef");
}

#[test]
fn who_may_use_a_key() {
    for kind in [Kind::KemKeyPair, Kind::SignatureKeyPair] {
        for account in ["", "A", "a/b/c", "/a", "a/", "a b"] {
            refused(kind, &json!({ "allowedServiceAccounts": [account] }), "spec.allowedServiceAccounts");
        }
        let many = vec!["a"; 65];
        refused(kind, &json!({ "allowedServiceAccounts": many }), "spec.allowedServiceAccounts");
    }
    for kind in [Kind::DecapsulateSecret, Kind::SignMessage] {
        for account in ["", "A", "a/b"] {
            refused(kind, &json!({ "serviceAccountName": account }), "spec.serviceAccountName");
        }
    }
}

#[test]
fn certificates() {
    let kind = Kind::Certificate;
    for (changes, field) in [
        (json!({ "days": 0 }), "spec.days"),
        (json!({ "days": 36_501 }), "spec.days"),
        (json!({ "days": 1, "duration": "1h" }), "spec.duration"),
        (json!({ "duration": "0h" }), "spec.duration"),
        (json!({ "renewBefore": "later" }), "spec.renewBefore"),
        (json!({ "certType": "root" }), "spec"),
        (json!({ "usages": ["encipher only"] }), "spec"),
        (json!({ "issuerRef": { "kind": "MeshCA", "name": "x" } }), "spec.issuerRef"),
        (json!({ "issuerRef": {} }), "spec.issuerRef"),
        (json!({ "issuerRef": { "kind": "MeshCA" }, "isCA": true }), "spec.issuerRef"),
        (json!({ "issuerRef": { "kind": "MeshCA" }, "certType": "ca" }), "spec.issuerRef"),
        (json!({ "hybrid": { "algorithm": "RSA" } }), "spec"),
    ] {
        refused(kind, &changes, field);
    }
}

/// What the definition has no words for: admission and the controller refuse it.
#[test]
fn what_only_the_check_sees_of_certificates() {
    let long = "a".repeat(65);
    let many: Vec<String> = (0..33).map(|n| format!("s{n}.shop.svc")).collect();
    let mesh = |changes: Value| {
        let mut spec =
            json!({ "issuerRef": { "kind": "MeshCA" }, "domain": null, "dnsNames": ["a.shop.svc"] });
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        spec
    };
    let table = [
        (json!({ "domain": "a.example/O=X" }), "spec.domain"),
        (json!({ "domain": "a.example,,b.example" }), "spec.domain"),
        (json!({ "domain": "10.0.0.1" }), "spec.domain"),
        (json!({ "domain": "a.example, -b.example" }), "spec.domain"),
        (json!({ "domain": " , " }), "spec.domain"),
        (json!({ "dnsNames": ["ok.example", "*"] }), "spec.dnsNames[1]"),
        (json!({ "dnsNames": ["*.example"] }), "spec.dnsNames[0]"),
        (json!({ "dnsNames": ["a.*.example"] }), "spec.dnsNames[0]"),
        (json!({ "dnsNames": ["b\u{fc}cher.example"] }), "spec.dnsNames[0]"),
        (json!({ "dnsNames": ["a.example\n"] }), "spec.dnsNames[0]"),
        (json!({ "ipAddresses": ["10.0.0.0/8"] }), "spec.ipAddresses[0]"),
        (json!({ "ipAddresses": ["fe80::1%eth0"] }), "spec.ipAddresses[0]"),
        (json!({ "ipAddresses": ["010.0.0.1"] }), "spec.ipAddresses[0]"),
        (json!({ "uris": ["no-scheme"] }), "spec.uris[0]"),
        (json!({ "uris": ["https://a b"] }), "spec.uris[0]"),
        (json!({ "uris": ["https://a/%zz"] }), "spec.uris[0]"),
        (json!({ "emails": ["a@b@c.example"] }), "spec.emails[0]"),
        (json!({ "emails": ["a@-b"] }), "spec.emails[0]"),
        (json!({ "commonName": "a/O=X" }), "spec.commonName"),
        (json!({ "commonName": "a\u{0}b" }), "spec.commonName"),
        (json!({ "commonName": "a\u{202e}b" }), "spec.commonName"),
        (json!({ "commonName": " a" }), "spec.commonName"),
        (json!({ "commonName": long }), "spec.commonName"),
        (json!({ "organization": "A+OU=B" }), "spec.organization"),
        (json!({ "organizationalUnit": "\"x\"" }), "spec.organizationalUnit"),
        (json!({ "country": "de" }), "spec.country"),
        (json!({ "domain": null }), "spec.domain"),
        (json!({ "domain": null, "uris": [format!("urn:{long}")] }), "spec.commonName"),
        (json!({ "maxPathLength": 1 }), "spec.maxPathLength"),
        (json!({ "maxPathLength": 9, "isCA": true }), "spec.maxPathLength"),
        (json!({ "isCA": true, "certType": "server" }), "spec.isCA"),
        (json!({ "isCA": false, "certType": "ca" }), "spec.isCA"),
        (json!({ "usages": ["server auth", "cert sign"] }), "spec.usages[1]"),
        (json!({ "usages": ["crl sign"] }), "spec.usages[0]"),
        (json!({ "certType": "self-signed", "issuerRef": { "name": "ca" } }), "spec.certType"),
        (json!({ "issuerRef": { "name": "CA" } }), "spec.issuerRef.name"),
        (json!({ "duration": "9m" }), "spec.duration"),
        (json!({ "duration": "36501d" }), "spec.duration"),
        (json!({ "duration": "1h", "renewBefore": "46m" }), "spec.renewBefore"),
        (json!({ "days": 1, "renewBefore": "24h" }), "spec.renewBefore"),
        (json!({ "duration": "1h", "rotation": { "grace": "30d" } }), "spec.rotation.grace"),
        (json!({ "algorithm": "ECDSA-P256", "hybrid": { "algorithm": "ECDSA-P256" } }), "spec.hybrid"),
        (mesh(json!({ "commonName": "admin" })), "spec.commonName"),
        (mesh(json!({ "organization": "system:masters" })), "spec.organization"),
        (mesh(json!({ "ipAddresses": ["10.0.0.1"] })), "spec.ipAddresses"),
        (mesh(json!({ "uris": ["spiffe://cluster.local/ns/shop/sa/web"] })), "spec.uris"),
        (mesh(json!({ "emails": ["a@b.example"] })), "spec.emails"),
        (mesh(json!({ "certType": "client" })), "spec.certType"),
        (mesh(json!({ "certType": "peer" })), "spec.certType"),
        (mesh(json!({ "usages": ["client auth"] })), "spec.usages[0]"),
        (mesh(json!({ "usages": ["any"] })), "spec.usages[0]"),
        (mesh(json!({ "algorithm": "ECDSA-P384" })), "spec.algorithm"),
        (mesh(json!({ "dnsNames": many })), "spec.dnsNames"),
    ];
    for (changes, field) in table {
        let problems = Kind::Certificate.check(with(Kind::Certificate, &changes));
        assert!(
            problems.iter().any(|problem| problem.field == field),
            "{changes} of which it says {problems:?}"
        );
    }
    for right in [
        json!({ "domain": "a.example, *.B.example" }),
        json!({ "domain": null, "commonName": "Acme, Inc. (S\u{f6}hne) Root" }),
        json!({ "domain": null, "ipAddresses": ["2001:db8::1", "192.0.2.1"] }),
        json!({ "uris": ["spiffe://a.example/ns/b"], "emails": ["ops+a@b.example"] }),
        json!({ "certType": "ca", "maxPathLength": 0, "usages": ["crl sign", "digital signature"] }),
        json!({ "duration": "10m" }),
        json!({ "duration": "1h", "renewBefore": "45m" }),
        json!({ "hybrid": { "algorithm": "ECDSA-P384" } }),
        mesh(json!({})),
        mesh(json!({ "certType": "server", "usages": ["server auth"], "days": 365 })),
    ] {
        assert_eq!(Kind::Certificate.check(with(Kind::Certificate, &right)), [], "{right}");
    }
}

#[test]
fn a_field_that_nobody_knows() {
    for kind in Kind::ALL {
        let said = objections(kind, &json!({ "spec": with(kind, &json!({ "algoritm": "x" })) }));
        assert!(said.iter().any(|said| said == ".spec.algoritm: is unknown"), "{said:?}");
    }
}
