//! Two whole meshes with trust domains of their own that federate over their bundle endpoints: who reaches
//! whom before, while and after they do.

use std::{net::SocketAddr, time::Duration};

use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use trellis_api::{
    evidence::Class,
    names::{CA, SYSTEM_NAMESPACE},
    trust::{Federation, FederationStatus, Issuing, KeyAlgorithm, Profile, TrustDomainSpec},
};
use trellis_local::{Environment, Mesh, Options, Role, Running, Service};
use trellis_loopback::stage::{Error, NAMESPACE, PORT, binaries, workload};

use crate::trial;

const A: &str = "a.example";
const B: &str = "b.example";
const SERVER: &str = "spiffe://b.example/ns/test/sa/server";
const CLIENT: &str = "spiffe://a.example/ns/test/sa/client";
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

pub fn trials() -> Vec<Trial> {
    vec![trial("two_trust_domains_reach_each_other_for_as_long_as_both_want_it", federated)]
}

/// A client in mesh A, and in mesh B the server that A's Service leads to.
struct Pair {
    a: Mesh,
    b: Mesh,
    client: Running,
    server: Running,
}

impl Pair {
    async fn open() -> Result<Self, Error> {
        let (mut a, mut b) = (mesh(A).await?, mesh(B).await?);
        let served = workload(&b, 1, "server", vec![]);
        let server = b.join(&served, &[], &[PORT], &[]).await?;
        let address = a.network().address(Role::Service, 1);
        let partner = Service { name: "partner".into(), address, port: PORT };
        a.elsewhere(NAMESPACE, &partner, served.pod, SERVER)?;
        let calling = workload(&a, 2, "client", vec![]);
        let client = a.join(&calling, &[(address, PORT).into()], &[], &[]).await?;
        Ok(Self { a, b, client, server })
    }

    /// Where the client's application reaches the server.
    fn entry(&self) -> SocketAddr {
        (self.a.network().address(Role::Service, 1), PORT).into()
    }

    /// One request on a connection of its own.
    async fn ask(&self) -> Result<(), Error> {
        let asked = async {
            let mut stream = TcpStream::connect(self.entry()).await?;
            ask(&mut stream).await
        };
        time::timeout(PATIENCE, asked).await?
    }
}

async fn ask(stream: &mut TcpStream) -> Result<(), Error> {
    stream.write_all(b"ping").await?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await?;
    assert_eq!(&heard, b"pong");
    Ok(())
}

async fn mesh(trust_domain: &str) -> Result<Mesh, Error> {
    let options = Options {
        binaries: binaries()?,
        leaf_algorithms: "ml-dsa-65".into(),
        root_algorithm: "ml-dsa-65".into(),
        signatures: "require".into(),
        trust_domain: trust_domain.into(),
        federated: true,
        environment: Environment::new(),
        log: "info".into(),
    };
    Ok(Mesh::start(options).await?)
}

/// Answers each ping.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut heard = [0; 4];
            while stream.read_exact(&mut heard).await.is_ok() {
                if stream.write_all(b"pong").await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The entry by which a mesh federates with `mesh`, as its operator was given it.
fn entry(trust_domain: &str, mesh: &Mesh) -> Result<Federation, Error> {
    Ok(Federation {
        trust_domain: trust_domain.into(),
        endpoint: format!("https://{}/", mesh.bundle_address()),
        profile: Profile::Spiffe,
        server_identity: Some(format!("spiffe://{trust_domain}/ns/{SYSTEM_NAMESPACE}/sa/{CA}")),
        bootstrap: Some(std::fs::read_to_string(mesh.bundle())?),
    })
}

fn wish(generation: u32, federation: Vec<Federation>) -> TrustDomainSpec {
    TrustDomainSpec { federation, ..TrustDomainSpec::of(Issuing::own(KeyAlgorithm::MlDsa65, generation)) }
}

/// What `mesh` knows of the one domain that it federates with.
async fn known(mesh: &Mesh) -> Result<FederationStatus, Error> {
    Ok(mesh.trust().await?.federation.into_iter().next().unwrap_or_default())
}

/// How many connections were refused for `reason`, as one proxy counts them.
async fn refused(running: &Running, reason: &str) -> Result<u64, Error> {
    let reason = format!("refused_{reason}");
    let evidence = running.evidence().await?;
    let rows = evidence.inbound.iter().chain(&evidence.outbound);
    Ok(rows.filter(|row| row.reason.as_deref() == Some(&reason)).map(|row| row.count).sum())
}

/// Asks until it fails, or no more fails.
async fn until_asking(pair: &Pair, succeeds: bool) -> Result<(), Error> {
    let looked = async {
        while pair.ask().await.is_ok() != succeeds {
            time::sleep(LOOK).await;
        }
    };
    match time::timeout(PATIENCE, looked).await {
        Ok(()) => Ok(()),
        Err(_) => {
            Err(format!("asking never came to be {succeeds}:\n{}\n{}", pair.a.logs(), pair.b.logs()).into())
        }
    }
}

async fn federated() -> Result<(), Error> {
    let pair = Pair::open().await?;
    let application = TcpListener::bind((pair.server.workload.application, PORT)).await?;
    tokio::spawn(serve(application));

    // Strangers: nobody is even called.
    assert!(pair.ask().await.is_err());
    assert_eq!(refused(&pair.client, "trust_domain_not_federated").await?, 1);

    let (to_a, to_b) = (entry(A, &pair.a)?, entry(B, &pair.b)?);
    pair.a.wish(&wish(1, vec![to_b.clone()]))?;
    pair.b.wish(&wish(1, vec![to_a.clone()]))?;
    until_asking(&pair, true).await?;
    let looked = async {
        while known(&pair.a).await?.last_success.is_none() || known(&pair.b).await?.last_success.is_none() {
            time::sleep(LOOK).await;
        }
        Result::<_, Error>::Ok(())
    };
    time::timeout(PATIENCE, looked).await??;

    // Both ends say who the other one is, and what they negotiated.
    pair.ask().await?;
    for (running, inbound) in [(&pair.client, false), (&pair.server, true)] {
        let evidence = running.evidence().await?;
        let rows = if inbound { evidence.inbound } else { evidence.outbound };
        let row = rows.iter().find(|row| row.reason.is_none()).ok_or("no connection was counted")?;
        assert_eq!((row.source.as_str(), row.destination.as_str()), (CLIENT, SERVER));
        assert_eq!(row.class, Class::Pq);
        assert_eq!(row.group.as_deref(), Some("X25519MLKEM768"));
        assert_eq!(row.signatures.client.as_deref(), Some("ML-DSA-65"));
        assert_eq!(row.signatures.server.as_deref(), Some("ML-DSA-65"));
    }

    // B takes another anchor; A follows, and nobody notices.
    let before = known(&pair.a).await?.anchors;
    pair.b.wish(&wish(2, vec![to_a]))?;
    let rotation = async {
        let mut asked = 0;
        loop {
            pair.ask().await.map_err(|error| format!("request {asked} failed: {error}"))?;
            asked += 1;
            let b = pair.b.trust().await?;
            let a = known(&pair.a).await?.anchors;
            if b.phase == "Settled" && !b.past.is_empty() && a.len() == 1 && a != before {
                return Result::<_, Error>::Ok(asked);
            }
        }
    };
    let asked = time::timeout(Duration::from_secs(60), rotation).await??;
    assert!(asked > 2, "{asked}");
    pair.ask().await?;

    // B lets go: A's client is turned away there, and what was open ends.
    let mut open = TcpStream::connect(pair.entry()).await?;
    ask(&mut open).await?;
    pair.b.wish(&wish(2, vec![]))?;
    until_asking(&pair, false).await?;
    // It is counted once discovery has said who knocked, which is after the client knows.
    let counted = async {
        while refused(&pair.server, "foreign_trust_domain").await? == 0 {
            time::sleep(LOOK).await;
        }
        Result::<_, Error>::Ok(())
    };
    time::timeout(PATIENCE, counted).await??;
    let ended = async { while ask(&mut open).await.is_ok() {} };
    time::timeout(PATIENCE, ended).await?;

    // And so does A: nobody is called any more.
    let before = refused(&pair.client, "trust_domain_not_federated").await?;
    pair.a.wish(&wish(1, vec![]))?;
    let looked = async {
        while refused(&pair.client, "trust_domain_not_federated").await? == before {
            assert!(pair.ask().await.is_err());
        }
        Result::<_, Error>::Ok(())
    };
    time::timeout(PATIENCE, looked).await??;
    pair.a.stop().await;
    pair.b.stop().await;
    Ok(())
}
