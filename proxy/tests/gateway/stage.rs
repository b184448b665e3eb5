//! A gateway as a process, and what stands around it.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpListener as Mark},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time;
use trellis_api::{
    evidence::ProxyEvidence,
    names::{ADMIN_PORT, METRICS_PORT, OUTBOUND_PORT, READY_PORT, TUNNEL_PORT, gateway_port},
    proto::discovery as wire,
};
use trellis_local::{Network, Role, get};

use crate::control::Control;

/// Never waited for when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stage {
    pub control: Control,
    pub network: Network,
    pub folder: TempDir,
    /// The proxy that is tried: the one of this build, where nothing else is said.
    pub program: PathBuf,
    /// What it logs.
    pub log: &'static str,
    _mark: Mark,
}

/// A proxy that runs, and ends with this.
pub struct Proxy {
    pub address: IpAddr,
    child: Child,
    log: PathBuf,
}

impl Stage {
    pub async fn new() -> Self {
        let (network, mark) = Network::free().unwrap();
        let at = |number| SocketAddr::new(network.address(Role::Control, number).into(), 15_012);
        let control = Control::start(at(1), at(2)).await;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bundle.pem"), control.bundle_pem()).unwrap();
        let program = env!("CARGO_BIN_EXE_trellis-proxy").into();
        Self { control, network, folder, program, log: "debug,h2=info", _mark: mark }
    }

    /// An address for an application.
    pub fn application(&self, number: u8, port: u16) -> SocketAddr {
        (self.network.address(Role::Application, number), port).into()
    }

    /// Starts the gateway, and waits until it is ready.
    pub async fn gateway(&self, extra: &[&str]) -> Proxy {
        self.replica(1, extra).await
    }

    /// Starts one of its pods.
    pub async fn replica(&self, number: u8, extra: &[&str]) -> Proxy {
        let address: IpAddr = self.network.address(Role::Pod, number).into();
        let mut arguments = vec![
            "gateway".to_owned(),
            "--gateway-namespace=edge".into(),
            "--gateway-name=web".into(),
            format!("--gateway-listen={address}"),
        ];
        arguments.extend(extra.iter().map(ToString::to_string));
        let mut proxy = self.proxy("edge", "web-trellis", address, arguments);
        proxy.ready().await;
        proxy
    }

    /// Starts a proxy beside an application.
    pub async fn sidecar(&self, account: &str, number: u8) -> Proxy {
        let address: IpAddr = self.network.address(Role::Pod, number).into();
        let at = |port| SocketAddr::new(address, port);
        let arguments = vec![
            "run".to_owned(),
            format!("--pod-ips={address}"),
            format!("--outbound-listen={}", at(OUTBOUND_PORT)),
            format!("--inbound-listen={}", at(15_006)),
            format!("--tunnel-listen={}", at(TUNNEL_PORT)),
            format!("--application-address={}", self.network.address(Role::Application, number)),
        ];
        let mut proxy = self.proxy("shop", account, address, arguments);
        proxy.ready().await;
        proxy
    }

    fn proxy(&self, namespace: &str, account: &str, address: IpAddr, arguments: Vec<String>) -> Proxy {
        let token = self.folder.path().join(format!("{account}.token"));
        fs::write(&token, format!("{namespace}/{account}")).unwrap();
        let log = self.folder.path().join(format!("{account}-{address}.log"));
        let output = File::create(&log).unwrap();
        let control = |number| format!("{}:15012", self.network.address(Role::Control, number));
        let at = |port| SocketAddr::new(address, port);
        // However this test ends, its processes do not outlive it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .args(arguments)
            .args([
                format!("--pod-name={account}-0"),
                format!("--pod-namespace={namespace}"),
                format!("--service-account={account}"),
                format!("--ca-address={}", control(1)),
                format!("--discovery-address={}", control(2)),
                format!("--token-file={}", token.display()),
                format!("--bundle-file={}", self.folder.path().join("bundle.pem").display()),
                format!("--admin-listen={}", at(ADMIN_PORT)),
                format!("--metrics-listen={}", at(METRICS_PORT)),
                format!("--ready-listen={}", at(READY_PORT)),
                format!("--log={}", self.log),
                "--drain-seconds=20".into(),
            ])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Proxy { address, child, log }
    }

    /// A port of a Service whose one endpoint has no proxy.
    pub fn plain(&self, name: &str, application: SocketAddr) -> wire::Service {
        let reach = wire::endpoint::Reach::Plaintext(wire::Plaintext {
            reason: wire::plaintext::Reason::NotInjected.into(),
        });
        self.service(name, application, reach)
    }

    pub fn service(&self, name: &str, at: SocketAddr, reach: wire::endpoint::Reach) -> wire::Service {
        let endpoint = wire::Endpoint {
            address: at.ip().to_string(),
            port: at.port().into(),
            namespace: "shop".into(),
            pod: format!("{name}-0"),
            service_account: name.into(),
            reach: Some(reach),
            ..Default::default()
        };
        wire::Service {
            namespace: "shop".into(),
            name: name.into(),
            port: 80,
            endpoints: vec![endpoint],
            ..Default::default()
        }
    }
}

impl Proxy {
    async fn ready(&mut self) {
        let at = SocketAddr::new(self.address, READY_PORT);
        let ready = async {
            while !matches!(get::get(at, "/ready").await, Ok((status, _)) if status == 200) {
                assert!(matches!(self.child.try_wait(), Ok(None)), "it has ended: {}", self.log());
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(time::timeout(PATIENCE, ready).await.is_ok(), "not ready: {}", self.log());
    }

    /// What `/ready` says.
    pub async fn readiness(&self) -> (u16, String) {
        let (status, body) = get::get(SocketAddr::new(self.address, READY_PORT), "/ready").await.unwrap();
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }

    /// Where clients of a listener's port come to.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, gateway_port(port))
    }

    pub async fn evidence(&self) -> ProxyEvidence {
        let (_, body) = get::get(SocketAddr::new(self.address, METRICS_PORT), "/evidence").await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    pub async fn metrics(&self) -> String {
        let (_, body) = get::get(SocketAddr::new(self.address, METRICS_PORT), "/metrics").await.unwrap();
        String::from_utf8_lossy(&body).into_owned()
    }

    /// The value of the one series whose line holds all of `parts`; 0 without one.
    pub async fn metric(&self, parts: &[&str]) -> f64 {
        let metrics = self.metrics().await;
        let lines = metrics.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric is what it should be.
    pub async fn until(&self, parts: &[&str], wanted: f64) {
        let reached = async {
            while self.metric(parts).await != wanted {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{parts:?} is never {wanted}: {}", self.metrics().await);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits for its end; whether it was a good one.
    pub async fn ended(&mut self) -> bool {
        let ended = async {
            loop {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return status.success();
                }
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        time::timeout(PATIENCE, ended).await.unwrap_or(false)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
