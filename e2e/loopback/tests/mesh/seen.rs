//! What is seen of single requests: access logs and taps, with what each connection negotiated, and nothing
//! that could forge either.

use libtest_mimic::Trial;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use trellis_api::{
    access::{Direction, Entry, Kind, Posture},
    evidence::Class,
};
use trellis_local::{Environment, get::get};
use trellis_loopback::{
    stage::{Error, PORT, Stage},
    wire::Wire,
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("both_ends_log_what_was_asked_and_what_protected_it", both),
        trial("nothing_of_a_request_forges_a_line_of_the_access_log", hostile),
        trial("no_line_is_written_unless_somebody_wants_it", disabled),
        trial("a_client_that_leaves_before_its_answer_is_no_failure_of_the_server", client_left),
        trial("a_tap_shows_what_happens_now_and_no_more_than_was_asked_for", tap),
    ]
}

const IDENTITY: &str = "spiffe://cluster.local/ns/test/sa/";

fn logging(client: &str, server: &str) -> Environment {
    let wants = |value: &str| vec![("TRELLIS_ACCESS_LOG".to_owned(), value.to_owned())];
    Environment::from([("client".to_owned(), wants(client)), ("server".to_owned(), wants(server))])
}

/// Answers with the status that the path names, once the body was read.
async fn application(stage: &Stage) -> Result<(), Error> {
    let listener = TcpListener::bind(stage.application()).await?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::new(socket);
                while let Ok(Some(head)) = wire.head().await {
                    wire.body(&head).await?;
                    let path = head.path().split('?').next().unwrap_or_default();
                    let status = path.rsplit('/').next().and_then(|last| last.parse().ok());
                    let status: u16 = status.unwrap_or(200);
                    wire.say(format!("HTTP/1.1 {status} said\r\ncontent-length: 5\r\n\r\nhello")).await?;
                }
                Ok::<_, Error>(())
            });
        }
    });
    Ok(())
}

async fn client(stage: &Stage) -> Result<Wire, Error> {
    Ok(Wire::new(TcpStream::connect(stage.entry()).await?))
}

/// What a proxy wrote until its end, line by line.
async fn written(stage: &mut Stage, name: &str) -> Result<Vec<String>, Error> {
    let log = stage.mesh.path(&format!("logs/{name}.log"));
    stage.mesh.end(name).await;
    let log = std::fs::read(log)?;
    let lines = log.split(|byte| *byte == b'\n').filter(|line| line.first() == Some(&b'{'));
    lines.map(|line| Ok(String::from_utf8(line.to_vec())?)).collect()
}

async fn entries(stage: &mut Stage, name: &str) -> Result<Vec<Entry>, Error> {
    let lines = written(stage, name).await?;
    lines.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn is_pq(posture: Option<&Posture>) -> bool {
    posture.is_some_and(|posture| {
        let signed = [&posture.signatures.client, &posture.signatures.server];
        posture.class == Class::Pq
            && posture.tls.as_deref() == Some("1.3")
            && posture.group.as_deref() == Some("X25519MLKEM768")
            && signed.iter().all(|signature| signature.as_deref() == Some("ML-DSA-65"))
    })
}

async fn both() -> Result<(), Error> {
    let mut stage = Stage::open_in(logging("enabled", "enabled"), &[]).await?;
    application(&stage).await?;
    let mut wire = client(&stage).await?;
    let asked = "POST /cart/503?token=secret HTTP/1.1\r\nhost: web.test\r\ncontent-length: 3\r\n\r\nhi!";
    assert_eq!(wire.ask(asked).await?.0.status(), 503);
    assert_eq!(wire.ask("GET /a HTTP/1.1\r\nhost: web.test\r\n\r\n").await?.0.status(), 200);
    drop(wire);
    let seen = entries(&mut stage, "client").await?;
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (entry, method, path, status, sent) in
        [(&seen[0], "POST", "/cart/503", 503, 3), (&seen[1], "GET", "/a", 200, 0)]
    {
        assert_eq!((entry.kind, entry.direction), (Kind::Request, Direction::Outbound));
        assert_eq!(entry.workload, "test/client");
        assert_eq!(entry.source, format!("{IDENTITY}client"));
        assert_eq!(entry.destination, format!("{IDENTITY}server"));
        assert_eq!(entry.service, Some(format!("test/server:{PORT}")));
        assert_eq!(entry.address, Some(stage.pod().to_string()));
        assert_eq!(entry.authority.as_deref(), Some("web.test"));
        assert_eq!((entry.method.as_deref(), entry.path.as_deref()), (Some(method), Some(path)));
        assert_eq!((entry.status, entry.reason.as_deref()), (Some(status), None));
        assert_eq!((entry.bytes_sent, entry.bytes_received, entry.retries), (sent, 5, 0));
        assert!(entry.duration_ms > 0.0 && is_pq(entry.posture.as_ref()), "{entry:?}");
        assert_eq!((entry.client.as_deref(), entry.client_posture.as_ref()), (None, None));
    }
    let seen = entries(&mut stage, "server").await?;
    let [entry] = &*seen else { return Err(format!("{seen:?}").into()) };
    assert_eq!((entry.kind, entry.direction), (Kind::Connection, Direction::Inbound));
    assert_eq!(entry.source, format!("{IDENTITY}client"));
    assert_eq!(entry.destination, format!("{IDENTITY}server"));
    assert_eq!(entry.address, Some(stage.pod().to_string()));
    assert!(entry.client.is_some() && entry.bytes_sent > 100 && entry.bytes_received > 50, "{entry:?}");
    assert!(is_pq(entry.posture.as_ref()), "{entry:?}");
    assert_eq!((entry.method.as_ref(), entry.status), (None, None), "it reads no HTTP");
    Ok(())
}

async fn hostile() -> Result<(), Error> {
    let mut stage = Stage::open_in(logging("enabled", "disabled"), &[]).await?;
    application(&stage).await?;
    let heads: [&[u8]; 5] = [
        b"GET /%0d%0a%1b[2J{\"forged\":1} HTTP/1.1\r\nhost: web",
        b"GET /\xc2\x9b31m\xe2\x80\xae HTTP/1.1\r\nhost: web",
        b"GET /a HTTP/1.1\r\nhost: w\xff\xfe\xc2\x85b",
        b"G'ET!*|~ /a HTTP/1.1\r\nhost: \"}\\",
        b"GET /\x1b[2J HTTP/1.1\r\nhost: web",
    ];
    for head in heads {
        let mut wire = client(&stage).await?;
        wire.say([head, b"\r\nconnection: close\r\n\r\n"].concat()).await?;
        // Whether it is answered or refused is another matter.
        wire.rest().await?;
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\n", "a".repeat(20_000));
    client(&stage).await?.ask(long).await?;
    let lines = written(&mut stage, "client").await?;
    for line in &lines {
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line:?}");
        let entry: Entry = serde_json::from_str(line)?;
        assert_eq!(entry.workload, "test/client", "{line}");
    }
    let last: Entry = serde_json::from_str(lines.last().ok_or("no line")?)?;
    let path = last.path.unwrap_or_default();
    assert!(path.len() == 1_024 + 3 && path.ends_with("a..."), "{}", path.len());
    assert!((2..=6).contains(&lines.len()), "{lines:?}");
    Ok(())
}

async fn disabled() -> Result<(), Error> {
    let mut stage = Stage::open_in(logging("errors", "disabled"), &[]).await?;
    application(&stage).await?;
    for path in ["/200", "/404", "/500"] {
        client(&stage).await?.ask(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await?;
    }
    let seen = entries(&mut stage, "client").await?;
    let paths: Vec<_> = seen.iter().map(|entry| entry.path.as_deref().unwrap_or_default()).collect();
    assert_eq!(paths, ["/500"]);
    assert!(written(&mut stage, "server").await?.is_empty());
    Ok(())
}

async fn client_left() -> Result<(), Error> {
    let mut stage = Stage::open_in(logging("errors", "disabled"), &[]).await?;
    let listener = TcpListener::bind(stage.application()).await?;
    let (asked, was_asked) = oneshot::channel();
    let answering = tokio::spawn(async move {
        let mut wire = Wire::new(listener.accept().await?.0);
        wire.answer().await?;
        asked.send(()).map_err(|()| "nobody waits")?;
        // That its client has left ends the connection, one way or the other.
        let _ = wire.rest().await;
        Ok::<_, Error>(())
    });
    let mut wire = client(&stage).await?;
    wire.say("GET /slow HTTP/1.1\r\nhost: web\r\n\r\n").await?;
    was_asked.await?;
    drop(wire);
    answering.await??;
    let (_, metrics) = get(stage.client.metrics, "/metrics").await?;
    let metrics = String::from_utf8(metrics.to_vec())?;
    let counted: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("trellis_requests_total{")).collect();
    let [line] = *counted else { return Err(format!("{counted:?}").into()) };
    for label in ["reason=\"client_left\"", "status=\"\"", "service=\"test/server:", "} 1"] {
        assert!(line.contains(label), "{label} in {line}");
    }
    let seen = entries(&mut stage, "client").await?;
    let [entry] = &*seen else { return Err(format!("{seen:?}").into()) };
    assert_eq!((entry.status, entry.reason.as_deref()), (None, Some("client_left")));
    Ok(())
}

/// Begins to watch a proxy: what happens from here on is shown.
async fn watch(stage: &Stage, query: &str) -> Result<(u16, Wire), Error> {
    let mut wire = Wire::new(TcpStream::connect(stage.client.admin).await?);
    wire.say(format!("GET /tap?{query} HTTP/1.1\r\nhost: proxy\r\n\r\n")).await?;
    Ok((wire.answer().await?.status(), wire))
}

/// The next entry of an answer in chunks.
async fn next(wire: &mut Wire) -> Result<Entry, Error> {
    let size = wire.line().await?.ok_or("the tap ended")?;
    let line = wire.bytes(usize::from_str_radix(&size, 16)?).await?;
    wire.line().await?;
    Ok(serde_json::from_slice(&line)?)
}

async fn tap() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    application(&stage).await?;
    let (status, mut carts) = watch(&stage, "path=/cart&to=test/server").await?;
    assert_eq!(status, 200);
    let (_, mut failures) = watch(&stage, "failed").await?;
    let mut wire = client(&stage).await?;
    for path in ["/other", "/cart/503", "/cart/200", "/500"] {
        wire.ask(format!("GET {path}?a=b HTTP/1.1\r\nhost: web\r\n\r\n")).await?;
    }
    for path in ["/cart/503", "/cart/200"] {
        let entry = next(&mut carts).await?;
        assert_eq!(entry.path.as_deref(), Some(path));
        assert!(is_pq(entry.posture.as_ref()), "{entry:?}");
    }
    for path in ["/cart/503", "/500"] {
        assert_eq!(next(&mut failures).await?.path.as_deref(), Some(path));
    }
    // Eight may watch at a time.
    let mut more = Vec::new();
    for _ in 0..6 {
        let (status, wire) = watch(&stage, "").await?;
        assert_eq!(status, 200);
        more.push(wire);
    }
    assert_eq!(watch(&stage, "").await?.0, 429);
    assert_eq!(watch(&stage, "pth=/cart").await?.0, 400);
    Ok(())
}
