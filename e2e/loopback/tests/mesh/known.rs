//! What `trellis tap`, `trellis diag` and `trellis stat --requests` show of proxies that run.

use std::{ffi::OsStr, process::Stdio};

use libtest_mimic::Trial;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};
use trellis_api::diag::{Diag, Explanation, Kind};
use trellis_local::{Environment, get::get};
use trellis_loopback::{
    stage::{Error, PORT, Stage, binaries, trellis},
    wire::Wire,
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("tap_prints_requests_as_they_happen", tap),
        trial("diag_shows_what_a_proxy_knows_and_no_key", diag),
        trial("diag_explains_where_a_request_would_go", explain),
        trial("diag_explains_what_a_route_says_and_why_a_request_would_fail", routed),
        trial("the_admin_port_answers_nobody_but_its_own_pod", admin),
    ]
}

/// Answers every request with its path.
async fn application(stage: &Stage) -> Result<(), Error> {
    let listener = TcpListener::bind(stage.application()).await?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::new(socket);
                while let Ok(Some(_)) = wire.head().await {
                    let _ = wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
                }
            });
        }
    });
    Ok(())
}

async fn ask(stage: &Stage, path: &str) -> Result<u16, Error> {
    let mut wire = Wire::new(TcpStream::connect(stage.entry()).await?);
    Ok(wire.ask(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await?.0.status())
}

/// The command line, with the client's proxy.
async fn run(stage: &Stage, command: &str, more: &[&str]) -> Result<(Option<i32>, String), Error> {
    let proxy = format!("--proxy=http://{}", stage.client.admin);
    let arguments: Vec<&OsStr> = [command, &proxy].iter().chain(more).map(|word| OsStr::new(*word)).collect();
    let output = trellis(&arguments).await?;
    let text = String::from_utf8(output.stdout)?;
    if text.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok((output.status.code(), text))
}

async fn tap() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    application(&stage).await?;
    let mut tap = Command::new(binaries()?.join("trellis"))
        .args(["tap", "--path=/cart", "--count=2"])
        .arg(format!("--proxy=http://{}", stage.client.admin))
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let said = tap.stderr.take().ok_or("no standard error")?;
    let said = BufReader::new(said).lines().next_line().await?.ok_or("nothing was said")?;
    assert_eq!(said, "watching 1 proxy");
    for path in ["/other", "/cart/1", "/cart/2"] {
        assert_eq!(ask(&stage, path).await?, 200);
    }
    let output = tap.wait_with_output().await?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), output.status.success()), (2, true), "{text}");
    for (line, path) in lines.iter().zip(["web/cart/1", "web/cart/2"]) {
        for part in [
            &format!("test/client -> test/server:{PORT} GET {path} 200 "),
            "[pq TLS 1.3 X25519MLKEM768 ML-DSA-65/ML-DSA-65]",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    Ok(())
}

async fn diag() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    application(&stage).await?;
    assert_eq!(ask(&stage, "/").await?, 200);
    let (code, text) = run(&stage, "diag", &["--json"]).await?;
    assert_eq!(code, Some(0));
    let diag: Diag = serde_json::from_str(&text)?;
    let identity = "spiffe://cluster.local/ns/test/sa/";
    assert_eq!((&*diag.workload, diag.identity), ("test/client", format!("{identity}client")));
    assert_eq!(diag.leaf.map(|leaf| leaf.algorithm).as_deref(), Some("ML-DSA-65"));
    assert_eq!(diag.trust[0].trust_domain, "cluster.local");
    assert_eq!(diag.settings["plaintext"], "permissive");
    let demanded = |field: &str| diag.policy.iter().find(|one| one.field == field).expect("it is demanded");
    assert_eq!(
        (demanded("plaintext").level.as_str(), demanded("signatures").source.as_str()),
        ("permissive", "start")
    );
    let [tunnel] = &*diag.tunnels else { return Err(format!("{:?}", diag.tunnels).into()) };
    assert_eq!(tunnel.peer, format!("{identity}server"));
    assert_eq!(tunnel.posture.group.as_deref(), Some("X25519MLKEM768"));
    let entry = stage.entry().to_string();
    let known = diag.destinations.iter().find(|one| one.subject == entry).ok_or("not known")?;
    assert_eq!((known.kind, known.service.clone()), (Kind::Service, Some(format!("test/server:{PORT}"))));
    let [endpoint] = &*known.endpoints else { return Err(format!("{known:?}").into()) };
    assert_eq!((&*endpoint.address, endpoint.share), (&*stage.pod().to_string(), 1.0));
    assert!(endpoint.latency_ms.is_some_and(|took| took > 0.0));
    // Of keys nothing is known that could be told; of tokens neither.
    let token = std::fs::read_to_string(stage.mesh.token(&stage.client.workload)?)?;
    for port in [stage.client.admin, stage.client.metrics] {
        for path in ["/diag", "/evidence", "/destinations", "/routes", "/metrics"] {
            let (_, body) = get(port, path).await?;
            let body = String::from_utf8_lossy(&body);
            for secret in ["PRIVATE KEY", "seed", token.trim()] {
                assert!(!body.contains(secret), "{path} says {secret}");
            }
        }
    }
    let (code, text) = run(&stage, "diag", &[]).await?;
    assert_eq!(code, Some(0));
    for part in ["test/client, trellis-proxy", "certificate: ML-DSA-65", &format!("to {identity}server at")] {
        assert!(text.contains(part), "{part} in {text}");
    }
    Ok(())
}

async fn explain() -> Result<(), Error> {
    let only = ("TRELLIS_EGRESS".to_owned(), "10.0.0.0/8".to_owned());
    let stage = Stage::open_in(Environment::from([("client".to_owned(), vec![only])]), &[]).await?;
    application(&stage).await?;
    assert_eq!(ask(&stage, "/").await?, 200);
    // By address, and by names that the Service has.
    for host in [stage.entry().to_string(), format!("server.test:{PORT}")] {
        let to = format!("--to=http://{host}/cart");
        let (code, text) = run(&stage, "diag", &[&to, "--json"]).await?;
        assert_eq!(code, Some(0), "{text}");
        let told: Explanation = serde_json::from_str(&text)?;
        assert_eq!((told.subject, told.failure), (Some(stage.entry().to_string()), None));
        let [backend] = &*told.backends else { return Err(format!("{:?}", told.backends).into()) };
        assert_eq!((&*backend.name, backend.share), (&*format!("test/server:{PORT}"), 1.0));
        assert_eq!(backend.endpoints[0].address, stage.pod().to_string());
    }
    let to = format!("--to=http://{}/", stage.outside(1));
    let (code, text) = run(&stage, "diag", &[&to]).await?;
    assert!(code == Some(1) && text.contains("fails: refused, egress_denied"), "{text}");
    let (code, text) = run(&stage, "diag", &["--to=http://10.1.2.3/"]).await?;
    assert!(code == Some(0) && text.contains("10.1.2.3:80 is outside of the mesh"), "{text}");
    let refused = run(&stage, "diag", &["--to=ftp://a"]).await;
    let error = refused.err().ok_or("it was explained")?.to_string();
    assert!(error.contains("is no URL of HTTP"), "{error}");
    Ok(())
}

async fn routed() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let server = serde_json::json!({"group": "", "kind": "Service", "name": "server", "port": PORT});
    let rule = |path: &str, backends: Value| serde_json::json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": backends});
    let to = |name: &str, weight: u16| serde_json::json!({"name": name, "port": PORT, "weight": weight});
    let route = serde_json::json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"namespace": "test", "name": "carts", "uid": "carts-uid"},
        "spec": {"parentRefs": [server], "rules": [
            rule("/cart", serde_json::json!([to("server", 3), to("nobody", 1)])),
        ]},
    });
    stage.mesh.apply("carts", vec![route])?;
    application(&stage).await?;
    // Until the route has arrived, everything is answered.
    while ask(&stage, "/other").await? != 404 {}
    let entry = stage.entry();
    let (code, text) = run(&stage, "diag", &[&format!("--to=http://{entry}/other"), "--json"]).await?;
    let told: Explanation = serde_json::from_str(&text)?;
    let failure = told.failure.ok_or("it would not fail")?;
    assert_eq!((code, failure.status, &*failure.reason), (Some(1), Some(404), "no_route"));
    let (code, text) = run(&stage, "diag", &[&format!("--to=http://{entry}/cart/1"), "--json"]).await?;
    let told: Explanation = serde_json::from_str(&text)?;
    let route = told.route.ok_or("no route")?;
    assert_eq!((code, &*route.kind, &*route.name), (Some(1), "HTTPRoute", "test/carts"), "{text}");
    let shares: Vec<f64> = told.backends.iter().map(|one| one.share).collect();
    assert_eq!(shares, [0.75, 0.25], "{text}");
    assert_eq!((told.backends[0].failure.as_ref(), told.backends[1].failure.is_some()), (None, true));
    Ok(())
}

async fn admin() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let proxy = binaries()?.join("trellis-proxy");
    let help = Command::new(proxy).args(["run", "--help"]).env_clear().output().await?;
    let help = String::from_utf8(help.stdout)?;
    let at = help.find("--admin-listen").ok_or("no such flag")?;
    assert!(
        help[at..].lines().take(3).any(|line| line.contains("127.0.0.1:15000")),
        "{}",
        &help[at..at + 200]
    );
    // What may be scraped from elsewhere tells none of it.
    for path in ["/diag", "/explain?to=http://a", "/tap", "/destinations", "/routes"] {
        assert_eq!(get(stage.client.metrics, path).await?.0.as_u16(), 404, "{path}");
    }
    Ok(())
}
