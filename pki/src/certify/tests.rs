use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use x509_parser::extensions::GeneralName;

use super::*;
use crate::algorithm::Algorithm;
use crate::x509;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn subject(common_name: &str) -> Subject {
    Subject { common_name: Some(common_name.to_owned()), ..Subject::default() }
}

fn ca(common_name: &str, path_length: Option<u8>, days: u32) -> Wanted {
    Wanted {
        subject: subject(common_name),
        names: Vec::new(),
        usages: Usages::default(),
        role: Role::Ca { path_length },
        life: DAY * days,
    }
}

fn leaf(name: &str, days: u32) -> Wanted {
    Wanted {
        subject: subject(name),
        names: vec![Name::dns(name).unwrap()],
        usages: Usages::new([Usage::ServerAuth, Usage::DigitalSignature]),
        role: Role::Leaf,
        life: DAY * days,
    }
}

fn key() -> Key {
    Key::generate(KeyKind::Mesh(Algorithm::MlDsa44)).unwrap()
}

fn pem(chain: &[&[u8]]) -> Vec<u8> {
    chain.iter().flat_map(|der| x509::pem("CERTIFICATE", der).into_bytes()).collect()
}

fn parent(chain: &[&[u8]], key: &Key) -> Parent {
    Parent::read(&pem(chain), key.pem().unwrap().as_bytes()).map_err(|error| error.to_string()).unwrap()
}

#[test]
fn keys_of_every_kind_are_read_back() {
    for kind in KeyKind::ALL {
        let key = Key::generate(kind).unwrap();
        let read = Key::from_pem(key.pem().unwrap().as_bytes()).map_err(|error| error.to_string()).unwrap();
        assert_eq!((read.kind(), read.public_info()), (kind, key.public_info()));
        assert_eq!(kind.name().parse(), Ok(kind));
        let certificate = leaf("a.example", 1).self_signed(&key, now()).unwrap();
        assert!(Seen::read(&certificate).unwrap().is_for(&read), "{kind}");
    }
    assert!("RSA".parse::<KeyKind>().unwrap_err().to_string().contains("ML-DSA-65"));
    assert!(Key::from_pem(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
}

#[test]
fn a_certificate_says_what_was_wished_and_begins_early() {
    let wanted = Wanted {
        subject: Subject {
            common_name: Some("Orders, of the shop".into()),
            organization: Some("Acme & Söhne".into()),
            organizational_unit: Some("IT".into()),
            country: Some("DE".into()),
        },
        names: vec![
            Name::dns("*.Shop.example").unwrap(),
            Name::ip("192.0.2.7".parse().unwrap()),
            Name::ip("2001:db8::7".parse().unwrap()),
            Name::uri("https://shop.example/a%20b").unwrap(),
            Name::email("ops+x@shop.example").unwrap(),
        ],
        usages: Usages::new([
            Usage::ClientAuth,
            Usage::ServerAuth,
            Usage::ContentCommitment,
            Usage::ServerAuth,
        ]),
        role: Role::Leaf,
        life: DAY * 90,
    };
    let der = wanted.self_signed(&key(), now()).unwrap();
    let seen = Seen::read(&der).unwrap();
    assert_eq!(seen.subject, "C=DE, O=Acme & Söhne, OU=IT, CN=Orders, of the shop");
    assert_eq!(seen.not_before, now() - crate::issue::BACKDATE);
    assert_eq!(seen.not_after, seen.not_before + DAY * 90);
    assert!(seen.serial.len() > 26 && seen.role == Role::Leaf && seen.is_root());
    let certificate = x509::certificate(&der).unwrap();
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(
        names.as_slice(),
        [
            GeneralName::DNSName("*.shop.example"),
            GeneralName::IPAddress(&[192, 0, 2, 7]),
            GeneralName::IPAddress(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
            GeneralName::URI("https://shop.example/a%20b"),
            GeneralName::RFC822Name("ops+x@shop.example"),
        ]
    );
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.non_repudiation() && !usage.key_cert_sign() && !usage.digital_signature());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && !extended.code_signing);
    assert_ne!(Seen::read(&wanted.self_signed(&key(), now()).unwrap()).unwrap().serial, seen.serial);
}

#[test]
fn a_chain_keeps_to_what_stands_above_it() {
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let root = ca("Root", Some(1), 10).self_signed(&root_key, now()).unwrap();
    let root_ca = parent(&[&root], &root_key);
    let middle = root_ca.issue(&ca("Middle", None, 5), &middle_key, now()).unwrap();
    let seen = Seen::read(&middle).unwrap();
    assert_eq!(seen.role, Role::Ca { path_length: Some(0) }, "what the root leaves is written down");
    assert!(!seen.is_root() && seen.issuer == "CN=Root");
    let middle_ca = parent(&[&middle, &root], &middle_key);
    assert_eq!(middle_ca.intermediates().collect::<Vec<_>>(), [middle.as_slice()]);

    let long = middle_ca.issue(&leaf("a.example", 365), &leaf_key, now()).unwrap();
    assert_eq!(Seen::read(&long).unwrap().not_after, seen.not_after, "nobody outlives the issuer");
    let late = now() + DAY * 4;
    let short = middle_ca.issue(&leaf("a.example", 365), &leaf_key, late).unwrap();
    assert!(Seen::read(&short).unwrap().not_before >= seen.not_before);

    let refused = |error: CertifyError, part: &str| {
        assert!(error.to_string().contains(part), "{error}, which is to contain {part}");
    };
    refused(middle_ca.issue(&ca("Third", None, 1), &leaf_key, now()).unwrap_err(), "maxPathLength");
    refused(root_ca.issue(&ca("Wide", Some(1), 1), &leaf_key, now()).unwrap_err(), "more than the 0");
    refused(root_ca.issue(&leaf("root", 1), &leaf_key, now() + DAY * 30).unwrap_err(), "it is ");
    refused(root_ca.issue(&leaf("a.example", 1), &leaf_key, now() - DAY).unwrap_err(), "it is ");
    let last = Seen::read(&root).unwrap().not_after - Duration::from_secs(60);
    refused(root_ca.issue(&leaf("a.example", 1), &leaf_key, last).unwrap_err(), "renew the issuer");
    let mut same = leaf("a.example", 1);
    same.subject = subject("Root");
    refused(root_ca.issue(&same, &leaf_key, now()).unwrap_err(), "subject is that of its issuer");

    let no_ca = parent(&[&long], &leaf_key);
    refused(no_ca.issue(&leaf("b.example", 1), &key(), now()).unwrap_err(), "is no CA");
    let under_no_ca = parent(&[&middle, &long], &middle_key);
    refused(under_no_ca.issue(&leaf("b.example", 1), &key(), now()).unwrap_err(), "is no CA");
    let read = |chain: &[u8], key: &Key| Parent::read(chain, key.pem().unwrap().as_bytes()).err().unwrap();
    assert_eq!(read(&pem(&[&root]), &middle_key), CertifyError::OtherKey);
    assert_eq!(read(b"", &root_key), CertifyError::Chain);
    assert_eq!(read(&pem(&[root.as_slice(); MAX_CHAIN + 1]), &root_key), CertifyError::Chain);
}

#[test]
fn nothing_is_made_that_nobody_could_use() {
    let mut nobody = leaf("a.example", 1);
    nobody.subject = Subject::default();
    assert_eq!(nobody.self_signed(&key(), now()), Err(CertifyError::NoSubject));
    let root_key = key();
    let root = ca("Root", None, 10).self_signed(&root_key, now()).unwrap();
    let root_ca = parent(&[&root], &root_key);
    let unnamed = root_ca.issue(&nobody, &key(), now()).unwrap();
    assert_eq!(Seen::read(&unnamed).unwrap().subject, "");
    let names = x509::certificate(&unnamed).unwrap().subject_alternative_name().unwrap().unwrap().critical;
    assert!(names, "where there is no subject, the names are critical");
    nobody.names.clear();
    assert_eq!(root_ca.issue(&nobody, &key(), now()), Err(CertifyError::Nobody));
    let mut short = leaf("a.example", 1);
    short.life = SHORTEST - Duration::from_secs(1);
    assert_eq!(short.self_signed(&key(), now()), Err(CertifyError::Life(short.life)));
}

#[test]
fn the_mesh_certifies_servers_by_name_and_no_members() {
    let mesh_key = crate::key::PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let mesh = crate::issue::Issuer::new_root("cluster.local", mesh_key, now(), DAY * 30).unwrap();
    let public = crate::key::PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let names = [Name::dns("web.shop.svc").unwrap(), Name::uri("spiffe://cluster.local/ns/a/sa/b").unwrap()];
    let der = mesh.issue_server(&names, public.public_key(), DAY, now()).unwrap();
    let certificate = x509::certificate(&der).unwrap();
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.as_slice(), [GeneralName::DNSName("web.shop.svc")], "URIs are no names of servers");
    assert_eq!(certificate.subject().to_string(), "");
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth && !certificate.is_ca());
    assert!(crate::leaf::Leaf::parse(&der).is_err(), "no peer of the mesh takes it for an identity");
    let none = mesh.issue_server(&[], public.public_key(), DAY, now());
    assert_eq!(none, Err(CertifyError::Nobody));
}

#[test]
fn names_that_are_none_are_refused_with_what_to_do() {
    for dns in [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a.example.",
        "*.example",
        "*",
        "a.*.example",
        "*.*.example",
        "w*.example",
        "a.example/O=X",
        "a.example,b.example",
        "a example",
        "a.example\0",
        "10.0.0.1",
        "ä.example",
        "a.example\n",
        "1",
        "a.example:443",
    ] {
        assert!(matches!(Name::dns(dns), Err(NameError::Dns(_))), "{dns:?}");
    }
    assert!(Name::dns(&["a"; 128].join(".")).is_err() && Name::dns(&"a".repeat(64)).is_err());
    for dns in ["localhost", "A.Example", "*.a.example", "xn--4ca.example", "1.example", "a--b.example"] {
        assert_eq!(Name::dns(dns).unwrap().as_dns(), Some(dns.to_lowercase().as_str()));
    }
    for uri in [
        "",
        "a",
        ":b",
        "1a:b",
        "a:",
        "https://a b",
        "https://ä",
        "https://a%2",
        "https://a%zz",
        "a:\"",
        "a:\\",
    ] {
        assert!(matches!(Name::uri(uri), Err(NameError::Uri(_))), "{uri:?}");
    }
    for uri in ["spiffe://a/b", "urn:uuid:1", "https://[2001:db8::1]/x?y=%20#z"] {
        assert!(Name::uri(uri).is_ok(), "{uri:?}");
    }
    for email in [
        "",
        "a",
        "@",
        "a@",
        "@a.example",
        "a@b@c.example",
        "a b@c.example",
        "a..b@c.example",
        "\"a\"@c",
        "a@1",
    ] {
        assert!(matches!(Name::email(email), Err(NameError::Email(_))), "{email:?}");
    }
    for text in [
        "",
        " a",
        "a ",
        "a/O=X",
        "a+b",
        "a=b",
        "a\u{0}",
        "a\nb",
        "a\\b",
        "a\"b",
        "<a>",
        "a;b",
        "#a",
        "\u{202e}a",
    ] {
        let named = subject(text);
        assert!(matches!(named.check(), Err(NameError::Attribute("common name", _))), "{text:?}");
        let organized = Subject { organization: Some(text.into()), ..Subject::default() };
        assert!(organized.check().is_err(), "{text:?}");
        let unit = Subject { organizational_unit: Some(text.into()), ..Subject::default() };
        assert!(unit.check().is_err(), "{text:?}");
    }
    assert!(subject(&"a".repeat(65)).check().is_err() && subject(&"ä".repeat(64)).check().is_ok());
    for country in ["", "d", "de", "DEU", "D1", "D "] {
        let of = Subject { country: Some(country.into()), ..Subject::default() };
        assert_eq!(of.check(), Err(NameError::Country(country.into())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever somebody writes into a field: it is refused, or it is in the certificate as one value of
    /// that field, and there is nothing else.
    #[test]
    fn no_text_becomes_two_names(text in "\\PC{0,12}[a-z./=+,\\\\\"*@:%\u{0}\n-]{0,12}", field in 0..6usize) {
        let mut wanted = leaf("host.example", 1);
        wanted.names.clear();
        let attribute = |subject: Subject| subject.check().is_ok().then_some(subject);
        match field {
            0 => wanted.names.extend(Name::dns(&text).ok()),
            1 => wanted.names.extend(Name::uri(&text).ok()),
            2 => wanted.names.extend(Name::email(&text).ok()),
            3 => wanted.subject.common_name = attribute(subject(&text)).and_then(|it| it.common_name),
            4 => {
                let of = Subject { organization: Some(text.clone()), ..Subject::default() };
                wanted.subject.organization = attribute(of).and_then(|it| it.organization);
            }
            _ => {
                let of = Subject { organizational_unit: Some(text.clone()), ..Subject::default() };
                wanted.subject.organizational_unit = attribute(of).and_then(|it| it.organizational_unit);
            }
        }
        prop_assume!(!wanted.subject.is_empty());
        let der = wanted.self_signed(&key(), now()).unwrap();
        let certificate = x509::certificate(&der).unwrap();
        let names = certificate.subject_alternative_name().unwrap();
        let names = names.map(|names| names.value.general_names.clone()).unwrap_or_default();
        prop_assert_eq!(names.len(), wanted.names.len());
        for name in &names {
            match name {
                GeneralName::DNSName(name) => prop_assert_eq!(*name, text.to_ascii_lowercase()),
                GeneralName::URI(name) | GeneralName::RFC822Name(name) => prop_assert_eq!(*name, &text),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let given = [&wanted.subject.organization, &wanted.subject.organizational_unit, &wanted.subject.common_name];
        let given: Vec<&str> = given.into_iter().flatten().map(String::as_str).collect();
        let found = certificate.subject().iter_attributes().map(|one| one.as_str().unwrap().to_owned());
        prop_assert_eq!(found.collect::<Vec<_>>(), given);
    }
}
