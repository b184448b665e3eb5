//! The client of the API server against a TLS server that writes down what was negotiated. The client runs
//! in a process of its own, since it reads its configuration from the environment and installs a
//! process-wide provider: this test's executable, run again.

use std::{fs, process::Stdio, sync::Arc};

use anyhow::{Context, Result};
use rustls::{
    HandshakeKind, NamedGroup, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::TlsAcceptor;

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];
const ANSWER: &str = r#"{"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}"#;

#[tokio::test]
async fn an_api_server_that_can_is_reached_with_the_hybrid_group_at_once() -> Result<()> {
    let (group, kind) = reach(&[NamedGroup::X25519, NamedGroup::X25519MLKEM768]).await?;
    // Without a retry: the client sent its hybrid share unasked.
    assert_eq!((group, kind), (NamedGroup::X25519MLKEM768, HandshakeKind::Full));
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_cannot_is_still_reached() -> Result<()> {
    let (group, _) = reach(&[NamedGroup::secp256r1]).await?;
    assert_eq!(group, NamedGroup::secp256r1);
    Ok(())
}

#[tokio::test]
#[ignore = "run by the tests above"]
async fn client_for_the_tests_above() -> Result<()> {
    let version = trellis_source::kubernetes_client().await?.apiserver_version().await?;
    assert_eq!(version.git_version, "v1.33.0");
    Ok(())
}

/// What a server with these groups negotiates with our client.
async fn reach(groups: &[NamedGroup]) -> Result<(NamedGroup, HandshakeKind)> {
    let folder = tempfile::tempdir()?;
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    fs::write(folder.path().join("ca.pem"), own.cert.pem())?;
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(
        &kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: 'https://{}', certificate-authority: ca.pem}}}}]\n\
             users: [{{name: test, user: {{token: none}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            listener.local_addr()?
        ),
    )?;

    let mut provider = aws_lc_rs::default_provider();
    // rustls as a server takes the first of the client's groups that it knows: the order is the client's.
    provider.kx_groups = groups
        .iter()
        .filter_map(|wanted| aws_lc_rs::ALL_KX_GROUPS.iter().find(|group| group.name() == *wanted).copied())
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let configuration = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;

    let client = Command::new(std::env::current_exe()?)
        .args(["--exact", "client_for_the_tests_above", "--ignored"])
        .env("KUBECONFIG", &kubeconfig)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let (negotiated, output) = tokio::join!(serve(listener, configuration), client);
    let output = output?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    negotiated
}

async fn serve(listener: TcpListener, configuration: ServerConfig) -> Result<(NamedGroup, HandshakeKind)> {
    let (stream, _) = listener.accept().await?;
    let mut stream = TlsAcceptor::from(Arc::new(configuration)).accept(stream).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let length = ANSWER.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{ANSWER}").as_bytes()).await?;
    stream.flush().await?;
    let (_, session) = stream.get_ref();
    let group = session.negotiated_key_exchange_group().context("no group")?.name();
    Ok((group, session.handshake_kind().context("no handshake")?))
}
