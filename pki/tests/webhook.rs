//! The webhook's serving certificate: what an ordinary TLS client accepts, and how it is stored.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;
use std::time::Duration;

use memory::*;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use trellis_pki::clock::Clock;
use trellis_pki::issue::{BACKDATE, IssueError, ServingCertificate, ServingError, serving_certificate};
use trellis_pki::provider;

const NAME: &str = "trellis-injector.trellis-system.svc";

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct At(std::time::SystemTime);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let since = self.0.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(rustls_pki_types::UnixTime::since_unix_epoch(since))
    }
}

fn made() -> ServingCertificate {
    serving_certificate(&[NAME.to_owned(), format!("{NAME}.cluster.local")], start(), DAY).unwrap()
}

/// Stands in for the API server: WebPKI rules, a name, and the CA that we published.
fn call(certificate: &ServingCertificate, name: &str, now: std::time::SystemTime) -> Meeting {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.ca_pem.as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_details(provider::outside(), Arc::new(At(now)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider::webhook())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Fixed(certificate.certified_key().unwrap())));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    Meeting::new(
        ClientConnection::new(Arc::new(client), name).unwrap(),
        ServerConnection::new(Arc::new(server)).unwrap(),
    )
}

#[test]
fn an_ordinary_client_accepts_it_over_a_hybrid_key_exchange() {
    let certificate = made();
    let meeting = call(&certificate, NAME, clock().now());
    assert_eq!((meeting.client_result, meeting.server_result), (Ok(()), Ok(())));
    let group = meeting.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn it_is_good_for_its_names_and_its_time_only() {
    let certificate = made();
    assert_eq!(certificate.not_after.duration_since(certificate.not_before).unwrap(), DAY);
    assert!(call(&certificate, "trellis-ca.trellis-system.svc", start()).client_result.is_err());
    assert!(call(&certificate, NAME, start() + DAY).client_result.is_err());
    assert_eq!(call(&certificate, NAME, start() - Duration::from_secs(600)).client_result, Ok(()));
    assert!(call(&certificate, NAME, start() - BACKDATE - Duration::from_secs(1)).client_result.is_err());
}

#[test]
fn it_is_read_back_as_stored_and_only_with_parts_that_belong_together() {
    let (one, two) = (made(), made());
    let load = |certificate: &ServingCertificate, key: &ServingCertificate, ca: &ServingCertificate| {
        ServingCertificate::load(certificate.certificate_pem.clone(), key.key_pem.clone(), ca.ca_pem.clone())
    };
    let again = load(&one, &one, &one).unwrap();
    assert_eq!((again.not_before, again.not_after), (one.not_before, one.not_after));
    assert_eq!(load(&one, &two, &one).err(), Some(ServingError::OtherKey));
    assert_eq!(load(&one, &one, &two).err(), Some(ServingError::OtherCa));
    let error = ServingCertificate::load("junk".into(), one.key_pem.clone(), one.ca_pem.clone()).err();
    assert_eq!(error, Some(ServingError::Pem("serving certificate")));
}

#[test]
fn a_name_that_is_none_is_refused() {
    let error = serving_certificate(&["not a name".to_owned()], start(), DAY).err();
    assert_eq!(error, Some(ServingError::Issue(IssueError::DnsName("not a name".into()))));
}
