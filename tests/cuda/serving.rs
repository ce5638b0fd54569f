//! `serve` on the GPU: ready, then case after case.

use crate::demonstration::{Desk, small_on_cpu};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Longer than getting ready takes.
const FOREVER: Duration = Duration::from_secs(600);

/// A running server; it ends with the test.
struct Serving {
    child: Child,
    address: String,
    log: Option<JoinHandle<String>>,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let begin = log.len();
            assert!(lines.read_line(&mut log).unwrap() > 0, "the server ended:\n{log}");
            if let Some((_, address)) = log[begin..].trim().split_once("listening address=") {
                break address.to_owned();
            }
        };
        let rest = thread::spawn(move || {
            lines.read_to_string(&mut log).unwrap();
            log
        });
        Self { child, address, log: Some(rest) }
    }

    /// Status of the answer.
    fn ask(&self, request: &str) -> u16 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text[9..12].parse().unwrap()
    }

    fn wait_until_healthy(&self) {
        let started = Instant::now();
        while self.ask("GET /health") != 200 {
            assert!(started.elapsed() < FOREVER, "not healthy");
            sleep(Duration::from_millis(50));
        }
    }

    /// Tells it to end; exit code and log.
    fn end(self) -> (Option<i32>, String) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.wait()
    }

    /// Code and log once it has ended.
    fn wait(mut self) -> (Option<i32>, String) {
        (self.child.wait().unwrap().code(), self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Where a test has failed; otherwise it has ended.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

#[test]
fn cases_come_one_after_the_other() {
    let desk = Desk::new();
    let serving = Serving::start(desk.serve(&["--device", "cuda"]));
    serving.wait_until_healthy();
    let mut bytes = None;
    for _ in 0..3 {
        assert_eq!(serving.ask("POST /invoke"), 201);
        let first = bytes.get_or_insert_with(|| desk.bytes());
        assert!(*first == desk.bytes(), "other bytes than before");
        std::fs::remove_dir_all(desk.output()).unwrap();
    }
    assert_eq!(serving.ask("POST /invoke"), 201);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("computing on GPU 0: software device") && log.contains("ready kept_folds=2"),
        "{log}"
    );
    assert!(!log.contains("WARN GPU") && !log.contains("ERROR "), "{log}");
    let near = (desk.outputs().likelihood - small_on_cpu().likelihood).abs();
    assert!(near <= 5e-3, "likelihood differs by {near}");
}

/// A lost GPU is said, nothing is written, and the server ends: no other case could be run.
#[test]
fn a_lost_gpu_is_no_silent_failure() {
    let desk = Desk::new();
    let mut command = desk.serve(&["--device", "cuda"]);
    command.env("PDAC_SOFTWARE_DEVICE", "lost-at=400");
    let serving = Serving::start(command);
    serving.wait_until_healthy();
    let lost = (0..20).map(|_| serving.ask("POST /invoke")).find(|&answer| answer != 201);
    assert_eq!(lost, Some(500));
    assert!(desk.names().is_empty(), "{:?}", desk.names());
    let (code, log) = serving.wait();
    assert_eq!(code, Some(8), "{log}");
    assert!(log.contains("ERROR GPU: ") && !log.contains("on the CPU"), "{log}");
}
