//! Parts of the mesh are replaced while five hundred requests come every second, and none of them fails.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use libtest_mimic::Trial;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use trellis_local::{Role, Running, Service, Workload};
use trellis_loopback::{
    load::Load,
    stage::{Error, NAMESPACE, PORT, Stage, workload},
    wire::Wire,
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("an_application_and_its_proxy_are_replaced_under_load", workloads),
        trial("the_control_plane_is_replaced_under_load", control_plane),
    ]
}

pub const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// A Service whose endpoints come and go, and a client of it.
pub struct Rolling {
    pub stage: Stage,
    pub service: Service,
    pub caller: Running,
}

/// One endpoint: an application, until this is dropped.
pub struct Replica {
    pub workload: Workload,
    pub served: Arc<AtomicUsize>,
    leaves: watch::Sender<bool>,
}

impl Rolling {
    pub async fn open() -> Result<Self, Error> {
        let mut stage = Stage::open(&[]).await?;
        let address = stage.mesh.network().address(Role::Service, 2);
        let service = Service { name: "rolling".into(), address, port: PORT };
        stage.mesh.apply("rolling", vec![service.alone(NAMESPACE)])?;
        let caller = workload(&stage.mesh, 3, "caller", vec![]);
        let caller = stage.mesh.join(&caller, &[SocketAddr::from((address, PORT))], &[], &[]).await?;
        Ok(Self { stage, service, caller })
    }

    /// Where the client's application reaches the Service.
    pub fn entry(&self) -> SocketAddr {
        (self.service.address, PORT).into()
    }

    /// One more endpoint, as a pod that has become ready is.
    pub async fn add(&mut self, number: u8, name: &str) -> Result<Replica, Error> {
        let workload = workload(&self.stage.mesh, number, name, vec![]);
        let listener = TcpListener::bind((workload.application, PORT)).await?;
        let served = Arc::new(AtomicUsize::new(0));
        let (leaves, leaving) = watch::channel(false);
        tokio::spawn(serve(listener, served.clone(), leaving));
        self.stage.mesh.join(&workload, &[], &[PORT], &[]).await?;
        self.stage.mesh.behind(&self.service, &workload)?;
        Ok(Replica { workload, served, leaves })
    }

    /// Ends an endpoint as a pod ends: at once it is told to, and others are told. They may hear of it later.
    pub async fn remove(&mut self, replica: Replica) -> Result<(), Error> {
        self.stage.mesh.apart(&self.service, &replica.workload)?;
        self.stage.mesh.end(&replica.workload.name).await;
        // Until then it answers what is under way.
        replica.leaves.send_replace(true);
        Ok(())
    }

    /// Begins to ask, once there is somebody who answers.
    pub async fn load(&self) -> Result<Load, Error> {
        let answered = async {
            loop {
                let mut wire = Wire::new(TcpStream::connect(self.entry()).await?);
                if wire.ask(GET).await?.0.status() == 200 {
                    return Result::<(), Error>::Ok(());
                }
            }
        };
        time::timeout(Duration::from_secs(30), answered).await.map_err(|_| "nobody answers")??;
        let entry = self.entry();
        Ok(Load::start(move || entry))
    }

    /// Waits until an endpoint serves.
    pub async fn serves(&self, replica: &Replica) -> Result<(), Error> {
        let before = replica.served.load(Relaxed);
        let served = async {
            while replica.served.load(Relaxed) == before {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        let name = &replica.workload.name;
        time::timeout(Duration::from_secs(30), served).await.map_err(|_| format!("{name} serves nothing"))?;
        Ok(())
    }
}

/// Ends a load of which nothing may have been lost, nor any connection: those of a client end at its own proxy.
/// Says how many requests were answered.
pub async fn whole(load: Load) -> Result<usize, Error> {
    let answered = load.end().await?;
    assert_eq!(answered.again, 0, "connections ended under their requests");
    eprintln!("{} requests answered, none failed", answered.requests);
    Ok(answered.requests)
}

async fn serve(listener: TcpListener, served: Arc<AtomicUsize>, mut leaving: watch::Receiver<bool>) {
    loop {
        let (socket, _) = tokio::select! {
            Ok(accepted) = listener.accept() => accepted,
            _ = leaving.wait_for(|leaves| *leaves) => return,
        };
        let (served, mut wire) = (served.clone(), Wire::new(socket));
        tokio::spawn(async move {
            while let Ok(Some(_)) = wire.head().await {
                served.fetch_add(1, Relaxed);
                // Long enough that some are under way at every moment.
                time::sleep(Duration::from_millis(5)).await;
                if wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn workloads() -> Result<(), Error> {
    let mut rolling = Rolling::open().await?;
    let mut replicas = vec![rolling.add(11, "one").await?, rolling.add(12, "two").await?];
    let mut load = rolling.load().await?;
    load.goes_on(500).await?;
    for (number, name) in [(13, "three"), (14, "four"), (15, "five")] {
        let new = rolling.add(number, name).await?;
        rolling.serves(&new).await?;
        replicas.push(new);
        rolling.remove(replicas.remove(0)).await?;
        load.goes_on(250).await?;
    }
    assert!(whole(load).await? >= 1_500);
    Ok(())
}

async fn control_plane() -> Result<(), Error> {
    let mut rolling = Rolling::open().await?;
    let first = rolling.add(11, "one").await?;
    let mut load = rolling.load().await?;
    rolling.serves(&first).await?;
    for _ in 0..2 {
        load.goes_on(250).await?;
        rolling.stage.mesh.restart_control_plane().await?;
    }
    // What is new is heard of, and has got its certificate from the new CA.
    let second = rolling.add(12, "two").await?;
    rolling.serves(&second).await?;
    load.goes_on(250).await?;
    whole(load).await?;
    Ok(())
}
