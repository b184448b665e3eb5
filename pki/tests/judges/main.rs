//! Certificates that people asked for are judged by other implementations: OpenSSL's and that of Go's standard
//! library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use trellis_pki::certify::{Key, KeyKind, Name, Parent, Role, Subject, Usage, Usages, Wanted};
use trellis_pki::x509_pem;

const NOW: u64 = 1_795_000_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const GO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/judges/judge.go");

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn openssl() -> String {
    #[allow(clippy::disallowed_methods, reason = "a test is told by its caller where things are")]
    let found = std::env::var("TRELLIS_TEST_OPENSSL");
    found.unwrap_or_else(|_| panic!("TRELLIS_TEST_OPENSSL is not set; run these tests by ci/test keys"))
}

/// A folder with a chain: root.pem, middle.pem, leaf.pem and leaf.key.
struct Desk(TempDir);

impl Desk {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, der: &[u8]) {
        fs::write(self.path(name), x509_pem("CERTIFICATE", der)).unwrap();
    }

    /// What a program says, and whether it says that all is well.
    fn run(&self, program: &str, args: &str) -> (bool, String) {
        let done = Command::new(program).args(args.split(' ')).current_dir(self.0.path()).output().unwrap();
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), said)
    }

    fn openssl(&self, args: &str) -> String {
        let (well, said) = self.run(&openssl(), args);
        assert!(well, "{args}: {said}");
        said
    }

    fn verify(&self, more: &str) -> (bool, String) {
        let args = format!("verify -x509_strict -CAfile root.pem -untrusted middle.pem {more} leaf.pem");
        self.run(&openssl(), &args)
    }
}

fn ca(name: &str, path_length: Option<u8>) -> Wanted {
    Wanted {
        subject: Subject {
            common_name: Some(name.to_owned()),
            organization: Some("Acme, Söhne & Co.".to_owned()),
            country: Some("DE".to_owned()),
            ..Subject::default()
        },
        names: Vec::new(),
        usages: Usages::default(),
        role: Role::Ca { path_length },
        life: DAY * 365,
    }
}

fn server() -> Wanted {
    Wanted {
        subject: Subject { common_name: Some("web.shop.example".to_owned()), ..Subject::default() },
        names: vec![
            Name::dns("web.shop.example").unwrap(),
            Name::dns("*.api.shop.example").unwrap(),
            Name::ip("192.0.2.7".parse().unwrap()),
            Name::ip("2001:db8::7".parse().unwrap()),
            Name::uri("spiffe://shop.example/ns/shop/sa/web").unwrap(),
            Name::email("ops@shop.example").unwrap(),
        ],
        usages: Usages::new([Usage::DigitalSignature, Usage::ServerAuth]),
        role: Role::Leaf,
        life: DAY * 90,
    }
}

fn desk(kind: KeyKind) -> Desk {
    let desk = Desk(TempDir::new().unwrap());
    let [root_key, middle_key, key] = [(); 3].map(|()| Key::generate(kind).unwrap());
    let parent = |der: &[u8], key: &Key| {
        let chain = x509_pem("CERTIFICATE", der);
        Parent::read(chain.as_bytes(), key.pem().unwrap().as_bytes())
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let root = ca("Root", Some(1)).self_signed(&root_key, now()).unwrap();
    let middle = parent(&root, &root_key).issue(&ca("Middle", None), &middle_key, now()).unwrap();
    let leaf = parent(&middle, &middle_key).issue(&server(), &key, now()).unwrap();
    desk.put("root.pem", &root);
    desk.put("middle.pem", &middle);
    desk.put("leaf.pem", &leaf);
    fs::write(desk.path("leaf.key"), key.pem().unwrap().as_bytes()).unwrap();
    desk
}

#[test]
fn openssl_verifies_chains_names_purposes_and_times() {
    for kind in KeyKind::ALL {
        let desk = desk(kind);
        let at = |seconds: u64| format!("-attime {seconds}");
        let good = |more: &str| {
            let (well, said) = desk.verify(&format!("{} {more}", at(NOW)));
            assert!(well, "{kind} {more}: {said}");
        };
        let bad = |more: &str, why: &str| {
            let (well, said) = desk.verify(more);
            assert!(!well && said.contains(why), "{kind} {more}: {said}");
        };
        good("-purpose sslserver");
        for name in ["web.shop.example", "v1.api.shop.example"] {
            good(&format!("-purpose sslserver -verify_hostname {name}"));
        }
        for address in ["192.0.2.7", "2001:db8::7"] {
            good(&format!("-verify_ip {address}"));
        }
        good("-verify_email ops@shop.example");
        bad(&format!("{} -purpose sslclient", at(NOW)), "unsuitable certificate purpose");
        bad(&format!("{} -verify_hostname shop.example", at(NOW)), "hostname mismatch");
        bad(&at(NOW - 16 * 60), "not yet valid");
        bad(&at(NOW + 91 * 24 * 60 * 60), "has expired");
        let said =
            desk.openssl("x509 -in leaf.pem -noout -text -ext basicConstraints,keyUsage,extendedKeyUsage");
        for part in ["CA:FALSE", "Digital Signature", "TLS Web Server Authentication"] {
            assert!(said.contains(part), "{kind}: {said}");
        }
        let said = desk.openssl("x509 -in middle.pem -noout -text");
        for part in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Authority Key Identifier"] {
            assert!(said.contains(part), "{kind}: {said}");
        }
        // The key is that of the certificate, in the form in which it is kept.
        let of_key = desk.openssl("pkey -in leaf.key -pubout");
        assert_eq!(desk.openssl("x509 -in leaf.pem -noout -pubkey"), of_key, "{kind}");
    }
}

#[test]
fn openssl_takes_no_chain_longer_than_a_ca_allows() {
    // Ours refuses to make one, so it is put together of what two roots with the same key and name signed.
    let kind = KeyKind::ALL[0];
    let [root_key, middle_key, low_key, key] = [(); 4].map(|()| Key::generate(kind).unwrap());
    let read = |der: &[u8], key: &Key| {
        let chain = x509_pem("CERTIFICATE", der);
        Parent::read(chain.as_bytes(), key.pem().unwrap().as_bytes())
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let narrow = ca("Root", Some(0)).self_signed(&root_key, now()).unwrap();
    let wide = ca("Root", None).self_signed(&root_key, now()).unwrap();
    let middle = read(&wide, &root_key).issue(&ca("Middle", None), &middle_key, now()).unwrap();
    let low = read(&middle, &middle_key).issue(&ca("Low", None), &low_key, now()).unwrap();
    let leaf = read(&low, &low_key).issue(&server(), &key, now()).unwrap();
    let desk = Desk(TempDir::new().unwrap());
    let both = x509_pem("CERTIFICATE", &middle) + &x509_pem("CERTIFICATE", &low);
    fs::write(desk.path("middle.pem"), both).unwrap();
    desk.put("leaf.pem", &leaf);
    for (root, well) in [(&wide, true), (&narrow, false)] {
        desk.put("root.pem", root);
        let (verified, said) = desk.verify(&format!("-attime {NOW}"));
        assert_eq!(verified, well, "{said}");
        assert!(well || said.contains("path length constraint exceeded"), "{said}");
    }
    let error = read(&narrow, &root_key).issue(&ca("Middle", None), &middle_key, now()).unwrap_err();
    assert!(error.to_string().contains("raise its maxPathLength"), "{error}");
}

#[test]
fn go_parses_every_certificate_and_verifies_those_that_it_can() {
    for kind in KeyKind::ALL {
        let desk = desk(kind);
        let (well, said) =
            desk.run("go", &format!("run {GO} root.pem middle.pem leaf.pem {NOW} web.shop.example"));
        assert!(well, "{kind}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        let verified = if kind.is_post_quantum() { "not verified" } else { "verified" };
        assert_eq!(
            lines,
            [
                "root CN=Root,O=Acme\\, Söhne & Co.,C=DE ca=true path=1 usage=96",
                "middle CN=Middle,O=Acme\\, Söhne & Co.,C=DE ca=true path=0 usage=96",
                "leaf CN=web.shop.example ca=false path=-1 usage=1",
                "dns web.shop.example *.api.shop.example",
                "ip 192.0.2.7 2001:db8::7",
                "uri spiffe://shop.example/ns/shop/sa/web",
                "email ops@shop.example",
                "extended serverAuth",
                verified,
            ],
            "{kind}"
        );
    }
}
