//! A mesh in memory: roots, workloads and strangers, and handshakes between them without a socket.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    ClientConfig, ClientConnection, CommonState, DigitallySignedStruct, Error, ServerConfig,
    ServerConnection, SignatureAlgorithm, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::bundle::Bundle;
use trellis_pki::clock::{Clock, ManualClock};
use trellis_pki::identity::Identity;
use trellis_pki::issue::{Issuer, LeafRequest};
use trellis_pki::key::PrivateKey;
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::provider;
use trellis_pki::spiffe::SpiffeId;
use trellis_pki::tls::{ClientAuth, MeshTls};

pub const DOMAIN: &str = "cluster.local";
pub const DAY: Duration = Duration::from_secs(86_400);
pub const YEARS: Duration = Duration::from_secs(3650 * 86_400);

/// Somewhere in the middle of a second, in 2026.
pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_000_000_250)
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(start()))
}

pub fn id(account: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "shop", account).unwrap()
}

pub fn root(algorithm: Algorithm) -> Issuer {
    Issuer::new_root(DOMAIN, PrivateKey::generate(algorithm).unwrap(), start(), YEARS).unwrap()
}

pub fn bundle(roots: &[&Issuer]) -> Bundle {
    Bundle::new(DOMAIN, roots.iter().map(|root| root.anchor().clone()).collect()).unwrap()
}

pub fn dns_names(account: &str) -> Vec<String> {
    vec![format!("{account}.shop.svc.cluster.local"), account.to_owned()]
}

pub fn identity(root: &Issuer, account: &str, algorithm: Algorithm, now: SystemTime) -> Identity {
    let key = PrivateKey::generate(algorithm).unwrap();
    let request = LeafRequest {
        public_key: key.public_key(),
        identity: &id(account),
        dns_names: &dns_names(account),
        now,
        validity: DAY,
    };
    let leaf = root.issue(&request).unwrap();
    Identity::new(key, leaf.der, &bundle(&[root]), algorithm, now).unwrap()
}

pub fn policy(key_exchange: Ladder, signatures: Ladder) -> Policy {
    Policy { key_exchange, signatures }
}

/// A workload with a certificate of `root`, believing `root`.
pub fn workload(
    root: &Issuer,
    account: &str,
    algorithm: Algorithm,
    policy: Policy,
    clock: &Arc<ManualClock>,
) -> MeshTls {
    let tls = MeshTls::new(policy, DOMAIN, Arc::clone(clock) as Arc<dyn Clock>);
    tls.install(identity(root, account, algorithm, clock.now()), bundle(&[root])).unwrap();
    tls
}

pub fn strict(root: &Issuer, account: &str, clock: &Arc<ManualClock>) -> MeshTls {
    workload(root, account, Algorithm::MlDsa65, Policy::default(), clock)
}

/// Both ends of one handshake, each with what it made of it.
pub struct Meeting {
    pub client: ClientConnection,
    pub server: ServerConnection,
    pub client_result: Result<(), Error>,
    pub server_result: Result<(), Error>,
    /// Bytes of the server's first flight.
    pub server_flight: usize,
}

impl Meeting {
    pub fn new(client: ClientConnection, server: ServerConnection) -> Self {
        let mut meeting =
            Self { client, server, client_result: Ok(()), server_result: Ok(()), server_flight: 0 };
        meeting.run();
        meeting
    }

    /// Carries bytes both ways until neither end has more to say.
    pub fn run(&mut self) {
        loop {
            let up = carry(&mut self.client, &mut self.server, &mut self.server_result);
            let down = carry(&mut self.server, &mut self.client, &mut self.client_result);
            if self.server_flight == 0 {
                self.server_flight = down;
            }
            if up + down == 0 {
                return;
            }
        }
    }

    /// Sends bytes of the application one way and returns what arrived.
    pub fn send_up(&mut self, bytes: &[u8]) -> Vec<u8> {
        use std::io::{Read, Write};
        self.client.writer().write_all(bytes).unwrap();
        self.run();
        let mut arrived = Vec::new();
        // The reader says WouldBlock behind the last byte of a connection that stays open.
        let _ = self.server.reader().read_to_end(&mut arrived);
        arrived
    }
}

/// The parts of a connection that the driver needs, of either side.
pub trait End: std::ops::DerefMut<Target = rustls::ConnectionCommon<Self::Data>> {
    type Data: rustls::SideData;
}

impl End for ClientConnection {
    type Data = rustls::client::ClientConnectionData;
}

impl End for ServerConnection {
    type Data = rustls::server::ServerConnectionData;
}

fn carry<F: End, T: End>(from: &mut F, to: &mut T, outcome: &mut Result<(), Error>) -> usize {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        if to.read_tls(&mut rest).is_err() {
            break;
        }
        if let Err(error) = to.process_new_packets() {
            if outcome.is_ok() {
                *outcome = Err(error);
            }
            break;
        }
    }
    bytes.len()
}

pub fn anywhere() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// A rustls peer outside of Trellis: it shows what it is told to show and believes everybody.
pub struct Stranger {
    pub chain: Vec<Vec<u8>>,
    pub key: Option<Arc<dyn SigningKey>>,
    pub policy: Policy,
    /// Signs with its key whatever the peer said it can verify.
    pub stubborn: bool,
    /// What it says to be able to verify.
    pub verifies: Vec<SignatureScheme>,
    pub clock: Arc<ManualClock>,
}

impl Stranger {
    pub fn new(chain: Vec<Vec<u8>>, key: &PrivateKey, clock: &Arc<ManualClock>) -> Self {
        Self {
            chain,
            key: Some(key.rustls_key().unwrap()),
            policy: policy(Ladder::Prefer, Ladder::Prefer),
            stubborn: true,
            verifies: every_scheme(),
            clock: Arc::clone(clock),
        }
    }

    pub fn bare(policy: Policy, clock: &Arc<ManualClock>) -> Self {
        let (verifies, clock) = (every_scheme(), Arc::clone(clock));
        Self { chain: Vec::new(), key: None, policy, stubborn: false, verifies, clock }
    }

    fn shown(&self) -> Option<Shown> {
        let key = Arc::clone(self.key.as_ref()?);
        let key = if self.stubborn { Arc::new(Stubborn(key)) as Arc<dyn SigningKey> } else { key };
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        Some(Shown(Arc::new(CertifiedKey::new(chain, key))))
    }

    /// Takes whatever a server shows.
    pub fn believer(&self) -> Arc<dyn ServerCertVerifier> {
        Arc::new(BelievesAll(self.verifies.clone()))
    }

    pub fn client(&self) -> ClientConnection {
        let builder = ClientConfig::builder_with_provider(provider::mesh(self.policy))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(self.believer());
        let mut config = match self.shown() {
            Some(shown) => builder.with_client_cert_resolver(Arc::new(shown)),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        ClientConnection::new(Arc::new(config), anywhere()).unwrap()
    }

    pub fn server(&self) -> ServerConnection {
        let mut config = ServerConfig::builder_with_provider(provider::mesh(self.policy))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.shown().unwrap()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        ServerConnection::new(Arc::new(config)).unwrap()
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Stubborn(Arc<dyn SigningKey>);

impl SigningKey for Stubborn {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(&every_scheme())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

fn every_scheme() -> Vec<SignatureScheme> {
    Algorithm::ALL.into_iter().map(Algorithm::scheme).collect()
}

/// Everybody who proves a key with one of these schemes.
#[derive(Debug)]
struct BelievesAll(Vec<SignatureScheme>);

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = provider::mesh(policy(Ladder::Prefer, Ladder::Prefer)).signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// What `issue` would write for `account`, for a test to bend before it is signed.
pub fn leaf_params(account: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let begin = now - Duration::from_secs(60);
    params.not_before = begin.into();
    params.not_after = (begin + DAY).into();
    params.serial_number = Some(SerialNumber::from_slice(&[0x5a; 16]));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, account);
    params.subject_alt_names = vec![uri(id(account).as_str())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Signs `params` for `key` with the key of `root`, asking no questions.
pub fn forge(params: &CertificateParams, key: &PrivateKey, root: &Issuer) -> Vec<u8> {
    let der = CertificateDer::from(root.anchor().der.clone());
    let issuer = rcgen::Issuer::from_ca_cert_der(&der, root.signer()).unwrap();
    params.signed_by(key.public_key(), &issuer).unwrap().der().to_vec()
}

pub fn meet(client: &MeshTls, server: &MeshTls, expected: Vec<SpiffeId>) -> (Meeting, Notes) {
    let connecting = client.connect(expected, true).unwrap();
    let accepting = server.accept(ClientAuth::Required).unwrap();
    let meeting = Meeting::new(
        ClientConnection::new(connecting.config, connecting.server_name).unwrap(),
        ServerConnection::new(accepting.config).unwrap(),
    );
    (meeting, Notes { client: connecting.recorder, server: accepting.recorder })
}

pub struct Notes {
    pub client: trellis_pki::record::Recorder,
    pub server: trellis_pki::record::Recorder,
}

pub fn is_open(connection: &CommonState) -> bool {
    !connection.is_handshaking()
}
