//! The client of the API server, with our preferences for TLS.

use std::time::Duration;

use kube::{Client, Config};
use rustls::{
    NamedGroup,
    crypto::{CryptoProvider, aws_lc_rs},
};
use thiserror::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A little more than the time after which the API server ends a watch by itself.
const READ_TIMEOUT: Duration = Duration::from_secs(320);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error(
        "no way to the Kubernetes API: {0}; run in a pod with a ServiceAccount, or set KUBECONFIG to a \
         kubeconfig file"
    )]
    NoConfiguration(#[source] Box<kube::config::InferConfigError>),
    #[error("the Kubernetes configuration cannot be used: {0}")]
    Unusable(#[source] Box<kube::Error>),
}

/// A client from the kubeconfig, or from the pod's ServiceAccount where there is none.
pub async fn kubernetes_client() -> Result<Client, ClientError> {
    client(Config::infer().await.map_err(|error| ClientError::NoConfiguration(Box::new(error)))?)
}

/// It speaks HTTP/1.1 alone, so that each watch has a connection of its own: of the streams of one connection of
/// HTTP/2 a server allows so many, and watches, which last, would leave none to requests.
fn client(mut config: Config) -> Result<Client, ClientError> {
    install_default_provider();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    Client::try_from(config).map_err(|error| ClientError::Unusable(Box::new(error)))
}

/// kube takes its TLS from the process-wide default and would install one of its own. This one puts the
/// hybrid group first and keeps what an API server may need behind it; our own connections never use it.
/// What is installed already stays.
pub fn install_default_provider() {
    // The only error is that there is one already.
    let _ = provider().install_default();
}

fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    provider
}

#[cfg(test)]
mod tests {
    use rustls::server::Acceptor;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_server_is_offered_no_http_2_whose_streams_watches_would_use_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let mut config = Config::new(server.parse().unwrap());
        config.accept_invalid_certs = true;
        let client = client(config).unwrap();
        let asking = tokio::spawn(async move { client.apiserver_version().await.map(|_| ()) });
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut acceptor = Acceptor::default();
        let hello = loop {
            let mut bytes = vec![0; 4096];
            let count = connection.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "no hello");
            acceptor.read_tls(&mut bytes.get(..count).unwrap()).unwrap();
            if let Some(accepted) = acceptor.accept().unwrap() {
                break accepted;
            }
        };
        let offered = hello.client_hello().alpn().map(|all| all.map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert!(offered.is_none_or(|offered| !offered.contains(&b"h2".to_vec())));
        asking.abort();
    }

    #[test]
    fn the_hybrid_group_comes_first_and_classical_ones_stay() {
        let groups: Vec<NamedGroup> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups.first(), Some(&NamedGroup::X25519MLKEM768));
        assert!(groups.contains(&NamedGroup::X25519) && groups.contains(&NamedGroup::secp256r1));
    }
}
