//! The client, a process of its own: requests over warm connections, connections one after another, or
//! connections that only stay. Each has a thread that blocks: nothing stands between it and the kernel. It
//! warms up, says `ready`, waits for a line, works, and prints its tally.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{application, clock, figure::quantile, pace::Pace};

/// Said when the driver may begin to measure.
pub const READY: &str = "ready";
const WARM_UP: Duration = Duration::from_millis(300);
/// No answer takes as long.
const PATIENCE: Duration = Duration::from_secs(20);
/// From the moment the schedule is made to its first tick.
const LEAD: Duration = Duration::from_millis(5);
const REQUEST: usize = 1024;
const CHUNK: usize = 256 * 1024;
/// What the head of an answer may take.
const HEAD: usize = 4 * 1024;
const OK: &[u8] = b"HTTP/1.1 200 ";

#[derive(Clone, Debug, PartialEq, Args)]
pub struct Load {
    #[arg(long, default_value = "127.0.0.1:0")]
    pub to: SocketAddr,
    #[arg(long, value_enum)]
    shape: Shape,
    /// What is spoken.
    #[arg(long, value_enum)]
    language: Language,
    /// In use at the same time.
    #[arg(long)]
    connections: u32,
    /// Bytes of each answer.
    #[arg(long)]
    pub answer: u64,
    /// A second, in an open loop. Zero: each as soon as the one before it has been answered.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    #[arg(long)]
    milliseconds: u64,
    /// Requests of each connection, if time does not end them before. Zero: as many as there is time for.
    #[arg(long, default_value_t = 0)]
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Over connections that stay open.
    Requests,
    /// Each with one request.
    Connections,
    /// After one request each, nothing.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Nothing that a proxy knows.
    Bytes,
    /// HTTP/1.1.
    Http,
}

/// What the client did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tally {
    pub requests: u64,
    pub seconds: f64,
    /// Microseconds, from when each was meant to begin.
    pub p50: f64,
    pub p99: f64,
}

impl Load {
    pub fn new(shape: Shape, connections: u32, answer: u64, time: Duration) -> Self {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        let language = Language::Bytes;
        Self { to: nobody, shape, language, connections, answer, rate: 0, milliseconds, most: 0 }
    }

    pub fn in_http(self) -> Self {
        Self { language: Language::Http, ..self }
    }

    pub fn at(self, rate: u32) -> Self {
        Self { rate, ..self }
    }

    pub fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    pub fn towards(self, to: SocketAddr) -> Self {
        Self { to, ..self }
    }

    /// The arguments that make a client of this.
    pub fn arguments(&self) -> Vec<String> {
        let Self { to, shape, language, connections, answer, rate, milliseconds, most } = self;
        fn name(value: &impl ValueEnum) -> String {
            value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
        }
        vec![
            format!("--to={to}"),
            format!("--shape={}", name(shape)),
            format!("--language={}", name(language)),
            format!("--connections={connections}"),
            format!("--answer={answer}"),
            format!("--rate={rate}"),
            format!("--milliseconds={milliseconds}"),
            format!("--most={most}"),
        ]
    }
}

pub fn run(load: &Load) -> Result<()> {
    let mut places = (0..load.connections).map(|_| load.place()).collect::<Result<Vec<_>>>()?;
    if load.shape != Shape::Idle {
        (places, _) = work(places, load.rate, WARM_UP, 0)?;
    }
    say(READY)?;
    io::stdin().read_line(&mut String::new())?;
    let begun = clock::now();
    let mut waits = Vec::new();
    if load.shape != Shape::Idle {
        (_, waits) = work(places, load.rate, Duration::from_millis(load.milliseconds), load.most)?;
    }
    let seconds = clock::now().saturating_sub(begun).as_secs_f64();
    let mut waits: Vec<f64> = waits.iter().map(|wait| wait.as_secs_f64() * 1e6).collect();
    let (p50, p99) = (quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
    let tally = Tally { requests: waits.len() as u64, seconds, p50, p99 };
    Ok(say(&serde_json::to_string(&tally)?)?)
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// What does one thing at a time, again and again.
enum Place {
    Open(Line),
    Reopening { to: SocketAddr, language: Language, answer: u64 },
}

impl Load {
    /// One request, on a connection of its own.
    pub fn ask_once(&self) -> Result<()> {
        self.place().map(drop)
    }

    fn place(&self) -> Result<Place> {
        let Self { to, shape, language, answer, .. } = *self;
        if shape == Shape::Connections {
            return Ok(Place::Reopening { to, language, answer });
        }
        let mut line = Line::open(to, language, answer)?;
        line.exchange()?;
        Ok(Place::Open(line))
    }
}

impl Place {
    fn once(&mut self) -> Result<()> {
        match self {
            Self::Open(line) => line.exchange(),
            Self::Reopening { to, language, answer } => {
                let mut line = Line::open(*to, *language, *answer)?;
                line.exchange()?;
                line.close()
            }
        }
    }

    /// Works until `end`, or until it has done as much as it may. Returns how long each request took, counted
    /// from when it was meant to begin.
    fn work(&mut self, mut pace: Option<Pace>, end: Duration, most: usize) -> Result<Vec<Duration>> {
        let mut waits = Vec::new();
        loop {
            let begun = match &mut pace {
                Some(pace) => pace.wait()?,
                None => clock::now(),
            };
            if begun >= end || (most > 0 && waits.len() >= most) {
                return Ok(waits);
            }
            self.once()?;
            waits.push(clock::now().saturating_sub(begun));
        }
    }
}

/// Keeps all places at work for `time`, or for `most` requests of each. Returns them with how long each
/// request took.
fn work(
    mut places: Vec<Place>,
    rate: u32,
    time: Duration,
    most: usize,
) -> Result<(Vec<Place>, Vec<Duration>)> {
    let begin = clock::now() + LEAD;
    let end = begin + time;
    let all = u32::try_from(places.len())?;
    let waits = thread::scope(|scope| {
        let working: Vec<_> = (0..all)
            .zip(&mut places)
            .map(|(number, place)| {
                scope.spawn(move || {
                    // Each place has its own share of the schedule, and its own phase.
                    let pace = match rate {
                        0 => None,
                        rate => {
                            let step = Duration::from_secs(1) / rate;
                            Some(Pace::new(begin + step * number, step * all)?)
                        }
                    };
                    place.work(pace, end, most)
                })
            })
            .collect();
        let mut waits = Vec::new();
        for one in working {
            waits.extend(one.join().map_err(|_| anyhow!("a part of the client broke"))??);
        }
        anyhow::Ok(waits)
    })?;
    Ok((places, waits))
}

/// One connection.
struct Line {
    stream: TcpStream,
    request: Vec<u8>,
    language: Language,
    answer: u64,
    buffer: Vec<u8>,
}

impl Line {
    fn open(to: SocketAddr, language: Language, answer: u64) -> Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Room for one byte too many, so that it is seen.
        let mut buffer = vec![0; usize::try_from(answer).unwrap_or(CHUNK).min(CHUNK - 1) + 1];
        let request = match language {
            Language::Bytes => application::request(REQUEST, answer),
            Language::Http => {
                buffer.resize(buffer.len() + HEAD, 0);
                application::http_request(REQUEST, answer)
            }
        };
        Ok(Self { stream, request, language, answer, buffer })
    }

    fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).context("sending a request")?;
        let mut left = match self.language {
            Language::Bytes => self.answer,
            Language::Http => self.head()?,
        };
        while left > 0 {
            match self.stream.read(&mut self.buffer).context("reading an answer")? {
                0 => bail!("the connection ended {left} bytes before the answer did"),
                // More than was asked for is wrong as well.
                read => left = left.checked_sub(read as u64).context("an answer that is too long")?,
            }
        }
        Ok(())
    }

    /// Reads an answer's head, and says what is left to read after it.
    fn head(&mut self) -> Result<u64> {
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).filter(|room| !room.is_empty());
            let room = room.context("the head of an answer is too long")?;
            filled += match self.stream.read(room).context("reading an answer's head")? {
                0 => bail!("the connection ended before the answer's head did"),
                read => read,
            };
            let got = self.buffer.get(..filled).unwrap_or_default();
            let Some((head, body)) = application::http_lengths(got) else { continue };
            let status = got.get(..OK.len()).unwrap_or_default();
            if status != OK || body != self.answer {
                bail!("not the answer: {}", String::from_utf8_lossy(got));
            }
            let left = (body + head as u64).checked_sub(filled as u64);
            return left.context("an answer that is too long");
        }
    }

    fn close(mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("closing a connection")?;
        // The other side has seen the end when it ends as well.
        match self.stream.read(&mut self.buffer).context("waiting for the other side to close")? {
            0 => Ok(()),
            read => bail!("{read} bytes after the answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        load: Load,
    }

    /// Answers every connection with `bytes` for each request, until the client ends.
    fn serve(bytes: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    while stream.read_exact(&mut [0; REQUEST]).is_ok() {
                        stream.write_all(&vec![0; bytes]).unwrap();
                    }
                });
            }
        });
        address
    }

    #[test]
    fn a_client_is_told_all_of_its_load() {
        let load = Load::new(Shape::Connections, 3, 17, Duration::from_millis(1500)).at(250);
        let load = load.in_http().at_most(7).towards("127.0.0.9:81".parse().unwrap());
        let arguments = std::iter::once("client".to_owned()).chain(load.arguments());
        assert_eq!(Arguments::try_parse_from(arguments).unwrap().load, load);
    }

    #[test]
    fn an_open_loop_asks_as_often_as_it_was_told_however_slow_the_answers() {
        let to = serve(2000);
        for shape in [Shape::Requests, Shape::Connections] {
            let load = Load::new(shape, 4, 2000, Duration::ZERO).towards(to);
            let places = (0..4).map(|_| load.place().unwrap()).collect();
            let (places, waits) = work(places, 1_000, Duration::from_millis(100), 0).unwrap();
            assert_eq!((places.len(), waits.len()), (4, 100), "{shape:?}");
            let (_, waits) = work(places, 0, Duration::from_secs(20), 3).unwrap();
            assert_eq!(waits.len(), 12, "{shape:?}");
        }
    }

    #[test]
    fn an_answer_of_another_length_is_an_error() {
        for (sent, expected) in [(10, "too long"), (3, "2 bytes before the answer did")] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut line = Line::open(listener.local_addr().unwrap(), Language::Bytes, 5).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(&vec![0; sent]).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            let error = line.exchange().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_answer_in_http_must_be_a_good_one_and_is_read_to_its_end() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde", Ok(())),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcdef", Err("too long")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", Err("3 bytes before the answer did")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabcdef", Err("not the answer")),
            ("HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nabcde", Err("not the answer")),
            ("HTTP/1.1 200 OK\r\n", Err("head did")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut line = Line::open(listener.local_addr().unwrap(), Language::Http, 5).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(answer.as_bytes()).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            match (line.exchange(), expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
                (got, expected) => unreachable!("{answer:?}: {got:?} instead of {expected:?}"),
            }
        }
    }
}
