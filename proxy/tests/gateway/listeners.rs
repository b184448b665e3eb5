//! Ports and listeners as they come, change and go.

use tokio::net::TcpStream;
use trellis_api::proto::discovery::listener::Kind;

use crate::{stage::Stage, web::*};

async fn two(stage: &Stage) {
    for (name, number) in [("one", 1), ("two", 2)] {
        let at = stage.application(number, 8080);
        application(name, at, None).await;
        stage.control.backend(stage.plain(name, at));
    }
}

#[tokio::test]
async fn ports_open_change_and_close_without_touching_those_that_stay() {
    let stage = Stage::new().await;
    two(&stage).await;
    let web = |to| http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", to)]);
    let more = || http(listener("more", 8080, Kind::Http, ""), vec![route(&[], "/", "two")]);
    stage.control.gateway(vec![web("one")]);
    let gateway = stage.gateway(&[]).await;
    let mut kept = TcpStream::connect(gateway.at(80)).await.unwrap();
    assert!(ask(&mut kept, "shop.example", "/").await.contains("application: one"));
    assert!(TcpStream::connect(gateway.at(8080)).await.is_err());
    // A port comes, and one that was there leads elsewhere.
    stage.control.gateway(vec![web("two"), more()]);
    gateway.until(&["trellis_gateway_ports_open"], 2.0).await;
    assert!(ask(&mut kept, "shop.example", "/").await.contains("application: two"));
    let mut other = TcpStream::connect(gateway.at(8080)).await.unwrap();
    assert!(ask(&mut other, "shop.example", "/").await.contains("application: two"));
    // It goes, and its connections with it.
    stage.control.gateway(vec![web("one")]);
    gateway.until(&["trellis_gateway_ports_open"], 1.0).await;
    assert_eq!(say(&mut other, "", "never").await, "");
    assert!(ask(&mut kept, "shop.example", "/").await.contains("application: one"));
    // And comes again, on the same port.
    stage.control.gateway(vec![web("one"), more()]);
    gateway.until(&["trellis_gateway_ports_open"], 2.0).await;
    assert_eq!(curl(gateway.at(8080), "http://shop.example/", &[]).await.status, 200);
    assert!(ask(&mut kept, "shop.example", "/").await.contains("application: one"));
}

#[tokio::test]
async fn a_request_is_for_the_most_precise_listener_and_for_no_other() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.control.gateway(vec![
        http(listener("any", 80, Kind::Http, ""), vec![route(&[], "/", "one")]),
        http(
            listener("wild", 80, Kind::Http, "*.shop.example"),
            vec![route(&["*.shop.example"], "/wild", "two")],
        ),
        http(
            listener("exact", 80, Kind::Http, "web.shop.example"),
            vec![route(&["web.shop.example"], "/web", "two")],
        ),
        http(
            listener("alone", 8080, Kind::Http, "web.shop.example"),
            vec![route(&["web.shop.example"], "/", "two")],
        ),
    ]);
    let gateway = stage.gateway(&[]).await;
    for (host, path, port, expected) in [
        ("else.example", "/", 80, Ok("one")),
        ("10.0.0.1", "/", 80, Ok("one")),
        ("web.shop.example", "/web", 80, Ok("two")),
        ("WEB.shop.example:80", "/web", 80, Ok("two")),
        ("a.shop.example", "/wild", 80, Ok("two")),
        // Neither the wildcard's route nor that for everybody has a say.
        ("web.shop.example", "/wild", 80, Err("no_route")),
        ("a.shop.example", "/", 80, Err("no_route")),
        ("web.shop.example", "/", 8080, Ok("two")),
        ("else.example", "/", 8080, Err("no_listener_for_host")),
    ] {
        let url = format!("http://x.example{path}");
        let got = curl(gateway.at(port), &url, &["-H", &format!("Host: {host}")]).await;
        match expected {
            Ok(name) => assert!(got.body.contains(&format!("application: {name}")), "{host}{path}: {got:?}"),
            Err(reason) => {
                assert_eq!(got.status, 404, "{host}{path}");
                assert!(got.head.contains(&format!("trellis-error: {reason}")), "{host}{path}: {got:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_gateway_is_ready_once_all_it_is_to_serve_is_open() {
    let stage = Stage::new().await;
    let taken = std::net::TcpListener::bind(std::net::SocketAddr::new(
        stage.network.address(trellis_local::Role::Pod, 1).into(),
        10_081,
    ))
    .unwrap();
    stage.control.gateway(vec![listener("web", 80, Kind::Http, ""), listener("taken", 81, Kind::Http, "")]);
    let starting = stage.gateway(&[]);
    tokio::pin!(starting);
    // The other port is open meanwhile.
    let at = std::net::SocketAddr::new(stage.network.address(trellis_local::Role::Pod, 1).into(), 10_080);
    let open = async {
        while TcpStream::connect(at).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = &mut starting => panic!("ready although a port was not open"),
        () = open => {}
    }
    let ready = std::net::SocketAddr::new(at.ip(), trellis_api::names::READY_PORT);
    let (status, body) = trellis_local::get::get(ready, "/ready").await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(status == 503 && body.contains("ports could not be opened: 81"), "{body}");
    drop(taken);
    let gateway = starting.await;
    assert_eq!(gateway.metric(&["trellis_gateway_ports_open"]).await, 2.0);
}
