//! Clients and applications that break the rules of HTTP/1. Nothing that is malformed is passed on, each is
//! counted, and who keeps the rules beside them does not notice. The threat model says
//! what is tested where.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use libtest_mimic::Trial;
use tokio::{net::TcpStream, process::Command, time};
use trellis_loopback::{
    stage::{Error, Stage},
    wire::Wire,
};

use super::{application, client, echo_paths, metrics, open, status};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_request_whose_end_is_in_doubt_is_refused", framing),
        trial("a_head_that_is_too_large_is_refused", large_heads),
        trial("a_head_that_drips_is_cut_off", drip),
        trial("an_application_that_breaks_http_is_told_from_one_that_answers", answers),
        trial("more_connections_than_files_leave_a_proxy_that_goes_on", files),
        trial("a_body_is_nobodys_to_unpack", unpacked),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// How often clients were refused for `reason`.
pub async fn refused(stage: &Stage, reason: &str) -> Result<u64, Error> {
    let lines = metrics(stage, "trellis_http_refused_total{").await?;
    let line = lines.iter().find(|line| line.contains(&format!("reason=\"{reason}\"")));
    Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default())
}

/// That somebody else is served, and that memory has come back to what it was `before`.
pub async fn unharmed(stage: &Stage, before: usize, what: &str) -> Result<(), Error> {
    let mut good = client(stage).await?;
    for _ in 0..20 {
        let (head, _) = good.ask(GET).await?;
        assert_eq!(head.status(), 200, "beside {what}");
    }
    // What an allocator keeps of a short peak is not held by anybody.
    let within = async {
        while status(stage.client.pid, "VmRSS")? > before + before / 5 {
            time::sleep(Duration::from_millis(50)).await;
        }
        Result::<(), Error>::Ok(())
    };
    let within = time::timeout(Duration::from_secs(10), within).await;
    let now = status(stage.client.pid, "VmRSS")?;
    within.map_err(|_| format!("after {what}: {now} KiB, and {before} KiB before"))?
}

/// What the proxy needs for as many clients at once as any of these has it has before anything is measured:
/// the question is what is left of them beyond that.
pub async fn warm(stage: &Stage) -> Result<usize, Error> {
    let many = (0..250).map(|_| async { client(stage).await?.ask(GET).await });
    futures::future::try_join_all(many).await?;
    status(stage.client.pid, "VmRSS")
}

async fn framing() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    let came = application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            assert!(!head.path().starts_with("/smuggled"), "{head:?}");
            let framings = head.all("content-length").len() + head.all("transfer-encoding").len();
            assert!(framings <= 1, "framed twice: {head:?}");
            wire.body(&head).await?;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Ok(())
    });
    let before = warm(&stage).await?;
    const NEXT: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n";
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: web\r\n{headers}\r\n{body}");
    let doubtful = [
        post("transfer-encoding: chunked, chunked\r\n", NEXT),
        post("transfer-encoding: identity\r\n", NEXT),
        post("transfer-encoding : chunked\r\n", NEXT),
        post("content-length: 5\r\ncontent-length: 6\r\n", NEXT),
        post("content-length: 5, 6\r\n", NEXT),
        post("content-length: +5\r\n", NEXT),
        post("content-length: 0x5\r\n", NEXT),
        post("content-length: 99999999999999999999999\r\n", NEXT),
        post("x: a\r\n b\r\ncontent-length: 5\r\n", NEXT),
        post("x: a\rb\r\n", NEXT),
        post("x: a\0b\r\n", NEXT),
        post("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"),
        post("transfer-encoding: chunked\r\n", "5 5\r\nhello\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "-1\r\n\r\n"),
        "POST / HTTP/1.0\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(),
        "GET /\u{1} HTTP/1.1\r\nhost: web\r\n\r\n".to_owned(),
        "GET http://other/ HTTP/1.1\r\nhost : web\r\n\r\n".to_owned(),
    ];
    for request in &doubtful {
        let mut hostile = client(&stage).await?;
        // That it is HTTP at all is known by then.
        hostile.ask(GET).await?;
        hostile.say(request).await?;
        let head = hostile.head().await.map_err(|error| format!("{request:?}: {error}"))?;
        let head = head.ok_or_else(|| format!("not even an answer to {request:?}"))?;
        assert!([400, 501, 502].contains(&head.status()), "{request:?}: {head:?}");
        if request.starts_with("GET") {
            // That has no body, so the next one would be found.
            continue;
        }
        // And the connection is not read on.
        let _ = time::timeout(Duration::from_secs(10), hostile.rest()).await.map_err(|_| request.clone())?;
    }
    // Both at once: one of the two is obeyed and sent on, as the standard has it.
    let mut hostile = client(&stage).await?;
    hostile.say(post("content-length: 4\r\ntransfer-encoding: chunked\r\n", NEXT)).await?;
    let head = hostile.answer().await?;
    assert!([200, 400].contains(&head.status()), "{head:?}");
    assert!(refused(&stage, "malformed").await? >= 8);
    assert!(came.load(Relaxed) > 0);
    unharmed(&stage, before, "requests in doubt").await
}

async fn large_heads() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, echo_paths);
    let before = warm(&stage).await?;
    let long = "a".repeat(70 * 1024);
    let many: String = (0..10_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let cases = [
        (format!("GET / HTTP/1.1\r\nhost: web\r\nx: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nhost: web\r\n{many}\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\nhost: web\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", &long[..16 * 1024]), 400),
    ];
    for (request, expected) in &cases {
        let mut hostile = client(&stage).await?;
        hostile.ask(GET).await?;
        // The answer may come before all was said.
        let _ = hostile.say(request).await;
        let status = hostile.head().await.ok().flatten().map(|head| head.status());
        let accepted = status.is_none() || status == Some(*expected) || status == Some(431);
        assert!(accepted, "{}...: {status:?}", &request[..60]);
    }
    assert!(refused(&stage, "head_too_large").await? + refused(&stage, "malformed").await? >= 3);
    unharmed(&stage, before, "large heads").await
}

async fn drip() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, echo_paths);
    let before = warm(&stage).await?;
    let drips = (0..50).map(|_| async {
        let mut hostile = client(&stage).await?;
        hostile.say("GET / HTTP/1.1\r\nhost: web\r\nx: ").await?;
        let cut = async {
            loop {
                hostile.say("y").await?;
                time::sleep(Duration::from_secs(2)).await;
            }
        };
        let cut: Result<(), Error> = cut.await;
        assert!(cut.is_err());
        Result::<(), Error>::Ok(())
    });
    futures::future::try_join_all(drips).await?;
    assert_eq!(refused(&stage, "slow_head").await?, 50);
    unharmed(&stage, before, "heads that drip").await
}

/// What an application answers that is no answer.
async fn answers() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            match head.path() {
                "/" => wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?,
                "/garbage" => wire.say("what?\r\n\r\n").await?,
                "/version" => wire.say("HTTP/7.0 200 OK\r\n\r\n").await?,
                "/status" => wire.say("HTTP/1.1 99999 No\r\n\r\n").await?,
                "/twice" => {
                    wire.say("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab").await?;
                }
                "/split" => wire.say("HTTP/1.1 200 OK\r\nx: a\rb: c\r\ncontent-length: 0\r\n\r\n").await?,
                "/none" => return Ok(()),
                _ => {
                    // A head without an end.
                    while wire
                        .say("x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
                        .await
                        .is_ok()
                    {}
                }
            }
        }
        Ok(())
    });
    let before = warm(&stage).await?;
    for path in ["/garbage", "/version", "/status", "/twice", "/split", "/none", "/endless"] {
        let mut client = client(&stage).await?;
        let (head, _) =
            client.ask(format!("POST {path} HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n")).await?;
        assert_eq!(head.status(), 502, "{path}: {head:?}");
        assert!(head.get("trellis-error").is_some(), "{path}: {head:?}");
        // The client itself did nothing wrong.
        assert_eq!(client.ask(GET).await?.0.status(), 200, "after {path}");
    }
    unharmed(&stage, before, "an application that breaks HTTP").await
}

async fn files() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, echo_paths);
    let before = warm(&stage).await?;
    let limited = Command::new("prlimit")
        .args(["--pid", &stage.client.pid.to_string(), "--nofile=256:256"])
        .status()
        .await?;
    assert!(limited.success(), "prlimit");
    let mut held = Vec::new();
    for _ in 0..300 {
        // The kernel accepts for it.
        if let Ok(Ok(socket)) = time::timeout(Duration::from_secs(1), TcpStream::connect(stage.entry())).await
        {
            let mut wire = Wire::new(socket);
            let _ = wire.say(GET).await;
            held.push(wire);
        }
    }
    // It is alive and says so, and takes up work when there is room.
    drop(held);
    let again = async {
        loop {
            let asked = async { client(&stage).await?.ask(GET).await };
            if let Ok(Ok((head, _))) = time::timeout(Duration::from_secs(2), asked).await
                && head.status() == 200
            {
                return;
            }
        }
    };
    time::timeout(Duration::from_secs(30), again).await?;
    unharmed(&stage, before, "more connections than files").await
}

/// A body that would be large if anybody unpacked it arrives as it was sent.
async fn unpacked() -> Result<(), Error> {
    let (stage, listener) = open().await?;
    application(listener, |mut wire: Wire, _| async move {
        while let Some(head) = wire.head().await? {
            let body = wire.body(&head).await?;
            assert_eq!(head.get("content-encoding"), Some("gzip"), "{head:?}");
            wire.say(format!(
                "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ))
            .await?;
            wire.say(body).await?;
        }
        Ok(())
    });
    // The beginning of a stream of gzip with nothing that unpacks, and 256 MiB that fit into a quarter of one.
    let broken = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0xaa; 5_000]].concat();
    let bomb =
        Command::new("sh").args(["-c", "head -c 268435456 /dev/zero | gzip -1"]).output().await?.stdout;
    assert!((100 << 10..4 << 20).contains(&bomb.len()), "{} bytes", bomb.len());
    let mut client = client(&stage).await?;
    let mut before = 0;
    // The first one is for what is made once, and kept.
    for body in [&bomb, &broken, &bomb, &bomb, &bomb] {
        client
            .say(format!(
                "POST / HTTP/1.1\r\nhost: web\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ))
            .await?;
        client.say(body).await?;
        let head = client.answer().await?;
        assert_eq!(head.status(), 200);
        assert!(client.body(&head).await? == *body, "it was unpacked");
        if before == 0 {
            before = status(stage.client.pid, "VmHWM")?;
        }
    }
    let most = status(stage.client.pid, "VmHWM")?;
    assert!(most < before + before / 5, "{most} KiB at its most, and {before} KiB before");
    Ok(())
}
